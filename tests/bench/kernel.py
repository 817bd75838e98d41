"""One pass of the kernel against its floor, in one run and on one thread.

    python tests/bench/kernel.py

The floor is the time of the bare products and exponentials that a pass cannot do
without: logits, (rows, L) times (L, K); weights times features for 2 K columns; exp of
rows x K numbers. Each is taken at its fastest over both memory orders and slices of 256
to 8 192 rows. Times are minima over repetitions that alternate between floor and kernel.
"""

import time
from collections.abc import Callable
from functools import partial

import numpy as np

from softmix_dist.blocks import RawBlock
from softmix_dist.engine import single_blas_thread
from softmix_dist.kernels import prepare, score
from softmix_dist.model import Frame, Mixture

ROWS = 131_072
SHAPES = ((16, 4), (32, 8), (64, 16), (256, 16))
REPEATS = 7


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def floor_parts(L: int, K: int, dtype: type, rng: np.random.Generator) -> list[list[Callable]]:
    """For each of the three parts of the floor, the ways to compute it."""
    theta = rng.standard_normal((L, K)).astype(dtype)
    logits, sums, exps = [], [], []
    for order in "CF":
        x = np.asarray(rng.standard_normal((ROWS, L)).astype(dtype), order=order)
        for step in (256, 512, 1024, 2048, 4096, 8192):
            for inner in "CF":
                e = np.empty((step, K), dtype, order=inner)
                w = np.asarray(rng.random((step, 2 * K)).astype(dtype), order=inner)
                g = np.empty((2 * K, L), dtype)
                starts = range(0, ROWS, step)
                logits.append(
                    lambda x=x, e=e, step=step, starts=starts: [
                        np.matmul(x[i : i + step], theta, out=e) for i in starts
                    ]
                )
                sums.append(
                    lambda x=x, w=w, g=g, step=step, starts=starts: [
                        np.matmul(w.T, x[i : i + step], out=g) for i in starts
                    ]
                )
    for step in (1024, 4096):
        source, target = np.full((step, K), -1, dtype), np.empty((step, K), dtype)
        exps.append(lambda s=source, t=target, n=ROWS // step: [np.exp(s, out=t) for _ in range(n)])
    return [logits, sums, exps]


def main() -> None:
    rng = np.random.default_rng(0)
    print("   L   K  precision   floor ns/row (logits + sums + exp)   kernel ns/row   ratio")
    with single_blas_thread():
        for L, K in SHAPES:
            for dtype in (np.float32, np.float64):
                x = rng.standard_normal((ROWS, L)).astype(dtype)
                raw = RawBlock(0, x, rng.poisson(3, ROWS).astype(np.uint32))
                block = prepare(raw, Frame.of(x), K)
                mixture = Mixture(np.full(K, -8.0), rng.standard_normal((K, L)) / np.sqrt(L))
                parts = floor_parts(L, K, dtype, rng)
                best = [np.inf] * 3
                kernel = np.inf
                for _ in range(REPEATS):
                    best = [
                        min(t, *(seconds(way) for way in ways))
                        for t, ways in zip(best, parts, strict=True)
                    ]
                    work = partial(score, block, [mixture], np.dtype(dtype))
                    kernel = min(kernel, *(seconds(work) for _ in range(3)))
                ns = [t / ROWS * 1e9 for t in best]
                own = kernel / ROWS * 1e9
                print(
                    f"{L:4} {K:3}  {np.dtype(dtype).name}    "
                    f"{sum(ns):8.1f} ({ns[0]:6.1f} + {ns[1]:6.1f} + {ns[2]:5.1f})"
                    f"        {own:10.1f}    {own / sum(ns):6.2f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
