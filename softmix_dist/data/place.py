"""Places: a folder, or a prefix of an object store, that holds whole files under short names."""

from __future__ import annotations

import os
import shutil
import uuid
from pathlib import Path

from softmix_dist.errors import StoreError


class Place:
    """Where files are kept, each written whole or not at all.

    Parameters
    ----------
    path : path
        A folder, that need not exist yet.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.name = str(path)
        self._folder = Path(path)

    def get(self, key: str) -> bytes | None:
        """Return the bytes of a file, or None where there is none.

        Raises
        ------
        StoreError
            If it cannot be read.
        """
        try:
            return (self._folder / key).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StoreError(f"cannot read {key} in {self.name!r}: {error}") from error

    def put(self, key: str, content: bytes) -> None:
        """Write a file; readers see the old one or the new one, never a part.

        Raises
        ------
        StoreError
            If it cannot be written.
        """
        partial = self._folder / f".{key}.{uuid.uuid4().hex[:8]}.partial"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with partial.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(self._folder / key)
        except OSError as error:
            partial.unlink(missing_ok=True)
            raise StoreError(f"cannot write {key} in {self.name!r}: {error}") from error

    def keys(self) -> list[str]:
        """Names of the files, sorted; those left half-written by a process that died excluded."""
        if not self._folder.is_dir():
            return []
        return sorted(path.name for path in self._folder.iterdir() if path.name[0] != ".")

    def delete(self, key: str) -> None:
        """Delete one file, if it is there."""
        (self._folder / key).unlink(missing_ok=True)

    def remove(self) -> None:
        """Delete everything here, and the folder itself."""
        shutil.rmtree(self._folder, ignore_errors=True)
