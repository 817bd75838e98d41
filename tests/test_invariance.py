"""What must not change the result of a fit."""

from __future__ import annotations

import warnings
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import permutations
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from changes import CHANGES
from engines import local, on_cluster
from fake_cuda import Runtime
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from problems import Problem, fitted, signature, simulate
from test_device import fresh

from softmix_dist.data.predict import Predictor
from softmix_dist.errors import SoftmixWarning
from softmix_dist.kernels import score
from softmix_dist.solve.point import evaluate
from softmix_dist.solve.starts import mixture_at
from softmix_dist.survey import survey


def assert_same(result, other, atol=1e-5):
    """The same maximum, up to a small part of what the data can tell."""
    assert result.converged
    assert other.converged
    np.testing.assert_allclose(result.weights, other.weights, atol=atol)
    np.testing.assert_allclose(result.standard_atoms, other.standard_atoms, atol=atol)
    np.testing.assert_allclose(result.effective_candidates, other.effective_candidates, rtol=atol)


@pytest.fixture(scope="module")
def varied() -> Problem:
    return simulate(2500, 3, 2, 300_000, seed=11, dtype=np.float64, base=True)


@pytest.fixture(scope="module")
def varied_fit(varied):
    return fitted(varied, 2, init=varied.truth, tol=1e-4)


def test_order_of_candidates(varied, varied_fit):
    order = np.random.default_rng(0).permutation(2500)
    moved = replace(
        varied,
        features=varied.features[order],
        counts=varied.counts[order],
        log_base=varied.log_base[order],
    )
    result = fitted(moved, 2, init=varied.truth, tol=1e-4)
    assert_same(result, varied_fit)
    np.testing.assert_allclose(result.atoms, varied_fit.atoms, atol=1e-5)


def test_order_of_components(varied, varied_fit):
    swapped = varied.weights[::-1], varied.atoms[::-1]
    result = fitted(varied, 2, init=swapped, tol=1e-4)
    assert_same(result, varied_fit)
    np.testing.assert_allclose(result.atoms, varied_fit.atoms, atol=1e-5)


def test_shifted_features(varied, varied_fit):
    moved = replace(varied, features=varied.features + np.array([1990.0, -3e5, 0.5]))
    result = fitted(moved, 2, init=varied.truth, tol=1e-4)
    assert_same(result, varied_fit)
    np.testing.assert_allclose(result.atoms, varied_fit.atoms, atol=1e-5)
    assert result.log_likelihood == pytest.approx(varied_fit.log_likelihood, abs=1e-11)


def test_recombined_features(varied, varied_fit):
    mix = np.array([[2.0, 1.0, 0.0], [-300.0, 40.0, 0.3], [0.0, 1e-3, 1e-3]])
    atoms = np.linalg.solve(mix, varied.atoms.T).T
    moved = replace(varied, features=varied.features @ mix)
    result = fitted(moved, 2, init=(varied.weights, atoms), tol=1e-4)
    assert result.log_likelihood == pytest.approx(varied_fit.log_likelihood, abs=1e-11)
    np.testing.assert_allclose(result.weights, varied_fit.weights, atol=1e-5)
    np.testing.assert_allclose(result.atoms @ mix.T, varied_fit.atoms, atol=1e-5)
    # Distances, radii and penalties mean the same.
    gram, expected = (fit.standard_atoms @ fit.standard_atoms.T for fit in (result, varied_fit))
    np.testing.assert_allclose(gram, expected, atol=1e-4)


@pytest.mark.parametrize("level", [3.7, -800.0, 800.0])
def test_scaled_base_measure(varied, varied_fit, level):
    moved = replace(varied, log_base=varied.log_base + level)
    result = fitted(moved, 2, init=varied.truth, tol=1e-4)
    assert_same(result, varied_fit)
    assert result.log_likelihood == pytest.approx(varied_fit.log_likelihood, abs=1e-11)


