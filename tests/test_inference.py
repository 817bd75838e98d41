"""Standard errors: against numerical derivatives, under changes of the data, in repeated draws."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import reference
from problems import Problem, fitted, simulate
from scipy.special import expit

from softmix_dist import SoftmaxMixture
from softmix_dist.engine import LocalEngine
from softmix_dist.errors import ConvergenceWarning, StandardErrorWarning
from softmix_dist.model import Coordinates, Frame
from softmix_dist.solve.inference import infer, known_well
from softmix_dist.solve.information import Curvature

TIGHT = 1e-4
SHIFT, SCALE = np.array([2000.0, -0.5]), np.array([50.0, 0.01])
NAMES = ["price", "size"]
PLAIN = simulate(300, 2, 2, 100_000, norm=1.5, seed=1, dtype="float64", base=True)
MOVED = replace(PLAIN, features=PLAIN.features * SCALE + SHIFT, atoms=PLAIN.atoms / SCALE)


@pytest.fixture(scope="module")
def expected() -> np.ndarray:
    return fitted(PLAIN, 2, init=PLAIN.truth, tol=TIGHT).covariance


def assert_same(found, expected):
    """Up to a small part of each parameter's own variance."""
    errors = np.sqrt(np.diag(expected))
    unit = np.outer(errors, errors)
    np.testing.assert_allclose(found / unit, expected / unit, atol=2e-4)


@pytest.mark.parametrize("base", [False, True])
def test_the_covariance_is_the_inverse_of_minus_the_hessian(base):
    # Without the base measure the model is not true, which is no matter here.
    x, log_base = MOVED.features, MOVED.log_base if base else None
    result = fitted(replace(MOVED, log_base=log_base), 2, init=MOVED.truth, tol=TIGHT)
    assert result.converged

    def f(at):
        """Log-likelihood by the logit of the first weight and the atoms."""
        share, atoms = expit(at[0]), at[1:].reshape(2, 2)
        return reference.log_likelihood(x, MOVED.counts, [share, 1 - share], atoms, log_base)

    w, v = result.weights
    x0, size = np.append(np.log(w / v), result.atoms), 1e-3 * np.append(1, np.tile(1 / SCALE, 2))
    hessian = reference.second_derivatives(f, x0, size)
    jacobian = np.zeros((6, 5))
    jacobian[:2, 0] = w * v, -w * v
    jacobian[2:, 1:] = np.eye(4)
    inverse = np.linalg.inv(-result.n_draws * hessian)
    assert_same(result.covariance, jacobian @ inverse @ jacobian.T)
    found = np.append(result.standard_errors["weights"], result.standard_errors["atoms"])
    np.testing.assert_allclose(found**2, result.covariance.diagonal())


def test_a_sketch_of_all_rows_is_exact(expected):
    asked = fitted(PLAIN, 2, init=PLAIN.truth, tol=TIGHT, standard_errors="exact")
    np.testing.assert_array_equal(asked.covariance, expected)
    # EM from a given start has no sketch: one pass over the data instead.
    other = fitted(PLAIN, 2, init=PLAIN.truth, tol=TIGHT, solver="em")
    assert (other.sketch_rows, other.errors_from, asked.errors_from) == (0, "exact", "exact")
    assert_same(other.covariance, expected)
    none = fitted(PLAIN, 2, init=PLAIN.truth, standard_errors="none")
    assert (none.covariance, none.standard_errors, none.errors_from) == (None, None, "none")


def test_a_small_sketch_comes_near_and_knows_what_is_fixed(medium):
    exact, near = (
        fitted(medium, 3, init=medium.truth, sketch_rows=1500, standard_errors=how)
        for how in ("exact", "sketch")
    )
    assert (exact.errors_from, near.errors_from) == ("exact", "sketch")
    assert near.n_passes == exact.n_passes - 1
    assert near.sketch_rows < 2000
    for part, errors in exact.standard_errors.items():
        np.testing.assert_allclose(near.standard_errors[part], errors, rtol=0.15)
        assert near.standard_errors[part].tolist() != errors.tolist()
    # The weights sum to 1, and no other direction is without error.
    for found in (exact.covariance, near.covariance):
        np.testing.assert_allclose(found[:3].sum(axis=0), 0, atol=1e-9 * np.sqrt(found.max()))
        errors = np.sqrt(found.diagonal())
        values = np.linalg.eigvalsh(found / np.outer(errors, errors))
        assert abs(values[0]) < 1e-9 < 1e-6 < values[1]


def test_a_sketch_that_knows_too_little_is_not_used():
    # Not yet converged, so nothing has been proven by all data before.
    problem = simulate(5_000, 3, 3, 400_000, norm=1.6, seed=3)
    how: dict[str, Any] = {"init": "random", "n_init": 2, "max_passes": 6, "sketch_rows": 200}
    with pytest.warns(ConvergenceWarning):
        poor, exact = (fitted(problem, 3, standard_errors=e, **how) for e in ("sketch", "exact"))
    assert not any("information" in row["step"] for row in poor.history)
    assert (poor.errors_from, poor.n_passes) == ("exact", exact.n_passes)
    np.testing.assert_array_equal(poor.covariance, exact.covariance)


