"""Journals: what the passes of a fit found, kept after each one.

A fit is a function of its data, its settings and the answers of its passes. So a checkpoint
is their journal: a fit that goes on asks again from the beginning, is given the answers that
are known, and comes to the same state by the same arithmetic, hence to the same bits. Long
computations of the driver are kept in it in the same way.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from typing import Any

from softmix_dist.blocks import RawBlock
from softmix_dist.codec import DamagedError, Encoded, decode, encode, from_bytes, same, to_bytes
from softmix_dist.data.place import Place
from softmix_dist.engine import Engine, Plan
from softmix_dist.engine.shards import Blocks, Kernel, Prepare, Source
from softmix_dist.errors import CheckpointWarning, InputError

MANIFEST = "checkpoint.json"
ENTRY = re.compile(r"\d{6}\.npz")
PARTS = {"request", "answer"}
REMEDY = "give another place for the checkpoint, or delete that one"
# Relative difference that another kind of processor explains, between sums over the same data.
_ROUNDED = 1e-11


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
                self.place.delete(name for name in entries(self.place) if name >= key)
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
            warn(
                f"{key} of the checkpoint {self.place.name!r} is damaged ({error}); what came "
                "before it is used, and the rest computed again"
            )
            raise LookupError from None

    def forget(self) -> None:
        """Delete the checkpoint."""
        delete(self.place)


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
                f"more: their sums are others; {REMEDY}"
            )
        if not same(found, known):
            warn(
                "sums over the data differ in their last bits from those of the checkpoint, "
                "as on another kind of processor: so will the result"
            )


def delete(place: Place) -> None:
    """Delete the checkpoint at a place, and nothing else."""
    # The manifest last: what is left of an interrupted deletion is a checkpoint still.
    place.delete(entries(place))
    place.delete([MANIFEST])


def entries(place: Place) -> list[str]:
    """Names of the answers that are kept at a place, in order."""
    names = place.keys()
    return [name for name in names if ENTRY.fullmatch(name)]


def warn(message: str) -> None:
    """Warn of a checkpoint, in the name of who opened or asked it."""
    warnings.warn(message, CheckpointWarning, stacklevel=4)
