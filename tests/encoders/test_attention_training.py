"""Training: stopped anywhere and resumed it is the same run; it finds what is planted, and nothing where nothing is."""

from __future__ import annotations

import copy
import json
import os
import runpy
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from encoders import Features
from encoders.attention.objective import backward_at_once, backward_in_parts, validation_r
from encoders.attention.stream import Batch, TokenStream
from encoders.attention.training import CHECKPOINT, History, train
from recordings.errors import ArtifactError, Cancelled, InputError, NotFiniteError, UnknownNameError
from recordings.events import Event

N, TOKENS, CHANNELS, NEUROIDS = 80, 4, 6, 10
CPU = torch.device("cpu")


class Network(nn.Module):
    """Every neuroid has a softmax map over tokens and weights for what it pools, as vertex routing has."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.value = nn.Linear(CHANNELS, CHANNELS)
        self.norm = nn.LayerNorm(CHANNELS)
        self.map = nn.Parameter(torch.zeros(NEUROIDS, TOKENS))
        self.weight = nn.Parameter(torch.zeros(NEUROIDS, CHANNELS))
        self.dropout = nn.Dropout(dropout)

    def memory(self, tokens: Sequence[Tensor], shown: Tensor | None = None) -> tuple[Tensor, ...]:
        keys = self.value(tokens[0].float())
        return keys, self.norm(keys), torch.ones(len(keys), dtype=torch.bool)

    def respond(self, memory: tuple[Tensor, ...], neuroids: slice = slice(None)) -> Tensor:
        pooled = self.map[neuroids].softmax(-1) @ (memory[0] + 0.1 * memory[1])
        return (self.dropout(pooled) * self.weight[neuroids]).sum(-1)

    def forward(self, tokens: Sequence[Tensor], shown: Tensor | None = None) -> Tensor:
        return self.respond(self.memory(tokens, shown))


class Data:
    """Responses that read token 2, and the streams of a training and a validation part."""

    def __init__(self, noise: float = 0.1, shuffle: int | None = None) -> None:
        rng = np.random.default_rng(0)
        tokens = rng.standard_normal((N, TOKENS, CHANNELS)).astype(np.float32)
        Y = tokens[:, 2] @ rng.standard_normal((CHANNELS, NEUROIDS)) / CHANNELS**0.5
        Y = (Y + noise * rng.standard_normal(Y.shape)).astype(np.float32)
        self.Y = Y if shuffle is None else np.random.default_rng(shuffle).permutation(Y)
        self.features = Features.from_arrays(tokens, [f"s{i}" for i in range(N)])

    def stream(self, rows: np.ndarray, batch_size: int = 8) -> TokenStream:
        return TokenStream([self.features], [rows], batch_size=batch_size)

    def train(self, module: nn.Module, **options: Any) -> History:
        training, chosen = np.arange(60), np.arange(60, N)
        options = {"epochs": 3, "learning_rate": 0.02, "device": CPU, **options}
        validate = self.stream(chosen), self.Y[chosen]
        return train(module, self.stream(training), self.Y[training], validate, **options)


@pytest.fixture(scope="module")
def data() -> Data:
    return Data()


def network(dropout: float = 0.0) -> Network:
    torch.manual_seed(0)
    module = Network(dropout)
    with torch.no_grad():
        module.weight.normal_(std=0.1)
    return module


def same(a: nn.Module, b: nn.Module) -> bool:
    mine, theirs = a.state_dict(), b.state_dict()
    return all(torch.equal(mine[name], theirs[name]) for name in mine)


def after(steps: int) -> Callable[[], bool]:
    """A stop that answers True when asked for the `steps`-th time."""
    asked = iter([*[False] * (steps - 1), *[True] * 99])
    return lambda: next(asked)


# One epoch is 8 steps of training and 3 of validation, after each of which `stop` is asked.
@pytest.mark.parametrize("stopped", [1, 5, 8, 9, 10, 13, 19, 33])
@pytest.mark.parametrize("neuroids", [None, 4])
def test_stopped_anywhere_and_resumed_is_the_same_run(
    data: Data, tmp_path: Path, stopped: int, neuroids: int | None
) -> None:
    options: dict[str, Any] = {"schedule": "cosine", "neuroids": neuroids, "seed": 3}
    whole, parts, other = network(0.3), network(0.3), network(0.3)
    history = data.train(whole, **options)
    with pytest.raises(Cancelled):
        data.train(parts, **options, checkpoints=tmp_path, stop=after(stopped))
    torch.rand(stopped)  # A generator elsewhere has moved on.
    assert data.train(other, **options, checkpoints=tmp_path) == history
    assert same(whole, other)


def test_killed_between_checkpoints_it_goes_on_from_the_last(data: Data, tmp_path: Path) -> None:
    whole, other = network(0.3), network(0.3)
    history = data.train(whole, schedule="step", step_epochs=1)

    def kill(event: Event) -> None:
        if event.done == 15:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        data.train(network(0.3), schedule="step", step_epochs=1, checkpoints=tmp_path, every_steps=3, on_event=kill)
    done: list[int] = []
    options: dict[str, Any] = {"schedule": "step", "step_epochs": 1, "checkpoints": tmp_path}
    assert data.train(other, **options, on_event=lambda e: done.append(e.done)) == history
    assert done == list(range(16, 25))
    assert same(whole, other)
    assert [path.name for path in tmp_path.iterdir()] == [CHECKPOINT]
    again = network()
    assert data.train(again, **options, on_event=lambda e: pytest.fail("trained again")) == history
    assert same(whole, again)


def test_training_leaves_the_callers_generator_alone_and_does_not_depend_on_it(data: Data) -> None:
    first, second = network(0.3), network(0.3)
    torch.manual_seed(1)
    data.train(first)
    drawn = torch.rand(1)
    data.train(second)
    assert same(first, second)
    torch.manual_seed(1)
    assert torch.equal(drawn, torch.rand(1))
    data.train(third := network(0.3), seed=9)
    assert not same(first, third)


def test_a_checkpoint_of_another_run_is_refused_and_says_what_differs(data: Data, tmp_path: Path) -> None:
    fingerprint = {"neuroids": "a", "settings": json.dumps({"routing": "roi", "n_heads": 4})}
    data.train(network(), checkpoints=tmp_path, fingerprint=fingerprint)
    with pytest.raises(ArtifactError, match="other neuroids"):
        data.train(network(), checkpoints=tmp_path, fingerprint=fingerprint | {"neuroids": "b"})
    with pytest.raises(ArtifactError, match=r"settings \(n_heads was 4, is 2\)"):
        changed = json.dumps({"routing": "roi", "n_heads": 2})
        data.train(network(), checkpoints=tmp_path, fingerprint=fingerprint | {"settings": changed})
    with pytest.raises(ArtifactError, match=r"training \(learning_rate was 0.02, is 0.01\)"):
        data.train(network(), checkpoints=tmp_path, fingerprint=fingerprint, learning_rate=0.01)
    with pytest.raises(ArtifactError, match="other weights"):
        data.train(nn.Sequential(network()), checkpoints=tmp_path, fingerprint=fingerprint)
    path = tmp_path / CHECKPOINT
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ArtifactError, match="cannot be read"):
        data.train(network(), checkpoints=tmp_path, fingerprint=fingerprint)


def test_a_planted_map_from_one_token_is_recovered(data: Data) -> None:
    module, events = network(), list[Event]()
    history = data.train(module, epochs=30, learning_rate=0.05, on_event=events.append)
    assert history.best.validation > 0.97
    assert module.map.softmax(-1)[:, 2].min() > 0.8
    assert [event.done for event in events] == list(range(1, 241)) and events[0].total == 240
    assert "validation_r" not in events[7].payload
    assert events[8].payload["validation_r"] == history.epochs[0].validation and events[8].payload["epoch"] == 2
    assert events[-1].payload["loss"] < 0.1 * events[0].payload["loss"]


@pytest.mark.slow
def test_shuffled_responses_are_not_predicted() -> None:
    # The best of several epochs is above zero by the choice itself; the last is not.
    found = [Data(shuffle=seed).train(network(), epochs=8).epochs[-1].validation for seed in range(1, 7)]
    assert abs(np.mean(found)) < 3 * np.std(found, ddof=1) / len(found) ** 0.5
    assert np.std(found) < 0.2


def test_the_weights_of_the_best_epoch_are_kept_and_patience_ends_the_run(data: Data) -> None:
    module = network()
    history = data.train(module, epochs=30, learning_rate=0.05, patience=2)
    best, last = history.best.epoch, history.epochs[-1].epoch
    assert last == best + 2 < 29
    kept, shorter = module, network()
    data.train(shorter, epochs=best + 1, learning_rate=0.05)
    assert same(kept, shorter)
    stream = data.stream(np.arange(60, N))
    r = validation_r(module, stream, data.Y[60:], torch.no_grad, device=CPU)
    assert r.mean() == pytest.approx(history.best.validation, abs=1e-6)
    expected = [np.corrcoef(p, y)[0, 1] for p, y in zip(_predicted(module, stream).T, data.Y[60:].T, strict=True)]
    np.testing.assert_allclose(r, expected, atol=1e-6)


def _predicted(module: nn.Module, stream: TokenStream) -> np.ndarray:
    with torch.no_grad():
        return torch.cat([module(batch.tokens) for batch in stream.in_order()]).numpy()


def test_constant_predictions_count_zero(data: Data) -> None:
    module = network()
    with torch.no_grad():
        module.weight[:3] = 0
    r = validation_r(module, data.stream(np.arange(N)), data.Y, torch.no_grad, device=CPU, neuroids=4)
    assert (r[:3] == 0).all() and (r[3:] != 0).all()


@pytest.mark.parametrize("neuroids", [1, 3, 10, 99])
def test_gradients_part_by_part_are_those_of_all_at_once(data: Data, neuroids: int) -> None:
    module = network().double()
    module.memory = lambda tokens, shown=None: (x := module.value(tokens[0].double()), module.norm(x))  # type: ignore
    parts = copy.deepcopy(module)
    parts.memory = lambda tokens, shown=None: (x := parts.value(tokens[0].double()), parts.norm(x))  # type: ignore
    batch, y = (
        Batch(np.arange(8), [torch.as_tensor(data.features.read(slice(0, 8)))], None),
        torch.as_tensor(data.Y[:8]),
    )
    errors = [
        backward_at_once(module, batch, y.double(), y.numel(), torch.enable_grad),
        backward_in_parts(parts, batch, y.double(), y.numel(), torch.enable_grad, neuroids),
    ]
    assert errors[0].item() == pytest.approx(errors[1].item(), rel=1e-6)
    for whole, part in zip(module.parameters(), parts.parameters(), strict=True):
        assert whole.grad is not None and part.grad is not None and whole.grad.abs().max() > 0
        torch.testing.assert_close(whole.grad, part.grad, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(("at", "what"), [(4, "loss"), (None, "gradient")])
def test_a_run_that_blows_up_says_where_and_what_to_do(
    data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int | None, what: str
) -> None:
    module, steps = network(), iter(range(99))
    if at is None:
        module.weight.register_hook(lambda gradient: gradient * torch.inf)
    else:
        respond = module.respond
        monkeypatch.setattr(module, "respond", lambda *a: respond(*a) * (torch.nan if next(steps) == at else 1))
    before = {name: value.clone() for name, value in module.state_dict().items()}
    with pytest.raises(
        NotFiniteError, match=rf"{what} is NaN or infinite at step {5 if at else 1}.*lower learning rate"
    ):
        data.train(module)
    assert all(torch.isfinite(value).all() for value in module.state_dict().values())
    assert at or all(torch.equal(before[name], value) for name, value in module.state_dict().items())


def test_vectors_do_not_decay_and_matrices_do(data: Data) -> None:
    module = network()
    with torch.no_grad():
        module.weight.zero_()  # No gradient passes the read-out, whose own is clipped to almost nothing.
    before = copy.deepcopy(module)
    data.train(module, epochs=1, learning_rate=1e-3, weight_decay=10.0, clip=1e-12)
    torch.testing.assert_close(module.value.weight, before.value.weight * 0.99**8, rtol=1e-4, atol=1e-6)
    for name in ("value.bias", "norm.weight", "norm.bias"):
        torch.testing.assert_close(module.get_parameter(name), before.get_parameter(name), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("neuroids", [None, 4])
def test_bf16_learns_the_same_and_keeps_weights_in_float32(data: Data, neuroids: int | None) -> None:
    module = network()
    history = data.train(module, epochs=12, learning_rate=0.05, precision="bf16", neuroids=neuroids)
    assert history.best.validation > 0.95
    assert {p.dtype for p in module.parameters()} == {torch.float32}


SCRIPT = """
import os, sys
import numpy as np, torch
from encoders import Features
from encoders.attention.stream import TokenStream
from encoders.attention.training import train
from recordings.errors import Cancelled

