"""How large a sketch is, and how its rows become the small problem of the driver."""

from __future__ import annotations

import numpy as np
from scipy.linalg import solve_triangular

from softmix_dist.engine import memory_limit
from softmix_dist.errors import InputError
from softmix_dist.model import Coordinates
from softmix_dist.results import Settings
from softmix_dist.sketch import Sampling, SketchRows
from softmix_dist.solve.sample import LARGEST_MATRIX, Sample
from softmix_dist.sums import DesignSums

# Rows times the cube of the coefficients: up to 48 of them the sketch has 100 000 rows.
_WORK = 11_500_000_000
# Rows of the second sketch for each coefficient: the first only proposes.
_SECOND = 250
# Rows of the second where starts disagree, and coefficients up to which they are affordable.
_DECIDING, _MOST_COEFFICIENTS = 100_000, 600
# Copies of the sketch that are held at a time: in both precisions, or as it travels and in
# single precision alone.
_COPIES, _WIDE_COPIES = 6, 3
# Numbers in a sketch at most: 512 MB in single precision. A first one that is too large for
# matrices only proposes, with an eighth of them.
_MOST_NUMBERS, _FIRST_NUMBERS = 2**27, 2**24
# Rows that are standardised together.
_ROWS = 4096


def is_wide(settings: Settings, n_features: int) -> bool:
    """Whether there are too many coefficients for matrices of them."""
    return settings.n_components * (n_features + 1) > LARGEST_MATRIX


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
    most = _MOST_NUMBERS // (n_features + 1)
    if is_wide(settings, n_features):
        first = min(first, max(20_000, _FIRST_NUMBERS // (n_features + 1)))
    first = min(first, most)
    second = max(first, min(_SECOND * coefficients, most))
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
    copies = _WIDE_COPIES / 2 if is_wide(settings, n_features) else _COPIES
    needed = copies * most_rows * (n_features + 8) * 8
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
    n_rows, n_features = rows.features.shape
    wide = is_wide(settings, n_features)
    # Where no matrix of its coefficients is formed single precision is enough.
    homogeneous = np.ones((n_rows, n_features + 1), np.float32 if wide else np.float64)
    step = _ROWS if wide else max(n_rows, 1)
    for first in range(0, n_rows, step):
        part = slice(first, first + step)
        centred = rows.features[part].astype(np.float64) - coordinates.mean
        homogeneous[part, 1:] = solve_triangular(coordinates.factor, centred.T, lower=True).T
    return Sample.of_homogeneous(
        homogeneous,
        np.exp(rows.log_base) / rows.chance,
        rows.draws / rows.chance,
        design.n_draws,
        settings.n_components,
        coordinates.base_entropy,
        settings.l2,
        rows.log_base if rows.log_base.any() else None,
        rows.chance,
    )
