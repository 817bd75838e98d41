"""Fitted models on disk: a Zarr group that xarray opens."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import zarr

from softmix_dist.data.store import (
    arrays_of,
    member,
    names_of,
    new_group,
    open_group,
    put,
    read,
)
from softmix_dist.errors import InputError

FORMAT = 1
MARK = "softmix_model"
_ARRAYS = {
    "weights": ("component",),
    "atoms": ("component", "feature"),
    "standard_atoms": ("component", "feature"),
    "effective_candidates": ("component",),
    "feature": ("feature",),
}
_OPTIONAL = {
    "covariance": ("parameter", "parameter_again"),
    "standard_errors_weights": ("component",),
    "standard_errors_atoms": ("component", "feature"),
}


def write_model(
    path: str | os.PathLike[str],
    arrays: dict[str, Any],
    history: list[dict[str, Any]],
    attributes: dict[str, Any],
    overwrite: bool = False,
) -> None:
    """Write a fitted model.

    Parameters
    ----------
    path : path
    arrays : dict
        Values of the arrays ``weights``, ``atoms``, ``standard_atoms``,
        ``effective_candidates`` and the names ``feature``; of ``covariance`` and
        ``standard_errors_weights`` and ``..._atoms`` where they are there.
    history : list of dict
        One row for each pass; goes to the sub-group ``history``.
    attributes : dict
        Whatever else is told about the fit, as JSON.
    overwrite : bool

    Raises
    ------
    StoreError
        If the path exists already or cannot be written.
    """
    with new_group(path, MARK, overwrite) as group:
        for name, dims in (_ARRAYS | _OPTIONAL).items():
            if name in _ARRAYS or name in arrays:
                put(group, name, dims, arrays[name])
        table = group.create_group("history")
        for name in history[0] if history else ():
            put(table, name, ("pass",), [row[name] for row in history])
        group.attrs.update({MARK: FORMAT, **attributes})


def read_model(
    path: str | os.PathLike[str],
) -> tuple[dict[str, Any], list[dict[str, Any]], dict[str, Any]]:
    """Read a fitted model: arrays, history and attributes, as `write_model` takes them.

    Raises
    ------
    StoreError
        If there is no Zarr group at ``path`` or it cannot be read.
    InputError
        If it is not a model of a format that this version reads.
    """
    group = open_group(path, "model")
    version = group.attrs.get(MARK)
    if version != FORMAT:
        raise InputError(
            f"{str(path)!r} is not a fitted model: attribute {MARK} should be {FORMAT}, "
            f"found {version!r}; give the path that `softmix fit -o` wrote"
        )
    members = arrays_of(group, (*_ARRAYS, *_OPTIONAL))
    missing = sorted(set(_ARRAYS) - set(members))
    if missing:
        raise InputError(f"{str(path)!r} lacks the arrays {missing}; write the model again")
    known = [*_ARRAYS, *(name for name in _OPTIONAL if name in members)]
    arrays: dict[str, Any] = {name: read(members[name], ..., "it") for name in known}
    table = member(group, "history")
    found = arrays_of(table, names_of(table)) if isinstance(table, zarr.Group) else {}
    columns: dict[str, Any] = {name: read(array, ..., "it") for name, array in found.items()}
    told = dict(group.attrs)
    problems = [*_of_arrays(arrays), *_of_history(columns), *_of_attributes(told)]
    if problems:
        raise InputError(
            f"{str(path)!r} is not a fitted model that can be used; write it again:\n- "
            + "\n- ".join(problems)
        )
    rows = zip(*(column.tolist() for column in columns.values()), strict=True)
    return arrays, [dict(zip(columns, row, strict=True)) for row in rows], told


def _of_arrays(arrays: dict[str, Any]) -> Iterator[str]:
    """Yield what is wrong with the shapes, types and values of the arrays."""
    atoms = arrays["atoms"]
    if atoms.ndim != 2 or 0 in atoms.shape:
        yield f"atoms: expected components x features, found shape {atoms.shape}"
        return
    sizes = {"component": atoms.shape[0], "feature": atoms.shape[1]}
    sizes["parameter"] = sizes["parameter_again"] = len(atoms) * (atoms.shape[1] + 1)
    for name, values in arrays.items():
        shape = tuple(sizes[dim] for dim in (_ARRAYS | _OPTIONAL)[name])
        kinds = "OTU" if name == "feature" else "f"
        if values.shape != shape or values.dtype.kind not in kinds:
            yield (
                f"{name}: expected {'text' if name == 'feature' else 'numbers'} of shape {shape}, "
                f"found {values.dtype} {values.shape}"
            )
        elif name == "weights" and not (values.min() >= 0 and abs(values.sum() - 1) < 1e-6):
            yield f"weights: expected numbers from 0 on that add to 1, found {values}"
        elif name == "atoms" and not np.isfinite(values).all():
            yield "atoms: NaN or infinite; a chunk may be missing"


def _of_history(columns: dict[str, Any]) -> Iterator[str]:
    lengths = {column.shape for column in columns.values()}
    if len(lengths) > 1 or any(len(shape) != 1 for shape in lengths):
        yield f"history: expected columns of one length, found shapes {sorted(lengths)}"
    for name, kinds in {"pass": "iu", "distance": "f", "precision": "OTU"}.items():
        if columns and getattr(columns.get(name), "dtype", np.dtype("V")).kind not in kinds:
            yield f"history: a column {name!r} is missing, or of another type"


def _of_attributes(told: dict[str, Any]) -> Iterator[str]:
    for name, (test, expected) in _TOLD.items():
        if name in told and not test(told[name]):
            yield f"attribute {name}: expected {expected}, found {str(told[name])[:80]!r}"


def _number(value: Any) -> bool:
    return type(value) is float or (type(value) is int and abs(value) < 2**63)


def _number_or_none(value: Any) -> bool:
    return value is None or _number(value)


def _whole(value: Any) -> bool:
    return type(value) is int and value >= 0


def _flag(value: Any) -> bool:
    return type(value) is bool


def _text(value: Any) -> bool:
    return type(value) is str


def _starts(value: Any) -> bool:
    fields: dict[str, Callable[[Any], bool]] = {
        "method": _text,
        "agrees": _flag,
        "best": _flag,
        "stopped": lambda value: value is None or _text(value),
        "objective": _number_or_none,
        "sketch_log_likelihood": _number_or_none,
    }
    rows = isinstance(value, list) and all(
        isinstance(row, dict) and all(name in row and fields[name](row[name]) for name in fields)
        for row in value
    )
    return rows and sum(row["best"] for row in value) == 1


def _gap(value: Any) -> bool:
    numbers = ("radius", "bound", "gain", "bic")
    return value is None or (
        isinstance(value, dict)
        and all(_number(value.get(name)) for name in numbers)
        and _flag(value.get("suggests_more"))
    )


def _list_of(test: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and all(map(test, value))


_TOLD: dict[str, tuple[Callable[[Any], bool], str]] = {
    **dict.fromkeys(("log_likelihood", "objective", "seconds"), (_number, "a number")),
    **dict.fromkeys(("distance", "dispersion"), (_number_or_none, "a number or nothing")),
    **dict.fromkeys(
        ("n_passes", "n_draws", "n_candidates", "sketch_rows"), (_whole, "a whole number")
    ),
    **dict.fromkeys(("converged", "verified"), (_flag, "true or false")),
    "starts": (_starts, "a row for each start, one of them the best"),
    "gap": (_gap, "its numbers or nothing"),
    "kurtosis": (
        lambda value: value is None or (_list_of(_number)(value) and len(value) > 0),
        "numbers or nothing",
    ),
    "errors_from": (_text, "text"),
    "warnings": (_list_of(_text), "a list of texts"),
    "settings": (lambda value: isinstance(value, dict), "the settings by name"),
}
