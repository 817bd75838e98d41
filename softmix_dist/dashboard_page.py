"""What the page ``/softmix`` draws, by bokeh, of what a scheduler knows of fits."""

from __future__ import annotations

import math
from html import escape
from typing import TYPE_CHECKING, Any

from bokeh.layouts import column, row
from bokeh.models import ColumnDataSource, Div, Select
from bokeh.plotting import figure

if TYPE_CHECKING:
    from softmix_dist.dashboard import FitsPlugin, Watched

# Milliseconds between looks at the fits.
_LOOK = 500
_COLOURS = ("#0072B2", "#D55E00", "#007A5A")
_NOTHING = "No fit yet. Fits of softmix_dist on this scheduler show here while they run."


class Page:
    """The page of one visitor.

    Parameters
    ----------
    plugin : FitsPlugin
    """

    def __init__(self, plugin: FitsPlugin):
        self.plugin = plugin
        self.passes = ColumnDataSource({"number": [], "objective": [], "distance": []})
        self.weights = ColumnDataSource({"component": [], "weight": []})
        self.told = Div(text=_NOTHING)
        self.chosen = Select(title="fit", options=[], width=320)
        self.follows = True
        self.chosen.on_change("value", self._choose)
        self._setting = False

    @property
    def root(self) -> Any:
        """Layout of the page."""
        sizes = {"sizing_mode": "stretch_width", "height": 300}
        objective = figure(title="objective, nats per draw", x_axis_label="pass", **sizes)
        distance = figure(
            title="distance to the maximum, standard errors", x_axis_label="pass",
            y_axis_type="log", **sizes,
        )  # fmt: skip
        for plot, name, colour in (
            (objective, "objective", _COLOURS[0]), (distance, "distance", _COLOURS[1]),
        ):  # fmt: skip
            plot.line("number", name, source=self.passes, line_width=2, color=colour)
            plot.scatter("number", name, source=self.passes, size=6, color=colour)
        weights = figure(title="weights of the components", x_axis_label="component", **sizes)
        weights.vbar("component", top="weight", width=0.8, source=self.weights, color=_COLOURS[2])
        weights.y_range.start = 0
        return column(
            self.chosen, self.told, row(objective, distance, sizing_mode="stretch_width"), weights,
            sizing_mode="stretch_width",
        )  # fmt: skip

    def update(self) -> None:
        """Draw what is known now."""
        fits = self.plugin.fits
        if not fits:
            return
        names = {fit: _name(number, fits[fit]) for number, fit in enumerate(fits, 1)}
        options = [(fit, name) for fit, name in reversed(names.items())]
        if self.chosen.options != options:
            self.chosen.options = options
        if self.follows or self.chosen.value not in fits:
            self._setting = True
            self.chosen.value = options[0][0]
            self._setting = False
        fit = fits[self.chosen.value]
        self.told.text = f"<b>{escape(fit.in_words())}</b><br>{escape(fit.plan)}"
        known = {
            "number": list(fit.passes),
            "objective": list(fit.objectives),
            # Unknown at first, and no number that an axis has.
            "distance": [d if 0 < d < math.inf else math.nan for d in fit.distances],
        }
        # NaN is not what it is: compared by what is told.
        if repr(known) != repr(dict(self.passes.data)):
            self.passes.data = known
        bars = {"component": list(range(len(fit.weights))), "weight": list(fit.weights)}
        if bars != self.weights.data:
            self.weights.data = bars

    def _choose(self, name: str, old: Any, new: Any) -> None:
        if not self._setting:
            # The last one is followed until a visitor chooses another.
            self.follows = bool(self.chosen.options) and new == self.chosen.options[0][0]
            self.update()


def _name(number: int, fit: Watched) -> str:
    rows = f", {fit.n_candidates:,} candidates" if fit.n_candidates else ""
    return f"{number}{rows}"


def document(plugin: FitsPlugin, extra: dict[str, Any], doc: Any) -> None:
    """Fill a document of bokeh with the page."""
    from distributed.dashboard.components.scheduler import env

    page = Page(plugin)
    page.update()
    doc.title = "Dask: softmix"
    doc.add_root(page.root)
    doc.template = env.get_template("simple.html")
    doc.template_variables.update({"active_page": "softmix", **extra})
    doc.add_periodic_callback(page.update, _LOOK)
