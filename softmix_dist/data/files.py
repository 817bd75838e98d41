"""Files that are read from any place in them: on a disk, or below the URL of an object store."""

from __future__ import annotations

import glob
import io
import os
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, BinaryIO

from softmix_dist.data.objects import (
    UrlStore,
    is_url,
    keys_below,
    object_size,
    open_store,
    read_range,
)
from softmix_dist.errors import StoreError

# Bytes that are read at a time, at least, of what is read in order.
_BUFFER = 4 << 20


def list_files(path: str | os.PathLike[str], endings: Sequence[str]) -> list[str]:
    """Files at a path: itself, those below a folder, or those that a pattern matches.

    Parameters
    ----------
    path : path
        Or a URL: what is below it, unless it has one of the endings, or is a pattern.
    endings : sequence of str
        Of the files that are looked for in a folder, such as ".csv".

    Returns
    -------
    list of str
        Sorted, from the root, for a worker may be in another folder; what is named by itself
        is not looked for.
    """
    name, wanted = os.fspath(path), tuple(endings)
    if is_url(name):
        if glob.has_magic(name):
            return _matching(name)
        if name.lower().endswith(wanted):
            return [name]
        keys = keys_below(open_store(name, read_only=True))
        return [f"{name.rstrip('/')}/{key}" for key in keys if key.lower().endswith(wanted)]
    if os.path.isdir(name):
        found = sorted(Path(os.path.abspath(name)).rglob("*"))
        inside = (str(file) for file in found if file.is_file())
        return [file for file in inside if file.lower().endswith(wanted)]
    if not os.path.exists(name) and glob.has_magic(name):
        return sorted(map(os.path.abspath, glob.glob(name)))
    return [os.path.abspath(name)]


def _matching(url: str) -> list[str]:
    """Objects that a pattern matches, in which no part but a slash matches a slash."""
    parts = url.split("/")
    n_plain = next(i for i, part in enumerate(parts) if glob.has_magic(part))
    root, wanted = "/".join(parts[:n_plain]), parts[n_plain:]
    keys = keys_below(open_store(url, read_only=True, of=root))
    return [
        f"{root}/{key}"
        for key in keys
        if key.count("/") == len(wanted) - 1 and all(map(fnmatchcase, key.split("/"), wanted))
    ]


def open_file(path: str) -> BinaryIO:
    """Open a file for reading.

    Raises
    ------
    StoreError
        If it is not there, or may not be read.
    """
    if is_url(path):
        return io.BufferedReader(_Object(path), _BUFFER)
    try:
        return open(path, "rb")
    except OSError as error:
        problem = error.strerror
    raise StoreError(f"{path}: cannot be opened ({problem}); give the path of a file")


class _Object(io.RawIOBase):
    """One object of a store, as a file."""

    def __init__(self, url: str):
        root, self._key = url.rsplit("/", 1)
        self._store: UrlStore = open_store(url, read_only=True, of=root)
        size = object_size(self._store, self._key)
        if size is None:
            raise StoreError(f"{url!r} does not exist; give the URL of an object")
        self._size, self._place = size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._size}[whence]
        self._place = max(0, base + offset)
        return self._place

    def readinto(self, buffer: Any) -> int:
        stop = min(self._place + len(buffer), self._size)
        if stop <= self._place:
            return 0
        content = read_range(self._store, self._key, self._place, stop)
        buffer[: len(content)] = content
        self._place += len(content)
        return len(content)
