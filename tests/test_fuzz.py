"""Fuzzing: spoilt files and command lines end as documented, at once, and touch nothing else.

Each case is a function of its kind and its number. In the default suite some hundreds are run,
with ``pytest -m slow tests/test_fuzz.py`` more than 20 000: ``-s`` shows how they ended.
"""

from __future__ import annotations

import json
import shutil
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import click
import distributed
import matplotlib
import numpy as np
import pytest
import zarr
from click.testing import CliRunner
from mutations import (
    NONSENSE,
    garbled,
    spoil_archive,
    spoil_arrays,
    spoil_attributes,
    spoil_files,
    spoil_json,
    spoil_metadata,
    spoil_tree,
)
from problems import signature
from scipy.sparse import csc_array
from watched import outcome, tree

from softmix_dist import SoftmaxMixture
from softmix_dist.cli import main
from softmix_dist.codec import DamagedError, Encoded, decode, encode, from_bytes, to_bytes
from softmix_dist.data.dataset import open_dataset
from softmix_dist.data.memory import ArrayDataset
from softmix_dist.data.predictions import read_responsibilities
from softmix_dist.data.writer import write_dataset
from softmix_dist.engine import LocalEngine
from softmix_dist.model import Mixture
from softmix_dist.sums import ScoreSums
from softmix_dist.survey import describe

ROWS, FEATURES = 60, 3
# Settings with which a fit is a matter of milliseconds.
FAST: dict[str, Any] = {
    "init": "random", "n_init": 1, "max_passes": 6, "solver": "em", "standard_errors": "none",
}  # fmt: skip
SHORT = ("--init", "random", "--n-init", 1, "--max-passes", 4, "-q")
CODES = (0, 2, 65, 70, 75)


class Valid:
    """Valid files of each kind below a folder, to be copied and spoilt."""

    def __init__(self, root: Path):
        self.root = root
        rng = np.random.default_rng(0)
        self.features = rng.standard_normal((ROWS, FEATURES)).astype(np.float32)
        counts = rng.integers(0, 50, (2, ROWS)).astype(np.uint32)
        names = {
            "feature_names": ["price", "size", "age"],
            "candidate_labels": [f"item {i}" for i in range(ROWS)],
            "block_rows": 16,
        }
        base = rng.standard_normal(ROWS)
        write_dataset(root / "dense.zarr", self.features, counts[0], log_base=base, **names)
        truth = zarr.open_group(root / "dense.zarr", mode="r+", use_consolidated=False)
        truth.create_array("truth/weights", data=np.array([0.4, 0.6]))
        truth.create_array("truth/atoms", data=rng.standard_normal((2, FEATURES)))
        write_dataset(
            root / "samples.zarr", self.features, counts, sample_names=["a", "b"], **names
        )
        write_dataset(root / "sparse.zarr", self.features, counts[0], **names)
        shutil.rmtree(root / "sparse.zarr/counts")
        group = zarr.open_group(root / "sparse.zarr", mode="r+", use_consolidated=False)
        group.attrs["n_draws"] = int(counts.sum())
        sparse = csc_array(counts)
        inner = group.create_group("counts")
        inner.attrs.update({"encoding-type": "csc_matrix", "shape": list(sparse.shape)})
        for name in ("data", "indices", "indptr"):
            inner.create_array(name, data=getattr(sparse, name), chunks=(32,))
        self.data = [root / f"{name}.zarr" for name in ("dense", "samples", "sparse")]
        self.model = root / "model.zarr"
        fitted = SoftmaxMixture(2, sketch_rows=100, n_init=1, max_passes=30)
        fitted.fit(self.data[0], n_threads=1).save(self.model)
        self.predictions = root / "predictions.zarr"
        fitted.predict(self.data[0], self.predictions, n_threads=1)
        self.checkpoint = root / "checkpoint"
        self.result = self.fit(self.checkpoint)

    def fit(self, checkpoint: Path) -> Any:
        model = SoftmaxMixture(2, **FAST)
        return model.fit(self.data[0], n_threads=1, checkpoint=checkpoint).result_


@pytest.fixture(scope="module")
def valid(tmp_path_factory: pytest.TempPathFactory) -> Valid:
    # Its first import makes folders.
    matplotlib.get_configdir()
    matplotlib.get_cachedir()
    with warnings.catch_warnings():
        # That few passes were not enough.
        warnings.simplefilter("ignore")
        return Valid(tmp_path_factory.mktemp("valid"))


# ------------------------------------------------------------------ what is done with each kind


