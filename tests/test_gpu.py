"""On a real device: pytest -m gpu. What `test_device` and `test_fused` try without one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from engines import BLOCK_ROWS, fit_on, local
from problems import signature
from test_device import KERNELS, numbers, of
from test_kernels import assert_sums, identity, mixture, oracle, rows

from softmix_dist.batched import batched_score
from softmix_dist.engine import device
from softmix_dist.fused import shape_of
from softmix_dist.kernels import prepare, score

pytestmark = pytest.mark.gpu
SINGLE, DOUBLE = np.dtype(np.float32), np.dtype(np.float64)


@pytest.fixture
def gpu():
    found = device.gpu()
    with found.active():
        yield found


def there(gpu, block, dtype=None):
    slices = [x if dtype is None else x.astype(dtype) for x in block.slices]
    log_base = None if block.log_base is None else gpu.send([block.log_base])
    return replace(
        block,
        slices=(gpu.send(slices),),
        draws=gpu.send([block.draws]),
        log_base=log_base,
        observed=None,
    )


def test_a_device_tells_of_itself(gpu):
    found = device.find_device()
    assert found.name
    assert 0 < found.free <= found.memory


@pytest.mark.parametrize("base", [None, "some"])
@pytest.mark.parametrize("name", KERNELS)
def test_kernels(gpu, name, base):
    _, block = of(base=base)
    wanted, found = (numbers(KERNELS[name](each)) for each in (block, there(gpu, block)))
    for got, expected in zip(found, wanted, strict=True):
        size = np.abs(np.asarray(expected)).max() if np.size(expected) else 1
        np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-9 * size)


@pytest.mark.parametrize("base", [None, "some"])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize(("K", "L"), [(8, 32), (3, 5), (16, 256), (1, 1)])
def test_the_fused_kernel(gpu, K, L, dtype, base):
    raw = rows(70_001, L, dtype=dtype, base=base, density=0.7)
    block = there(gpu, prepare(raw, identity(L, SINGLE), K), dtype)
    assert shape_of(block, mixture(K, L), SINGLE) is not None
    once, again = (score(block, [mixture(K, L)], SINGLE)[0] for _ in range(2))
    assert_sums(once, oracle(raw, mixture(K, L)), 1e-5)
    assert np.array_equal(once.candidates, again.candidates)
    assert np.array_equal(once.draws, again.draws)


def test_plain_operations(gpu):
    raw, block = of(p=300_000, dtype=np.float32)
    found = there(gpu, block)
    wide = replace(found, multiplicity=gpu.xp.ones(300_000))
    assert_sums(batched_score(wide, mixture(), SINGLE), oracle(raw, mixture()), 3e-6)


def test_a_fit(medium):
    dataset = medium.dataset(BLOCK_ROWS)
    found = set()
    for streamed, n_threads in ((False, 1), (False, 2), (True, 2)):
        with local(n_threads, streamed, device="gpu") as engine:
            result = fit_on(engine, dataset)
        found.add(signature(result))
    assert len(found) == 1
    with local(1) as engine:
        host = fit_on(engine, dataset)
    np.testing.assert_allclose(result.log_likelihood, host.log_likelihood, rtol=1e-11)
    np.testing.assert_allclose(result.atoms, host.atoms, atol=1e-5)
