"""What the ridge encoders share: designs from features, prediction in blocks of neuroids, scores and artifacts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from os import PathLike
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike

from recordings import Recording
from recordings.artifacts import recording_fields, restored_fields
from recordings.errors import RepetitionError, UnknownNameError
from recordings.events import OnEvent, Stop

from .bands import Band, fit_band, named, read_flat, to_config
from .encoder import Encoder
from .features import Features
from .responses import Responses, run_labels, weights_on_disk
from .solvers import BandedRidgeFit, RidgeFit, make_folds
from .solvers.cross_validation import Folds, Scoring
from .solvers.ridge import Solver, choose_solver
from .solvers.targets import ArrayLike2D, chunks

DEFAULT_ALPHAS = tuple(np.logspace(-1, 7, 17).tolist())
_PREDICT_BYTES = 64 * 2**20
_TENSORS = (
    "weights_",
    "intercept_",
    "alphas_",
    "cv_scores_",
    "constant_",
    "gammas_",
    "nuisance_mean_",
    "nuisance_coef_",
)


class LinearEncoder(Encoder):
    """Base of the ridge encoders; a subclass says how weights are found (`_solve`) and whether bands share a scale.

    Fitted attributes, for t neuroids: ``weights_`` (n_columns, t) or, in kernel form, (n_presentations, t);
    ``intercept_``, ``alphas_``, ``cv_scores_``, ``constant_`` (t,); ``bands_``; ``solver_``.
    """

    _bands_share_scale = False
    weights_: ArrayLike2D
    intercept_: np.ndarray
    alphas_: np.ndarray
    cv_scores_: np.ndarray
    constant_: np.ndarray
    gammas_: np.ndarray | None
    bands_: list[Band]
    training_: list[np.ndarray]
    solver_: str

    def __init__(
        self,
        alphas: Sequence[float],
        cv: Folds,
        solver: Solver,
        scoring: Scoring,
        standardise: bool,
        delays: Sequence[int] | None,
        group_by: str | None,
        device: str,
        pool: bool,
    ) -> None:
        self.alphas = alphas
        self.cv = cv
        self.solver = solver
        self.scoring = scoring
        self.standardise = standardise
        self.delays = delays
        self.group_by = group_by
        self.device = device
        self.pool = pool

    def _solve(self, Xs: list[np.ndarray], Y: ArrayLike2D, **options: Any) -> RidgeFit:
        raise NotImplementedError

    # Fit ---------------------------------------------------------------------------------------------------------

    def fit(
        self,
        features: Features | Mapping[str, Features],
        recording: Recording,
        *,
        nuisance: np.ndarray | None = None,
        weights_path: str | PathLike[str] | None = None,
        on_event: OnEvent | None = None,
        stop: Stop | None = None,
    ) -> Self:
        """Fit to the presentations of a recording, matched to features by stimulus id; responses are read in chunks.

        Parameters
        ----------
        features : of at least the stimuli that the recording shows; tokens or times are laid side by side, or averaged
            with `pool`. A mapping gives several bands by name.
        recording : training responses, (presentation, neuroid). Averaging repetitions beforehand is faster.
        nuisance : (presentation, q), regressors such as head motion or drift, fitted without penalty.
        weights_path : write weights to this .npy file, memory-mapped, for weights that do not fit in memory.
        on_event, stop : progress and cancellation, per fold and per chunk of neuroids.

        Raises
        ------
        MismatchedIdsError : a stimulus without features. ShapeError : `pool`, and features without tokens.
        NotFiniteError : names the first neuroid, or feature, with NaN or infinite values.
        RepetitionError : fewer than two stimuli.
        LeakageError : a fold that would show one stimulus on both sides.
        """
        spaces, ids = named(features), recording.stimulus_ids.astype(str)
        if len(set(ids)) < 2:
            raise RepetitionError("one stimulus only", where="recording", remedy="Fit on at least two stimuli")
        bands, designs = self._fit_bands(spaces, ids, run_labels(recording) if self.delays else None)
        solver = choose_solver(self.solver, len(ids), sum(X.shape[1] for X in designs))
        height = len(ids) if solver == "kernel" else sum(X.shape[1] for X in designs)
        with weights_on_disk(weights_path, (height, recording.n_neuroids)) as out:
            fit = self._solve(
                designs,
                Responses(recording),
                alphas=self.alphas,
                folds=self._folds(recording),
                groups=ids,
                nuisance=nuisance,
                solver=solver,
                scoring=self.scoring,
                out=out,
                target_ids=recording.neuroid_ids,
                device=self.device,
                on_event=on_event,
                stop=stop,
            )
        for name in ("weights", "intercept", "alphas", "cv_scores", "constant", "nuisance_mean", "nuisance_coef"):
            setattr(self, f"{name}_", getattr(fit, name))
        self.gammas_ = fit.gammas if isinstance(fit, BandedRidgeFit) else None
        self.solver_, self.bands_ = solver, bands
        self.training_ = designs if solver == "kernel" else []
        self.recording_, self.stimulus_ids_ = recording_fields(recording), sorted(set(ids.tolist()))
        return self

    def _fit_bands(
        self, spaces: Mapping[str, Features], ids: np.ndarray, runs: np.ndarray | None
    ) -> tuple[list[Band], list[np.ndarray]]:
        """Every band, and its design for the training presentations."""
        delays, share = tuple(self.delays or ()), self._bands_share_scale
        bands, designs = [], []
        for name, space in spaces.items():
            X = read_flat(space, ids, self.pool)
            how: dict[str, Any] = {"share": share, "delays": delays, "pool": self.pool}
            bands.append(fit_band(name, space, X, standardise=self.standardise, **how))
            designs.append(bands[-1].apply(X, runs))
        return bands, designs

    def _folds(self, recording: Recording) -> Folds:
        """Folds that keep together what `group_by` names; the solver checks that they do not split a stimulus."""
        group_by = self.group_by or ("run" if self.delays else "stimulus_id")
        if group_by == "stimulus_id" or not isinstance(self.cv, int | np.integer):
            return self.cv
        labels = run_labels(recording) if group_by == "run" else recording.presentation(group_by)
        return make_folds(len(recording), self.cv, labels)

    # Predict -----------------------------------------------------------------------------------------------------

    def predict(
        self,
        features: Features | Mapping[str, Features],
        stimulus_ids: Sequence[str] | None = None,
        *,
        runs: ArrayLike | None = None,
        band: str | None = None,
    ) -> np.ndarray:
        """Predicted responses, (n, neuroid) float32.

        Parameters
        ----------
        features : of the same feature spaces as in the fit.
        stimulus_ids : stimuli in the order of the rows; by default all that the (first) features have.
        runs : (n,), needed with delays where `stimulus_ids` covers several runs: they never reach across runs.
        band : only the part of this band, without intercept.
        """
        spaces = self._spaces(features)
        ids = next(iter(named(features).values())).stimulus_ids if stimulus_ids is None else stimulus_ids
        labels = None if runs is None else np.asarray(runs)
        designs = [b.design(spaces[b.name], ids, labels) for b in self.bands_]
        if band is not None:
            self._band_index(band)
        out = np.empty((len(ids), len(self.intercept_)), np.float32)
        for columns, parts in self._parts(designs):
            if band is None:
                out[:, columns] = sum(parts) + self.intercept_[columns]
            else:
                out[:, columns] = parts[self._band_index(band)]
        return out

    def _parts(self, designs: list[np.ndarray]) -> Iterator[tuple[slice, list[np.ndarray]]]:
        """Each band's part of the prediction, (n, t) a band, for consecutive blocks of neuroids."""
        if self.solver_ == "kernel":
            designs = [X @ X_train.T for X, X_train in zip(designs, self.training_, strict=True)]
        borders = np.cumsum([0, *(X.shape[1] for X in designs)])
        size = max(_PREDICT_BYTES // (4 * self.weights_.shape[0]), 16)
        for columns in chunks(len(self.intercept_), size):
            weights = np.asarray(self.weights_[:, columns])
            if self.solver_ == "primal":
                parts = [X @ weights[a:b] for X, a, b in zip(designs, borders[:-1], borders[1:], strict=True)]
            else:
                gammas = np.ones((len(designs), 1), np.float32) if self.gammas_ is None else self.gammas_[:, columns]
                parts = [(K @ weights) * gamma for K, gamma in zip(designs, gammas, strict=True)]
            yield columns, parts

    def coefficients(self, neuroids: slice = slice(None)) -> np.ndarray:
        """Weights of the features as given (not scaled), (n_columns, t) float32: bands, then delays, then features."""
        weights = np.asarray(self.weights_[:, neuroids])
        if self.solver_ == "kernel":
            gammas = np.ones((len(self.bands_), 1), np.float32) if self.gammas_ is None else self.gammas_[:, neuroids]
            weights = np.vstack([(X.T @ weights) * g for X, g in zip(self.training_, gammas, strict=True)])
        scale = np.concatenate([np.tile(band.scale, max(len(band.delays), 1)) for band in self.bands_])
        return weights / scale[:, None]

    def _band_index(self, band: str) -> int:
        names = [b.name for b in self.bands_]
        if band not in names:
            raise UnknownNameError(f"no band {band!r}", remedy=f"There are: {', '.join(names)}")
        return names.index(band)

    def _sources(self) -> list[dict[str, Any]]:
        return [to_config(band) for band in self.bands_]

    # Artifact ----------------------------------------------------------------------------------------------------

    def _parameters(self) -> dict[str, Any]:
        """Arguments of the constructor, as JSON values."""
        return {
            "alphas": [float(a) for a in self.alphas],
            "cv": self.cv if isinstance(self.cv, int | np.integer | str) else len(self.cv),
            "solver": self.solver,
            "scoring": self.scoring,
            "standardise": self.standardise,
            "delays": None if self.delays is None else [int(d) for d in self.delays],
            "group_by": self.group_by,
            "device": self.device,
            "pool": self.pool,
        }

    def _config(self) -> dict[str, Any]:
        self._check_fitted()
        return {
            "parameters": self._parameters(),
            "fitted_solver": self.solver_,
            "bands": self._sources(),
            "stimulus_ids": self.stimulus_ids_,
            **self.recording_,
        }

    def _tensors(self) -> dict[str, np.ndarray]:
        tensors = {name: np.asarray(getattr(self, name)) for name in _TENSORS if getattr(self, name) is not None}
        for i, band in enumerate(self.bands_):
            tensors |= {f"band{i}.mean": band.mean, f"band{i}.scale": band.scale}
        return tensors | {f"band{i}.training": X for i, X in enumerate(self.training_)}

    @classmethod
    def _restore(cls, config: dict[str, Any], tensors: dict[str, np.ndarray]) -> Self:
        encoder = cls(**config["parameters"])
        for name in _TENSORS:
            setattr(encoder, name, tensors.get(name))
        encoder.bands_, encoder.training_ = [], []
        for i, band in enumerate(config["bands"]):
            mean, scale = tensors[f"band{i}.mean"], tensors[f"band{i}.scale"]
            encoder.bands_.append(Band(**band | {"delays": tuple(band["delays"])}, mean=mean, scale=scale))
            if config["fitted_solver"] == "kernel":
                encoder.training_.append(tensors[f"band{i}.training"])
        encoder.solver_, encoder.stimulus_ids_ = config["fitted_solver"], config["stimulus_ids"]
        encoder.recording_ = restored_fields(config)
        return encoder

    def _card(self) -> str:
        sources = " + ".join(band.source or band.name or "arrays" for band in self.bands_)
        scores = self.cv_scores_[~self.constant_]
        return (
            f"Predicts {len(self.intercept_)} neuroids from {sources}. Fitted on {len(self.stimulus_ids_)} stimuli in "
            f"{self.solver_} form. Cross-validated {self.scoring} on these, mean over the {len(scores)} neuroids that "
            f"vary: {scores.mean() if len(scores) else float('nan'):.3f}."
        )