def test_samples_are_summed(varied):
    rng = np.random.default_rng(1)
    first = rng.binomial(varied.counts, 0.3)
    second = rng.binomial(varied.counts - first, 0.5)
    samples = np.stack([first, second, varied.counts - first - second])
    whole = fitted(varied, 2, n_init=3)
    split = fitted(replace(varied, counts=samples), 2, n_init=3)
    assert signature(split) == signature(whole)


@pytest.mark.parametrize("front", [False, True])
def test_unavailable_candidates_change_nothing(small, front):
    rng = np.random.default_rng(2)
    gone = 1000.0 * rng.standard_normal((700, 2))
    parts = [
        (small.features, gone),
        (small.counts, np.zeros(700, np.uint32)),
        (np.zeros(600), np.full(700, -np.inf)),
    ]
    step = -1 if front else 1
    features, counts, log_base = (np.concatenate(pair[::step]) for pair in parts)
    padded = replace(small, features=features, counts=counts, log_base=log_base)
    result = fitted(padded, 2, init=small.truth, tol=1e-4)
    expected = fitted(small, 2, init=small.truth, tol=1e-4)
    assert_same(result, expected)
    np.testing.assert_allclose(result.atoms, expected.atoms, atol=1e-5)


def test_stored_precision_of_the_same_numbers(medium):
    wide = replace(medium, features=medium.features.astype(np.float64))
    result, expected = (fitted(p, 3, init=medium.truth, tol=1e-4) for p in (wide, medium))
    assert_same(result, expected)
    assert result.log_likelihood == pytest.approx(expected.log_likelihood, abs=1e-11)


def test_base_measure_stands_for_repeated_candidates(small):
    times = np.random.default_rng(3).integers(1, 4, 600)
    rng = np.random.default_rng(4)
    shared = [
        rng.multinomial(n, np.full(m, 1 / m)) for n, m in zip(small.counts, times, strict=True)
    ]
    repeated = replace(
        small, features=small.features.repeat(times, axis=0), counts=np.concatenate(shared)
    )
    based = replace(small, log_base=np.log(times))
    result, expected = (fitted(p, 2, init=small.truth, tol=1e-4) for p in (based, repeated))
    np.testing.assert_allclose(result.weights, expected.weights, atol=1e-5)
    np.testing.assert_allclose(result.atoms, expected.atoms, atol=1e-5)
    np.testing.assert_allclose(result.standard_atoms, expected.standard_atoms, atol=1e-5)


def test_the_seed_decides_the_bits_and_not_the_maximum(medium):
    first, again, other = (fitted(medium, 3, n_init=5, random_state=seed) for seed in (0, 0, 1))
    assert signature(first) == signature(again)
    assert signature(first) != signature(other)
    assert other.log_likelihood == pytest.approx(first.log_likelihood, abs=1e-8)


# ------------------------------------------- any small problem, every engine and precision

SINGLE, DOUBLE = np.dtype(np.float32), np.dtype(np.float64)
# One pass at given parameters: what sums of exponentials of size 10 round, in units of eps.
ROUNDING = 200
# Fits end within TOL standard errors of the maximum, by an estimate that may be off by half.
TOL, SLACK = 1e-3, 4
HOW = {"tol": TOL, "max_passes": 60, "standard_errors": "exact"}


@st.composite
def problems(draw):
    """A small random problem, its rows to a block, and a seed for what is done to it."""
    seed = draw(st.integers(0, 2**32 - 1))
    n_components, n_features = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    problem = simulate(
        draw(st.integers(30, 150)),
        n_features,
        n_components,
        draw(st.sampled_from([500, 20_000, 3_000_000])),
        norm=draw(st.sampled_from([0.5, 1.5])),
        seed=seed,
        dtype=draw(st.sampled_from([np.float32, np.float64])),
        base=draw(st.booleans()),
        law=draw(st.sampled_from(["gaussian", "clusters"])),
    )
    return problem, draw(st.sampled_from([16, 50, 128])), seed


