"""Pictures, where matplotlib is installed."""

try:
    import matplotlib  # noqa: F401
except ImportError as error:
    raise ImportError("pictures need matplotlib: pip install 'softmix-dist[plots]'") from error

from softmix_dist.plots.fits import (
    candidates_plot,
    coefficients_plot,
    convergence_plot,
    observed_plot,
    starts_plot,
)
from softmix_dist.plots.names import names_figure
from softmix_dist.plots.path import selection_plot

__all__ = [
    "candidates_plot",
    "coefficients_plot",
    "convergence_plot",
    "names_figure",
    "observed_plot",
    "selection_plot",
    "starts_plot",
]