def use_data(random: Random, path: Path, valid: Valid, given: Path) -> Any:
    """Open a data set, look at it, and fit, describe or predict it."""
    how = random.randrange(10)
    if how == 0:
        arguments = random.choice(
            (
                ("check", path),
                ("fit", path, "-k", 2, "--init", "truth", "--max-passes", 3, "-q"),
                ("fit", path, "-k", 1, *SHORT, "-o", given / "new.zarr"),
                ("fit", path, "-k", 2, "--plan"),
                ("predict", valid.model, path, "-o", given / "new.zarr"),
                ("simulate", path, "--candidates", 9, "--features", 1, "--components", 1)
                + ("--draws", 9, "--overwrite"),
            )
        )
        return command(*arguments)
    dataset = open_dataset(path)
    dataset._repr_html_()
    dataset.truth()
    dataset.labels([0, dataset.n_candidates - 1])
    dataset.labels(slice(0, 3))
    if how <= 5:
        engine = LocalEngine(1)
        try:
            describe(dataset, engine)
        finally:
            engine.close()
    elif how <= 8:
        SoftmaxMixture(random.choice((1, 2)), **FAST).fit(dataset, n_threads=1)
    else:
        model = SoftmaxMixture.load(valid.model)
        model.goodness_of_fit(dataset, n_threads=1)._repr_html_()
        model.profile(dataset, n_threads=1)
    return "ok"


def use_model(random: Random, path: Path, valid: Valid, given: Path) -> Any:
    """Load a model and ask it everything that it may say."""
    how = random.randrange(12)
    if how == 0:
        return command(
            *random.choice(
                (
                    ("show", path),
                    ("show", path, "--json"),
                    ("predict", path, valid.data[0], "-o", given / "new.zarr", "--json"),
                    ("fit", valid.data[0], "-k", 1, *SHORT, "-o", path, "--overwrite"),
                )
            )
        )
    model = SoftmaxMixture.load(path)
    model.summary()
    model._repr_html_()
    repr(model)
    model.get_params()
    model.to_dataframe()
    model.to_xarray()
    model.confidence_intervals(0.9)
    if model.atoms_.shape[1] == FEATURES:
        model.log_prob(valid.features)
        model.responsibilities(valid.features)
        model.sample(5, valid.features, random_state=0)
    model.ratios(0, 0)
    model.save(given / "new.zarr")
    if how == 1:
        model.goodness_of_fit(valid.data[0], n_threads=1)
    if how == 2 and random.random() < 0.1:
        return command("report", path, "-o", given / "report.html")
    return "ok"


def use_predictions(random: Random, path: Path, valid: Valid, given: Path) -> Any:
    """Read predictions, or write them again."""
    if random.random() < 0.8:
        read_responsibilities(path)
        return "ok"
    return command("predict", valid.model, valid.data[0], "-o", path, "--overwrite")


def command(*arguments: Any) -> str:
    """Run the command; its code, which must be documented."""
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code in CODES, (result.exit_code, arguments)
    assert "Traceback" not in result.stderr, result.stderr
    if result.exit_code:
        assert result.stderr.strip(), arguments
    return f"exit {result.exit_code}"


# ------------------------------------------------------------------ kinds of case


def spoilt_group(spoil: Callable[[Random, Path], None], use: Any, which: str) -> Any:
    def case(random: Random, valid: Valid, given: Path) -> Callable[[], Any]:
        found = getattr(valid, which)
        path = given / "it.zarr"
        shutil.copytree(random.choice(found) if isinstance(found, list) else found, path)
        spoil(random, path)
        return lambda: use(random, path, valid, given)

    return case


def spoilt_checkpoint(random: Random, valid: Valid, given: Path) -> Callable[[], Any]:
    path = given / "kept"
    shutil.copytree(valid.checkpoint, path)
    how = random.randrange(4)
    if how == 0:
        spoil_json(random, path / "checkpoint.json")
    elif how == 1:
        spoil_files(random, path)
    else:
        entry = random.choice(sorted(path.glob("*.npz")))
        entry.write_bytes(spoil_archive(random, entry.read_bytes()))

    def case() -> str:
        assert signature(valid.fit(path)) == signature(valid.result)
        return "ok, same bits"

    return case


VALUES = [
    None, 3, -0.0, "text", np.float64(0.1), np.arange(3), (1, [2.5, ("a", {"k": np.ones(1)})]),
    Mixture(np.ones(2), np.zeros((2, 3))),
    (ScoreSums(-1.5, np.ones((2, 2)), np.ones((2, 2)), np.zeros(2)),),
]  # fmt: skip


