"""The first pass: load the data, check every value, sum the design."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from softmix_dist.blocks import Finding, Findings, RawBlock
from softmix_dist.data.blockwise import Dataset
from softmix_dist.engine import Engine
from softmix_dist.errors import InputError, StoreError
from softmix_dist.kernels import prepare
from softmix_dist.kernels import survey as survey_block
from softmix_dist.model import Coordinates, Frame, block_dtype
from softmix_dist.solve.design import standard_coordinates
from softmix_dist.sums import DesignSums


def survey(
    dataset: Dataset,
    engine: Engine,
    n_components: int = 8,
    surveyed: Callable[[DesignSums, str], None] = lambda sums, plan: None,
) -> tuple[DesignSums, Coordinates]:
    """Read the data once: load them into the engine, check every value, sum the design.

    Parameters
    ----------
    dataset : Dataset
    engine : Engine
    n_components : int
        Decides the memory order of blocks.
    surveyed : callable
        Called with the sums, and how the data are held in words, before they are judged.

    Returns
    -------
    DesignSums
    Coordinates

    Raises
    ------
    StoreError
        If a chunk is lost or cannot be read.
    InputError
        If values are not those of a data set, or columns are constant or collinear.
    """
    first = dataset.read_block(0)
    frame = Frame.of(first.features, first.log_base)
    take = partial(prepare, frame=frame, n_components=n_components)
    plan = engine.load(dataset, take, held_bytes(dataset, first))
    sums, findings = engine.reduce(survey_block)
    surveyed(sums, plan)
    findings += _total_findings(sums, findings, dataset.n_draws)
    if findings:
        kind = StoreError if findings.lost else InputError
        raise kind(f"{dataset.name!r} cannot be fitted:\n{findings}")
    return sums, standard_coordinates(sums, frame, dataset.feature_names, dataset.dtype)


def held_bytes(dataset: Dataset, first: RawBlock) -> int:
    """Bytes of all data as blocks hold them; ``first`` tells whether there is a base measure."""
    row = (dataset.n_features + 1) * block_dtype(dataset.dtype).itemsize + 8
    row += 0 if first.log_base is None else 8
    return row * dataset.n_candidates


def _total_findings(sums: DesignSums, findings: Findings, n_draws: int | None) -> Findings:
    if findings:
        return Findings()
    if n_draws is not None and sums.n_draws != n_draws:
        return Findings(
            (
                Finding(
                    "counts",
                    f"the total is {sums.n_draws}, but attribute n_draws says {n_draws}",
                    "a lost chunk of counts reads as zeros: write the counts again",
                    1,
                    0,
                    "",
                ),
            )
        )
    if sums.n_draws == 0:
        remedy = "there is nothing to fit: add the observed draws"
        return Findings((Finding("counts", "no draws at all", remedy, 1, 0, ""),))
    return Findings()


def describe(dataset: Dataset, engine: Engine) -> dict[str, Any]:
    """Validate a data set by one pass over it, and describe it.

    Parameters
    ----------
    dataset : Dataset
    engine : Engine

    Returns
    -------
    dict
        What it holds.

    Raises
    ------
    InputError, StoreError
        With every problem found.
    """
    design, coordinates = survey(dataset, engine)
    return {
        "data set": dataset.name,
        "candidates": dataset.n_candidates,
        "features": dataset.n_features,
        "samples": dataset.n_samples,
        "draws": design.n_draws,
        "observed candidates": design.n_observed,
        "effective candidates": float(np.exp(coordinates.base_entropy)),
        "feature type": str(dataset.dtype),
        "block rows": dataset.block_rows,
        "blocks": dataset.n_blocks,
    }
