"""Checkpoints: what the passes of a fit found, kept after each one.

A fit is a function of its data, its settings and the answers of its passes. So a checkpoint
is their journal: a fit that goes on asks again from the beginning, is given the answers that
are known, and comes to the same state by the same arithmetic, hence to the same bits. Long
computations of the driver are kept in it in the same way.
"""

from __future__ import annotations

import json
import platform
import re
import warnings
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from softmix_dist import __version__
from softmix_dist.blocks import RawBlock
from softmix_dist.codec import DamagedError, Encoded, decode, encode, from_bytes, same, to_bytes
from softmix_dist.data.blockwise import Dataset
from softmix_dist.data.fingerprint import digest, fingerprint
from softmix_dist.data.place import Place
from softmix_dist.engine import Engine, Plan, blas_kernel
from softmix_dist.engine.shards import Blocks, Kernel, Prepare, Source
from softmix_dist.errors import CheckpointWarning, InputError
from softmix_dist.results import Settings
from softmix_dist.solve.starts import given_arrays

FORMAT = 1
MARK = "softmix_checkpoint"
_MANIFEST = "checkpoint.json"
_ENTRY = re.compile(r"\d{6}\.npz")
_PARTS = {"request", "answer"}
# Relative differences that another kind of processor explains: between what the same fit asks
# for after some iterations, and between sums over the same data.
_ALIKE, _ROUNDED = 1e-8, 1e-11
# More passes may be made by a fit that goes on.
_NOT_BINDING = ("max_passes",)
_REMEDY = "give another place for the checkpoint, or delete that one"


class Journal:
    """The answers that one fit was given, in order; made by `open_journal`.

    Attributes
    ----------
    seed : int
        Of the fit.
    n_known : int
        Answers that were there when it was opened.
    """

    def __init__(self, place: Place, seed: int, n_known: int, tolerance: float):
        self.place = place
        self.seed = seed
        self.n_known = n_known
        self._tolerance = tolerance
        self._number = 0
        self._replays = n_known > 0

    def recall(self, request: Any, compute: Callable[[], Any]) -> Any:
        """Answer a request: as it was answered before, or anew, which is then kept.

        Parameters
        ----------
        request : object
            That `codec.encode` takes.
        compute : callable

        Raises
        ------
        StoreError
            If the answer cannot be read or kept.
        """
        asked = encode(request)
        self._number += 1
        key = f"{self._number:06d}.npz"
        if self._replays:
            try:
                return self._known(key, asked)
            except LookupError:
                # From here on the fit takes another way, or its record ends.
                self._replays = False
                self.place.delete(name for name in _entries(self.place) if name >= key)
        answer = encode(compute())
        self.place.put(key, to_bytes({"request": asked, "answer": answer}))
        # The same arrays that a fit which goes on will be given, their memory order included.
        return decode(answer)

    def _known(self, key: str, asked: Encoded) -> Any:
        content = self.place.get(key)
        if content is None:
            raise LookupError
        try:
            entry = from_bytes(content)
            if not same(entry["request"], asked, self._tolerance):
                raise LookupError
            return decode(entry["answer"])
        except (DamagedError, KeyError) as error:
            _warn(
                f"{key} of the checkpoint {self.place.name!r} is damaged ({error}); what came "
                "before it is used, and the rest computed again"
            )
            raise LookupError from None

    def forget(self) -> None:
        """Delete the checkpoint."""
        _delete(self.place)


class Journalled:
    """An engine whose passes are kept in a journal, and not made again where they are known.

    Parameters
    ----------
    engine : Engine
    journal : Journal
    """

    def __init__(self, engine: Engine, journal: Journal):
        self._engine, self._journal = engine, journal
        self.bytes_read = 0
        self._compared = True

    def plan(self, source: Source, nbytes: int) -> Plan:
        """Decide how a data set would be held and read."""
        return self._engine.plan(source, nbytes)

    def load(self, source: Source, prepare: Prepare, nbytes: int) -> str:
        """Take the data for the passes to come; return how they are held, in words."""
        told = self._engine.load(source, prepare, nbytes)
        self.bytes_read, self._compared = self._engine.bytes_read, False
        return told

    def reduce(self, kernel: Kernel) -> Any:
        """Sum of a kernel over all blocks.

        Raises
        ------
        InputError
            If the data are not those that gave the first sum that is known.
        """
        made: list[Any] = []

        def compute() -> Any:
            made.append(self._engine.reduce(kernel))
            return made[0]

        answer = self._journal.recall(kernel, compute)
        # At once and whatever is known, for what is known may be all.
        if not (self._compared or made):
            self._compare(self._engine.reduce(kernel), answer)
        self._compared = True
        return answer

    def reduce_stored(self, source: Blocks, task: Callable[[Any], Any]) -> Any:
        """Sum of ``task`` over all stored blocks, read again."""
        return self._journal.recall(
            ("stored", task), lambda: self._engine.reduce_stored(source, task)
        )

    def visit(self, source: Source, task: Callable[[RawBlock], Any]) -> list[Any]:
        """Call ``task`` with every stored block; nothing of it is kept."""
        return self._engine.visit(source, task)

    def close(self) -> None:
        """Close the engine."""
        self._engine.close()

    def _compare(self, now: Any, then: Any) -> None:
        """Warn, or refuse, where sums over the data are not those of the journal."""
        found, known = encode(now), encode(then)
        if not same(found, known, _ROUNDED):
            raise InputError(
                f"the data are not those of the checkpoint {self._journal.place.name!r} any "
                f"more: their sums are others; {_REMEDY}"
            )
        if not same(found, known):
            _warn(
                "sums over the data differ in their last bits from those of the checkpoint, "
                "as on another kind of processor: so will the result"
            )


