"""Pictures of a fit against its numbers, and the page that holds them."""

from __future__ import annotations

import sys
from html.parser import HTMLParser

import numpy as np
import pytest
from command import softmix
from engines import cluster_of
from matplotlib.figure import Figure

from softmix_dist import SoftmaxMixture
from softmix_dist.data.writer import write_dataset
from softmix_dist.errors import InputError
from softmix_dist.plots import (
    candidates_plot,
    coefficients_plot,
    convergence_plot,
    observed_plot,
    starts_plot,
)
from softmix_dist.report import report


@pytest.fixture(scope="module")
def data(medium, tmp_path_factory):
    """The medium problem on disk; one label is a script, one mathematics."""
    path = tmp_path_factory.mktemp("report") / "data.zarr"
    labels = [f"item {i}" for i in range(len(medium.counts))]
    labels[int(np.argmax(medium.counts))] = "<script>alert(1)</script> $x$"
    write_dataset(path, medium.features, medium.counts, candidate_labels=labels, block_rows=700)
    return path


@pytest.fixture(scope="module")
def model(data):
    """Fitted on a part of the rows as a sketch, so that there are several passes."""
    return SoftmaxMixture(3, n_init=3, sketch_rows=400, tol=1e-3).fit(data, n_threads=1)


@pytest.fixture(scope="module")
def profile(model, data):
    return model.profile(data, n_threads=1)


def points(ax, marker):
    lines = [line for line in ax.lines if line.get_marker() == marker]
    return np.concatenate([np.asarray(line.get_xydata()) for line in lines])


def test_a_profile_is_what_the_model_says(model, medium, profile):
    prob, resp = np.exp(model.log_prob(medium.features)), model.responsibilities(medium.features)
    for k, typical in enumerate(profile.typical):
        shares = prob * resp[:, k] / model.weights_[k]
        best = np.argsort(-shares)[:10]
        assert [candidate.row for candidate in typical] == best.tolist()
        np.testing.assert_allclose([c.share for c in typical], shares[best], rtol=1e-9)
    assert profile.n_draws == medium.counts.sum()
    assert profile.number.sum() == len(prob)
    np.testing.assert_allclose(profile.expected @ profile.number, profile.n_draws, rtol=1e-9)
    np.testing.assert_allclose(profile.observed @ profile.number, profile.n_draws, rtol=1e-12)
    place = np.floor(4 * np.log10(profile.n_draws * prob))
    for bin_ in (int(np.median(place)), int(place.max())):
        own = place == bin_
        at = np.argmin(np.abs(profile.expected - profile.n_draws * prob[own].mean()))
        assert profile.number[at] == own.sum()
        np.testing.assert_allclose(profile.observed[at], medium.counts[own].mean())
        np.testing.assert_allclose(profile.spread[at], medium.counts[own].std(), rtol=1e-6)


def test_a_profile_is_the_same_on_a_cluster(model, data, profile):
    with cluster_of(2) as client:
        found = model.profile(data, client=client)
    assert found.typical == profile.typical
    np.testing.assert_array_equal(found.observed, profile.observed)


def test_convergence_shows_every_distance_and_the_end(model):
    ax = convergence_plot(model)
    found = points(ax, "o")
    finite = [(r["pass"], r["distance"]) for r in model.history_ if np.isfinite(r["distance"])]
    assert {tuple(point) for point in found} >= {pair for pair in finite if pair[1] > 0}
    assert found[:, 1].min() == model.distance_
    assert [text.get_text() for text in ax.texts] == ["tol = 0.001"]


def test_starts_are_behind_the_best(model):
    ax = starts_plot(model)
    labels = [text.get_text() for text in ax.get_yticklabels()]
    assert labels == [s["method"] + (" (best)" if s["best"] else "") for s in model.starts_]
    behind, rows = points(ax, "o").T
    best = [i for i, start in enumerate(model.starts_) if start["best"]]
    assert behind[rows == best[0]] == 0
    assert (behind >= 0).all()


def test_coefficients_have_their_intervals(model):
    ax = coefficients_plot(model, level=0.9)
    limits = model.confidence_intervals(0.9)["atoms"]
    found = points(ax, "o")[:, 0].reshape(3, -1)
    np.testing.assert_allclose(found, model.atoms_)
    bars = [np.array(c.get_segments())[:, :, 0] for c in ax.collections]
    np.testing.assert_allclose(bars, limits)
    assert "90% intervals" in ax.get_xlabel()
    assert [t.get_text() for t in ax.get_yticklabels()] == ["x0", "x1", "x2"]


def test_many_coefficients_are_those_that_say_most():
    rng = np.random.default_rng(0)
    features = rng.standard_normal((3000, 40))
    choice = np.exp(features[:, 7] - features[:, 33])
    counts = rng.multinomial(100_000, choice / choice.sum())
    model = SoftmaxMixture(1).fit(features, counts, n_threads=1)
    ax = coefficients_plot(model)
    names = [text.get_text() for text in ax.get_yticklabels()]
    assert len(names) == 30
    assert {"x7", "x33"} <= set(names)
    assert "30 of 40 features" in ax.get_xlabel()


def test_candidates_have_their_shares(profile):
    ax = candidates_plot(profile, 1)
    typical = profile.typical[1]
    assert [bar.get_width() for bar in ax.patches] == [c.share for c in typical]
    with pytest.raises(InputError, match="expected 0 to 2, found 3"):
        candidates_plot(profile, 3)


def test_pictures_of_candidates_refuse_a_fit():
    for draw in (observed_plot, lambda given: candidates_plot(given, 0)):
        with pytest.raises(InputError, match=r"expected fit.profile\(data\), found SoftmaxMixture"):
            draw(SoftmaxMixture(1))


def test_observed_draws_lie_over_expected_ones(profile):
    given = Figure().add_subplot()
    ax = observed_plot(profile, given)
    assert ax is given
    seen = profile.observed > 0
    found = np.asarray(ax.collections[1].get_offsets())
    np.testing.assert_allclose(found[:, 0], profile.expected[seen])
    np.testing.assert_allclose(found[:, 1], profile.observed[seen])


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.sources, self.open = [], [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.sources += [value for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_a_page_needs_nothing_beside_it(model, profile):
    page = Page(report(model, profile, "Shops & <b>towns</b>"))
    assert page.tags.count("img") == 3 + 3 + 1
    assert all(source.startswith("data:image/png;base64,") for source in page.sources)
    assert "script" not in page.tags
    assert "b" not in page.tags


def test_a_page_says_what_the_model_does_not_hold(model):
    text = report(model)
    assert "The model holds no candidates" in text
    assert Page(text).tags.count("img") == 3


def test_the_command(model, data, tmp_path):
    model.save(tmp_path / "model.zarr")
    page = tmp_path / "page.html"
    told = softmix("report", tmp_path / "model.zarr", "-o", page, "--data", data)
    assert "report written to" in told.stderr
    assert Page(page.read_text()).tags.count("img") == 7
    assert "SoftmaxMixture" not in told.stdout
    softmix("report", tmp_path / "model.zarr", "-o", page, code=65)
    softmix("report", tmp_path / "model.zarr", "-o", page, "--overwrite")
    assert Page(page.read_text()).tags.count("img") == 3
    softmix("report", tmp_path / "model.zarr", "-o", page / "page.html", code=65)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.zarr", "page.html"]


def test_without_matplotlib_the_remedy_is_told(model, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "softmix_dist.report", None)
    told = softmix("report", tmp_path, "-o", tmp_path / "page.html", code=2)
    assert "pip install 'softmix-dist[plots]'" in told.stderr