def test_what_changes_with_the_data(expected):
    order = np.random.default_rng(0).permutation(300)
    parts = {name: getattr(PLAIN, name)[order] for name in ("features", "counts", "log_base")}
    other = replace(PLAIN, **parts, weights=PLAIN.weights[::-1], atoms=PLAIN.atoms[::-1])
    more = replace(PLAIN, counts=4 * PLAIN.counts)
    units = np.append(np.ones(2), np.tile(1 / SCALE, 2))
    for problem, unit in ((more, np.full(6, 0.5)), (MOVED, units), (other, np.ones(6))):
        found = fitted(problem, 2, init=problem.truth, tol=TIGHT)
        assert_same(found.covariance, np.outer(unit, unit) * expected)


WEIGHTS = r"singular.*weight of component [01], the weight of component [01]"
BOTH = r"singular.*feature 'price' of component [01]"
NORMAL, BINARY = np.random.default_rng(5).standard_normal((400, 1)), np.repeat([[0.0], [1]], 99, 0)


@pytest.mark.parametrize(("x", "second", "named"), [(NORMAL, 0.5, WEIGHTS), (BINARY, 1.5, BOTH)])
def test_what_the_draws_do_not_tell_apart_is_named(x, second, named):
    start = [[0.5], [second]]
    pi = reference.probabilities(x, [0.5, 0.5], start).astype(float)
    counts = np.random.default_rng(7).multinomial(20_000, pi / pi.sum())
    model = SoftmaxMixture(2, init=start, solver="em", max_passes=30)
    with pytest.warns(ConvergenceWarning), pytest.warns(StandardErrorWarning, match=named):
        model.fit(x, counts, feature_names=NAMES[:1])
    assert np.isnan(model.covariance_).all()
    assert all(np.isnan(part).all() for part in model.confidence_intervals().values())
    assert np.isfinite(np.append(model.weights_, model.atoms_)).all()


def test_far_from_the_maximum_there_is_nothing_to_invert():
    # Any other warning would be an error.
    with pytest.warns(ConvergenceWarning):
        result = fitted(PLAIN, 2, init="random", solver="em", max_passes=1)
    assert (result.covariance, result.errors_from, len(result.warnings)) == (None, "none", 1)


# A curvature whose eigenvalues are known; a common shift of the log weights has the value 1.
ALPHA = np.array([0.3, 0.7])
UNITS = np.sqrt(np.append(ALPHA, ALPHA.repeat(2)))
NOISE = np.random.default_rng(0).standard_normal((6, 5))
BASIS, _ = np.linalg.qr(np.column_stack([UNITS * [1, 1, 0, 0, 0, 0], NOISE]))
KNOWN = Curvature(np.linspace(0.1, 1, 6), np.roll(BASIS, -1, 1), UNITS, UNITS, np.zeros(6))
FACTOR = np.array([[0.6, 0.0], [0.3, 1.2]])
OWN = Coordinates(Frame(np.zeros(2), np.ones(2)), np.ones(2), FACTOR, 5.0, 5.0)


def test_the_sandwich_of_the_models_own_scores_is_the_plain_covariance():
    matrix = (KNOWN.vectors * KNOWN.values) @ KNOWN.vectors.T * np.outer(UNITS, UNITS)
    plain = infer(KNOWN, ALPHA, OWN, 7000, NAMES, "exact").covariance
    for times in (1, 3):
        found = infer(KNOWN, ALPHA, OWN, 7000, NAMES, "clustered", times * 7000 * matrix)
        assert_same(found.covariance, times * plain)


@pytest.mark.parametrize("flat", range(6))
def test_a_flat_direction_is_named_by_rank(flat):
    # The second component is the heavier one, so it is number 0.
    vectors = np.roll(np.eye(6), -flat, axis=1)
    curvature = replace(KNOWN, values=np.arange(6) / 5, vectors=vectors)
    found = infer(curvature, ALPHA, OWN, 10, NAMES, "exact")
    names = [f"the weight of component {k}" for k in (1, 0)]
    names += [f"feature {name!r} of component {k}" for k in (1, 0) for name in NAMES]
    assert [name for name in names if name in found.problem] == [names[flat]]
    assert np.isnan(found.covariance).all()


def test_a_sketch_knows_what_stands_out_of_its_noise():
    for part, known in ((0.0, True), (0.25, True), (0.4, False), (-1e-9, False)):
        values = KNOWN.values * np.sign(part or 1)
        assert known_well(replace(KNOWN, values=values, noise=abs(part * values))) == known


def test_estimates_scatter_as_the_covariance_says():
    x = np.random.default_rng(8).standard_normal((500, 2))
    truth = np.array([0.6, 0.4]), np.array([[1.2, 0.0], [-0.6, 1.0]])
    pi = reference.probabilities(x, *truth).astype(float)
    z, distances, engine = [], [], LocalEngine(1)
    for counts in np.random.default_rng(9).multinomial(20_000, pi / pi.sum(), 60):
        result = fitted(Problem(x, counts, *truth).dataset(), 2, engine, init=truth)
        off = np.append(result.weights, result.atoms) - np.append(*truth)
        z.append(off / np.sqrt(result.covariance.diagonal()))
        # The first weight is what the second leaves.
        distances.append(off[1:] @ np.linalg.solve(result.covariance[1:, 1:], off[1:]))
    engine.close()
    assert (np.abs(np.mean(z, axis=0)) < 0.5).all()
    assert np.std(z, axis=0).min() > 0.8
    assert np.std(z, axis=0).max() < 1.25
    # Squared distances have 5 degrees of freedom, also where the estimates go together.
    assert np.mean(distances) == pytest.approx(5, abs=1.3)
