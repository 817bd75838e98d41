"""Standard errors at the end of a fit: by the model, clustered over samples, or scaled."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np

from softmix_dist.blocks import Array, RawBlock
from softmix_dist.data.blockwise import Dataset
from softmix_dist.engine import Engine
from softmix_dist.engine.shards import Prepare
from softmix_dist.errors import InputError
from softmix_dist.kernels import prepare
from softmix_dist.model import Coordinates, Mixture
from softmix_dist.results import Settings
from softmix_dist.robust import pearson, sample_sums
from softmix_dist.solve.inference import (
    Inference,
    clustered_scores,
    infer,
    known_well,
    scaled,
)
from softmix_dist.solve.information import Curvature
from softmix_dist.solve.point import Point

# Samples that the clustered sandwich needs for its intervals to hold (METHOD section 7).
_ENOUGH_SAMPLES = 50
# Numbers in the sums of all samples, at most: 32 MB, of which the tree of sums holds many at a
# time (measured over 79 blocks: 13 on one thread, 20 on two, 51 on eight).
_MOST_SUMS = 1 << 22


def check_samples(dataset: Dataset, settings: Settings) -> None:
    """Raise `InputError` where clustered errors are asked for that cannot be had."""
    if settings.standard_errors != "clustered":
        return
    n_samples = dataset.n_samples
    if n_samples < 2:
        raise InputError(
            "standard_errors='clustered' needs counts of several samples, (S, p), found "
            f"{n_samples} sample; give the counts of each sample, or use 'sketch' or 'scaled'"
        )
    sums = n_samples * settings.n_components * (dataset.n_features + 1)
    if sums > _MOST_SUMS:
        raise InputError(
            f"standard_errors='clustered': the scores of {n_samples:,} samples are {sums:,} "
            f"numbers, at most {_MOST_SUMS:,} are kept; join samples to fewer clusters"
        )


def estimate_covariance(
    engine: Engine,
    dataset: Dataset,
    how: str,
    point: Point,
    curvature: Curvature,
    source: str,
    coordinates: Coordinates,
    n_draws: int,
) -> tuple[Inference, int]:
    """Covariance of the estimates, components in the order of the point.

    Parameters
    ----------
    engine : Engine
        With the data loaded.
    dataset : Dataset
        The same data.
    how : {"sketch", "exact", "clustered", "scaled"}
    point : Point
        The maximum.
    curvature : Curvature
        There.
    source : str
        What the curvature rests on.
    coordinates : Coordinates
    n_draws : int

    Returns
    -------
    Inference
    int
        Passes over the data, 0 or 1.
    """
    conclude = partial(
        infer, curvature, point.weights, coordinates, n_draws, dataset.feature_names, l2=point.l2
    )
    plain = conclude(source)
    if source == "sketch" and not known_well(curvature):
        # Only where the coefficients are too many for one pass of all data, see `information_at`.
        plain = _unsure(plain)
    if plain.problem or how not in ("clustered", "scaled"):
        return replace(plain, source=how) if how in ("clustered", "scaled") else plain, 0
    if how == "scaled":
        log_total = np.logaddexp.reduce(point.mixture.offsets + point.log_normalisers)
        normalised = Mixture(point.mixture.offsets - log_total, point.mixture.atoms)
        kernel = partial(pearson, mixture=coordinates.to_frame(normalised), n_draws=n_draws)
        sums = engine.reduce(kernel)
        return scaled(plain, sums.dispersion(point.mixture.n_coefficients)), 1
    take = partial(prepare, frame=coordinates.frame, n_components=point.mixture.n_components)
    task = partial(_sample_sums, take=take, mixture=coordinates.to_frame(point.mixture))
    scores = clustered_scores(engine.reduce_stored(dataset, task), point, coordinates)
    doubt = _doubt(dataset.n_samples, point.mixture.n_coefficients - 1)
    return replace(conclude("clustered", scores), doubt=doubt), 1


def _sample_sums(raw: RawBlock, take: Prepare, mixture: Mixture) -> Array:
    block = take(raw)
    block.check()
    return sample_sums(block, raw.counts, mixture)


def _unsure(plain: Inference) -> Inference:
    """Say that a sketch tells some direction too poorly."""
    if plain.problem:
        problem = (
            "the sketch tells too little of the information; use standard_errors='exact' or "
            "more sketch_rows"
        )
        return replace(plain, problem=problem)
    doubt = (
        "standard errors rest on a sketch that knows some directions poorly: they may be far "
        "off; use standard_errors='exact' or more sketch_rows"
    )
    return replace(plain, doubt=doubt)


def _doubt(n_samples: int, n_parameters: int) -> str | None:
    """Why standard errors from so many samples may be wrong."""
    if n_samples <= n_parameters:
        return (
            f"clustered standard errors rest on {n_samples} samples for {n_parameters} "
            "parameters: some combinations of them seem to be without error; use more samples "
            "or fewer coefficients"
        )
    if n_samples < _ENOUGH_SAMPLES:
        return (
            f"clustered standard errors rest on {n_samples} samples, fewer than "
            f"{_ENOUGH_SAMPLES}: they tend to be too small"
        )
    return None
