"""Blocks are added in one order, however they are grouped."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from softmix_dist.sums import DesignSums, Node, ScoreSums, add, merge, total


def dyadic(leaves, plus):
    """The canonical order by its definition: pairs, level by level, an odd last one kept."""
    while len(leaves) > 1:
        pairs = [plus(a, b) for a, b in zip(leaves[::2], leaves[1::2], strict=False)]
        leaves = pairs + leaves[len(pairs) * 2 :]
    return leaves[0]


def spell(left, right):
    return f"({left}+{right})"


def grouped(values, cuts, plus):
    """Sum of the values when the ranges between the cuts are merged apart."""
    bounds = [0, *sorted(cuts), len(values)]
    parts = [
        merge((Node(0, i, values[i]) for i in range(low, high)), plus)
        for low, high in zip(bounds, bounds[1:], strict=False)
    ]
    return total(merge((node for part in parts for node in part), plus), plus)


@st.composite
def partitions(draw):
    size = draw(st.integers(1, 70))
    return size, draw(st.lists(st.integers(0, size), max_size=12))


@given(partitions())
def test_any_partition_gives_the_same_tree(partition):
    size, cuts = partition
    leaves = [str(i) for i in range(size)]
    assert grouped(leaves, cuts, spell) == dyadic(leaves, spell)


@given(partitions(), st.integers(2, 9))
def test_merging_the_merged_in_groups_gives_the_same_tree(partition, fan_in):
    size, cuts = partition
    leaves = [str(i) for i in range(size)]
    bounds = [0, *sorted(cuts), size]
    parts = [
        merge((Node(0, i, leaves[i]) for i in range(low, high)), spell)
        for low, high in zip(bounds, bounds[1:], strict=False)
    ]
    while len(parts) > 1:
        parts = [
            merge((node for part in parts[i : i + fan_in] for node in part), spell)
            for i in range(0, len(parts), fan_in)
        ]
    assert total(parts[0], spell) == dyadic(leaves, spell)


@given(st.integers(0, 200), st.integers(1, 200))
def test_a_range_leaves_few_nodes_that_cover_it_in_order(start, length):
    nodes = merge((Node(0, i, 1) for i in range(start, start + length)), add)
    assert len(nodes) <= max(1, 2 * math.log2(length))
    covered = [
        block for level, number, _ in nodes for block in range(number << level, number + 1 << level)
    ]
    assert covered == list(range(start, start + length))
    assert [value for _, _, value in nodes] == [1 << level for level, _, _ in nodes]


@pytest.mark.parametrize(
    ("size", "tree"),
    [
        (1, "0"),
        (2, "(0+1)"),
        (3, "((0+1)+2)"),
        (5, "(((0+1)+(2+3))+4)"),
        (6, "(((0+1)+(2+3))+(4+5))"),
        (7, "(((0+1)+(2+3))+((4+5)+6))"),
    ],
)
def test_odd_tails(size, tree):
    leaves = [str(i) for i in range(size)]
    assert grouped(leaves, [], spell) == tree
    assert grouped(leaves, range(size), spell) == tree


def test_300_random_partitions_have_the_same_bits():
    rng = np.random.default_rng(0)
    for _ in range(300):
        size = int(rng.integers(1, 200))
        values = list(np.exp(rng.normal(0, 20, size)) * rng.choice([-1.0, 1.0], size))
        cuts = rng.integers(0, size + 1, rng.integers(0, 20))
        expected = dyadic(values, add)
        assert np.float64(grouped(values, cuts, add)).tobytes() == expected.tobytes()


def score_sums(rng):
    return ScoreSums(
        rng.normal(), rng.normal(size=(2, 3)), rng.normal(size=(2, 3)), rng.normal(size=2)
    )


def design_sums(rng):
    counts = (int(n) for n in rng.integers(0, 2**62, 3))
    return DesignSums(rng.normal(size=(3, 3)), rng.normal(size=3), rng.normal(), *counts)


@pytest.mark.parametrize("make", [score_sums, design_sums])
def test_statistics_add_field_by_field(make):
    rng = np.random.default_rng(1)
    left, right = make(rng), make(rng)
    for name, value in vars(left + right).items():
        np.testing.assert_array_equal(value, getattr(left, name) + getattr(right, name))


def test_totals_are_exact_beyond_64_bits():
    part = DesignSums(np.zeros((2, 2)), np.zeros(2), 0.0, 2**63 + 1, 1, 1)
    assert (part + part).n_draws == 2**64 + 2


def test_tuples_are_added_entry_by_entry():
    rng = np.random.default_rng(2)
    a, b = score_sums(rng), score_sums(rng)
    first, (second, number) = add((a, (b, 1)), (b, (a, 2)))
    assert first.log_density == a.log_density + b.log_density
    assert second.log_density == b.log_density + a.log_density
    assert number == 3
    with pytest.raises(ValueError, match="shorter|longer"):
        add((a, b), (a,))
