"""The picture of the path over K: everything that it must show, and only what is there."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Annotation

from softmix_dist.plots import selection_plot
from softmix_dist.plots.style import apart
from softmix_dist.recommendation import Candidate, Selection


def candidate(n_components, behind, error, converged=True):
    size = 4 * n_components - 1
    fit = 2e5 * (7 + behind - 1e-5 * n_components)
    nothing = np.zeros((n_components, 3))
    return Candidate(
        n_components, size, -fit / 2e5, fit + 2 * size, fit + 12 * size, -7 - behind, behind,
        error, converged, nothing[:, 0], nothing,
    )  # fmt: skip


@pytest.fixture
def selection():
    candidates = [
        candidate(1, 0.2, 0.01),
        candidate(2, 0.0, 0.0),
        candidate(3, 4e-5, 2e-5),
        candidate(4, 9e-5, 3e-5, converged=False),
    ]
    return Selection(candidates, 2, 2, 100_000, 30, 1.0)


def words(ax):
    return [text.get_text() for text in ax.texts if isinstance(text, Annotation)]


def test_it_shows_every_fit_and_the_recommended_one(selection, tmp_path):
    path = tmp_path / "path.png"
    ax = selection_plot(selection, path=path)
    assert path.stat().st_size > 10_000
    whole = [
        line for line in ax.lines if line.get_linestyle() == "-" and len(line.get_xdata()) == 4
    ]
    held_out, aic, bic = (np.asarray(line.get_ydata()) for line in whole)
    np.testing.assert_allclose(held_out, [0.2, 0, 4e-5, 9e-5])
    for found, name in ((aic, "aic"), (bic, "bic")):
        values = np.array([getattr(c, name) for c in selection.candidates]) / 2e5
        np.testing.assert_allclose(found, values - values[:3].min(), atol=1e-12)
    assert {"held-out", "AIC", "BIC", "recommended: K = 2"} <= set(words(ax))
    (note,) = (text for text in words(ax) if text.startswith("Bars"))
    assert note.endswith("Hollow: did not converge.")
    hollow = [line for line in ax.lines if line.get_markerfacecolor() == "white"]
    assert [np.asarray(line.get_xdata()).round().tolist() for line in hollow] == [[4]] * 3


def test_it_draws_where_it_is_told(selection):
    figure = Figure()
    ax = figure.add_subplot(1, 2, 2)
    assert selection_plot(selection, ax) is ax
    figure.canvas.draw()


def test_nothing_is_marked_where_nothing_is_recommended(selection):
    lost = [replace(c, converged=False) for c in selection.candidates]
    ax = selection_plot(replace(selection, candidates=lost, recommended=None, by_bic=None))
    assert not [text for text in words(ax) if "recommended" in text]
    alone = replace(selection, candidates=[candidate(2, 0.0, 0.0)])
    ax = selection_plot(alone)
    assert "Hollow" not in " ".join(words(ax))
    ax.get_figure().canvas.draw()


def test_labels_keep_apart():
    for values in ([0.0, 0.0, 0.0], [3.0, 1.0, 1.1, 9.0], [2.0]):
        heights = apart(values, 1.0)
        assert np.diff(np.sort(heights)) == pytest.approx(np.maximum(np.diff(np.sort(heights)), 1))
        assert (
            np.argsort(heights, kind="stable").tolist()
            == np.argsort(values, kind="stable").tolist()
        )
        assert np.mean(heights) == pytest.approx(np.mean(values))
