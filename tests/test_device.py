"""Devices, without one: kernels on a stand-in for CuPy, transfers, and the path of the engine."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import standin
from test_kernels import SINGLE, TOLERANCE, assert_sums, identity, mixture, oracle, rows

from softmix_dist import curvature, kernels, lindsay, moments, robust, sketch, thinning
from softmix_dist.arrays import host, namespace
from softmix_dist.batched import batched_score
from softmix_dist.kernels import prepare, score
from softmix_dist.model import Coordinates, Mixture

DOUBLE = np.dtype(np.float64)


def away(block, dtype=None):
    """A block as it lies on the stand-in: one slice, every array of it there."""
    x = np.concatenate(block.slices)

    def move(values):
        return None if values is None else standin.ndarray(np.array(values))

    return replace(
        block,
        slices=(move(x if dtype is None else x.astype(dtype)),),
        draws=move(block.draws),
        log_base=move(block.log_base),
        multiplicity=move(block.multiplicity),
        observed=None,
    )


def of(p=9000, n_features=3, base=None, dtype=np.float64, density=0.7, seed=0):
    raw = rows(p, n_features, seed=seed, dtype=dtype, base=base, density=density)
    return raw, prepare(raw, identity(n_features, np.dtype(dtype)), 3)


def test_the_namespace_of_an_array_is_the_module_that_made_it():
    assert namespace(np.zeros(1)) is np
    assert namespace(standin.zeros(1)) is standin
    assert host(np.ones(2)).sum() == 2
    assert isinstance(host(standin.ones(2)), np.ndarray)


@pytest.mark.parametrize("refused", [
    lambda x: np.exp(x),
    lambda x: np.asarray(x),
    lambda x: x + np.ones(3),
    lambda x: x[np.arange(2)],
    lambda x: x.max(initial=0),
    lambda x: x.dtypes,
    lambda x: standin.exp(np.ones(3)),
    lambda x: standin.block([x, x]),
    lambda x: standin.sum(x, where=True),
])  # fmt: skip
def test_the_stand_in_refuses_what_cupy_does(refused):
    with pytest.raises((TypeError, AttributeError)):
        refused(standin.ones(3))


@pytest.mark.parametrize("base", [None, "some"])
@pytest.mark.parametrize("dtype", [SINGLE, DOUBLE], ids=str)
@pytest.mark.parametrize("p", [40, 4096, 9000])
def test_batched_sums_are_those_of_the_oracle(p, dtype, base):
    raw, block = of(p, base=base)
    at = mixture()
    found = batched_score(block, at, dtype)
    assert_sums(found, oracle(raw, at), TOLERANCE[dtype])


def test_batched_sums_with_multiplicity_are_those_of_the_sweep():
    _, block = of()
    block = replace(block, multiplicity=np.random.default_rng(1).uniform(1, 3, 9000))
    (wanted,) = score(block, [mixture()], DOUBLE)
    found = batched_score(block, mixture(), DOUBLE)
    for name in ("log_density", "candidates", "draws", "log_base"):
        np.testing.assert_allclose(getattr(found, name), getattr(wanted, name), rtol=1e-12)


def test_long_sums_in_single_precision_keep_their_digits():
    raw, block = of(300_000, dtype=np.float32)
    at = mixture()
    assert_sums(batched_score(away(block), at, SINGLE), oracle(raw, at), 3e-6)


def coordinates(n_features=3):
    rng = np.random.default_rng(3)
    factor = np.tril(rng.normal(0, 0.3, (n_features, n_features))) + np.eye(n_features)
    return Coordinates(identity(n_features), rng.normal(0, 1, n_features), factor, 9.0, 8.0)


def sampling(**more):
    return sketch.Sampling(7, 500, 9000, 9.0, 100_000, **more)


WAYS = np.linalg.qr(np.random.default_rng(4).standard_normal((3, 3)))[0]
KERNELS = {
    "survey": lambda block: kernels.survey(block)[0],
    "score": partial(score, mixtures=[mixture(), mixture(2, seed=5)], dtype=DOUBLE),
    "score far": partial(
        score, mixtures=[replace(mixture(), offsets=np.full(3, -750.0))], dtype=DOUBLE
    ),
    "information": partial(curvature.information, mixture=mixture()),
    "product": partial(
        curvature.information_product, mixture=mixture(), direction=mixture(seed=6), dtype=DOUBLE
    ),
    "extent": partial(curvature.extent, directions=Mixture(np.zeros(2), WAYS[:2])),
    "gradient": partial(lindsay.gradient_function, mixture=mixture(), atoms=mixture(2, seed=7)),
    "pearson": partial(robust.pearson, mixture=mixture(), n_draws=100_000),
    "second moments": partial(moments.second_moments, coordinates=coordinates()),
    "projected moments": partial(
        moments.projected_moments,
        coordinates=coordinates(), directions=WAYS, basis=WAYS[:, :2], n_components=2,
    ),
    "sketch": partial(sketch.draw, sampling=sampling()),
    "second sketch": partial(sketch.draw, sampling=sampling(mixture=mixture(), number=1)),
    "half": partial(
        thinning.on_half, kernel=lambda block: kernels.survey(block)[0], seed=5
    ),
    "held out": partial(thinning.held_out, mixtures=[mixture(), mixture(2, seed=8)], seed=5),
}  # fmt: skip


def numbers(sums):
    """All numbers of some sums, as they lie on the host."""
    if isinstance(sums, tuple):
        return [number for part in sums for number in numbers(part)]
    if hasattr(sums, "__dataclass_fields__"):
        return [n for name in sums.__dataclass_fields__ for n in numbers(getattr(sums, name))]
    return [] if sums is None else [sums]


@pytest.mark.parametrize("base", [None, "some"])
@pytest.mark.parametrize("name", KERNELS)
def test_kernels_work_on_a_device_alone(name, base):
    _, block = of(base=base)
    wanted, found = (numbers(KERNELS[name](each)) for each in (block, away(block)))
    assert len(found) == len(wanted) > 0
    for got, expected in zip(found, wanted, strict=True):
        assert type(got) is type(expected)
        size = np.abs(np.asarray(expected)).max() if np.size(expected) else 1
        np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-9 * size)


@pytest.mark.parametrize("name", [name for name in KERNELS if name not in ("half", "held out")])
def test_only_sums_come_down_and_of_a_sketch_its_rows(name):
    there = away(of()[1])
    standin.moved.clear()
    found = KERNELS[name](there)
    # Numbers for each row: where rows are chosen, and where cells are joined.
    a_row = {"pearson": 2, "sketch": 1, "second sketch": 1 + 3}.get(name, 0)
    chosen = len(found.rows) if "sketch" in name else 0
    assert standin.moved["down"] <= 8 * (a_row * 9000 + 3 * chosen + 600)
    assert standin.moved["up"] <= 8 * (chosen + 100)


def test_a_pass_brings_down_its_sums_at_once():
    _, block = of(base="some")
    there = away(block)
    standin.transfers.clear()
    standin.moved.clear()
    score(there, [mixture()], SINGLE)
    assert dict(standin.transfers) == {"up": 1, "down": 1}
    assert standin.moved == {"up": 4 * 3 * 4, "down": 8 * (2 + 3 + 2 * 3 * 4)}


def test_features_of_half_precision_are_widened_for_the_arithmetic():
    raw, _ = of(dtype=np.float16)
    block = prepare(raw, identity(3, SINGLE), 3)
    assert_sums(
        score(away(block, np.float16), [mixture()], SINGLE)[0], oracle(raw, mixture()), 3e-6
    )
