"""The fused kernel: emulated on the processor, against the oracle."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import emulated
import numpy as np
import pytest
import standin
from test_device import away
from test_kernels import assert_sums, identity, mixture, oracle, rows

from softmix_dist import fused
from softmix_dist.fused import Shape, shape_of
from softmix_dist.kernels import prepare, score

SINGLE, DOUBLE = np.dtype(np.float32), np.dtype(np.float64)


@pytest.fixture
def module(monkeypatch):
    emulated.need_compiler()
    monkeypatch.setattr(standin, "RawModule", emulated.RawModule, raising=False)
    monkeypatch.setattr(emulated.RawModule, "launches", 0)
    fused._kernel.cache_clear()
    yield emulated.RawModule
    fused._kernel.cache_clear()


@pytest.mark.parametrize(("value", "outcome"), [("true", pytest.fail), ("", pytest.skip)])
def test_without_a_compiler(monkeypatch, value, outcome):
    monkeypatch.setattr(emulated, "COMPILER", None)
    monkeypatch.setenv("CI", value)
    with pytest.raises(outcome.Exception, match="no C"):
        emulated.need_compiler()


def there(p, n_features, base=None, dtype=SINGLE, **more):
    raw = rows(p, n_features, dtype=dtype, base=base, density=0.7, **more)
    block = prepare(raw, identity(n_features, SINGLE), 3)
    return raw, away(block, dtype)


@pytest.mark.parametrize(("p", "K", "L", "base", "dtype"), [
    (9000, 8, 32, None, SINGLE),
    (9000, 8, 32, "some", np.float16),
    (4096, 3, 5, "all", SINGLE),
    (4097, 1, 1, None, SINGLE),
    (130, 5, 3, "some", SINGLE),
    (20, 4, 7, None, np.float16),
    (5000, 16, 33, None, SINGLE),
    (300, 16, 256, "some", np.float16),
    (700, 2, 100, None, SINGLE),
    (600, 11, 64, "all", SINGLE),
])  # fmt: skip
def test_sums_are_those_of_the_oracle(module, p, K, L, base, dtype):
    raw, block = there(p, L, base, dtype)
    at = mixture(K, L)
    assert shape_of(block, at, SINGLE) is not None
    (found,) = score(block, [at], SINGLE)
    assert module.launches == 1
    assert_sums(found, oracle(raw, at), 1e-5)


@pytest.mark.parametrize("base", [None, "some"])
def test_no_barrier_is_missing(module, monkeypatch, base):
    _, block = there(5000, 9, base)
    forward = score(block, [mixture(6, 9)], SINGLE)
    monkeypatch.setattr(module, "reverse", True)
    backward = score(block, [mixture(6, 9)], SINGLE)
    for name in ("log_density", "candidates", "draws", "log_base"):
        assert np.array_equal(getattr(forward[0], name), getattr(backward[0], name))


def test_long_sums_keep_their_digits(module):
    raw, block = there(100_000, 3)
    assert_sums(score(block, [mixture()], SINGLE)[0], oracle(raw, mixture()), 1e-6)


@pytest.mark.parametrize("offset", [-300.0, 120.0])
def test_what_vanishes_or_overflows_is_done_again(module, offset):
    raw, block = there(500, 3)
    far = replace(mixture(), offsets=np.full(3, offset))
    (found,) = score(block, [far], SINGLE)
    assert module.launches == 1
    assert_sums(found, oracle(raw, far), 1e-12 * 1e6)


def test_what_it_is_not_made_for_is_left_to_plain_operations(module):
    _, block = there(500, 3)
    assert shape_of(block, mixture(), DOUBLE) is None
    assert shape_of(block, mixture(40, 3), SINGLE) is not None
    assert shape_of(there(500, 300)[1], mixture(40, 300), SINGLE) is None
    more = replace(block, multiplicity=standin.ones(500))
    assert shape_of(more, mixture(), SINGLE) is None
    wide = replace(block, slices=(block.slices[0].astype(np.float64),))
    assert shape_of(wide, mixture(), SINGLE) is None
    score(more, [mixture()], SINGLE)
    assert module.launches == 0


@pytest.mark.parametrize("L", [1, 2, 3, 16, 31, 32, 63, 64, 100, 128, 255, 256, 512])
def test_shapes_hold_together(L):
    for K, base in product(range(1, 65), (False, True)):
        shape = Shape(K, L + 1, base, False)
        if not shape.fits:
            assert K * L > 1000
            continue
        group = (shape.padded // 4) * -(-shape.all_columns // shape.thread_columns)
        assert 1 <= group <= fused.THREADS
        assert fused._ROWS % shape.tile_rows == 0
        assert shape.shared <= fused._SHARED
