"""How large a sketch is, and how its rows become the small problem of the driver."""

from __future__ import annotations

import numpy as np
from scipy.linalg import solve_triangular

from softmix_dist.engine import memory_limit
from softmix_dist.errors import InputError
from softmix_dist.model import Coordinates
from softmix_dist.results import Settings
from softmix_dist.sketch import Sampling, SketchRows
from softmix_dist.solve.sample import Sample
from softmix_dist.sums import DesignSums

# Rows times the cube of the coefficients: up to 48 of them the sketch has 100 000 rows.
_WORK = 11_500_000_000
# Rows of the second sketch for each coefficient: the first only proposes.
_SECOND = 250
# Rows of the second where starts disagree, and coefficients up to which they are affordable.
_DECIDING, _MOST_COEFFICIENTS = 100_000, 600
# Copies of the sketch that are held at a time, in both precisions.
_COPIES = 6


def sketch_rows(settings: Settings, n_features: int, agreed: bool = True) -> tuple[int, int]:
    """Rows of the first sketch and of the second: as asked for, or by the coefficients.

    Where the starts of the first do not agree the second is larger, for it has to tell apart
    optima that are close.

    With few coefficients more rows cost nothing, and they decide between close optima
    (measured: at 20 000 rows of 100 000 candidates with 9 coefficients the best optimum of
    the sketch was 2e-6 nats per draw short on the data).
    """
    if settings.sketch_rows is not None:
        return settings.sketch_rows, settings.sketch_rows
    coefficients = settings.n_components * (n_features + 1)
    first = max(20_000, 60 * coefficients, min(100_000, _WORK // coefficients**3))
    second = max(first, _SECOND * coefficients)
    return first, second if agreed or coefficients > _MOST_COEFFICIENTS else max(second, _DECIDING)


def sampling(
    settings: Settings, design: DesignSums, coordinates: Coordinates, seed: int
) -> Sampling:
    """How the rows of the sketch are chosen.

    Raises
    ------
    InputError
        If the sketch would not fit in memory.
    """
    n_features = len(coordinates.mean)
    n_rows, most_rows = sketch_rows(settings, n_features, agreed=False)
    most_rows = min(most_rows, design.n_candidates)
    needed = _COPIES * most_rows * (n_features + 8) * 8
    if needed > memory_limit():
        raise InputError(
            f"sketch_rows: {most_rows} rows of {n_features} features need about "
            f"{needed / 1e9:.1f} GB on the driver, which has {memory_limit() / 1e9:.1f} GB; "
            "use fewer"
        )
    return Sampling(seed, n_rows, design.n_candidates, coordinates.log_candidates, design.n_draws)


def sample_of(
    rows: SketchRows, settings: Settings, design: DesignSums, coordinates: Coordinates
) -> Sample:
    """Turn rows of the sketch into the small problem of the driver."""
    centred = rows.features.astype(np.float64) - coordinates.mean
    z = solve_triangular(coordinates.factor, centred.T, lower=True).T
    return Sample.of(
        z,
        np.exp(rows.log_base) / rows.chance,
        rows.draws / rows.chance,
        design.n_draws,
        settings.n_components,
        coordinates.base_entropy,
        settings.l2,
        rows.log_base if rows.log_base.any() else None,
        rows.chance,
    )
