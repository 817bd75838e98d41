"""What is wrong with a block, and where first."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from softmix_dist import errors
from softmix_dist.blocks import Findings, RawBlock, inspect
from softmix_dist.kernels import prepare, survey
from softmix_dist.model import Frame


def sound(p=6, samples=None, counts_dtype=np.int64):
    shape = p if samples is None else (samples, p)
    return np.arange(p * 2.0).reshape(p, 2), np.ones(shape, counts_dtype)


def found(features, counts, log_base=None, start=1000):
    return {
        (item.array, item.problem): item
        for item in inspect(RawBlock(start, features, counts, log_base)).items
    }


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float32, np.float64])
def test_sound_values_give_no_findings(dtype):
    features, counts = sound(counts_dtype=dtype)
    base = np.array([0.0, -1, 1, -np.inf, 0, 0])
    counts[3] = 0
    assert not inspect(RawBlock(0, features, counts, base))
    assert not inspect(RawBlock(0, features, counts))


def test_the_first_place_is_a_row_of_the_data_set():
    features, counts = sound()
    features[[2, 4], [1, 0]] = np.nan
    features[5, 1] = -np.inf
    items = found(features, counts)
    assert set(items) == {("features", "NaN"), ("features", "infinite value")}
    nan = items["features", "NaN"]
    assert (nan.count, nan.first) == (2, 1002)
    assert "candidate 1002" in nan.where
    assert "column 1" in nan.where
    assert items["features", "infinite value"].first == 1005


def test_infinite_value_is_placed_in_its_own_column():
    features, counts = sound()
    features[2] = np.nan, np.inf
    infinite = found(features, counts)["features", "infinite value"]
    assert "column 1" in infinite.where
    assert "inf" in infinite.where


def test_a_block_of_fill_values_is_a_lost_chunk():
    features, counts = sound()
    nan = found(np.full_like(features, np.nan), counts)["features", "NaN"]
    assert "chunk is missing" in nan.remedy
    assert nan.count == len(features)


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (-1.0, "negative value"),
        (0.5, "fractional value"),
        (np.nan, "NaN or infinite"),
        (np.inf, "NaN or infinite"),
    ],
)
def test_counts_of_a_sample(value, problem):
    features, counts = sound(samples=3, counts_dtype=np.float64)
    counts[2, 4] = value
    items = found(features, counts)
    assert set(items) == {("counts", problem)}
    assert items["counts", problem].where == f"candidate 1004, sample 2: {value}"


def test_a_negative_fraction_is_both():
    features, counts = sound(counts_dtype=np.float64)
    counts[1] = -0.5
    assert set(found(features, counts)) == {
        ("counts", "fractional value"),
        ("counts", "negative value"),
    }


def test_an_unavailable_candidate_must_have_no_draws_in_any_sample():
    features, counts = sound(samples=2)
    base = np.zeros(6)
    base[[1, 3]] = -np.inf
    counts[:, 1] = 0
    counts[:, 3] = 0, 7
    (item,) = found(features, counts, base).values()
    assert item.array == "log_base"
    assert item.where == "candidate 1003: 7 draws"


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_base_is_a_logarithm(value):
    features, counts = sound()
    (item,) = found(features, counts, np.array([0, 0, value, 0, 0, 0])).values()
    assert (item.array, item.first) == ("log_base", 1002)


def test_what_reading_found_passes_through():
    features, counts = sound()
    features[0] = np.nan
    findings = inspect(RawBlock(0, features, counts))
    empty = RawBlock(0, features[:0], counts[:0], None, findings)
    assert inspect(empty) == findings
    block = prepare(empty, Frame(np.zeros(2), np.ones(2)), 2)
    design, passed = survey(block)
    assert passed == findings
    assert not design.gram.any()


@given(st.lists(st.integers(0, 40), max_size=6), st.lists(st.integers(0, 40), max_size=6))
def test_findings_of_blocks_are_those_of_the_whole(cuts, bad):
    features = np.random.default_rng(0).standard_normal((40, 2))
    counts = np.ones(40)
    features[[row for row in bad if row < 40], 1] = np.nan
    counts[[row // 2 for row in bad]] = -1
    bounds = [0, *sorted(cuts), 40]
    merged = Findings()
    for low, high in zip(bounds, bounds[1:], strict=False):
        if low < high:
            merged += inspect(RawBlock(low, features[low:high], counts[low:high]))
    whole = inspect(RawBlock(0, features, counts))
    facts = ("array", "problem", "count", "first", "where")
    assert {tuple(getattr(item, fact) for fact in facts) for item in merged.items} == {
        tuple(getattr(item, fact) for fact in facts) for item in whole.items
    }


def test_findings_read_as_a_list():
    features, counts = sound()
    features[[2, 4], 1] = np.nan
    counts[3] = -2
    first, second = str(inspect(RawBlock(0, features, counts))).splitlines()
    assert first == (
        "- features: NaN (first at candidate 2, feature column 1: nan, 2 in all); "
        "impute the value or drop the candidate"
    )
    assert second == (
        "- counts: negative value (first at candidate 3: -2); "
        "counts are numbers of draws: 0, 1, 2, ..."
    )


@pytest.mark.parametrize(
    "kind",
    [
        errors.SoftmixError,
        errors.InputError,
        errors.StoreError,
        errors.NumericalError,
        errors.ClusterError,
        errors.NotFittedError,
        errors.ConvergenceWarning,
        errors.CondensedComponentWarning,
        errors.WarmStartWarning,
    ],
)
def test_errors_and_warnings_survive_pickle(kind):
    error = kind("features: NaN at candidate 3; impute it")
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is kind
    assert str(copy) == str(error)


@pytest.mark.parametrize(
    ("kind", "builtin"),
    [
        (errors.InputError, ValueError),
        (errors.StoreError, OSError),
        (errors.NumericalError, ArithmeticError),
        (errors.ClusterError, RuntimeError),
        (errors.NotFittedError, AttributeError),
    ],
)
def test_errors_are_also_the_builtin_ones(kind, builtin):
    assert issubclass(kind, errors.SoftmixError)
    assert issubclass(kind, builtin)
