"""Fewer features for layers that have too many: sparse random projection, and principal components fitted in chunks."""

from __future__ import annotations

import hashlib
import re
from typing import Any, Self

import numpy as np
from scipy.sparse import csr_matrix
from sklearn.decomposition import IncrementalPCA
from sklearn.random_projection import SparseRandomProjection

from recordings import Artifact
from recordings.errors import InputError, ShapeError, UnknownNameError
from recordings.events import OnEvent, Stop, report

from .features import Features

PROJECTION_SEED = 0


class Reduction(Artifact):
    """A fixed linear map from many features to few, ``(x - mean) @ components.T``.

    Parameters
    ----------
    name : how it was asked for, such as "srp:4096".
    components : (k, feature), sparse or dense.
    mean : (feature,), or None for no centring.
    explained_variance_ratio : (k,), of principal components.
    """

    def __init__(
        self,
        name: str,
        components: csr_matrix | np.ndarray,
        mean: np.ndarray | None = None,
        explained_variance_ratio: np.ndarray | None = None,
    ):
        self.name = name
        # A loaded map must give the same bits as the fitted one, so both have the same memory order.
        self.components = np.ascontiguousarray(components) if isinstance(components, np.ndarray) else components
        self.mean = mean
        self.explained_variance_ratio = explained_variance_ratio

    def transform(self, values: np.ndarray) -> np.ndarray:
        """Map the last axis of values (..., feature) to (..., k), float32.

        Raises
        ------
        ShapeError : another number of features than the map was made for.
        """
        k, n_features = self.components.shape
        if values.shape[-1] != n_features:
            raise ShapeError(f"{values.shape[-1]} features for a reduction of {n_features}")
        flat = values.reshape(-1, n_features)
        if self.mean is not None:
            flat = flat - self.mean
        reduced = np.asarray((self.components @ flat.T).T, np.float32)
        return np.ascontiguousarray(reduced).reshape(*values.shape[:-1], k)

    def fingerprint(self) -> str:
        """Name and SHA-256 of the map."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self._tensors().items()):
            digest.update(name.encode() + np.ascontiguousarray(tensor).tobytes())
        return f"{self.name} {digest.hexdigest()[:16]}"

    def _config(self) -> dict[str, Any]:
        return {"name": self.name, "shape": list(self.components.shape)}

    def _tensors(self) -> dict[str, np.ndarray]:
        tensors: dict[str, np.ndarray] = {}
        if isinstance(self.components, np.ndarray):
            tensors["components"] = self.components
        else:
            sparse = self.components
            tensors |= {"data": sparse.data, "indices": sparse.indices, "indptr": sparse.indptr}
        for name in ("mean", "explained_variance_ratio"):
            value = getattr(self, name)
            if value is not None:
                tensors[name] = value
        return tensors

    @classmethod
    def _restore(cls, config: dict[str, Any], tensors: dict[str, np.ndarray]) -> Self:
        components: Any = tensors.get("components")
        if components is None:
            parts = (tensors["data"], tensors["indices"], tensors["indptr"])
            components = csr_matrix(parts, shape=tuple(config["shape"]))
        return cls(config["name"], components, tensors.get("mean"), tensors.get("explained_variance_ratio"))


def parse_reduction(text: str) -> tuple[str, int]:
    """Kind and number of features of "srp:4096" or "pca:256"; `UnknownNameError` for anything else."""
    found = re.fullmatch(r"(srp|pca):([1-9]\d*)", text)
    if found is None:
        raise UnknownNameError(f"no reduction {text!r}", remedy="Write srp:4096 or pca:256")
    return found.group(1), int(found.group(2))


def random_projection(n_features: int, k: int, seed: int = PROJECTION_SEED) -> Reduction:
    """Sparse random projection that keeps distances (P. Li, T. J. Hastie & K. W. Church, KDD 2006).

    Density 1 / sqrt(n_features), scaled so that squared distances are kept on average.
    """
    maker = SparseRandomProjection(n_components=k, density="auto", random_state=seed)
    maker.fit(np.zeros((1, n_features), np.float32))
    return Reduction(f"srp:{k}", csr_matrix(maker.components_, dtype=np.float32))


def fit_pca(
    features: Features, k: int, chunk: int = 1024, on_event: OnEvent | None = None, stop: Stop | None = None
) -> Reduction:
    """Principal components of features, fitted in chunks (D. A. Ross et al., IJCV 77, 2008).

    Tokens and frames count as samples.

    Raises
    ------
    InputError : fewer samples than components.
    """
    samples = int(np.prod(features.shape[:-1]))
    if samples < k:
        raise InputError(f"{k} components of {samples} samples", remedy="Ask for fewer, or take srp")
    model = IncrementalPCA(n_components=k)
    # Each update needs at least as many samples as components.
    rows = max(1, max(chunk, k) * len(features) // samples)
    rows = rows if rows * (samples // len(features)) >= k else rows + 1
    edges = [*range(0, len(features) - rows + 1, rows)] or [0]
    for start, stop_at in zip(edges, [*edges[1:], len(features)], strict=True):
        values = features.read(slice(start, stop_at))
        model.partial_fit(values.reshape(-1, values.shape[-1]))
        report(on_event, stop, "fit reduction", stop_at, len(features))
    return Reduction(
        f"pca:{k}",
        model.components_.astype(np.float32),
        model.mean_.astype(np.float32),
        model.explained_variance_ratio_.astype(np.float32),
    )