@contextmanager
def engine_of(where, client):
    """Threads, the workers of a cluster, or a device that the stand-in gives."""
    if where == "device":
        with (
            pytest.MonkeyPatch.context() as patch,
            TemporaryDirectory() as folder,
        ):
            patch.setattr("tempfile.tempdir", folder)
            with fresh(patch, Runtime()), local(2, device="gpu") as engine:
                yield engine
        return
    with local(2) if where == "threads" else on_cluster(client) as engine:
        yield engine


# Passes of a cluster take ten times as long as those of threads.
EXAMPLES = {"threads": 8, "cluster": 2, "device": 3}
everywhere = pytest.mark.parametrize("where", EXAMPLES)
every_change = pytest.mark.parametrize("change", CHANGES)


def for_problems(where, check, times=1):
    """Call ``check`` with random problems, as many as the engine has time for."""
    run = settings(max_examples=times * EXAMPLES[where], database=None)(given(problems())(check))
    run()


def one_pass(engine, problem, block_rows, dtype):
    """What a pass says of the truth."""
    design, coordinates = survey(problem.dataset(block_rows), engine)
    start = mixture_at(problem.weights, coordinates.from_features(problem.atoms), coordinates)
    # The second time with the normalisers that the first one found.
    for _ in range(2):
        kernel = partial(score, mixtures=[coordinates.to_frame(start)], dtype=dtype)
        (sums,) = engine.reduce(kernel)
        point = evaluate(start, sums, coordinates, design.n_draws, 0.0)
        start = replace(start, offsets=np.log(problem.weights) - point.log_normalisers)
    return point


def in_order(one, other):
    """Which component of the one is each of the other, by weights and atoms, as near as can be."""
    rows, others = (np.column_stack(mixture) for mixture in (one, other))
    ways = [list(way) for way in permutations(range(len(rows)))]
    return min(ways, key=lambda way: np.abs(rows[way] - others).sum())


@everywhere
@every_change
def test_one_pass(change, where, client):
    """Log-likelihood, weights, slopes and entropies, to the rounding of the arithmetic."""

    def check(case):
        problem, block_rows, seed = case
        changed = CHANGES[change](problem, np.random.default_rng(seed))
        order = in_order((problem.weights, changed.atoms(problem.atoms)), changed.problem.truth)
        for dtype in (SINGLE, DOUBLE):
            atol = ROUNDING * float(np.finfo(dtype).eps)
            before = one_pass(engine, problem, block_rows, dtype)
            after = one_pass(engine, changed.problem, block_rows, dtype)
            expected = before.log_likelihood + changed.log_likelihood
            assert after.log_likelihood == pytest.approx(expected, rel=atol, abs=atol)
            np.testing.assert_allclose(after.weights, before.weights[order], atol=atol)
            np.testing.assert_allclose(after.resp, before.resp[order], atol=atol)
            # Slopes have the same length in any standard coordinates.
            new, old = (np.linalg.norm(p.gradient[1], axis=1) for p in (after, before))
            np.testing.assert_allclose(new, old[order], atol=atol)
            # Over more candidates the entropy is another one.
            if change != "split_candidates":
                np.testing.assert_allclose(after.entropies, before.entropies[order], atol=atol)

    with engine_of(where, client) as engine:
        for_problems(where, check, 2)


def log_prob_of(problem, weights, atoms):
    """What the model says of the candidates at these parameters."""
    data = problem.dataset(len(problem.features))
    raw = data.read_block(0)
    predictor = Predictor.of(weights, atoms, raw.features)
    return predictor.normalised([predictor.log_masses(raw)]).log_prob(raw)


@every_change
@given(case=problems())
def test_probabilities_at_given_parameters(change, case):
    problem, _, seed = case
    changed = CHANGES[change](problem, np.random.default_rng(seed))
    expected = changed.log_prob(log_prob_of(problem, *problem.truth))
    found = log_prob_of(changed.problem, *changed.problem.truth)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-11)