torch.set_num_threads(1)
folder, rank = sys.argv[1], os.environ.get("RANK", "alone")
rng = np.random.default_rng(0)
tokens = rng.standard_normal((50, 3, 4)).astype(np.float32)
Y = (tokens[:, 1] @ rng.standard_normal((4, 5))).astype(np.float32)
features = Features.from_arrays(tokens, [str(i) for i in range(50)])
stream, chosen = (TokenStream([features], [rows], batch_size=7) for rows in (np.arange(36), np.arange(36, 50)))
torch.manual_seed(0)


class Network(torch.nn.Linear):
    def forward(self, tokens, shown):
        return super().forward(tokens[0].flatten(1))


def fit(module, stop=None):
    options = {"epochs": 3, "learning_rate": 0.05, "device": torch.device("cpu"), "stop": stop}
    return train(module, stream, Y[:36], (chosen, Y[36:]), **options)


module, asked = Network(12, 5), []
history = fit(module)
try:
    fit(Network(12, 5), lambda: asked.append(1) or rank == "1" and len(asked) == 4)
except Cancelled:
    pass
np.savez(f"{folder}/{rank}.npz", weight=module.weight.detach().numpy(), r=history.best.validation, asked=len(asked))
"""


@pytest.mark.slow
def test_two_processes_train_as_one_does_and_stop_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    monkeypatch.setattr(sys, "argv", [str(script), str(tmp_path)])
    runpy.run_path(str(script))
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "PYTHONPATH": str(Path(__file__).parents[2])}
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    subprocess.run([*launcher, *sys.argv], env=environment, check=True, capture_output=True, timeout=120)
    alone, first, second = (np.load(tmp_path / f"{name}.npz") for name in ("alone", "0", "1"))
    for result in (first, second):
        np.testing.assert_allclose(result["weight"], alone["weight"], atol=1e-5)
        assert result["r"] == pytest.approx(alone["r"].item(), abs=1e-5)
        assert result["asked"] == 4
    assert alone["asked"] == 3 * (6 + 2)


def test_wrong_names_and_empty_parts_are_refused(data: Data) -> None:
    with pytest.raises(UnknownNameError, match="cosine"):
        data.train(network(), schedule="linear")
    with pytest.raises(UnknownNameError, match="bf16"):
        data.train(network(), precision="fp16")
    for options in ({"epochs": 0}, {"step_epochs": 0}):
        with pytest.raises(InputError, match="at least 1"):
            data.train(network(), **options)
    none = np.arange(0)
    with pytest.raises(InputError, match="no stimuli"):
        train(network(), data.stream(none), data.Y[:0], (data.stream(none), data.Y[:0]), epochs=1, device=CPU)


def test_a_history_survives_json() -> None:
    history = Data().train(network(), epochs=2)
    assert History.from_config(json.loads(json.dumps(history.to_config()))) == history
