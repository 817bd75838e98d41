"""Object stores: ``s3://``, ``gs://`` and ``az://`` through obstore, other URLs through fsspec.

Credentials come from the environment of each process. They are in no URL, and a store never
pickles, so that they do not travel.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from datetime import timedelta
from importlib import import_module
from importlib.util import find_spec
from typing import Any, TypeVar
from urllib.parse import urlsplit

from zarr.abc.store import RangeByteRequest, Store
from zarr.core.buffer import Buffer, default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import FsspecStore, ObjectStore, WrapperStore

from softmix_dist.data.store_errors import CREDENTIALS, store_error, without_place
from softmix_dist.errors import SoftmixError, StoreError, StoreUnavailableError

T = TypeVar("T")

# An endpoint that is down is given up after half a minute, whatever it does: refuse, fail, or
# say nothing. A slow link has two minutes a chunk, and so has an endpoint that drips; four where
# an answer broke off within the first two.
_TOTAL = 120.0
_CLIENT: dict[str, Any] = {"connect_timeout": "5s", "read_timeout": "10s", "timeout": f"{_TOTAL}s"}
RETRY: dict[str, Any] = {
    "max_retries": 12,
    "retry_timeout": timedelta(seconds=20),
    "backoff": {
        "init_backoff": timedelta(milliseconds=500),
        "max_backoff": timedelta(seconds=5),
        "base": 3,
    },
}
# For the fallback through s3fs, which tries again by itself.
_FSSPEC: dict[str, Any] = {
    "s3": {
        "config_kwargs": {
            "connect_timeout": 5,
            "read_timeout": 10,
            "retries": {"max_attempts": 1},
        }
    }
}
_ENDPOINTS = {
    "s3": ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"),
    "az": ("AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT"),
}
# Seconds before each further try where an answer broke off, and how obstore says that it tried.
_PAUSES = 0.2, 1.0, 3.0
_ASKED = re.compile(r"after \d+ retries")
# Objects deleted at a time.
_AT_ONCE = 32


def is_url(path: str | os.PathLike[str]) -> bool:
    """Whether a path is the URL of an object store, or was one before `pathlib` took a slash."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*://|(s3|gs|az):/", str(path)) is not None


def open_store(url: str, read_only: bool = False, of: str | None = None) -> UrlStore:
    """Open the store below a URL; nothing is asked of it yet.

    Parameters
    ----------
    url : str
        Scheme, bucket and path.
    read_only : bool
    of : str, optional
        Its root, where that is above the URL.

    Raises
    ------
    StoreError
        If the URL holds more or less than that, or nothing that is installed reads it.
    """
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise StoreError(f"this is not the URL of an object store: {error}") from None
    scheme = parts.scheme
    # A secret key may hold slashes, so that the rest of it is taken for a path.
    user = "@" in parts.netloc or (":" in parts.netloc and "@" in url)
    if user or parts.query or parts.fragment:
        # Nothing of it is repeated: any part may be secret.
        raise StoreError(
            f"a {scheme}:// URL holds a user, a password or parameters; give scheme, bucket and "
            "path alone, and credentials in the environment"
        )
    if not parts.netloc or not parts.path.strip("/"):
        raise StoreError(f"{url!r} lacks a bucket or a path; give {scheme}://bucket/path")
    url = url.rstrip("/")
    direct = scheme in CREDENTIALS and find_spec("obstore")
    try:
        opened = _object_store if direct else _fsspec_store
        return UrlStore(opened(of or url, scheme, read_only), url)
    except SoftmixError:
        raise
    except Exception as error:
        problem = store_error(error, url)
    raise problem


def _object_store(url: str, scheme: str, read_only: bool) -> Store:
    obstore: Any = import_module("obstore.store")
    endpoints = [os.environ[name] for name in _ENDPOINTS.get(scheme, ()) if name in os.environ]
    plain = bool(endpoints) and endpoints[0].startswith("http://")
    more = {"endpoint": endpoints[0]} if scheme == "s3" and endpoints else {}
    options = {**_CLIENT, "allow_http": plain}
    store = obstore.from_url(url, client_options=options, retry_config=RETRY, **more)
    return ObjectStore(store, read_only=read_only)


def _fsspec_store(url: str, scheme: str, read_only: bool) -> Store:
    remedy = "install softmix-dist[stores]"
    if scheme not in CREDENTIALS:
        remedy = "s3://, gs:// and az:// are, and what fsspec has a package for"
    if find_spec("fsspec") is None:
        raise StoreError(f"{scheme}:// is not read by what is installed here; {remedy}")
    try:
        return FsspecStore.from_url(url, _FSSPEC.get(scheme), read_only)
    except (ImportError, ValueError):
        # Raised below: no protocol of this name, or its package is not there.
        pass
    raise StoreError(f"{scheme}:// is not read by what is installed here; {remedy}")


