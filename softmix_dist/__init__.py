"""Softmax mixtures over millions to billions of candidates.

The public names are imported on first use, so that ``import softmix_dist`` and
``softmix --help`` stay quick.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from softmix_dist.data.dataset import open_dataset
    from softmix_dist.data.ingest import ingest
    from softmix_dist.data.simulate import simulate
    from softmix_dist.data.writer import write_dataset
    from softmix_dist.estimator import SoftmaxMixture
    from softmix_dist.selection import select_components

__version__ = "0.1.0"

_HOMES = {
    "SoftmaxMixture": "softmix_dist.estimator",
    "ingest": "softmix_dist.data.ingest",
    "open_dataset": "softmix_dist.data.dataset",
    "select_components": "softmix_dist.selection",
    "simulate": "softmix_dist.data.simulate",
    "write_dataset": "softmix_dist.data.writer",
}

__all__ = [
    "SoftmaxMixture",
    "__version__",
    "ingest",
    "open_dataset",
    "select_components",
    "simulate",
    "write_dataset",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'softmix_dist' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