def spoilt_values(random: Random, valid: Valid, given: Path) -> Callable[[], Any]:
    encoded = encode(VALUES)
    if random.random() < 0.3:
        encoded = Encoded(spoil_tree(random, encoded.tree), encoded.arrays)
    content = to_bytes({"answer": encoded})
    content = random.choice((garbled, spoil_archive, lambda random, same: same))(random, content)

    def case() -> str:
        try:
            for part in from_bytes(content).values():
                decode(part)
        except DamagedError:
            return "DamagedError"
        return "ok"

    return case


def spoilt_arrays_in_memory(random: Random, valid: Valid, given: Path) -> Callable[[], Any]:
    rng = np.random.default_rng(random.randrange(2**32))

    def values(shape: tuple[int, ...]) -> Any:
        if random.random() < 0.2:
            return random.choice(NONSENSE)
        if random.random() < 0.2:
            shape = tuple(random.choice((0, 1, 2, 3, 60)) for _ in range(random.randrange(4)))
        with np.errstate(all="ignore"):
            found = rng.normal(0, random.choice((1, 1, 0, 1e10, 1e300)), shape)
            found = np.rint(np.abs(found)) if random.random() < 0.5 else found
            return found.astype(
                random.choice(("f8", "f8", "f4", "f2", ">f8", "i8", "u1", "O", "c16", "U3", "?"))
            )

    parts = values((ROWS, FEATURES)), values((ROWS,)), random.choice((None, values((ROWS,))))

    def case() -> None:
        if random.random() < 0.3:
            ArrayDataset.of(*parts)._repr_html_()
        else:
            model = SoftmaxMixture(random.choice((1, 2)), **FAST)
            model.fit(parts[0], parts[1], log_base=parts[2], n_threads=1)

    return case


# ------------------------------------------------------------------ command lines

WORDS = (
    "", " ", "-", "--", "x", "0", "-1", "1", "2", "3", "1.5", "1e308", "-1e308", "nan", "inf",
    "1:3", "3:1", "0:0", "1:", ":", "a=b", "=", "a,b", ",", str(2**63), str(10**30), "é𝔘", "\udcff",
    "a" * 3000, "$(NAME)", "..", "/dev/null", "/dev/full", "s3:/", "s3://", "s3://u:p@b/x", "://x",
    "s3://bucket/x?token=1", "http://[", "nothing://b/x", "memory://b/x", "file:///proc/1/x",
    "tcp://", "tcp://127.0.0.1:1", "threads", "--json", "-h",
)  # fmt: skip
# What really is asked for would take long, or write much, or wait.
SMALL = {
    "candidates": ("1", "2", "9", "60", "0", "-1"), "features": ("1", "2", "3", "0", "-1"),
    "components": ("1", "2", "3", "1:2", "2:1", "0", "-1", "x"), "draws": ("9", "100", "0", "-1"),
    "samples": ("1", "2", "3", "0", "-1"), "n_init": ("1", "2", "0", "-1"),
    "workers": ("1", "2", "0", "-1"), "max_passes": ("1", "2", "3", "0", "-1"),
    "sketch_rows": ("100", "99", "0", "-1"), "scheduler": ("threads", "threads", "", "x://", "x"),
    "wait": ("0.01 s", "0", "-1", "x", ""), "seed": ("0", "1", "-1", str(2**63), str(2**70)),
    "index": ("0", "1", "-1"), "threads": ("1", "0"), "device": ("cpu", "gpu", "tpu"),
    "memory_limit": ("auto", "1GiB", "lots"), "min_workers": ("1", "0"),
}  # fmt: skip
# They do what they do at once, or not at all: see their own tests.
LEFT_OUT = {"demo", "pod run", "pod drive", "pod work", "pod retire"}


def commands(group: click.Group, prefix: str = "") -> dict[str, click.Command]:
    found: dict[str, click.Command] = {}
    for name, one in group.commands.items():
        below = commands(one, f"{name} ") if isinstance(one, click.Group) else {}
        found |= below or {f"{prefix}{name}": one}
    return found


