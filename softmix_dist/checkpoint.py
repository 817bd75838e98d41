"""Checkpoints: journals of fits, and which fit one is of."""

from __future__ import annotations

import json
import platform
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from softmix_dist import __version__
from softmix_dist.codec import DamagedError, from_bytes
from softmix_dist.data.blockwise import Dataset
from softmix_dist.data.fingerprint import digest, fingerprint
from softmix_dist.data.place import Place
from softmix_dist.engine import blas_kernel
from softmix_dist.errors import InputError
from softmix_dist.journal import ENTRY, MANIFEST, PARTS, REMEDY, Journal, delete, entries, warn
from softmix_dist.results import Settings
from softmix_dist.solve.starts import given_arrays

FORMAT = 1
MARK = "softmix_checkpoint"
# Relative difference that another kind of processor explains, between what the same fit asks for
# after some iterations.
_ALIKE = 1e-8
# More passes may be made by a fit that goes on.
_NOT_BINDING = ("max_passes",)


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
    content = place.get(MANIFEST)
    if content is None:
        names = place.keys()
        if names and not _is_orphaned(place):
            raise InputError(f"{place.name!r} holds other files; give a folder of its own")
        if names:
            place.delete(names)
        seed = settings.drawn_seed()
        text = json.dumps({MARK: FORMAT, "seed": seed, **told}, indent=1)
        place.put(MANIFEST, text.encode())
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
            f"the checkpoint {place.name!r} is of another fit; {REMEDY}:\n- " + "\n- ".join(differ)
        )
    other = _differences(manifest["environment"], told["environment"])
    if other:
        text = ", ".join(f"{name} {there} then, {found} now" for name, there, found in other)
        warn(
            f"the checkpoint {place.name!r} was written elsewhere ({text}): the result may "
            "differ from an uninterrupted one in its last bits"
        )
    return Journal(place, manifest["seed"], len(entries(place)), _ALIKE if other else 0.0)


def remove_checkpoint(place: Place) -> None:
    """Delete the checkpoint at a place, if there is one, and nothing else."""
    if place.get(MANIFEST) is not None or _is_orphaned(place):
        delete(place)


def _is_orphaned(place: Place) -> bool:
    """Whether there are passes alone: of a fit that went on when another deleted its checkpoint."""
    names = place.keys()
    try:
        return bool(names) and all(
            ENTRY.fullmatch(name) and from_bytes(place.get(name) or b"").keys() == PARTS
            for name in names
        )
    except DamagedError:
        return False


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
            f"{MANIFEST} in {place.name!r} is not that of a checkpoint that this version reads; "
            f"{REMEDY}"
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
