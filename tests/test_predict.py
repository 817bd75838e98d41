"""What a fitted model says of candidates: probabilities, posteriors, scores, samples."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import reference

from softmix_dist import SoftmaxMixture
from softmix_dist.errors import InputError


@pytest.fixture(scope="module")
def model(small) -> SoftmaxMixture:
    """Fitted to the small problem."""
    return SoftmaxMixture(2).fit(small.features, small.counts)


def test_log_prob_is_the_model_over_the_rows_given(small, model):
    base = np.linspace(-1, 1, 50)
    for rows, log_base in ((slice(None), None), (slice(0, 50), None), (slice(0, 50), base)):
        given = small.features[rows]
        found = model.log_prob(given, log_base)
        expected = reference.log_probabilities(given, model.weights_, model.atoms_, log_base)
        np.testing.assert_allclose(found, np.array(expected, float), atol=1e-12)
        assert np.exp(found).sum() == pytest.approx(1, abs=1e-12)


def test_responsibilities_are_posteriors(small, model):
    resp = model.responsibilities(small.features)
    assert resp.shape == (600, 2)
    np.testing.assert_allclose(resp.sum(axis=1), 1, rtol=1e-14)
    # Their average over the model's own draws is the prior.
    mean = np.exp(model.log_prob(small.features)) @ resp
    np.testing.assert_allclose(mean, model.weights_, atol=1e-12)


def test_score_is_the_log_likelihood(small, model):
    wide = np.stack([small.counts // 2, small.counts - small.counts // 2])
    for counts in (small.counts, wide):
        assert model.score(small.features, counts) == pytest.approx(
            model.log_likelihood_, abs=1e-11
        )


@pytest.mark.parametrize("given", [False, True])
def test_samples_follow_the_model(given, small, model):
    fitted = SoftmaxMixture(2).fit(small.dataset(block_rows=64))
    features = small.features if given else None
    draws = fitted.sample(1_000_000, features, random_state=1)
    assert draws.shape == (600,)
    assert draws.sum() == 1_000_000
    expected = 1_000_000 * np.exp(fitted.log_prob(small.features))
    chi_square = ((draws - expected) ** 2 / expected).sum()
    assert abs(chi_square - 599) < 5 * np.sqrt(2 * 599)
    np.testing.assert_array_equal(draws, fitted.sample(1_000_000, features, random_state=1))
    assert fitted.sample(0, features).sum() == 0


@pytest.mark.parametrize(
    ("use", "fragment"),
    [
        pytest.param(lambda m, x, n: m.log_prob(x[:, :1]), "features: expected", id="width"),
        pytest.param(lambda m, x, n: m.log_prob(x[:, 0]), "features: expected", id="vector"),
        pytest.param(lambda m, x, n: m.responsibilities(x[:0]), "features", id="no-rows"),
        pytest.param(
            lambda m, x, n: m.log_prob(np.where(x > 2, np.nan, x)), "features: NaN", id="nan"
        ),
        pytest.param(lambda m, x, n: m.log_prob(x, np.zeros(3)), "log_base", id="short-base"),
        pytest.param(
            lambda m, x, n: m.log_prob(x, np.full(len(x), -np.inf)), "log_base", id="unavailable"
        ),
        pytest.param(lambda m, x, n: m.score(x, n[1:]), "counts", id="short-counts"),
        pytest.param(lambda m, x, n: m.score(x, 0 * n), "counts", id="no-draws"),
        pytest.param(
            lambda m, x, n: m.score(x, -n.astype(int)), "counts: negative", id="negative-counts"
        ),
        pytest.param(lambda m, x, n: m.sample(-1), "n: ", id="negative-n"),
    ],
)
def test_candidates_that_are_none_are_refused(use, fragment, small, model):
    with pytest.raises(InputError, match=fragment):
        use(model, small.features, small.counts)


def test_features_of_other_names_are_refused(small):
    frame = pd.DataFrame(small.features)
    frame.columns = [f"f{i}" for i in range(frame.shape[1])]
    model = SoftmaxMixture(1).fit(frame, small.counts)
    np.testing.assert_array_equal(model.log_prob(frame), model.log_prob(small.features))
    turned = frame[frame.columns[::-1]]
    for use in (
        model.log_prob,
        model.responsibilities,
        lambda features: model.score(features, small.counts),
        lambda features: model.sample(10, features),
    ):
        use(frame)
        with pytest.raises(InputError, match="but the model was fitted on f0"):
            use(turned)


def test_a_model_without_names_takes_features_of_any(small, model):
    frame = pd.DataFrame(small.features, columns=["price", "time"])
    np.testing.assert_array_equal(model.log_prob(frame), model.log_prob(small.features))
