"""Docstrings: their examples run, and public ones have the sections they need."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil
import re
from types import ModuleType

import matplotlib
import numpy as np
import pytest

import softmix_dist
from softmix_dist import SoftmaxMixture, open_dataset, write_dataset

matplotlib.use("Agg")

MODULES = sorted(
    found.name
    for found in pkgutil.walk_packages(softmix_dist.__path__, "softmix_dist.")
    if not found.name.endswith("__main__")
)


@pytest.fixture(scope="module")
def names():
    """What the example of `SoftmaxMixture` makes, for those of its methods."""
    rng = np.random.default_rng(0)
    features = rng.standard_normal((2000, 2))
    choice = np.exp(features @ [1.0, -1.0])
    counts = rng.multinomial(100_000, choice / choice.sum())
    model = SoftmaxMixture(n_components=1).fit(features, counts)
    public = {"SoftmaxMixture": SoftmaxMixture, "open_dataset": open_dataset}
    return {
        "np": np, "features": features, "counts": counts, "model": model,
        "write_dataset": write_dataset, **public,
    }  # fmt: skip


def module_of(name: str) -> ModuleType:
    return importlib.import_module(name)


@pytest.mark.parametrize("name", MODULES)
def test_examples(name, names, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = doctest.testmod(module_of(name), extraglobs=dict(names))
    assert found.failed == 0


def test_there_are_examples():
    tried = {name: doctest.DocTestFinder().find(module_of(name)) for name in MODULES}
    assert sum(bool(test.examples) for tests in tried.values() for test in tests) >= 20


def public_callables():
    """Yield what a user calls: the names of the package, and the methods of its classes."""
    for name in softmix_dist.__all__:
        found = getattr(softmix_dist, name)
        if not callable(found):
            continue
        yield name, found
        if inspect.isclass(found):
            for method, function in inspect.getmembers(found, inspect.isfunction):
                if not method.startswith("_"):
                    yield f"{name}.{method}", function


@pytest.mark.parametrize(("name", "found"), list(public_callables()), ids=str)
def test_parameters_are_documented(name, found):
    text = inspect.getdoc(found)
    assert text, name
    parameters = [
        parameter
        for parameter in inspect.signature(found).parameters.values()
        if parameter.name not in ("self", "cls")
    ]
    section = re.search(r"Parameters\n-+\n(.*?)(\n\n\w+\n-+|\Z)", text, re.DOTALL)
    told = section[1] if section else ""
    for parameter in parameters:
        assert re.search(rf"^(.*, )?\**{parameter.name}( :|,|$)", told, re.MULTILINE), (
            f"{name}: {parameter.name}"
        )
