"""What tells a data set from others: for checkpoints, and for the models that it was fitted by."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from softmix_dist.blocks import RawBlock
from softmix_dist.data.blockwise import Dataset


def fingerprint(dataset: Dataset) -> dict[str, Any]:
    """Tell data sets apart without reading all of them.

    Parameters
    ----------
    dataset : Dataset

    Returns
    -------
    dict
        Sizes, types, and hashes of the feature names and of the first and the last block.
    """
    return {
        "candidates": dataset.n_candidates,
        "features": dataset.n_features,
        "samples": dataset.n_samples,
        "draws": dataset.n_draws,
        "block rows": dataset.block_rows,
        "feature type": str(dataset.dtype),
        "feature names": hashlib.sha256("\n".join(dataset.feature_names).encode()).hexdigest()[:16],
        "first block": _block_digest(dataset.read_block(0)),
        "last block": _block_digest(dataset.read_block(dataset.n_blocks - 1)),
    }


def _block_digest(raw: RawBlock) -> str:
    counts = raw.counts
    stored = (
        (counts.data, counts.indices, counts.indptr) if hasattr(counts, "indptr") else (counts,)
    )
    parts = (raw.features, *stored, *(() if raw.log_base is None else (raw.log_base,)))
    return digest(*parts)


def digest(*arrays: Any) -> str:
    """Hash the types, shapes and values of arrays."""
    found = hashlib.sha256()
    for array in arrays:
        found.update(f"{array.shape} {array.dtype.str}".encode())
        found.update(np.ascontiguousarray(array).data)
    return found.hexdigest()[:16]
