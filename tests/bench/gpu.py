"""A GPU: do the sums agree, how near is a pass to what the device can do, and a whole fit.

    python tests/bench/gpu.py                   # with a device: all of it, in minutes
    python tests/bench/gpu.py --device cpu --rows 1000000 --fit-rows 200000 --check-rows 50000

The second runs the same script on the processor, in half a minute, to try the script.

1. Agreement: every sum of fresh random data, in single precision on the device, against float64
   on the processor, and the bits of two runs.
2. A pass against two floors that are measured in the same run: the bytes of the features, read
   once at the bandwidth of a copy; and 6 p L K operations at the rate of the product of features
   and coefficients. As many rows as fit in the share of memory, float32 and float16.
3. One fit, on the device and on the processor.

Two threads feed the device, so that one launches while the other waits for its sums.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from softmix_dist.blocks import Block, Findings
from softmix_dist.data.memory import ArrayDataset
from softmix_dist.engine import LocalEngine
from softmix_dist.engine.device import find_device, gpu
from softmix_dist.engine.shards import reduce_shard
from softmix_dist.errors import ClusterError
from softmix_dist.fit import Settings, fit
from softmix_dist.kernels import score
from softmix_dist.model import Mixture
from softmix_dist.sums import merge, total

SINGLE, DOUBLE = np.dtype(np.float32), np.dtype(np.float64)
SUMS = "log_density", "candidates", "draws", "log_base"
NOT_MEASURED = "not measured"


class Place:
    """Where it runs: the namespace, how to wait, and the memory there is."""

    def __init__(self, device: str):
        self.on_gpu = device == "gpu"
        if self.on_gpu:
            self.device = find_device()
            self.xp, self.name = gpu().xp, self.device.name
            self.active: Callable[[], Any] = gpu().active
            self.memory = 0.8 * self.device.free
        else:
            self.xp, self.name, self.active, self.memory = np, "processor", nullcontext, 4e9

    def wait(self) -> None:
        if self.on_gpu:
            self.xp.cuda.get_current_stream().synchronize()

    def seconds(self, work: Callable[[], Any], times: int = 5) -> float:
        """Least of several, after one that compiles."""
        found = []
        for _ in range(times + 1):
            self.wait()
            began = time.perf_counter()
            work()
            self.wait()
            found.append(time.perf_counter() - began)
        return min(found[1:])


def mixture(K: int, L: int) -> Mixture:
    rng = np.random.default_rng()
    atoms = rng.standard_normal((K, L))
    atoms *= 2 / np.linalg.norm(atoms, axis=1, keepdims=True)
    return Mixture(rng.normal(-18, 1, K), atoms)


def block_of(place: Place, rows: int, L: int, dtype: Any, base: bool = False) -> Block:
    """Fresh random rows, made where they are used."""
    rng = place.xp.random.default_rng()
    x = place.xp.empty((rows, L + 1), dtype)
    x[:, 0] = 1
    for first in range(0, rows, 1 << 18):
        part = x[first : first + (1 << 18), 1:]
        part[...] = rng.standard_normal(part.shape, dtype=np.float32)
    draws = rng.poisson(0.3, rows).astype(np.float64)
    log_base = rng.standard_normal(rows) if base else None
    return Block((x,), draws, log_base, None, None, Findings())


# ------------------------------------------------------------------ 1. agreement


def agreement(place: Place, rows: int) -> list[str]:
    told = []
    for K, L, dtype, base in (
        (8, 32, np.float32, False), (8, 32, np.float16, True),
        (16, 256, np.float32, False), (16, 256, np.float16, False), (3, 5, np.float32, True),
    ):  # fmt: skip
        with place.active():
            there = block_of(place, rows, L, dtype, base)
            at = mixture(K, L)
            (found,), (again,) = (score(there, [at], SINGLE) for _ in range(2))
            here = replace(
                there,
                slices=tuple(_host(x) for x in there.slices),
                draws=_host(there.draws),
                log_base=None if there.log_base is None else _host(there.log_base),
            )
            (double,) = score(there, [at], DOUBLE)
        (exact,) = score(here, [at], DOUBLE)
        same = all(np.array_equal(getattr(found, name), getattr(again, name)) for name in SUMS)
        errors = [_error(getattr(found, name), getattr(exact, name)) for name in SUMS]
        doubles = [_error(getattr(double, name), getattr(exact, name)) for name in SUMS]
        told.append(
            f"K={K:<3} L={L:<4} {np.dtype(dtype).name:<8} base={base!s:<6}"
            + "".join(f"{error:12.1e}" for error in errors)
            + f"   float64 {max(doubles):.1e}   same bits twice: {same}"
        )
    return told


def _host(array: Any) -> Any:
    return array.get() if hasattr(array, "get") else array


def _error(found: Any, exact: Any) -> float:
    """Largest error, relative to the largest number of its kind."""
    size = np.abs(exact).max()
    return float(np.abs(np.asarray(found) - exact).max() / size) if size else 0.0


# ------------------------------------------------------------------ 2. floors


def against_floors(place: Place, K: int, L: int, dtype: Any, most: int | None) -> dict[str, Any]:
    itemsize = np.dtype(dtype).itemsize
    slab = 1 << int(np.log2((1 << 29) / (4 * (L + 1))))
    # What is needed beside the features: one slab widened, and the products that are measured.
    room = place.memory - 3 * slab * 4 * (L + 1)
    fits = int(room / (itemsize * (L + 1) + 8)) // slab
    n_slabs = max(1, min(fits, (most or 1 << 62) // slab))
    if most and most < slab:
        slab = most
    p = n_slabs * slab
    at = mixture(K, L)
    with place.active():
        blocks = [block_of(place, slab, L, dtype) for _ in range(n_slabs)]
        x = blocks[0].slices[0].astype(np.float32)
        coefficients = place.xp.asarray(at.coefficients.astype(np.float32))
        copy = place.seconds(partial(place.xp.copyto, place.xp.empty_like(x), x))
        product = place.seconds(partial(place.xp.matmul, x, coefficients))
        del x
    bandwidth = 2 * slab * (L + 1) * 4 / copy
    rate = 2 * slab * (L + 1) * K / product
    kernel = partial(score, mixtures=[at], dtype=SINGLE)

    def half(numbers: range) -> list[Any]:
        with place.active():
            return reduce_shard(kernel, ((i, blocks[i]) for i in numbers))

    with ThreadPoolExecutor(2) as pool:
        middle = -(-n_slabs // 2)
        halves = [range(middle), range(middle, n_slabs)] if n_slabs > 1 else [range(n_slabs)]

        def one_pass() -> Any:
            return total(merge(node for part in pool.map(half, halves) for node in part))

        wall = place.seconds(one_pass)
    by_bytes = p * (L + 1) * itemsize / bandwidth
    by_arithmetic = 6 * p * L * K / rate
    return {
        "K": K, "L": L, "features": np.dtype(dtype).name, "rows": p, "pass_s": wall,
        "bytes_floor_s": by_bytes, "arithmetic_floor_s": by_arithmetic,
        "of_the_larger_floor": wall / max(by_bytes, by_arithmetic),
        "bandwidth_GB_s": bandwidth / 1e9, "product_TFLOP_s": rate / 1e12,
        "s_per_1e9_rows": wall / p * 1e9,
    }  # fmt: skip


# ------------------------------------------------------------------ 3. a fit


def whole_fit(place: Place, p: int) -> list[str]:
    rng = np.random.default_rng()
    features = np.empty((p, 32), np.float32)
    at = mixture(4, 32)
    weights = np.empty(p)

    def fill(first: int) -> None:
        own = np.random.default_rng((7, first))
        part = features[first : first + (1 << 20)]
        part[...] = own.standard_normal(part.shape, dtype=np.float32)
        weights[first : first + len(part)] = np.exp(part @ at.atoms.T).sum(axis=1)

    with ThreadPoolExecutor() as pool:
        list(pool.map(fill, range(0, p, 1 << 20)))
    counts = rng.poisson(weights * (3 * p / weights.sum())).astype(np.uint32)
    dataset = ArrayDataset.of(features, counts)
    told, found = [], {}
    for device in ("gpu", "cpu") if place.on_gpu else ("cpu",):
        engine = LocalEngine(2 if device == "gpu" else None, device=device)
        began = time.perf_counter()
        result = fit(dataset, Settings(4), engine)
        seconds = time.perf_counter() - began
        engine.close()
        found[device] = result
        told.append(
            f"{device}: p = {p:,}, L = 32, K = 4: {seconds:.1f} s, {result.n_passes} passes, "
            f"converged: {result.converged}, {result.log_likelihood:.12f} nats a draw"
        )
    if len(found) == 2:
        apart = np.abs(found["gpu"].atoms - found["cpu"].atoms).max()
        told.append(f"largest difference of a coefficient: {apart:.1e}")
    return told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=["gpu", "cpu"], default="gpu")
    parser.add_argument("--rows", type=int, help="of a pass, at most; default: as many as fit")
    parser.add_argument("--fit-rows", type=int, default=100_000_000)
    parser.add_argument("--check-rows", type=int, default=1 << 20)
    options = parser.parse_args()
    try:
        place = Place(options.device)
    except ClusterError as error:
        print(f"no device: {error}")
        place = None
    name = NOT_MEASURED if place is None else place.name
    print(f"device: {name}\n\n1. relative errors: {', '.join(SUMS)}; float64 on the device")
    print("\n".join([NOT_MEASURED] if place is None else agreement(place, options.check_rows)))
    print("\n2. passes against floors")
    for K, L, dtype in (
        (8, 32, np.float32), (8, 32, np.float16), (16, 256, np.float32), (16, 256, np.float16),
    ):  # fmt: skip
        if place is None:
            print(f"K={K} L={L} {np.dtype(dtype).name}: {NOT_MEASURED}")
            continue
        found = against_floors(place, K, L, dtype, options.rows)
        print(json.dumps({k: float(f"{v:.4g}") if isinstance(v, float) else v
                          for k, v in found.items()}), flush=True)  # fmt: skip
    print("\n3. a whole fit")
    print("\n".join([NOT_MEASURED] if place is None else whole_fit(place, options.fit_rows)))


if __name__ == "__main__":
    main()
