"""Ways to spoil valid files at random: bytes, JSON, arrays of Zarr groups, archives of NumPy."""

from __future__ import annotations

import copy
import io
import json
import shutil
import tokenize
import zipfile
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import zarr

# What stands in a file where something else was meant.
NONSENSE: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 3, 7, 16, 2**31, 2**63, 2**64, 10**30, 1.5, -0.0, 1e308,
    float("nan"), float("inf"), "", "x", "features", "counts", "..", "../../../evil", "/evil",
    "\x00", "é𝔘\ud7ff", "<script>", "a" * 3000, [], [[]], {}, [0], [1], [-1], [2**40], [3, 60],
    [60, 3], {"name": "x"}, {"name": "bytes"}, "float64", "float16", "int8", "uint64", "complex128",
    "string", "object", "|O", "pickle", "numcodecs.pickle", "NaN", "Infinity", "0x7fc00000",
    "array", "group",
)  # fmt: skip
DTYPES = (
    "float16", "float32", "float64", ">f8", "int8", "int64", ">i4", "uint8", "uint64", "bool",
    "complex128", "U5", "S3", "datetime64[s]",
)  # fmt: skip


def garbled(random: Random, content: bytes) -> bytes:
    """Bytes with some flipped, lost, doubled, or replaced."""
    how = random.randrange(8)
    if how == 0:
        return content[: random.randrange(len(content) + 1)]
    if how == 1:
        return b""
    if how == 2:
        return random.randbytes(random.randrange(1, 200))
    found = bytearray(content) or bytearray(b"\0")
    if how == 3:
        found += random.randbytes(random.randrange(1, 40))
    elif how == 4:
        start, stop = sorted(random.randrange(len(found) + 1) for _ in range(2))
        found[start:stop] = found[start:stop] * 2 if random.random() < 0.5 else b""
    else:
        for _ in range(random.randrange(1, 9)):
            found[random.randrange(len(found))] = random.randrange(256)
    return bytes(found)


def slots(tree: Any) -> list[tuple[Any, Any]]:
    """Every place of a tree of JSON that holds something: its container and its key."""
    keys: Any = ()
    if isinstance(tree, dict):
        keys = tree
    elif isinstance(tree, list):
        keys = range(len(tree))
    found = []
    for key in keys:
        found.append((tree, key))
        found += slots(tree[key])
    return found


def spoil_tree(random: Random, tree: Any) -> Any:
    """Return a tree with one to three places replaced, removed, renamed, moved or altered."""
    tree = copy.deepcopy(tree)
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        places = slots(tree)
        if not places or random.random() < 0.02:
            tree = copy.deepcopy(random.choice(NONSENSE))
            continue
        container, key = random.choice(places)
        value = container[key]
        how = random.randrange(7)
        if how <= 2:
            container[key] = copy.deepcopy(random.choice(NONSENSE))
        elif how == 3:
            del container[key]
        elif how == 4:
            other, there = random.choice(places)
            if there in other if isinstance(other, dict) else there < len(other):
                container[key] = copy.deepcopy(other[there])
        elif how == 5 and isinstance(container, dict):
            container[random.choice(("x", "name", "..", f"{key}x", ""))] = container.pop(key)
        elif isinstance(value, bool) or not isinstance(value, int | float):
            container[key] = [value] if random.random() < 0.5 else f"{value}"[::-1]
        else:
            container[key] = random.choice((value + 1, value - 1, -value, 2 * value, value / 3))
    return tree


def spoil_json(random: Random, path: Path) -> None:
    """Spoil a file of JSON, which mostly stays JSON."""
    if random.random() < 0.05:
        path.write_text(random.choice(("[" * 9000, "{}", "null", '{"a": 1, "a": 2}', "\ufeff{}")))
        return
    tree = spoil_tree(random, json.loads(path.read_text()))
    path.write_text(json.dumps(tree, ensure_ascii=random.random() < 0.5), errors="replace")


def spoil_files(random: Random, root: Path) -> None:
    """Spoil the bytes of some files of a folder, or lose, rename, or exchange them."""
    files = sorted(path for path in root.rglob("*") if path.is_file())
    for _ in range(random.choice((1, 1, 2, 4))):
        path, other = random.choice(files), random.choice(files)
        if not (path.is_file() and other.is_file()):
            continue
        how = random.randrange(8)
        if how == 0:
            path.unlink()
        elif how == 1 and path != other:
            shutil.copy(other, path)
        elif how == 2:
            content = path.read_bytes()
            path.unlink()
            path.mkdir()
            (path / "0").write_bytes(content)
        else:
            path.write_bytes(garbled(random, path.read_bytes()))


def spoil_metadata(random: Random, root: Path) -> None:
    """Spoil the JSON of a Zarr group; often without its consolidated copy, which hides the rest."""
    if random.random() < 0.6:
        forget_consolidated(root)
    spoil_json(random, random.choice(sorted(root.rglob("zarr.json"))))


