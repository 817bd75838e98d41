"""A report of a fit: one page that needs nothing beside it."""

from __future__ import annotations

import io
from base64 import b64encode
from collections.abc import Callable, Iterator
from html import escape
from typing import TYPE_CHECKING, Any

from softmix_dist import plots

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from softmix_dist.estimator import SoftmaxMixture
    from softmix_dist.profile import Profile

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 62rem; margin: 2rem auto;
       padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2.2rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: 0.1rem 0.7rem; border-bottom: 1px solid #eee; }
th { font-weight: 600; } img { max-width: 100%; } .row { display: flex; flex-wrap: wrap; }
.row img { max-width: 31rem; flex: 1 1 24rem; } .note { color: #6b6b6b; }
"""


def report(model: SoftmaxMixture, profile: Profile | None = None, title: str = "") -> str:
    """Return a page of HTML about a fitted mixture.

    Parameters
    ----------
    model : SoftmaxMixture
        Fitted, or loaded.
    profile : Profile, optional
        As ``model.profile(data)`` returns it: for the pictures of candidates.
    title : str

    Returns
    -------
    str
        With its pictures inside, without scripts and without anything from elsewhere.
    """
    K = len(model.weights_)
    heading = escape(title or f"A softmax mixture of {K} component{'s' if K > 1 else ''}")
    settings = "".join(
        f"<tr><th>{escape(name)}</th><td>{escape(repr(value))}</td></tr>"
        for name, value in model.get_params().items()
        if not hasattr(value, "__array__") and not isinstance(value, tuple)
    )
    parts = [
        f"<h1>{heading}</h1>",
        model._repr_html_(),
        "<h2>Coefficients</h2>",
        _picture(lambda ax: plots.coefficients_plot(model, ax), height=_height(model)),
        "<h2>How it converged</h2>",
        '<div class="row">',
        _picture(lambda ax: plots.convergence_plot(model, ax)),
        _picture(lambda ax: plots.starts_plot(model, ax)),
        "</div>",
        *_of_candidates(profile, K),
        f"<h2>Settings</h2><table>{settings}</table>",
    ]
    body = "\n".join(parts)
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{heading}</title>'
        f"<style>{_STYLE}</style></head>\n<body>\n{body}\n</body></html>\n"
    )


def _of_candidates(profile: Profile | None, K: int) -> Iterator[str]:
    yield "<h2>Candidates</h2>"
    if profile is None:
        yield (
            '<p class="note">The model holds no candidates: give the data set (--data) for those '
            "that each component favours, and observed against expected draws.</p>"
        )
        return
    yield '<div class="row">'
    for k in range(K):
        yield _picture(_favoured(profile, k), height=3.2)
    yield "</div><h2>Observed and expected draws</h2>"
    if profile.n_draws:
        yield _picture(lambda ax: plots.observed_plot(profile, ax))
    else:
        yield '<p class="note">The data set holds no draws.</p>'


def _favoured(profile: Profile, component: int) -> Callable[[Axes], Any]:
    return lambda ax: plots.candidates_plot(profile, component, ax)


def _height(model: SoftmaxMixture) -> float:
    K, n_features = model.atoms_.shape
    return min(max(3.2, 0.9 + 0.12 * min(n_features, 30) * min(K, 7)), 14.0)


def _picture(draw: Callable[[Axes], Any], height: float = 4.2) -> str:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, height), facecolor="white", layout="constrained")
    draw(figure.add_subplot())
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=160)
    return f'<img alt="" src="data:image/png;base64,{b64encode(content.getvalue()).decode()}">'
