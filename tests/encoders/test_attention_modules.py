"""Routings and read-outs: equal to their plain forms, and where they should differ."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from encoders.attention.contributions import contributions
from encoders.attention.modules import Attention, GaussianField, SpatialMap
from encoders.attention.position import CODES, position_code, token_centres
from encoders.attention.predictor import Predictor, Shape, average_to
from encoders.attention.queries import Regions
from encoders.attention.readouts import DiagonalReadout, GroupedReadout
from encoders.attention.sources import delayed_rows
from recordings import Recording

GRID, CHANNELS, HIDDEN, HEADS = (4, 4), 12, 8, 2


def attention(n_queries: int = 5, **options: float) -> Attention:
    torch.manual_seed(0)
    settings = {"hidden": HIDDEN, "n_heads": HEADS, "feedforward": 16} | options
    return Attention(n_queries, CHANNELS, GRID, **settings).eval()


def tokens(n: int = 3) -> Tensor:
    return torch.randn(n, 16, CHANNELS, generator=torch.Generator().manual_seed(1))


def gradients(output: Tensor, module: torch.nn.Module) -> dict[str, Tensor]:
    module.zero_grad()
    output.square().mean().backward()
    return {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}


def test_grouped_readout_equals_every_query_times_every_neuroid_and_a_mask() -> None:
    index = np.array([2, 0, 1, 0, 2, 2, 1])
    torch.manual_seed(0)
    readout, gathered = GroupedReadout(index, HIDDEN), torch.randn(4, 3, HIDDEN)
    own = torch.nn.functional.one_hot(torch.as_tensor(index)[readout.order]).T

    def plain() -> Tensor:
        every = torch.einsum("bqd,vd->bqv", gathered, readout.weight) + readout.bias
        return (every * own).sum(1)[:, readout.inverse]

    torch.testing.assert_close(readout(gathered), plain(), rtol=1e-6, atol=1e-6)
    expected = gradients(plain(), readout)
    for name, gradient in gradients(readout(gathered), readout).items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-5, atol=1e-7)


def test_diagonal_readout_equals_the_diagonal_of_the_full_product() -> None:
    torch.manual_seed(0)
    readout, gathered = DiagonalReadout(6, HIDDEN), torch.randn(4, 6, HIDDEN)
    full = torch.diagonal(gathered @ readout.weight.T, dim1=1, dim2=2) + readout.bias
    torch.testing.assert_close(readout(gathered), full, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(readout(gathered[:, 2:4], slice(2, 4)), full[:, 2:4], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("masked", [False, True])
def test_folded_keys_give_the_same_numbers_and_gradients(masked: bool) -> None:
    plain, folded = attention(), attention(fold_keys=True)
    folded.load_state_dict(plain.state_dict())
    mask = torch.arange(16).expand(3, -1) < 9 if masked else None
    x = tokens()
    ours, theirs = plain.gather(plain.memory(x, mask)), folded.gather(folded.memory(x, mask))
    torch.testing.assert_close(theirs, ours, rtol=1e-5, atol=1e-6)
    weights = plain.weights(plain.memory(x, mask))
    torch.testing.assert_close(folded.weights(folded.memory(x, mask)), weights, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(weights.sum(-1), torch.ones(3, 5, HEADS))
    if masked:
        assert not weights[..., 9:].any()
    expected = gradients(ours, plain)
    for name, gradient in gradients(theirs, folded).items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("options", [{}, {"n_layers": 2}, {"n_self_attention": 1}, {"feedforward": 0}])
def test_queries_served_in_parts_gather_what_they_gather_together(options: dict[str, int]) -> None:
    module = attention(**options)
    memory = module.memory(tokens())
    parts = [module.gather(memory, slice(0, 2)), module.gather(memory, slice(2, 5))]
    torch.testing.assert_close(torch.cat(parts, 1), module.gather(memory), rtol=1e-5, atol=1e-6)


def test_a_second_layer_and_self_attention_change_what_is_gathered() -> None:
    x = tokens()
    plain = attention()
    for options in ({"n_layers": 2}, {"n_self_attention": 1}):
        other = attention(**options)
        assert sum(p.numel() for p in other.parameters()) > sum(p.numel() for p in plain.parameters())
        moved = x.clone()
        moved[:, 0] += 1
        assert not torch.allclose(other.gather(other.memory(moved)), other.gather(other.memory(x)))


@pytest.mark.parametrize("kind", CODES)
def test_position_code_tells_all_places_apart_on_any_number_of_axes(kind: str) -> None:
    for grid in ((5, 7), (3, 4, 6)):
        code = position_code(kind, grid, 24)
        assert code.shape == (int(np.prod(grid)), 24)
        assert torch.cdist(code, code).fill_diagonal_(1).min() > 0.05


def test_the_fourier_code_tells_neighbours_apart_better_than_the_sine_code() -> None:
    neighbours = {}
    for kind in CODES:
        code = position_code(kind, (1, 31), 768)
        neighbours[kind] = torch.nn.functional.cosine_similarity(code[:-1], code[1:]).mean()
    assert neighbours["fourier"] < neighbours["sine"] - 0.2


def test_token_centres_run_from_left_to_right_and_top_to_bottom() -> None:
    np.testing.assert_allclose(token_centres((2, 2)), [[-0.5, 0.5], [0.5, 0.5], [-0.5, -0.5], [0.5, -0.5]])
    np.testing.assert_allclose(token_centres((3, 2, 2))[4:8], token_centres((2, 2)))


def test_static_maps_pool_tokens_and_gaussians_lie_where_they_are_put() -> None:
    x, maps = tokens(), SpatialMap(2, CHANNELS, GRID)
    torch.testing.assert_close(maps.gather(maps.memory(x))[:, 0], x.mean(1))
    field = GaussianField(1, CHANNELS, (33, 33))
    with torch.no_grad():
        field.place[:] = torch.tensor([[0.5, -0.25]]) / 3
        field.extent[:] = -0.3
    weights = field.weights(field.memory(torch.zeros(1, 33 * 33, CHANNELS)))[0, 0, 0].detach().numpy()
    centre, sigma = field.fields()
    np.testing.assert_allclose(weights @ token_centres((33, 33)), centre.detach().numpy()[0], atol=0.02)
    assert abs(sigma.item() - np.sqrt((weights @ (token_centres((33, 33)) - [0.5, -0.25]) ** 2).mean())) < 0.05


def test_a_neuroid_in_several_regions_belongs_to_the_smallest() -> None:
    table = {
        "neuroid_id": [f"v{i}" for i in range(5)],
        "roi": ["category|vehicles", "category|vehicles", "category|vessels", "category", ""],
        "hemisphere": ["L", "R", "L", "L", "R"],
    }
    recording = Recording(np.zeros((2, 5), np.float32), {"stimulus_id": ["a", "b"]}, table)
    regions = Regions.of(recording)
    names = [regions.names[i] for i in regions.index]
    assert names == ["L vehicles", "R vehicles", "L vessels", "L category", "R rest"]


def test_sources_of_other_grids_come_to_the_first_ones() -> None:
    x = torch.arange(16.0).reshape(1, 16, 1)
    torch.testing.assert_close(average_to(x, (4, 4), (2, 2)).ravel(), torch.tensor([2.5, 4.5, 10.5, 12.5]))
    clip = torch.cat([x, x + 100], 1)
    assert average_to(clip, (2, 4, 4), (2, 2)).ravel().tolist() == [2.5, 4.5, 10.5, 12.5, 102.5, 104.5, 110.5, 112.5]
    assert average_to(x[:, :4], (2, 2), (4, 4)).reshape(4, 4)[0].tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize("haemodynamics", ["fir", "query"])
def test_what_no_run_has_shown_has_no_part_in_the_prediction(haemodynamics: str) -> None:
    regions = Regions(("V1", "V2"), np.array([0, 1, 1]))
    settings = {"hidden": HIDDEN, "n_heads": HEADS, "n_delays": 2, "haemodynamics": haemodynamics}
    torch.manual_seed(0)
    module = Predictor([Shape(CHANNELS, GRID)], regions, "roi", **settings).eval()
    x, shown = tokens(4).unflatten(0, (2, 2)), torch.tensor([[True, True], [True, False]])
    other = x.clone()
    other[1, 1] = 5.0
    torch.testing.assert_close(module([x], shown), module([other], shown))
    assert not torch.allclose(module([x]), module([other]))


def test_delayed_rows_never_reach_into_another_run() -> None:
    rows = delayed_rows(np.array([7, 8, 9, 4, 5]), (0, 1), np.array([0, 0, 0, 1, 1]))
    assert rows.tolist() == [[7, -1], [8, 7], [9, 8], [4, -1], [5, 4]]


@pytest.mark.parametrize("routing", ["roi", "vertex", "spatial", "spatial_roi", "gaussian"])
@pytest.mark.parametrize("fold_keys", [False, True])
def test_contributions_of_all_places_add_up_to_the_response(routing: str, fold_keys: bool) -> None:
    regions = Regions(("V1", "V2"), np.array([0, 1, 1, 0]))
    options = {"hidden": HIDDEN, "n_heads": HEADS, "feedforward": 0, "fold_keys": fold_keys}
    torch.manual_seed(0)
    module = Predictor([Shape(CHANNELS, GRID)], regions, routing, **options).eval()
    x, neuroids = tokens(), torch.tensor([1, 2])
    module.routing.requires_grad_(False)
    for parameter in module.parameters():
        if parameter.ndim > 1 and routing != "roi":
            parameter.data += 0.1 * torch.randn(parameter.shape)
    if hasattr(module.routing, "layers"):
        # Without the constant parts, nothing but places adds to the response.
        for name, parameter in module.routing.named_parameters():
            if name.endswith("bias"):
                parameter.data.zero_()
    added = contributions(module, regions, module.memory([x]), neuroids)
    assert added.shape == (3, 2, 16)
    torch.testing.assert_close(added.sum(-1), module([x])[:, neuroids], rtol=1e-4, atol=1e-5)
