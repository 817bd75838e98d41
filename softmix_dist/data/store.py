"""Zarr groups: open them with errors that name the place, create them whole or not at all."""

from __future__ import annotations

import os
import shutil
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.codecs import ZstdCodec

from softmix_dist.errors import SoftmixError, StoreError


def open_group(path: str | os.PathLike[str], what: str) -> zarr.Group:
    """Open a Zarr group for reading.

    Parameters
    ----------
    path : path
    what : str
        What it should be ("data set", "model"), for the message.

    Raises
    ------
    StoreError
        If there is no Zarr group at ``path``.
    """
    if "://" in str(path):
        raise StoreError(f"{str(path)!r} is an object store; this version reads local paths only")
    with suppress(Exception):
        # Absolute, for workers may run in other folders.
        return zarr.open_group(str(Path(path).resolve()), mode="r")
    # Raised outside of the handler: zarr's own errors do not survive pickling as a context.
    problem = "is not a Zarr group" if Path(path).exists() else "does not exist"
    raise StoreError(f"{what} {str(path)!r} {problem}; give the path of a {what}")


def check_target(path: str | os.PathLike[str], mark: str, overwrite: bool) -> None:
    """Raise `StoreError` unless a group of the kind ``mark`` may be written at ``path``."""
    if "://" in str(path):
        raise StoreError(f"{str(path)!r} is an object store; this version writes local paths only")
    target = Path(path)
    if not target.exists():
        return
    if not overwrite:
        raise StoreError(
            f"{str(path)!r} exists already; choose another path or overwrite it (--overwrite)"
        )
    there: Any = {}
    with suppress(Exception):
        there = zarr.open_group(str(path), mode="r").attrs
    if mark not in there:
        raise StoreError(
            f"{str(path)!r} is something else, not a Zarr group with the attribute {mark}, so it "
            "is not overwritten"
        )


@contextmanager
def new_group(
    path: str | os.PathLike[str], mark: str, overwrite: bool = False
) -> Iterator[zarr.Group]:
    """Create a Zarr group that appears at ``path`` only when it is complete.

    Written to a sibling that is renamed at the end, and removed after an error.

    Parameters
    ----------
    path : path
    mark : str
        Attribute that groups of this kind carry: only such a one is overwritten.
    overwrite : bool
        Replace what is there.

    Raises
    ------
    StoreError
        If something is at ``path`` already, or it cannot be written.
    """
    check_target(path, mark, overwrite)
    target = Path(path).resolve()
    partial = target.parent / f".{target.name}.{uuid.uuid4().hex[:8]}.partial"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        group = zarr.create_group(str(partial), zarr_format=3)
        yield group
        with warnings.catch_warnings():
            # Not in the Zarr v3 specification yet; xarray and zarr both read it.
            warnings.filterwarnings("ignore", message="Consolidated metadata")
            zarr.consolidate_metadata(str(partial))
        if target.exists():
            # Moved aside first: there is no moment with half of either.
            aside = partial.with_suffix(".replaced")
            target.rename(aside)
            partial.rename(target)
            shutil.rmtree(aside)
        else:
            partial.rename(target)
    except SoftmixError:
        raise
    except OSError as error:
        raise StoreError(f"cannot write {str(path)!r}: {error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def new_array(
    group: zarr.Group,
    name: str,
    shape: tuple[int, ...],
    dims: tuple[str, ...],
    dtype: Any,
    chunks: tuple[int, ...] | None = None,
    fill_value: Any = None,
) -> zarr.Array[Any]:
    """Create an array with named dimensions and a checksum over every chunk."""
    return group.create_array(
        name,
        shape=shape,
        dtype=dtype,
        chunks=tuple(max(1, size) for size in chunks or shape),
        fill_value=fill_value,
        compressors=ZstdCodec(level=1, checksum=True),
        dimension_names=dims,
    )


def put(group: zarr.Group, name: str, dims: tuple[str, ...], values: Any) -> None:
    """Store a small array or a list of strings in one chunk."""
    values = np.asarray(values)
    text = values.dtype.kind in "UOT"
    array = new_array(group, name, values.shape, dims, str if text else values.dtype)
    if values.size:
        array[...] = values.astype(object) if text else values


def read(array: zarr.Array[Any], selection: Any, rows: str) -> Any:
    """Read a part of an array.

    Raises
    ------
    StoreError
        If a chunk cannot be read or decoded; names the array and ``rows``.
    """
    try:
        return np.asarray(array[selection])
    except Exception as error:
        raise StoreError(
            f"{array.name.lstrip('/')}: the chunk of {rows} cannot be read ({error}); "
            "write it again"
        ) from error
