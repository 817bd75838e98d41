"""Choosing the number of components, and the halves of the draws that it rests on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import reference
from problems import simulate

from softmix_dist import SoftmaxMixture
from softmix_dist.blocks import RawBlock
from softmix_dist.errors import InputError
from softmix_dist.kernels import prepare
from softmix_dist.model import Frame, Mixture
from softmix_dist.selection import _Path, select_components
from softmix_dist.thinning import first_half, held_out, on_half


def block_of(problem, start=0, stop=None):
    part = slice(start, stop)
    raw = RawBlock(start, problem.features[part], problem.counts[part])
    n_features = problem.features.shape[1]
    return prepare(raw, Frame(np.zeros(n_features), np.ones(n_features)), 2)


@pytest.fixture(scope="module")
def problem():
    return simulate(3000, 3, 2, 60_000, seed=4, norm=1.7)


@pytest.fixture(scope="module")
def selection(problem):
    return select_components(problem.features, problem.counts, components=[3, 1, 2])


def test_the_number_behind_the_draws_is_recommended(selection):
    assert selection.recommended == selection.by_bic == 2
    assert [c.n_components for c in selection.candidates] == [1, 2, 3]
    assert "K = 2" in selection.reason
    told = str(selection)
    assert selection.reason in told
    assert all(f"{c.log_likelihood:.8f}" in told for c in selection.candidates)


def test_the_path_is_that_of_single_fits(problem, selection):
    for candidate in selection.candidates[:2]:
        single = SoftmaxMixture(candidate.n_components).fit(problem.features, problem.counts)
        assert candidate.converged
        assert abs(single.log_likelihood_ - candidate.log_likelihood) < 1e-9
        np.testing.assert_allclose(candidate.atoms, single.atoms_, atol=1e-3)
        size = candidate.n_parameters
        assert size == candidate.n_components * 4 - 1
        fit = -2 * selection.n_draws * candidate.log_likelihood
        assert candidate.aic == pytest.approx(fit + 2 * size)
        assert candidate.bic == pytest.approx(fit + size * np.log(selection.n_draws))


@pytest.mark.filterwarnings("ignore::softmix_dist.errors.CondensedComponentWarning")
@pytest.mark.parametrize("seed", [3, 7])
def test_a_component_too_many_fits_no_worse(seed):
    # In half of the draws it takes noise, of which all draws know nothing.
    few = simulate(400, 3, 2, 6000, seed=seed, norm=1.5)
    found = select_components(few.features, few.counts, components=[1, 2, 3, 4])
    fitted = [c.log_likelihood for c in found.candidates]
    assert (np.diff(fitted) > -1e-9).all()
    assert all(c.converged for c in found.candidates)
    single = SoftmaxMixture(3).fit(few.features, few.counts)
    assert fitted[2] > single.log_likelihood_ - 1e-7


def test_a_fit_of_half_of_the_draws_that_lost_a_component_is_made_whole(problem, monkeypatch):
    kept, asked = _Path._point, []

    def short(self, race):
        point = kept(self, race)
        asked.append(point)
        if len(asked) != 2:
            return point
        # The half fit of three, as if a component had lost all its draws.
        mixture = Mixture(point.mixture.offsets[:2], point.mixture.atoms[:2])
        return replace(point, mixture=mixture, log_normalisers=point.log_normalisers[:2])

    monkeypatch.setattr(_Path, "_point", short)
    found = select_components(problem.features, problem.counts, components=[1, 3])
    assert [len(c.weights) for c in found.candidates] == [1, 3]
    single = SoftmaxMixture(2).fit(problem.features, problem.counts)
    assert found.candidates[1].log_likelihood > single.log_likelihood_


def test_a_fit_that_did_not_converge_is_marked_and_not_recommended(problem):
    with np.errstate(all="ignore"):
        found = select_components(
            problem.features, problem.counts, components=[1, 2], max_passes=1, solver="em",
            sketch_rows=200,
        )  # fmt: skip
    assert not any(c.converged for c in found.candidates)
    assert found.recommended is None
    assert "no fit converged" in found.reason
    assert "NOT CONVERGED" in str(found)


def test_the_reason_tells_of_what_was_left_out(selection):
    first, second, third = selection.candidates
    late = replace(third, converged=False, behind=2e-4, behind_error=1e-5)
    told = replace(selection, candidates=[first, second, late]).reason
    assert told.endswith("left out (a small l2 may help): K = 3")
    late = replace(late, behind=-2e-4)
    told = replace(selection, candidates=[first, second, late]).reason
    assert told.endswith(": K = 3, though K = 3 is ahead: raise max_passes")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"components": []}, "at least one"),
        ({"components": [0, 1]}, "n_components"),
        ({"components": [1, 4000]}, "4000"),
        ({"init": "moments"}, "init"),
    ],
)
def test_what_cannot_be_chosen_from_is_refused(problem, options, message):
    with pytest.raises(InputError, match=message):
        select_components(problem.features, problem.counts, **options)


def test_halves_are_those_of_the_block_and_add_up(problem):
    block = block_of(problem, 1000, 2000)
    half = first_half(block, 7)
    assert (half >= 0).all()
    assert (half <= block.draws).all()
    np.testing.assert_array_equal(half, first_half(block, 7))
    assert (half != first_half(block, 8)).any()
    total = block.draws.sum()
    assert abs(half.sum() - total / 2) < 5 * np.sqrt(total) / 2
    np.testing.assert_array_equal(on_half(block, lambda b: b.draws, 7), half)


def test_held_out_sums_are_the_oracles(problem):
    block = block_of(problem, 0, 500)
    left = (block.draws - first_half(block, 7)).astype(int)
    atoms = np.array([[0.5, 0.0, -0.2], [-1.0, 0.3, 0.1]])
    weights = np.array([[0.3, 0.7], [0.6, 0.4]])
    features = problem.features[:500]
    offsets = [
        np.log(w) - [np.log(np.sum(np.exp(features @ atom))) for atom in atoms] for w in weights
    ]
    sums = held_out(block, [Mixture(b, atoms) for b in offsets], 7)
    assert sums.n_draws == left.sum()
    logs = [np.array(reference.log_probabilities(features, w, atoms), float) for w in weights]
    for i, a in enumerate(logs):
        assert sums.first[i] == pytest.approx(left @ a)
        for j, b in enumerate(logs):
            assert sums.second[i, j] == pytest.approx(left @ (a * b))