def apart(atoms):
    """Whether they are, by a standard deviation of the features and more."""
    between = np.linalg.norm(atoms[:, None] - atoms, axis=2)
    return bool((between + 9 * np.eye(len(atoms)) > 1).all())


def quietly(*args, **how):
    """Fit; what small random problems are warned of is in the result."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SoftmixWarning)
        return fitted(*args, **how)


def assert_follows(changed, problem, before, after, precision, l2):
    """The second fit is the first one's image, as nearly as the two say that they are right."""
    n = before.n_draws
    assert after.n_draws == n * changed.times
    # 1. How far each may be from the maximum, in standard errors of the first.
    far = [SLACK * (TOL if fit.converged else fit.distance) for fit in (before, after)]
    far[1] /= np.sqrt(changed.times)
    eps = np.finfo(np.float32 if precision == "single" else np.float64).eps
    rounding = 2 * 8 * eps * (1 + abs(before.log_likelihood))
    # 2. The objective, which has its maximum there.
    gap = abs(after.objective - before.objective - changed.log_likelihood)
    assert gap <= max(far) ** 2 / (2 * n) + rounding
    # 3. The probabilities, by the information: a part of all that the draws can tell.
    log_prob = changed.log_prob(log_prob_of(problem, before.weights, before.atoms))
    found = log_prob_of(changed.problem, after.weights, after.atoms)
    there = log_prob > -np.inf
    assert (found[~there] == -np.inf).all()
    off = np.exp(log_prob[there]) @ (found[there] - log_prob[there]) ** 2
    assert np.sqrt(n * off) <= sum(far) + np.sqrt(2 * n * rounding)
    # 4. The parameters, where the draws tell them, in their standard errors, and these.
    if l2 > 0 or not well_told(before):
        return
    moved = (before.weights, changed.atoms(before.atoms))
    found = after.weights, after.atoms
    order = in_order(moved, found)
    places = of_parameters(order, before.atoms.shape[1])
    expected = changed.covariance(before.covariance)[np.ix_(places, places)]
    errors = np.sqrt(np.diag(expected))
    off = [(old[order] - new).ravel() for old, new in zip(moved, found, strict=True)]
    assert (np.abs(np.concatenate(off)) <= sum(far) * errors * np.sqrt(changed.times)).all()
    size = np.outer(errors, errors)
    assert (np.abs(after.covariance - expected) <= 10 * sum(far) * size).all()


def well_told(fit):
    """Whether the draws tell the components apart: where they do not there may be any maximum."""
    errors = fit.standard_errors
    return errors is not None and bool((errors["weights"] < 0.1).all()) and not fit.warnings


def of_parameters(order, n_features):
    """Places of weights, then atoms, of components in some order."""
    n = len(order)
    atoms = [n + k * n_features + i for k in order for i in range(n_features)]
    return [*order, *atoms]


@everywhere
@every_change
def test_fits(change, where, client):
    """Fits end at the same maximum, to what they promise: small parts of a standard error."""

    def check(case):
        problem, block_rows, seed = case
        assume(apart(problem.atoms))
        changed = CHANGES[change](problem, np.random.default_rng(seed))
        for precision in ("auto", "double", "single"):
            for l2 in (0.0, 1e-3):
                how = {"precision": precision, "l2": l2} | HOW
                before, after = (
                    quietly(p.dataset(block_rows), len(p.weights), engine, init=p.truth, **how)
                    for p in (problem, changed.problem)
                )
                if change == "several_samples":
                    assert signature(before) == signature(after)
                if l2 == 0 and not well_told(before) and precision != "single":
                    # No maximum, or a flat one: nothing is promised.
                    continue
                assert before.converged == after.converged == (precision != "single")
                assert_follows(changed, problem, before, after, precision, l2)

    with engine_of(where, client) as engine:
        for_problems(where, check)
