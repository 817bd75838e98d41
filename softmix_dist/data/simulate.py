"""Simulated data sets with their truth, written block by block."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np

from softmix_dist.blocks import Array, RawBlock
from softmix_dist.data.predict import Predictor, draw_blocks
from softmix_dist.data.store import put
from softmix_dist.data.writer import DatasetWriter, new_dataset
from softmix_dist.errors import InputError

Draw = Callable[[np.random.Generator, tuple[int, int]], Array]
FEATURE_LAWS = ("gaussian", "uniform", "student", "clusters", "binary")
_N_CLUSTERS = 10
# Streams of random numbers: one for each purpose, and within it one for each block.
_TRUTH, _FEATURES, _RATES, _SPLIT, _COUNTS = range(5)


def simulate(
    path: str | os.PathLike[str],
    n_candidates: int,
    n_features: int,
    n_components: int,
    n_draws: int,
    *,
    n_samples: int | None = None,
    norm: float = 2.0,
    feature_law: str = "gaussian",
    degrees_of_freedom: float = 7.0,
    overdispersion: float = 1.0,
    dtype: Any = "float32",
    seed: int = 0,
    block_rows: int | None = None,
    overwrite: bool = False,
) -> None:
    """Write a data set drawn from a softmax mixture, with its truth.

    Memory does not grow with the number of candidates; the same seed and block size give
    the same data.

    Parameters
    ----------
    path : path
    n_candidates, n_features, n_components, n_draws : int
        p, L, K and N.
    n_samples : int or None
        Number of samples S among which the draws are divided evenly; None stores one vector.
    norm : float
        Norm of the atoms; their directions are uniform on the sphere.
    feature_law : {"gaussian", "uniform", "student", "clusters", "binary"}
        Law of the features, with mean 0 and variance 1.
    degrees_of_freedom : float
        Of Student's law; more than 2.
    overdispersion : float
        Variance of the counts within a sample, relative to multinomial draws (Dirichlet-
        multinomial); 1 for none.
    dtype : {"float32", "float64"}
        Of the stored features.
    seed : int
    block_rows : int, optional
    overwrite : bool

    Raises
    ------
    InputError
        If a setting is out of range.
    StoreError
        If the path exists already or cannot be written.

    Examples
    --------
    >>> simulate("simulated.zarr", 1000, 2, 2, 50_000, seed=1)
    >>> weights, atoms = open_dataset("simulated.zarr").truth()
    >>> atoms.shape
    (2, 2)
    """
    _check(
        n_candidates, n_features, n_components, n_draws, n_samples, norm, feature_law,
        degrees_of_freedom, overdispersion, dtype, seed, block_rows,
    )  # fmt: skip
    rng = np.random.default_rng((seed, _TRUTH))
    weights = np.sort(rng.dirichlet(np.full(n_components, 5.0)))[::-1]
    atoms = rng.standard_normal((n_components, n_features))
    atoms *= norm / np.linalg.norm(atoms, axis=1, keepdims=True)
    draw = _feature_law(feature_law, degrees_of_freedom, n_features, rng)
    share = np.full(n_samples or 1, n_draws // (n_samples or 1))
    share[: n_draws % len(share)] += 1
    with new_dataset(
        path,
        n_candidates,
        n_features,
        dtype=dtype,
        count_dtype=np.uint32 if n_draws < 2**32 else np.uint64,
        n_samples=n_samples,
        block_rows=block_rows,
        overwrite=overwrite,
    ) as writer:
        truth = writer.group.create_group("truth")
        put(truth, "weights", ("component",), weights)
        put(truth, "atoms", ("component", "feature"), atoms)
        truly = Predictor(weights, atoms, np.zeros(n_features))
        truly = _write_features(writer, draw, (n_candidates, n_features), dtype, truly, seed)
        _write_counts(writer, truly, share, overdispersion, seed, several=n_samples is not None)


def _check(
    n_candidates: int, n_features: int, n_components: int, n_draws: int, n_samples: int | None,
    norm: float, feature_law: str, degrees_of_freedom: float, overdispersion: float, dtype: Any,
    seed: int, block_rows: int | None,
) -> None:  # fmt: skip
    sizes = {
        "candidates": n_candidates,
        "features": n_features,
        "components": n_components,
        "draws": n_draws,
        "samples": 1 if n_samples is None else n_samples,
    }
    problems = [
        f"{name}: expected at least 1, found {size}" for name, size in sizes.items() if size < 1
    ]
    if feature_law not in FEATURE_LAWS:
        problems.append(f"feature law: expected one of {FEATURE_LAWS}, found {feature_law!r}")
    if not (2 < degrees_of_freedom < np.inf):
        problems.append(f"degrees of freedom: expected more than 2, found {degrees_of_freedom}")
    if n_draws > 2**53:
        problems.append(f"draws: expected at most 2^53, found {n_draws}")
    if np.dtype(dtype) not in (np.dtype(np.float32), np.dtype(np.float64)):
        problems.append(f"dtype: expected float32 or float64, found {dtype!r}")
    if block_rows is not None and block_rows < 1:
        problems.append(f"block rows: expected at least 1, found {block_rows}")
    if seed < 0:
        problems.append(f"seed: expected at least 0, found {seed}")
    # A sample cannot vary more than if all its draws fell on one candidate.
    if not (overdispersion == 1 or 1 < overdispersion <= max(n_draws / (n_samples or 1), 2)):
        problems.append(
            f"overdispersion: expected from 1 to the draws of a sample, found {overdispersion}"
        )
    if not 0 <= norm < np.inf:
        problems.append(f"norm: expected at least 0, found {norm}")
    if problems:
        raise InputError("nothing was simulated:\n- " + "\n- ".join(problems))


def _write_features(
    writer: DatasetWriter, draw: Draw, shape: tuple[int, int], dtype: Any, truly: Predictor,
    seed: int,
) -> Predictor:  # fmt: skip
    """Write features block by block; return the predictor with normalisers over all of them."""
    rows, masses = writer.block_rows, []
    for i, start in enumerate(range(0, shape[0], rows)):
        own = min(rows, shape[0] - start), shape[1]
        features = draw(np.random.default_rng((seed, _FEATURES, i)), own).astype(dtype)
        writer.write_block(i, features=features)
        masses.append(truly.log_masses(RawBlock(start, features, np.empty(0))))
    return truly.normalised(masses)


def _write_counts(
    writer: DatasetWriter, truly: Predictor, share: Array, overdispersion: float, seed: int,
    several: bool,
) -> None:  # fmt: skip
    """Divide the draws of each sample among the blocks, then among the candidates of each."""
    rows = writer.block_rows
    numbers = range(-(-writer.n_candidates // rows))
    stored: Any = writer.group["features"]

    def rates(i: int) -> Array:
        block = RawBlock(i * rows, stored[i * rows : (i + 1) * rows], np.empty(0))
        probability = np.exp(truly.log_prob(block))
        if overdispersion == 1:
            return np.broadcast_to(probability, (len(share), len(probability)))
        # A Dirichlet law by its gamma variables, so that blocks are independent.
        concentration = np.maximum(share, 1)[:, None] / (overdispersion - 1) * probability
        return np.random.default_rng((seed, _RATES, i)).standard_gamma(concentration)

    masses = (rates(i).sum(axis=1) for i in numbers)
    split = draw_blocks(masses, share, np.random.default_rng((seed, _SPLIT)))
    for i in numbers:
        rng = np.random.default_rng((seed, _COUNTS, i))
        counts = np.stack(
            [
                rng.multinomial(n, row / row.sum())
                for n, row in zip(split[:, i], rates(i), strict=True)
            ]
        )
        writer.write_block(i, counts=counts if several else counts[0])


def _feature_law(
    law: str, degrees_of_freedom: float, n_features: int, rng: np.random.Generator
) -> Draw:
    """Sampler of features with mean 0 and variance 1."""
    if law == "gaussian":
        return lambda rng, shape: rng.standard_normal(shape, dtype=np.float64)
    if law == "uniform":
        return lambda rng, shape: rng.uniform(-np.sqrt(3), np.sqrt(3), shape)
    if law == "student":
        scale = np.sqrt((degrees_of_freedom - 2) / degrees_of_freedom)
        return lambda rng, shape: scale * rng.standard_t(degrees_of_freedom, shape)
    if law == "binary":
        return lambda rng, shape: rng.choice([-1.0, 1.0], shape)
    centres = np.sqrt(0.75) * rng.standard_normal((_N_CLUSTERS, n_features))

    def clusters(rng: np.random.Generator, shape: tuple[int, int]) -> Array:
        chosen = rng.integers(_N_CLUSTERS, size=shape[0])
        return np.asarray(centres[chosen] + 0.5 * rng.standard_normal(shape))

    return clusters
