"""Fitted models on disk: a Zarr group that xarray opens."""

from __future__ import annotations

import os
from typing import Any

import zarr

from softmix_dist.data.store import new_group, open_group, put, read
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
    members = dict(group.arrays())
    missing = sorted(set(_ARRAYS) - set(members))
    if missing:
        raise InputError(f"{str(path)!r} lacks the arrays {missing}; write the model again")
    known = [*_ARRAYS, *(name for name in _OPTIONAL if name in members)]
    arrays: dict[str, Any] = {name: read(members[name], ..., "it") for name in known}
    table = group.get("history")
    columns = {
        name: read(array, ..., "it").tolist()
        for name, array in (table.arrays() if isinstance(table, zarr.Group) else ())
    }
    history = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    return arrays, history, dict(group.attrs)
