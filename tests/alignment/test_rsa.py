"""RSA: published values, brute-force peers, planted models, nulls and ceilings."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import pearsonr, spearmanr

from alignment import category_rdm, rdm, rdm_noise_ceiling, rsa
from alignment.comparison import bootstrap_comparisons
from encoders import Features
from recordings.errors import Cancelled, ConstantUnitError, MismatchedIdsError, RepetitionError, UnknownNameError
from recordings.rdms import RDMs

# Values of rsatoolbox 0.3.2 for these matrices.
X = np.array([[1, 0, 2], [2, 1, 0], [0, 3, 1], [4, 1, 1], [3, 2, 5], [1, 4, 2]], float)
Y = np.array([[1, 2], [0, 1], [3, 1], [1, 5], [2, 2], [4, 0]], float)
AGREEMENT = {"pearson": 0.113950, "spearman": 0.129614, "cosine": 0.724061}
THREE = np.array([[1, 2, 3, 4, 5, 6], [2, 1, 3, 4, 6, 5], [1, 3, 2, 5, 4, 6]], float)
CEILINGS = {"pearson": (0.853986, 0.934353), "cosine": (0.972411, 0.987715), "spearman": (0.862974, 0.923810)}

PEERS = {
    "spearman": lambda x, y: spearmanr(x, y)[0],
    "pearson": lambda x, y: pearsonr(x, y)[0],
    "cosine": lambda x, y: x @ y / np.sqrt((x @ x) * (y @ y)),
}


@pytest.mark.parametrize("compare", AGREEMENT)
def test_published_values(compare: str) -> None:
    brain = RDMs(rdm(Y, "sqeuclidean")[None])
    found = rsa(rdm(X, "sqeuclidean"), brain, compare, n_bootstrap=0, n_permutations=0)
    assert found.score == pytest.approx(AGREEMENT[compare], abs=1e-5)
    assert found.interval is None and found.null is None and found.ceiling is None


@pytest.mark.parametrize("compare", CEILINGS)
def test_published_ceilings(compare: str) -> None:
    assert rdm_noise_ceiling(RDMs(THREE), compare)[:2] == pytest.approx(CEILINGS[compare], abs=1e-5)


@pytest.mark.parametrize("compare", ["spearman", "pearson", "cosine"])
def test_bootstrap_equals_the_repeated_list(rng: np.random.Generator, compare: str) -> None:
    n = 9
    model = rng.integers(0, 4, n * (n - 1) // 2).astype(float)
    brain = rng.normal(2, 1, model.shape)
    found = bootstrap_comparisons(model, brain[None], compare, 20, np.random.default_rng(5))[:, 0]
    times = np.random.default_rng(5).multinomial(n, np.full(n, 1 / n), size=20)
    first, second = np.triu_indices(n, 1)
    for value, m in zip(found, times, strict=True):
        repeats = m[first] * m[second]
        x, y = np.repeat(model, repeats), np.repeat(brain, repeats)
        assert value == pytest.approx(PEERS[compare](x, y), abs=1e-10)


def _people(rng: np.random.Generator, truth: np.ndarray, noise: float, n: int = 5, sessions: int = 1) -> RDMs:
    names = [f"subj{i:02d}-ses{s}" for i in range(n) for s in range(sessions)]
    values = [rdm(truth + noise * rng.normal(size=truth.shape)) for _ in names]
    return RDMs(np.stack(values), [f"s{i}" for i in range(len(truth))], names)


def test_planted_model_reaches_the_ceiling(rng: np.random.Generator) -> None:
    truth = rng.normal(size=(40, 30))
    found = rsa(truth_features(truth), _people(rng, truth, 1.0))
    assert found.ceiling is not None and found.null is not None and found.interval is not None
    assert found.ceiling.lower <= found.score <= found.ceiling.upper + 0.03
    assert found.null.p_value < 0.01
    assert found.interval[0] < found.score < found.interval[1]
    assert abs(found.null.mean) < 3 * found.null.standard_error


def truth_features(truth: np.ndarray) -> Features:
    # In another order, with one more: ids decide.
    order = np.random.default_rng(1).permutation(len(truth))
    ids = [f"s{i}" for i in order] + ["other"]
    return Features.from_arrays(np.vstack([truth[order], truth[:1] ** 2]), ids)


def test_no_signal(rng: np.random.Generator) -> None:
    p_values, covered = [], []
    for seed in range(30):
        people = _people(rng, rng.normal(size=(20, 10)), 1.0, n=3)
        found = rsa(rng.normal(size=(190,)), people, n_bootstrap=200, n_permutations=200, seed=seed)
        assert found.null is not None and found.interval is not None
        p_values.append(found.null.p_value)
        covered.append(found.interval[0] <= 0 <= found.interval[1])
    assert 0.3 < np.mean(p_values) < 0.7
    assert np.mean(covered) > 0.8


def test_interval_covers_the_score_of_all_stimuli(rng: np.random.Generator) -> None:
    population = rng.normal(size=(300, 20))
    model = population[:, :10]
    truth = np.mean([spearmanr(rdm(model), rdm(population + rng.normal(size=population.shape)))[0] for _ in range(3)])
    covered = []
    for seed in range(30):
        rows = rng.choice(300, 30, replace=False)
        found = rsa(rdm(model[rows]), _people(rng, population[rows], 1.0), n_bootstrap=200, n_permutations=0, seed=seed)
        assert found.interval is not None
        covered.append(found.interval[0] <= truth <= found.interval[1])
    assert np.mean(covered) >= 0.85


def test_people_are_the_unit(rng: np.random.Generator) -> None:
    rdms = _people(rng, rng.normal(size=(30, 20)), 1.0, n=4, sessions=2)
    found = rsa(category_rdm(np.arange(30) % 3), rdms, n_bootstrap=50, n_permutations=50)
    assert list(found.people) == ["subj00", "subj01", "subj02", "subj03"]
    assert found.people_ceiling is not None and found.people_ceiling.n == 4
    assert found.people_ceiling == rdm_noise_ceiling(rdms, unit="subject")
    assert found.ceiling is not None and found.ceiling.n == 8
    summary = found.to_dict()
    assert {"score", "low", "high", "p_value", "shuffled", "ceiling", "values", "people"} <= set(summary)
    assert len(summary["values"]) == 8


def test_seed_repeats(rng: np.random.Generator) -> None:
    people, model = _people(rng, rng.normal(size=(15, 8)), 1.0), rng.normal(size=105)
    a, b = (rsa(model, people, n_bootstrap=50, n_permutations=50, seed=3).to_dict() for _ in range(2))
    assert a == b


def test_bad_input(rng: np.random.Generator) -> None:
    people = _people(rng, rng.normal(size=(10, 8)), 1.0)
    with pytest.raises(UnknownNameError, match="spearman"):
        rsa(rng.normal(size=45), people, "euclid")  # type: ignore[arg-type]
    with pytest.raises(MismatchedIdsError, match="44"):
        rsa(rng.normal(size=44), people)
    with pytest.raises(MismatchedIdsError, match="'s9'"):
        rsa(Features.from_arrays(rng.normal(size=(9, 4)), [f"s{i}" for i in range(9)]), people)
    with pytest.raises(ConstantUnitError):
        rsa(np.ones(45), people)
    with pytest.raises(RepetitionError):
        rdm_noise_ceiling(people.take([0]))
    with pytest.raises(Cancelled):
        rsa(rng.normal(size=45), people, stop=lambda: True)
