"""Kernels: one block of rows in, partial sums out.

All of them sweep the block in slices that stay in cache, and no array of
(candidates x components) is ever larger than a slice. They use only what the
array namespace of NumPy offers, no state, and no I/O.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from softmix_dist.arrays import host
from softmix_dist.batched import batched_score
from softmix_dist.blocks import (
    Array,
    Block,
    Finding,
    Findings,
    RawBlock,
    candidate_totals,
    inspect,
    whole_total,
)
from softmix_dist.model import Frame, Mixture, block_dtype
from softmix_dist.sums import DesignSums, ScoreSums

# A product of up to about 1e6 multiplications stays in the small-matrix kernels of
# OpenBLAS, up to three times faster on these shapes than its packed ones, and a slice
# of up to about 1.2 MB near the second-level cache (measured: tests/bench/kernel.py).
_SLICE_PRODUCT = 1_000_000
_SLICE_BYTES = 1_200_000
# Relative to the level of the first block; exp of more than this would overflow in sums.
_HIGHEST_BASE = 600.0
_SLICE_ROWS = 512, 8192


def slice_rows(n_columns: int, n_components: int, itemsize: int = 8) -> int:
    """Rows of a slice: a power of two such that its products and buffers are small."""
    rows = min(_SLICE_PRODUCT // (n_columns * n_components), _SLICE_BYTES // (n_columns * itemsize))
    low, high = _SLICE_ROWS
    return int(np.clip(1 << max(rows, 1).bit_length() - 1, low, high))


def layout(n_components: int) -> Literal["C", "F"]:
    """Memory order of (rows, columns) buffers: "F" (component-major) for few components.

    With few components a row is too short for vector instructions, so columns are
    kept contiguous; measured on 1 to 16 components in both precisions.
    """
    return "F" if n_components <= 6 else "C"


def prepare(raw: RawBlock, frame: Frame, n_components: int, spent: Block | None = None) -> Block:
    """Turn a block as it is stored into the block that the kernels see.

    Parameters
    ----------
    raw : RawBlock
    frame : Frame
        Centre and scale that are taken out of the features.
    n_components : int
        Decides the memory order, see `layout`.
    spent : Block or None
        A block that is not needed any more, whose memory is used again where it fits: fresh
        pages cost more than the arithmetic (measured with the memory trimming that Dask sets
        for its workers: 16 ms a block of 8 MB in fresh memory, 8 in spent).

    Returns
    -------
    Block
        With its findings. Where there are any the sums mean nothing.
    """
    findings = inspect(raw)
    dtype = block_dtype(raw.features.dtype)
    rows, n_features = raw.features.shape
    step = slice_rows(n_features + 1, n_components, dtype.itemsize)
    centred = frame.centre.any()
    # What is not available must not matter, however far off it is.
    gone = np.zeros(rows, bool) if raw.log_base is None else raw.log_base == -np.inf
    slices: list[Array] = []
    for start in range(0, rows, step):
        stored = raw.features[start : start + step]
        shape = len(stored), n_features + 1
        x = _again(spent, len(slices), shape)
        if x is None:
            x = np.empty(shape, dtype, order=layout(n_components))
        x[:, 0] = 1
        with np.errstate(invalid="ignore", over="ignore"):
            if centred:
                x[:, 1:] = stored
                x[:, 1:] -= frame.centre
                stored = x[:, 1:]
            np.divide(stored, frame.scale, out=x[:, 1:], dtype=dtype)
        if gone[start : start + step].any():
            x[gone[start : start + step], 1:] = 0
        slices.append(x)
    draws = candidate_totals(raw.counts)
    log_base = None
    if raw.log_base is not None:
        log_base = raw.log_base.astype(np.float64) - frame.log_base_level
        high = np.flatnonzero(log_base > _HIGHEST_BASE)
        if high.size and not findings:
            row = raw.start + int(high[0])
            where = f"candidate {row}: {raw.log_base[high[0]]}"
            problem = f"more than {_HIGHEST_BASE:.0f} above those of the first block"
            remedy = "use -inf, not a large negative number, for not available"
            found = Finding("log_base", problem, remedy, int(high.size), row, where)
            findings = Findings((found,))
    observed = np.flatnonzero(draws)
    sparse = 4 * observed.size < rows
    visited = observed if sparse else None
    return Block(tuple(slices), draws, log_base, None, visited, findings, raw.start)


def _again(spent: Block | None, number: int, shape: tuple[int, int]) -> Array | None:
    """Return a slice of a spent block, if it has that shape."""
    if spent is None or number >= len(spent.slices) or spent.slices[number].shape != shape:
        return None
    return spent.slices[number]


@np.errstate(over="ignore", invalid="ignore")
def survey(block: Block) -> tuple[DesignSums, Findings]:
    """Design sums and findings of one block.

    Parameters
    ----------
    block : Block

    Returns
    -------
    DesignSums
        In float64; zero where the block has findings, infinite where squares overflow.
    Findings
    """
    xp = block.xp
    columns = block.slices[0].shape[1] if block.slices else 1
    gram = xp.zeros((columns, columns))
    draws = xp.zeros(columns)
    log_base = 0.0
    if not block.findings:
        # What overflows is found, with its name, in the sums.
        for part, x in block.pieces(columns, np.float64):
            draws += xp.dot(block.draws[part], x)
            if block.log_base is None:
                gram += xp.dot(x.T, x)
            else:
                base = block.log_base[part]
                u = xp.exp(base)
                gram += xp.dot(x.T, x * u[:, None])
                log_base += float(xp.dot(u, xp.where(u > 0, base, 0.0)))
    # Totals may pass 2^53: added as integers, block by block.
    n_draws = 0 if block.findings else whole_total(block.draws)
    n_observed = int(xp.count_nonzero(block.draws))
    sums = host(gram), host(draws), log_base
    return DesignSums(*sums, n_draws, n_observed, len(block.draws)), block.findings


def score(block: Block, mixtures: Sequence[Mixture], dtype: np.dtype[Any]) -> tuple[ScoreSums, ...]:
    """Score sums of one block, for several mixtures in one sweep.

    Parameters
    ----------
    block : Block
    mixtures : sequence of Mixture
        In frame coordinates.
    dtype : dtype
        Precision of the arithmetic inside a slice; slices are added in float64.

    Returns
    -------
    tuple of ScoreSums
        One for each mixture.

    Notes
    -----
    One exponential per (row, component) serves the sums over candidates and the sums
    over draws. Where lambda underflows at a row with draws, or an exponential
    overflows, the slice is done again with shifted exponents in float64.
    """
    if block.xp is not np:
        return tuple(
            batched_score(block, mixture, dtype) or _guarded(block, mixture) for mixture in mixtures
        )
    # Overflow and 0 / 0 are found at the end of the sweep and mended by the guarded one.
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        sweeps = [_Sweep(block, mixture, dtype) for mixture in mixtures]
        for part, x in block.pieces(0, dtype):
            for sweep in sweeps:
                sweep.add(part, x)
        return tuple(sweep.finish() or _guarded(block, sweep.mixture) for sweep in sweeps)


class _Sweep:
    """Running sums of one mixture over the slices of a block, with its buffers."""

    def __init__(self, block: Block, mixture: Mixture, dtype: np.dtype[Any]):
        rows, columns = block.slices[0].shape
        n_components = mixture.n_components
        self.mixture = mixture
        self.coefficients = mixture.coefficients.astype(dtype)
        self.ones = np.ones(n_components, dtype)
        self.order = layout(n_components)
        self.buffer = np.empty(rows * n_components, dtype)
        self.observed = block.observed
        draws = block.draws if self.observed is None else block.draws[self.observed]
        self.n_exact, self.n = draws, draws.astype(dtype)
        self.log_base = None if block.log_base is None else block.log_base.astype(dtype)
        self.times = None if block.multiplicity is None else block.multiplicity.astype(dtype)
        self.lam = np.empty(len(self.n), dtype)
        self.tiny = dtype.type(np.finfo(dtype).tiny * 1e8)
        # Slices are added in float64, whatever their own arithmetic.
        self.candidates = np.zeros((n_components, columns))
        self.draws = np.zeros((n_components, columns))
        self.base = np.zeros(n_components)

    def add(self, part: slice, x: Array) -> None:
        """Add the features ``x`` of the rows ``part``."""
        shape = len(x), len(self.ones)
        buffer = self.buffer[: len(x) * len(self.ones)].reshape(shape, order=self.order)
        # 1. The exponentials u_j exp(b_k + x_j.theta_k).
        e = np.matmul(x, self.coefficients, out=buffer)
        if self.log_base is not None:
            e += self.log_base[part, None]
        np.exp(e, out=e)
        # 2. lambda_j, at the rows that the sums over draws visit.
        if self.observed is None:
            lam = np.dot(e, self.ones, out=self.lam[part])
            n, e_n, x_n = self.n[part], e, x
        else:
            low, high = np.searchsorted(self.observed, (part.start, part.stop))
            chosen = self.observed[low:high] - part.start
            n, e_n, x_n = self.n[low:high], e[chosen], x[chosen]
            lam = np.dot(e_n, self.ones, out=self.lam[low:high])
        if self.log_base is not None:
            # Candidates that are not available have lambda = 0, without draws.
            np.maximum(lam, self.tiny, out=lam)
        if self.times is not None:
            e *= self.times[part, None]
            if e_n is not e:
                e_n *= self.times[part][chosen, None]
        # 3. Sums over candidates, then the same exponentials reweighted by n_j / lambda_j.
        self.candidates += _product(e, x)
        if self.log_base is not None:
            self.base += e.T @ np.where(self.log_base[part] > -np.inf, self.log_base[part], 0)
        ratio = n / lam
        if self.order == "C":
            # Rows of few components are too short for vector instructions: spread the column.
            e_n *= np.repeat(ratio, len(self.ones)).reshape(e_n.shape)
        else:
            e_n *= ratio[:, None]
        self.draws += _product(e_n, x_n)

    def finish(self) -> ScoreSums | None:
        """Return the sums of the block; None if they need shifted exponents."""
        n = self.n
        if self.lam.size and self.lam.min() <= self.tiny and n[self.lam <= self.tiny].any():
            return None
        n = self.n_exact
        if self.times is not None:
            n = n * (self.times if self.observed is None else self.times[self.observed])
        sums = ScoreSums(
            float(n @ np.log(self.lam).astype(np.float64)),
            self.candidates,
            self.draws,
            self.base,
        )
        parts = sums.log_density, sums.candidates, sums.draws
        finite = all(np.isfinite(values).all() for values in parts)
        return sums if finite else None


def _product(e: Array, x: Array) -> Array:
    """e^T x, (K, L + 1).

    By np.dot, for matmul keeps the interpreter locked when its result is small (measured:
    two threads were no faster than one). Columns of both are contiguous, so neither is copied.
    """
    return np.dot(e.T, x)


def _guarded(block: Block, mixture: Mixture) -> ScoreSums:
    """Score sums of one block with exponents shifted row by row, in float64.

    Where a sum over candidates still overflows it is infinite: the solver reads that
    as a normaliser predicted far too low.
    """
    xp = block.xp
    columns, n_components = mixture.coefficients.shape
    coefficients = xp.asarray(mixture.coefficients)
    sums = ScoreSums(
        0.0,
        np.zeros((n_components, columns)),
        np.zeros((n_components, columns)),
        np.zeros(n_components),
    )
    for part, x in block.pieces(max(columns, n_components), np.float64):
        w = xp.ones(len(x)) if block.multiplicity is None else block.multiplicity[part]
        n = w * block.draws[part]
        base = xp.zeros(len(x)) if block.log_base is None else block.log_base[part]
        logits = x @ coefficients + base[:, None]
        top = logits.max(axis=1, keepdims=True)
        top[top == -np.inf] = 0.0
        shifted = xp.exp(logits - top)
        lam = shifted.sum(axis=1, keepdims=True)
        seen = n > 0
        resp = shifted[seen] * (n[seen][:, None] / lam[seen])
        e = xp.exp(logits) * w[:, None]
        candidates = host(e.T @ x)
        candidates[~np.isfinite(candidates[:, 0])] = np.inf
        sums += ScoreSums(
            float(n[seen] @ (xp.log(lam[seen]) + top[seen])[:, 0]),
            candidates,
            host(resp.T @ x[seen]),
            host(e.T @ xp.where(base > -np.inf, base, 0.0)),
        )
    return sums
