"""Zarr groups: open them with errors that name the place, create them whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
import uuid
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.codecs import ZstdCodec

from softmix_dist.data.objects import (
    UrlStore,
    clear,
    is_empty,
    is_url,
    names_in,
    open_store,
    write_object,
)
from softmix_dist.errors import SoftmixError, StoreError

# On the root of a group below a URL while it is written: there is no rename there.
_INCOMPLETE = "softmix_incomplete"
_ROOT = "zarr.json"


class ChunkError(StoreError):
    """A chunk is there that cannot be read or decoded."""


def open_group(path: str | os.PathLike[str], what: str) -> zarr.Group:
    """Open a Zarr group for reading.

    Parameters
    ----------
    path : path
        Or the URL of an object store.
    what : str
        What it should be ("data set", "model"), for the message.

    Raises
    ------
    StoreError
        If there is no Zarr group at ``path``, or it is only half-written.
    """
    store = open_store(str(path), read_only=True) if is_url(path) else None
    group = _group_at(path, store)
    if group is not None and _INCOMPLETE not in group.attrs:
        return group
    # Raised outside of any handler: zarr's own errors do not survive pickling as a context.
    if group is not None:
        raise StoreError(f"{what} {str(path)!r} was left half-written; write it again")
    there = os.path.exists(path) if store is None else not is_empty(store)
    problem = "is not a Zarr group" if there else "does not exist"
    raise StoreError(f"{what} {str(path)!r} {problem}; give the path of a {what}")


def names_of(group: zarr.Group) -> list[str]:
    """Names of what is in a group; nothing of it is opened."""
    consolidated = group.metadata.consolidated_metadata
    names = consolidated.metadata if consolidated else names_in(group.store, group.path)
    # A file may say any name, ".." too, which would lead out of the group.
    return sorted(name for name in names if "/" not in name and name not in ("..", ".", _ROOT))


def member(group: zarr.Group, name: str) -> zarr.Array[Any] | zarr.Group | None:
    """Open an array or a group below a group; None where there is none.

    Raises
    ------
    StoreError
        If it cannot be opened, or reading it could run code.
    """
    # One at a time: where several of a group fail at once, asyncio prints those that nobody asks.
    found, problem = None, "its metadata are not those of Zarr"
    try:
        found = group.get(name)
    except SoftmixError:
        raise
    except Exception as error:
        problem = " ".join(f"{type(error).__name__}: {error}".split())[:200]
    if isinstance(found, zarr.Array):
        problem = refused_codecs(found)
        if not problem:
            return found
    elif found is not None or name not in names_of(group):
        return found
    raise StoreError(f"{name}: cannot be opened ({problem}); write it again")


def arrays_of(group: zarr.Group, names: Iterable[str]) -> dict[str, zarr.Array[Any]]:
    """Open those of some arrays that a group has; `StoreError` as of `member`."""
    found = ((name, member(group, name)) for name in names)
    return {name: array for name, array in found if isinstance(array, zarr.Array)}


def refused_codecs(array: zarr.Array[Any]) -> str:
    """Say which codecs of an array are none of Zarr's own, or unpickle; "" for none."""
    # Those of other packages may do anything, as unpickling may.
    refused = {
        type(codec).__name__
        for codec in _codecs(array.metadata)
        if type(codec).__module__.partition(".")[0] not in ("zarr", "numcodecs")
        or getattr(codec, "codec_id", "") == "pickle"
    }
    return f"its codec {', '.join(sorted(refused))} may run code" if refused else ""


def _codecs(what: Any) -> Iterator[Any]:
    """Yield the codecs of the metadata of an array, those within a codec for shards included."""
    compressor = getattr(what, "compressor", None)
    for name in ("codecs", "index_codecs", "filters"):
        for codec in getattr(what, name, None) or ():
            yield codec
            yield from _codecs(codec)
    if compressor is not None:
        yield compressor


def _group_at(path: str | os.PathLike[str], store: UrlStore | None) -> zarr.Group | None:
    try:
        # Absolute, for workers may run in other folders.
        return zarr.open_group(store or absolute(path), mode="r")
    except SoftmixError:
        raise
    except Exception:
        return None


def absolute(path: str | os.PathLike[str]) -> str:
    """Path from the root, or URL, by which other processes find what is there."""
    return str(path) if is_url(path) else str(Path(path).resolve())