class UrlStore(WrapperStore[Store]):
    """A store whose failures become one `StoreError` that names the URL; it never pickles.

    Parameters
    ----------
    store : zarr.abc.store.Store
    url : str
    """

    def __init__(self, store: Store, url: str):
        super().__init__(store)
        self.url = url

    def _with_store(self, store: Store) -> UrlStore:
        return UrlStore(store, self.url)

    def __reduce__(self) -> Any:
        raise TypeError("a store is opened again where it is needed: its credentials do not travel")

    def __str__(self) -> str:
        return self.url

    def __repr__(self) -> str:
        return f"UrlStore({self.url!r})"

    async def _ask(self, question: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Ask the store, and again where an answer broke off: obstore does so at its beginning."""
        began = time.monotonic()
        for pause in (*_PAUSES, None):
            try:
                return await question()
            except SoftmixError:
                raise
            except Exception as error:
                problem = store_error(error, self.url)
                again = isinstance(problem, StoreUnavailableError) and not _ASKED.search(
                    without_place(str(error), self.url)
                )
            if pause is None or not again or time.monotonic() - began >= _TOTAL:
                break
            await asyncio.sleep(pause * random.uniform(0.5, 1.5))
        # Raised outside of the handler: see `store_error`.
        raise problem

    async def get(self, key: str, prototype: Any, byte_range: Any = None) -> Buffer | None:
        """Read one object."""
        return await self._ask(lambda: self._store.get(key, prototype, byte_range))

    async def get_partial_values(self, prototype: Any, key_ranges: Any) -> Any:
        """Read parts of objects."""
        ranges = tuple(key_ranges)
        return await self._ask(lambda: self._store.get_partial_values(prototype, ranges))

    async def _get_many(self, requests: Any) -> AsyncIterator[tuple[str, Buffer | None]]:  # type: ignore[override]
        for request in requests:
            yield request[0], await self.get(*request)

    async def getsize(self, key: str) -> int:
        """Bytes of one object."""
        return await self._ask(lambda: self._store.getsize(key))

    async def exists(self, key: str) -> bool:
        """Whether there is such an object."""
        return await self._ask(lambda: self._store.exists(key))

    async def is_empty(self, prefix: str) -> bool:
        """Whether there is no object below a prefix."""
        return await self._ask(lambda: self._store.is_empty(prefix))

    async def set(self, key: str, value: Buffer) -> None:
        """Write one object."""
        await self._ask(lambda: self._store.set(key, value))

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        """Write one object where there is none."""
        await self._ask(lambda: self._store.set_if_not_exists(key, value))

    async def _set_many(self, values: Iterable[tuple[str, Buffer]]) -> None:
        await asyncio.gather(*(self.set(*value) for value in values))

    async def delete(self, key: str) -> None:
        """Delete one object, where it is there."""
        await self._ask(lambda: self._store.delete(key))

    async def delete_dir(self, prefix: str) -> None:
        """Delete what is below a prefix."""
        await self._ask(lambda: self._store.delete_dir(prefix))

    async def list(self) -> AsyncIterator[str]:
        """List all keys."""
        for key in await self._ask(lambda: _all(self._store.list())):
            yield key

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        """List the keys that begin so."""
        for key in await self._ask(lambda: _all(self._store.list_prefix(prefix))):
            yield key

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """List the names right below a prefix."""
        for key in await self._ask(lambda: _all(self._store.list_dir(prefix))):
            yield key


async def _all(keys: AsyncIterator[str]) -> list[str]:
    return [key async for key in keys]


def read_object(store: UrlStore, key: str) -> bytes | None:
    """Read one object; None where there is none."""
    found = _wait(store.get(key, default_buffer_prototype()))
    return None if found is None else found.to_bytes()


def object_size(store: UrlStore, key: str) -> int | None:
    """Bytes of one object; None where there is none."""
    return _wait(store.getsize(key)) if _wait(store.exists(key)) else None


def read_range(store: UrlStore, key: str, start: int, stop: int) -> bytes:
    """Read some bytes of one object."""
    found = _wait(store.get(key, default_buffer_prototype(), RangeByteRequest(start, stop)))
    if found is None:
        raise StoreError(f"{store.url!r} is gone while it was read")
    return found.to_bytes()


def keys_below(store: UrlStore) -> list[str]:
    """Names of all objects, sorted."""
    return sorted(_wait(_all(store.list())))


def names_in(store: Store, prefix: str = "") -> list[str]:
    """Names of what is right below a prefix, sorted."""
    return sorted(_wait(_all(store.list_dir(prefix))))


def write_object(store: UrlStore, key: str, content: bytes) -> None:
    """Write one object: readers see the old one or the new one."""
    _wait(store.set(key, default_buffer_prototype().buffer.from_bytes(content)))


def delete_object(store: UrlStore, key: str) -> None:
    """Delete one object, where it is there."""
    _wait(store.delete(key))


def is_empty(store: UrlStore) -> bool:
    """Whether there is nothing at all; a bucket that is missing is an error."""
    return _wait(store.is_empty(""))


def clear(store: UrlStore, but: str) -> None:
    """Delete all objects but one."""

    async def delete() -> None:
        keys = [key for key in await _all(store.list()) if key != but]
        for i in range(0, len(keys), _AT_ONCE):
            await asyncio.gather(*map(store.delete, keys[i : i + _AT_ONCE]))

    _wait(delete())


def _wait(answer: Coroutine[Any, Any, T]) -> T:
    # On Zarr's own loop: the caller's may be running, and fsspec's clients belong to one.
    return sync(answer)