def command_line(random: Random, valid: Valid, given: Path) -> Callable[[], Any]:
    name, one = random.choice(sorted(commands(main).items()))
    places = [
        *valid.data, *valid.data, valid.model, valid.model, valid.predictions, valid.checkpoint,
        valid.root, given / "new.zarr", given / "new.zarr", given / "none/new.zarr",
        given / "page.html", given / "picture.png", given,
    ]  # fmt: skip

    def value(parameter: click.Parameter) -> str:
        nonsense = random.random() < (0.05 if parameter.required else 0.15)
        if parameter.name in SMALL and not (nonsense and "text" in parameter.type.name):
            return random.choice(SMALL[parameter.name])
        if nonsense:
            return random.choice(WORDS)
        if isinstance(parameter.type, click.Choice):
            return str(random.choice(list(parameter.type.choices)))
        if parameter.name == "output":
            return str(random.choice(places[-6:]))
        if parameter.name in ("checkpoint", "plot"):
            return str(given / random.choice(("kept", "picture.png", "it.pdf", "it")))
        if parameter.type.name in ("text", "path"):
            kinds = {"data": valid.data, "model": [valid.model]}.get(str(parameter.name), places)
            place = random.choice(kinds if random.random() < 0.8 else places)
            return str(place) if random.random() < 0.8 else random.choice(WORDS)
        return random.choice(WORDS)

    line = name.split()
    for parameter in one.params:
        needed = parameter.required or parameter.name == "components"
        if isinstance(parameter, click.Argument):
            # A path to write to is in its own folder.
            times = 1 if random.random() < 0.97 else random.randrange(3)
            target = parameter.name in ("output", "path")
            line += [str(given / "new.zarr") if target else value(parameter) for _ in range(times)]
        elif random.random() < (0.97 if needed else 0.12):
            option = random.choice(parameter.opts)
            line += [option] if getattr(parameter, "is_flag", False) else [option, value(parameter)]
    if random.random() < 0.05:
        line.insert(random.randrange(len(line) + 1), random.choice(WORDS))
    if name in LEFT_OUT:
        line += ["--workers", "none"]
    return lambda: command(*line)


KINDS: dict[str, tuple[Any, int, int]] = {
    # How to make a case; how many in the quick version; how many in the long one.
    "data-bytes": (spoilt_group(spoil_files, use_data, "data"), 30, 3000),
    "data-metadata": (spoilt_group(spoil_metadata, use_data, "data"), 60, 4000),
    "data-attributes": (spoilt_group(spoil_attributes, use_data, "data"), 20, 1500),
    "data-arrays": (spoilt_group(spoil_arrays, use_data, "data"), 40, 3000),
    "model-bytes": (spoilt_group(spoil_files, use_model, "model"), 15, 1500),
    "model-metadata": (spoilt_group(spoil_metadata, use_model, "model"), 25, 1500),
    "model-attributes": (spoilt_group(spoil_attributes, use_model, "model"), 25, 1500),
    "model-arrays": (spoilt_group(spoil_arrays, use_model, "model"), 20, 1500),
    "predictions": (spoilt_group(spoil_metadata, use_predictions, "predictions"), 20, 600),
    "predictions-arrays": (spoilt_group(spoil_arrays, use_predictions, "predictions"), 15, 400),
    "checkpoint": (spoilt_checkpoint, 40, 2000),
    "codec": (spoilt_values, 100, 3000),
    "memory": (spoilt_arrays_in_memory, 60, 1500),
    "command-line": (command_line, 70, 3000),
}


def run_kind(kind: str, n_cases: int, valid: Valid, folder: Path, monkeypatch: Any) -> Counter[str]:
    """Run cases of a kind; fails with all that went wrong, each by the number of its case."""
    make, *_ = KINDS[kind]
    (folder / "sentinel").mkdir()
    (folder / "sentinel/thesis.tex").write_text("years of work")
    before, originals = tree(folder), tree(valid.root)
    ended: Counter[str] = Counter()
    wrong: dict[str, tuple[str, list[int]]] = {}
    for number in range(n_cases):
        given = folder / "given"
        # Names without a folder are in here.
        (given / "here").mkdir(parents=True)
        monkeypatch.chdir(given / "here")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            case = make(Random(f"{kind} {number}"), valid, given)
        how, problem = outcome(case, given)
        ended[how] += 1
        shutil.rmtree(given)
        # A client that could not begin stays the default one of a process.
        distributed.client._global_clients.clear()
        if not problem and tree(folder) != before:
            problem = f"files elsewhere: {set(tree(folder)) ^ set(before)}"
        if problem:
            place, _, text = problem.partition(": ")
            wrong.setdefault(place, (text, []))[1].append(number)
    assert tree(valid.root) == originals
    report = [
        f"{kind} {cases[:4]} ({len(cases)}): {place}: {text}"
        for place, (text, cases) in wrong.items()
    ]
    assert not wrong, "\n".join(report)
    return ended


@pytest.mark.parametrize("kind", KINDS)
def test_some_cases(kind, valid, tmp_path, monkeypatch):
    run_kind(kind, KINDS[kind][1], valid, tmp_path, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_many_cases(kind, valid, tmp_path, monkeypatch):
    ended = run_kind(kind, KINDS[kind][2], valid, tmp_path, monkeypatch)
    print(json.dumps({"kind": kind, "cases": sum(ended.values()), **dict(ended.most_common())}))


def test_the_long_version_has_20_000_cases():
    assert sum(many for _, _, many in KINDS.values()) >= 20_000