def check_target(path: str | os.PathLike[str], mark: str, overwrite: bool) -> None:
    """Raise `StoreError` unless a group of the kind ``mark`` may be written at ``path``."""
    if is_url(path):
        store = open_store(str(path), read_only=True)
        if is_empty(store):
            return
    else:
        store = None
        # Not of `Path`, which has no answer for names that are too long.
        if not os.path.exists(path):
            return
    group = _group_at(path, store)
    there: Any = {} if group is None else group.attrs
    if _INCOMPLETE in there:
        # Of no use to anybody.
        return
    if not overwrite:
        raise StoreError(
            f"{str(path)!r} exists already; choose another path or overwrite it (--overwrite)"
        )
    if mark not in there:
        raise StoreError(
            f"{str(path)!r} is something else, not a Zarr group with the attribute {mark}, so it "
            "is not overwritten"
        )


@contextmanager
def new_group(
    path: str | os.PathLike[str], mark: str, overwrite: bool = False
) -> Iterator[zarr.Group]:
    """Create a Zarr group that can be opened at ``path`` only when it is complete.

    Written to a sibling that is renamed at the end, and removed after an error. Below a URL it is
    written in place, what was there before is deleted first, and until the end the root carries
    an attribute that says so; after an error only this root is left.

    Parameters
    ----------
    path : path
        Or the URL of an object store.
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
    create = _in_place(str(path)) if is_url(path) else _beside(path)
    with create as group:
        yield group


@contextmanager
def _beside(path: str | os.PathLike[str]) -> Iterator[zarr.Group]:
    target = Path(path).resolve()
    partial = target.parent / f".{target.name}.{uuid.uuid4().hex[:8]}.partial"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield zarr.create_group(str(partial), zarr_format=3)
        _consolidate(str(partial))
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


@contextmanager
def _in_place(url: str) -> Iterator[zarr.Group]:
    store, complete = open_store(url), False
    root = {"zarr_format": 3, "node_type": "group", "attributes": {_INCOMPLETE: True}}
    # The root first, in one write: at no moment does half of the old group look whole. Where it
    # fails, what is there stays.
    write_object(store, _ROOT, json.dumps(root).encode())
    try:
        clear(store, but=_ROOT)
        yield zarr.open_group(store, mode="r+", use_consolidated=False)
        whole = _consolidate(store)
        # The last write: it takes the mark away and leaves the consolidated metadata.
        del whole.attrs[_INCOMPLETE]
        complete = True
    finally:
        if not complete:
            # The mark stays: a worker that is not told yet may still write below it, and what
            # it writes would else be taken for somebody's data.
            with suppress(StoreError):
                clear(store, but=_ROOT)


def _consolidate(store: str | UrlStore) -> zarr.Group:
    with warnings.catch_warnings():
        # Not in the Zarr v3 specification yet; xarray and zarr both read it.
        warnings.filterwarnings("ignore", message="Consolidated metadata")
        return zarr.consolidate_metadata(store)


def place_of(group: zarr.Group) -> str:
    """Path or URL of a root group, by which `arrays_at` opens it in another process."""
    store: Any = group.store
    return store.url if isinstance(store, UrlStore) else str(store.root)


def arrays_at(place: str) -> dict[str, Any]:
    """Open the arrays of a group that is being written.

    Raises
    ------
    StoreError
        If it is not there, for processes do not share a disk.
    """
    store = open_store(place) if is_url(place) else place
    try:
        return dict(zarr.open_group(store, mode="r+", use_consolidated=False).arrays())
    except SoftmixError:
        raise
    except Exception:
        pass
    raise StoreError(f"a worker does not find {place!r}; give a path that all of them share")


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
    # As for features: what is lost is seen, and not taken for zeros.
    lost = np.nan if values.dtype.kind == "f" else None
    dtype = str if text else values.dtype
    array = new_array(group, name, values.shape, dims, dtype, fill_value=lost)
    if values.size:
        array[...] = values.astype(object) if text else values


def read(array: zarr.Array[Any], selection: Any, rows: str) -> Any:
    """Read a part of an array.

    Raises
    ------
    ChunkError
        If a chunk cannot be read or decoded; names the array and ``rows``.
    StoreError
        If the store itself fails.
    """
    try:
        return np.asarray(array[selection])
    except SoftmixError:
        raise
    except Exception as error:
        raise ChunkError(
            f"{array.name.lstrip('/')}: the chunk of {rows} cannot be read ({error}); "
            "write it again"
        ) from error