def open_journal(place: Place, dataset: Dataset, settings: Settings) -> Journal:
    """Go on with the checkpoint at a place, or begin one.

    Parameters
    ----------
    place : Place
    dataset : Dataset
    settings : Settings

    Returns
    -------
    Journal

    Raises
    ------
    InputError
        If the checkpoint is of another fit (the message says what differs), or the place holds
        something else.
    StoreError
        If the place cannot be read or written.

    Warns
    -----
    CheckpointWarning
        If it was written on another kind of processor or with other versions.
    """
    told = {
        "data": fingerprint(dataset),
        "settings": _plain(settings),
        "environment": _environment(),
    }
    content = place.get(_MANIFEST)
    if content is None:
        names = place.keys()
        if names and not _is_orphaned(place):
            raise InputError(f"{place.name!r} holds other files; give a folder of its own")
        if names:
            place.delete(names)
        seed = drawn_seed(settings.random_state)
        text = json.dumps({MARK: FORMAT, "seed": seed, **told}, indent=1)
        place.put(_MANIFEST, text.encode())
        return Journal(place, seed, 0, 0.0)
    manifest = _read_manifest(place, content)
    here = told["settings"]
    if settings.random_state is None:
        # No seed was asked for: the one that was drawn then is as good as any.
        here["random_state"] = manifest["settings"]["random_state"]
    differ = [
        f"{'' if part == 'settings' else 'data, '}{name}: {there!r} there, {found!r} here"
        for part in ("data", "settings")
        for name, there, found in _differences(manifest[part], told[part])
        if name not in _NOT_BINDING
    ]
    if differ:
        raise InputError(
            f"the checkpoint {place.name!r} is of another fit; {_REMEDY}:\n- " + "\n- ".join(differ)
        )
    other = _differences(manifest["environment"], told["environment"])
    if other:
        text = ", ".join(f"{name} {there} then, {found} now" for name, there, found in other)
        _warn(
            f"the checkpoint {place.name!r} was written elsewhere ({text}): the result may "
            "differ from an uninterrupted one in its last bits"
        )
    return Journal(place, manifest["seed"], len(_entries(place)), _ALIKE if other else 0.0)


def drawn_seed(random_state: int | None) -> int:
    """Return the seed that was asked for, or one drawn where none was."""
    if random_state is None:
        return int(np.random.default_rng().integers(2**63))
    return int(random_state)


def remove_checkpoint(place: Place) -> None:
    """Delete the checkpoint at a place, if there is one, and nothing else."""
    if place.get(_MANIFEST) is not None or _is_orphaned(place):
        _delete(place)


def _is_orphaned(place: Place) -> bool:
    """Whether there are passes alone: of a fit that went on when another deleted its checkpoint."""
    names = place.keys()
    try:
        return bool(names) and all(
            _ENTRY.fullmatch(name) and from_bytes(place.get(name) or b"").keys() == _PARTS
            for name in names
        )
    except DamagedError:
        return False


def _delete(place: Place) -> None:
    # The manifest last: what is left of an interrupted deletion is a checkpoint still.
    place.delete(_entries(place))
    place.delete([_MANIFEST])


def _entries(place: Place) -> list[str]:
    names = place.keys()
    return [name for name in names if _ENTRY.fullmatch(name)]


def _read_manifest(place: Place, content: bytes) -> dict[str, Any]:
    try:
        manifest: dict[str, Any] = json.loads(content)
        known = manifest[MARK] == FORMAT and type(manifest["seed"]) is int
        parts = all(isinstance(manifest[p], dict) for p in ("data", "settings", "environment"))
        # The seed is the one that was asked for, where one was.
        asked = (None, manifest["seed"])
        known = known and parts and manifest["settings"]["random_state"] in asked
        known = known and manifest["seed"] >= 0
    except (ValueError, KeyError, TypeError, RecursionError):
        known = False
    if not known:
        raise InputError(
            f"{_MANIFEST} in {place.name!r} is not that of a checkpoint that this version reads; "
            f"{_REMEDY}"
        )
    return manifest


def _differences(there: dict[str, Any], here: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    names = [*here, *(name for name in there if name not in here)]
    return [
        (name, there.get(name), here.get(name))
        for name in names
        if there.get(name) != here.get(name)
    ]


def _plain(settings: Settings) -> dict[str, Any]:
    """Return settings as JSON; a start that was given by its digest."""
    told = {k: v.item() if isinstance(v, np.generic) else v for k, v in asdict(settings).items()}
    if not isinstance(told["init"], str):
        told["init"] = "given " + digest(*given_arrays(told["init"]))
    return told


def _environment() -> dict[str, str]:
    packages = ("numpy", "scipy")
    return {
        "softmix-dist": __version__,
        **{name: version(name) for name in packages},
        "BLAS": blas_kernel(),
        "processor": _processor(),
    }


def _processor() -> str:
    """Name of the processor: where Linux tells it, else its architecture."""
    about = Path("/proc/cpuinfo")
    if about.is_file():
        for line in about.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()


def _warn(message: str) -> None:
    warnings.warn(message, CheckpointWarning, stacklevel=4)
