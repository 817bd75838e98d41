"""Pictures, where matplotlib is installed."""

from softmix_dist.plots.names import names_figure
from softmix_dist.plots.path import selection_plot

__all__ = ["names_figure", "selection_plot"]