def forget_consolidated(root: Path) -> None:
    """Take the consolidated metadata of a group away."""
    text = json.loads((root / "zarr.json").read_text())
    text.pop("consolidated_metadata", None)
    (root / "zarr.json").write_text(json.dumps(text))


def spoil_attributes(random: Random, root: Path) -> None:
    """Spoil the attributes of a root group, which stays one."""
    text = json.loads((root / "zarr.json").read_text())
    text["attributes"] = spoil_tree(random, text["attributes"])
    if not isinstance(text["attributes"], dict):
        text["attributes"] = {}
    (root / "zarr.json").write_text(json.dumps(text))


def spoil_arrays(random: Random, root: Path) -> None:
    """Lose, rename, add or replace members of a Zarr group, by others that are valid as such."""
    forget_consolidated(root)
    rng = np.random.default_rng(random.randrange(2**32))
    for _ in range(random.choice((1, 1, 2, 3))):
        names = sorted(path.parent.relative_to(root) for path in root.rglob("zarr.json"))
        names = [name for name in names if name.parts]
        if not names:
            return
        name = random.choice(names)
        how = random.randrange(7)
        if how == 0:
            shutil.rmtree(root / name)
        elif how == 1:
            renamed = root / f"{name}{random.choice(('x', 's', ' ', '.', '-é'))}"
            if not renamed.exists():
                (root / name).rename(renamed)
        elif how == 2:
            other = random.choice(names)
            if name not in (other, *other.parents) and other not in name.parents:
                shutil.rmtree(root / name)
                shutil.copytree(root / other, root / name)
        elif how == 3:
            shutil.rmtree(root / name)
            zarr.create_group(str(root / name), zarr_format=random.choice((2, 3)))
        else:
            shutil.rmtree(root / name)
            _random_array(random, rng, root / name)


def _random_array(random: Random, rng: np.random.Generator, path: Path) -> None:
    sizes = (0, 1, 2, 3, 4, 16, 59, 60, 61)
    shape = random.choice(((60, 3), (60,), (2, 60), (3,), (2,), (2, 3), ()))
    if random.random() < 0.5:
        shape = tuple(random.choice(sizes) for _ in range(random.randrange(4)))
    dtype = random.choice(DTYPES)
    with np.errstate(all="ignore"):
        values = rng.normal(0, random.choice((0.0, 1.0, 3.0, 1e5, 1e300)), shape)
        values = np.abs(values) if random.random() < 0.5 else values
        if random.random() < 0.2:
            values = np.where(rng.random(shape) < 0.1, random.choice((np.nan, np.inf)), values)
        text = dtype == "U5"
        values = np.asarray(values).astype("int64" if dtype.startswith("datetime") else float)
        values = values.astype(dtype)
    array = zarr.create_array(
        str(path),
        shape=shape,
        dtype=str if text and random.random() < 0.7 else values.dtype,
        chunks=tuple(max(1, min(size, random.choice((1, 16, 64)))) for size in shape),
        dimension_names=[random.choice(("candidate", "feature", "x", None)) for _ in shape],
        zarr_format=3,
        fill_value=None,
    )
    if values.size:
        array[...] = values.astype(object) if array.dtype == object else values


def spoil_archive(random: Random, content: bytes) -> bytes:
    """Spoil the members of an archive of NumPy, which stays one with right checksums."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    for _ in range(random.choice((1, 1, 2))):
        if not members:
            break
        name = random.choice(sorted(members))
        how = random.randrange(6)
        if how == 0:
            del members[name]
        elif how == 1:
            renamed = random.choice(("x.npy", "../evil.npy", "/evil.npy", "answer.99.npy", " "))
            members[renamed] = members.pop(name)
        elif how == 2:
            members[name] = members[random.choice(sorted(members))]
        elif how == 3:
            members[name] = garbled(random, members[name])
        else:
            members[name] = _other_member(random, name, members[name])
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, part in members.items():
            archive.writestr(name, part)
    return buffer.getvalue()


def _other_member(random: Random, name: str, content: bytes) -> bytes:
    changes: tuple[Callable[[Any], Any], ...] = (
        np.ravel, np.transpose, np.atleast_2d, lambda a: a[:1], lambda a: a.astype(str),
        lambda a: a.astype(complex), lambda a: a * np.nan, lambda a: -a, lambda a: a * 1e200,
        lambda a: a.astype("float16"), np.zeros_like, lambda a: np.concatenate([a, a]),
    )  # fmt: skip
    buffer = io.BytesIO()
    try:
        values = np.load(io.BytesIO(content), allow_pickle=False)
        if "." not in name.removesuffix(".npy"):
            text = json.dumps(spoil_tree(random, json.loads(values.tobytes())))
            values = np.frombuffer(text.encode(errors="replace"), np.uint8)
        else:
            with np.errstate(all="ignore"):
                values = random.choice(changes)(values)
        np.save(buffer, values)
    except (ValueError, TypeError, IndexError, EOFError, tokenize.TokenError):
        # Spoilt before, or no change for such an array.
        return garbled(random, content)
    return buffer.getvalue()
