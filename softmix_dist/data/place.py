"""Places: a folder, or a prefix of an object store, that holds whole files under short names."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from softmix_dist.data.objects import (
    delete_object,
    is_url,
    names_in,
    open_store,
    read_object,
    write_object,
)
from softmix_dist.errors import StoreError


class Place(Protocol):
    """Where files are kept, each written whole or not at all.

    Attributes
    ----------
    name : str
        What people call it: a path or a URL.
    """

    name: str

    def get(self, key: str) -> bytes | None:
        """Return the bytes of a file, or None where there is none; `StoreError` on failure."""
        ...

    def put(self, key: str, content: bytes) -> None:
        """Write a file; readers see the old one or the new one; `StoreError` on failure."""
        ...

    def keys(self) -> list[str]:
        """Names of the files, sorted, those left half-written by a dead process excluded."""
        ...

    def delete(self, keys: Iterable[str]) -> None:
        """Delete files, where they are there, and the place once it is empty; `StoreError`."""
        ...


def place_at(path: str | os.PathLike[str]) -> Place:
    """Return the place at a path.

    Parameters
    ----------
    path : path
        A folder, that need not exist yet, or the URL of an object store.

    Raises
    ------
    StoreError
        If it is a URL that cannot be used.
    """
    return ObjectPlace(str(path)) if is_url(path) else Folder(path)


class Folder:
    """A place on a file system."""

    def __init__(self, path: str | os.PathLike[str]):
        self.name = str(path)
        self._folder = Path(path)

    def get(self, key: str) -> bytes | None:
        """Return the bytes of a file, or None where there is none."""
        try:
            return (self._folder / key).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StoreError(f"cannot read {key} in {self.name!r}: {error}") from error

    def put(self, key: str, content: bytes) -> None:
        """Write a file; readers see the old one or the new one, never a part."""
        partial = self._folder / f".{key}.{uuid.uuid4().hex[:8]}.partial"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with partial.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(self._folder / key)
        except OSError as error:
            with suppress(OSError):
                partial.unlink()
            raise StoreError(f"cannot write {key} in {self.name!r}: {error}") from error

    def keys(self) -> list[str]:
        """Names of the files, sorted, those left half-written by a dead process excluded."""
        try:
            return sorted(path.name for path in self._folder.iterdir() if path.name[0] != ".")
        except FileNotFoundError:
            return []
        except OSError as error:
            raise StoreError(f"cannot list {self.name!r}: {error}") from error

    def delete(self, keys: Iterable[str]) -> None:
        """Delete files, where they are there, and the folder itself once it is empty."""
        half_written = (path.name for path in self._folder.glob(".*.partial"))
        for key in (*keys, *half_written):
            try:
                (self._folder / key).unlink(missing_ok=True)
            except OSError as error:
                raise StoreError(f"cannot delete {key} in {self.name!r}: {error}") from error
        with suppress(OSError):
            self._folder.rmdir()


class ObjectPlace:
    """A place below a URL: files are objects.

    Parameters
    ----------
    url : str

    Raises
    ------
    StoreError
        If the URL cannot be used.
    """

    def __init__(self, url: str):
        self.name = url
        self._store = open_store(url)

    def get(self, key: str) -> bytes | None:
        """Return the bytes of a file, or None where there is none."""
        return read_object(self._store, key)

    def put(self, key: str, content: bytes) -> None:
        """Write a file; readers see the old one or the new one, never a part."""
        write_object(self._store, key, content)

    def keys(self) -> list[str]:
        """Names of the files, sorted."""
        return names_in(self._store)

    def delete(self, keys: Iterable[str]) -> None:
        """Delete files, where they are there."""
        for key in keys:
            delete_object(self._store, key)
