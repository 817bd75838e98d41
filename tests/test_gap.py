"""The gap estimate: what further components could gain."""

import numpy as np
import pytest
from problems import fitted, simulate
from scipy.special import logsumexp

from softmix_dist import SoftmaxMixture


@pytest.fixture(scope="module")
def problem():
    return simulate(4000, 3, 3, 400_000, seed=11)


@pytest.fixture(scope="module")
def results(problem):
    return {k: fitted(problem, k, init="search") for k in (2, 3, 4)}


def test_too_few_components_are_said_and_enough_are_not(results):
    assert results[2].gap["suggests_more"]
    assert not results[3].gap["suggests_more"]
    assert not results[4].gap["suggests_more"]


def test_the_gain_is_below_what_another_fit_gains_and_that_below_the_bound(results):
    for k in (2, 3):
        gained = results[k + 1].log_likelihood - results[k].log_likelihood
        # The fit with one more component was refitted on the data, the estimate was not.
        assert results[k].gap["gain"] <= gained + 1e-9
        assert gained <= results[k].gap["bound"]
    assert results[2].gap["gain"] > 0.5 * (results[3].log_likelihood - results[2].log_likelihood)


def test_bic_is_that_of_the_gain(problem, results):
    for result in results.values():
        n = problem.counts.sum()
        expected = 4 * np.log(n) - 2 * n * result.gap["gain"]
        assert result.gap["bic"] == pytest.approx(expected, rel=1e-12)
        assert result.gap["suggests_more"] == (expected < 0)


def test_no_atom_within_the_radius_is_much_above_the_bound(problem, results):
    result = results[3]
    x = problem.features.astype(float)
    centred = x - x.mean(axis=0)
    z = np.linalg.solve(np.linalg.cholesky(np.cov(x.T, ddof=0)), centred.T).T
    logits = x @ result.atoms.T
    log_softmax = logits - logsumexp(logits, axis=0)
    log_pi = logsumexp(log_softmax + np.log(result.weights), axis=1)
    q = problem.counts / problem.counts.sum()
    rng = np.random.default_rng(0)
    tried = rng.standard_normal((2000, 3))
    norms = rng.uniform(0, result.gap["radius"], (2000, 1))
    tried *= norms / np.linalg.norm(tried, axis=1, keepdims=True)
    at = z @ tried.T
    d = q @ np.exp(at - logsumexp(at, axis=0) - log_pi[:, None])
    assert np.log(d.max()) <= result.gap["bound"] + 1e-6


def test_sketch_and_data_agree_on_too_few(problem):
    result = fitted(problem, 2, init="search", sketch_rows=1000)
    assert result.sketch_rows < 4000
    assert result.gap["suggests_more"]


def test_none_without_a_sketch_or_with_a_penalty(problem):
    assert fitted(problem, 2, init="random", solver="em").gap is None
    assert fitted(problem, 2, init="search", l2=1e-3).gap is None


def test_the_summary_says_it(problem):
    told = SoftmaxMixture(2).fit(problem.features, problem.counts).summary()
    assert "BIC prefers 3 components to 2" in told
    assert "no number of further components" in told
