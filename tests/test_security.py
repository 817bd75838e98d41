"""Files and names that mean harm: nothing in them runs, leads elsewhere, or is taken for HTML."""

from __future__ import annotations

import json
import os
import pickle
import zipfile
from contextlib import suppress
from html.parser import HTMLParser
from pathlib import Path

import anndata
import numcodecs.pickles
import numpy as np
import pytest
import zarr
from bokeh.models import Div
from command import softmix
from mutations import forget_consolidated
from watched import tree
from zarr.codecs import GzipCodec
from zarr.registry import register_codec

from softmix_dist import SoftmaxMixture, select_components
from softmix_dist.checkpoint import remove_checkpoint
from softmix_dist.codec import DamagedError, from_bytes
from softmix_dist.dashboard import TOPIC, FitsPlugin
from softmix_dist.dashboard_page import Page
from softmix_dist.data.dataset import open_dataset
from softmix_dist.data.ingest import ingest, ingest_anndata
from softmix_dist.data.memory import ArrayDataset
from softmix_dist.data.models import read_model
from softmix_dist.data.place import place_at
from softmix_dist.data.predictions import read_responsibilities
from softmix_dist.data.writer import write_dataset
from softmix_dist.errors import CheckpointWarning, InputError, SoftmixError, StoreError
from softmix_dist.report import report

HARM = ("<script>alert(1)</script>", '"><img src=x onerror=1>')
ROWS = 60


class Payload:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.fixture
def made(tmp_path, monkeypatch):
    """The file that a payload makes; as with releases of numcodecs that unpickle."""
    monkeypatch.setattr(numcodecs.pickles, "ALLOW_UNSAFE_PICKLE_DECODE", True, raising=False)
    return tmp_path / "made"


@pytest.fixture
def payload(made):
    """The pickle; it is shown to do what it does."""
    text = pickle.dumps(Payload(made))
    pickle.loads(text).close()
    made.unlink()
    return text


@pytest.fixture
def arrays():
    rng = np.random.default_rng(0)
    return rng.standard_normal((ROWS, 2)).astype(np.float32), rng.integers(1, 30, ROWS)


@pytest.fixture
def data(arrays, tmp_path):
    path = tmp_path / "data.zarr"
    names = [f"item {i}" for i in range(ROWS)]
    write_dataset(path, *arrays, feature_names=["a", "b"], candidate_labels=names, block_rows=16)
    return path


@pytest.fixture
def model(data, tmp_path):
    path = tmp_path / "model.zarr"
    SoftmaxMixture(1).fit(data, n_threads=1).save(path)
    return path


# ------------------------------------------------------------------ nothing runs


def as_version_2(array: Path, payload: bytes, **codecs: object) -> None:
    """Replace an array by one of Zarr's format 2, whose chunks are the payload."""
    told = json.loads((array / "zarr.json").read_text())
    text = told["data_type"] == "string"
    dtype = "|O" if text else np.dtype(told["data_type"]).newbyteorder("<").str
    filters = [{"id": "vlen-utf8"}] if text else []
    meta = {
        "zarr_format": 2, "shape": told["shape"], "chunks": told["shape"], "dtype": dtype,
        "compressor": codecs.get("compressor"), "fill_value": "" if text else 0, "order": "C",
        "filters": [*filters, *codecs.get("filters", [])] or None,
    }  # fmt: skip
    for path in sorted(array.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    (array / ".zarray").write_text(json.dumps(meta))
    (array / ".".join("0" * len(told["shape"]))).write_bytes(payload)


def read_all(path: Path) -> None:
    dataset = open_dataset(path)
    dataset.labels([0])
    dataset.read_block(0)


PICKLES = ({"filters": [{"id": "pickle"}]}, {"compressor": {"id": "pickle"}})


@pytest.mark.parametrize("codecs", PICKLES, ids=str)
@pytest.mark.parametrize("name", ["features", "counts", "feature", "candidate_label"])
def test_no_pickle_in_a_data_set_is_read(name, codecs, data, payload, made):
    forget_consolidated(data)
    as_version_2(data / name, payload, **codecs)
    with pytest.raises(SoftmixError):
        read_all(data)
    # The whole group in format 2, where its arrays are found.
    (data / "zarr.json").unlink()
    (data / ".zgroup").write_text('{"zarr_format": 2}')
    with pytest.raises(SoftmixError):
        read_all(data)
    assert not made.exists()


@pytest.mark.parametrize("codecs", PICKLES, ids=str)
@pytest.mark.parametrize("kind", ["features", "text"])
def test_no_pickle_in_a_group_of_version_2_is_read(kind, codecs, tmp_path, payload, made, arrays):
    path = tmp_path / "old.zarr"
    group = zarr.create_group(str(path), zarr_format=3)
    for name, values in zip(("features", "counts"), arrays, strict=True):
        group.create_array(name, data=values)
    labels = group.create_array("feature", shape=(2,), dtype=str)
    labels[...] = np.array(["a", "b"], object)
    (path / "zarr.json").unlink()
    (path / ".zgroup").write_text('{"zarr_format": 2}')
    for name in ("features", "counts", "feature"):
        harmful = name == ("feature" if kind == "text" else "features")
        as_version_2(path / name, payload, **(codecs if harmful else {}))
    with pytest.raises(StoreError, match="cannot be opened"):
        open_dataset(path)
    with pytest.raises(SoftmixError):
        ingest(tmp_path / "new.zarr", str(path), counts=np.ones(ROWS, int))
    assert not made.exists()


def test_no_pickle_in_a_model_or_predictions_is_read(model, data, payload, made, tmp_path):
    predictions = tmp_path / "predictions.zarr"
    SoftmaxMixture.load(model).predict(data, predictions, n_threads=1)
    for path, name, use in (
        (predictions, "responsibilities", read_responsibilities),
        (model, "history/step", read_model),
        (model, "weights", read_model),
    ):
        forget_consolidated(path)
        as_version_2(path / name, payload, filters=[{"id": "pickle"}])
        with pytest.raises(SoftmixError):
            use(path)
    assert not made.exists()


def test_no_pickle_in_a_checkpoint_is_read(data, payload, made, tmp_path):
    kept = tmp_path / "kept"
    model = SoftmaxMixture(1, init="random", solver="em")
    model.fit(data, n_threads=1, checkpoint=kept)
    entry = min(kept.glob("*.npz"))
    objects = np.array([Payload(made)], dtype=object)
    for name in ("request", "answer", "answer.0", "../answer"):
        np.savez(entry, **{"request": np.zeros(2, np.uint8), name: objects})
        with pytest.raises(DamagedError):
            from_bytes(entry.read_bytes())
        with zipfile.ZipFile(entry, "w") as archive:
            archive.writestr(f"{name}.npy", payload)
        with pytest.warns(CheckpointWarning, match="is damaged"):
            model.fit(data, n_threads=1, checkpoint=kept)
    (kept / "checkpoint.json").write_bytes(payload)
    with pytest.raises(InputError, match="not that of a checkpoint"):
        model.fit(data, n_threads=1, checkpoint=kept)
    assert not made.exists()


def test_no_pickle_in_a_matrix_is_read(payload, made, tmp_path, arrays):
    objects = np.full((ROWS, 2), Payload(made), dtype=object)
    np.save(tmp_path / "features.npy", objects)
    np.save(tmp_path / "numbers.npy", arrays[0])
    np.savez(tmp_path / "counts.npz", format=objects, data=objects, shape=objects)
    for given, counts in (
        ("features.npy", np.ones(ROWS, int)),
        ("numbers.npy", str(tmp_path / "counts.npz")),
    ):
        with pytest.raises(InputError):
            ingest(tmp_path / "new.zarr", str(tmp_path / given), counts=counts)
    made.unlink(missing_ok=True)
    assert not (tmp_path / "new.zarr").exists()


@pytest.mark.filterwarnings("ignore:Writing zarr v2")
def test_no_pickle_in_anndata_is_read(payload, made, tmp_path):
    path = tmp_path / "cells.zarr"
    cells = anndata.AnnData(np.ones((3, 5), np.float32), varm={"X_pca": np.eye(5)})
    # The older format, in which filters are named; newer releases of AnnData write the other one.
    anndata.io.write_elem(zarr.open_group(path, mode="w", zarr_format=2), "cells", cells)
    path /= "cells"
    told = json.loads((path / "varm/X_pca/.zarray").read_text())
    told |= {"filters": [{"id": "pickle"}], "compressor": None}
    (path / "varm/X_pca/.zarray").write_text(json.dumps(told))
    for chunk in (path / "varm/X_pca").glob("[0-9]*"):
        chunk.write_bytes(payload)
    with pytest.raises(InputError, match="cannot be read as AnnData .*pickle"):
        ingest_anndata(tmp_path / "new.zarr", str(path), varm="X_pca")
    assert not made.exists()


class Harmful(GzipCodec):
    """A codec of another package: it does more than to decode."""

    ran: list[str] = []

    async def _decode_single(self, *arguments):
        self.ran.append("decoded")
        return await super()._decode_single(*arguments)

    @classmethod
    def from_dict(cls, data):
        return cls(level=1)


@pytest.mark.parametrize("sharded", [False, True])
def test_codecs_of_other_packages_decode_nothing(sharded, data):
    register_codec("harmful", Harmful)
    harmful = {"name": "harmful", "configuration": {"level": 1}}
    forget_consolidated(data)
    told = json.loads((data / "features/zarr.json").read_text())
    inner = [told["codecs"][0], harmful]
    if sharded:
        configuration = {
            "chunk_shape": [16, 2],
            "codecs": inner,
            "index_codecs": told["codecs"][:1],
        }
        inner = [{"name": "sharding_indexed", "configuration": configuration}]
    told["codecs"] = inner
    (data / "features/zarr.json").write_text(json.dumps(told))
    with pytest.raises(StoreError, match=r"features: .*codec Harmful may run code"):
        open_dataset(data)
    assert Harmful.ran == []


def test_a_codec_of_zarr_does_not_become_another_one(data, payload, made):
    forget_consolidated(data)
    told = json.loads((data / "features/zarr.json").read_text())
    told["codecs"][1] = {"name": "numcodecs.zlib", "configuration": {"id": "pickle"}}
    (data / "features/zarr.json").write_text(json.dumps(told))
    for chunk in (data / "features/c").rglob("0"):
        if chunk.is_file():
            chunk.write_bytes(payload)
    with pytest.raises(StoreError, match="cannot be opened"):
        open_dataset(data)
    assert not made.exists()


# ------------------------------------------------------------------ nothing leads elsewhere


@pytest.fixture
def elsewhere(tmp_path):
    """A folder of somebody's, beside what is given."""
    path = tmp_path / "elsewhere"
    path.mkdir()
    (path / "thesis.tex").write_text("years of work")
    (path / "000001.npz").write_text("one more file")
    return path


@pytest.mark.parametrize(
    "name",
    ["history/../../secret", "history/..", "../secret", "/secret", "history//secret", "..", "."],
)
def test_names_of_a_group_do_not_lead_out_of_it(name, model, tmp_path):
    outside = zarr.create_array(str(tmp_path / "secret"), data=np.arange(3.0))
    told = outside.metadata.to_dict()
    root = json.loads((model / "zarr.json").read_text())
    inside = root["consolidated_metadata"]["metadata"]
    inside[name] = {**told, "shape": inside["history/pass"]["shape"]}
    (model / "zarr.json").write_text(json.dumps(root))
    with suppress(StoreError):
        _, history, _ = read_model(model)
        assert not [name for name in history[0] if "secret" in name or "." in name]


@pytest.mark.parametrize("name", ["../thesis", "/tmp/evil", "a/../../b", "..", "a\nb"])
def test_labels_are_no_paths(name, arrays, tmp_path, elsewhere):
    before = tree(elsewhere)
    labels = [name] + [f"item {i}" for i in range(1, ROWS)]
    counts = np.stack([arrays[1], arrays[1]])
    given = tmp_path / "given"
    write_dataset(
        given / "data.zarr", arrays[0], counts, feature_names=[name, "b"],
        candidate_labels=labels, sample_names=[name, "other"],
    )  # fmt: skip
    dataset = open_dataset(given / "data.zarr")
    assert dataset.labels([0]) == dataset.feature_names[:1] == dataset.sample_names[:1] == [name]
    model = SoftmaxMixture(1).fit(dataset, n_threads=1)
    model.save(given / "model.zarr")
    model.predict(dataset, given / "predictions.zarr", n_threads=1)
    softmix("report", given / "model.zarr", "-o", given / "page.html", "--title", name)
    assert tree(elsewhere) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["elsewhere", "given"]
    assert sorted(path.name for path in given.iterdir()) == [
        "data.zarr", "model.zarr", "page.html", "predictions.zarr",
    ]  # fmt: skip


def test_links_in_a_checkpoint_are_not_followed(data, tmp_path, elsewhere):
    before, kept = tree(elsewhere), tmp_path / "kept"
    model = SoftmaxMixture(1, init="random", solver="em")
    model.fit(data, n_threads=1, checkpoint=kept)
    for entry in sorted(kept.glob("*.npz"))[1:]:
        entry.unlink()
        entry.symlink_to(elsewhere / "000001.npz")
    (kept / ".x.partial").symlink_to(elsewhere / "thesis.tex")
    with pytest.warns(CheckpointWarning):
        model.fit(data, n_threads=1, checkpoint=kept)
    assert not [path for path in kept.glob("0*") if path.is_symlink()]
    remove_checkpoint(place_at(kept))
    assert not kept.exists()
    kept.mkdir()
    (kept / "checkpoint.json").symlink_to(elsewhere / "new.json")
    # The aim of a link that is broken is not made.
    with pytest.raises(SoftmixError):
        model.fit(data, n_threads=1, checkpoint=kept)
    assert tree(elsewhere) == before


def test_links_in_what_is_overwritten_are_not_followed(arrays, model, data, tmp_path, elsewhere):
    before = tree(elsewhere)
    for path in (model, data):
        os.symlink(elsewhere, path / "more", target_is_directory=True)
        os.symlink(elsewhere / "thesis.tex", path / "text")
    write_dataset(data, *arrays, overwrite=True)
    SoftmaxMixture(1).fit(data, n_threads=1).save(model, overwrite=True)
    page = tmp_path / "page.html"
    page.symlink_to(elsewhere / "thesis.tex")
    softmix("report", model, "-o", page, "--overwrite")
    assert not page.is_symlink()
    assert tree(elsewhere) == before


# ------------------------------------------------------------------ names are no HTML


class Tags(HTMLParser):
    """The tags and attributes of a page, and its text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.text = set(), set(), ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data):
        self.text += data


def assert_harmless(page, *told):
    found = Tags(page)
    assert not found.tags & {"script", "iframe", "a", "b"}
    assert not {name for name in found.attributes if name.startswith("on")}
    assert "<script" not in page
    assert "<img src=x" not in page
    for name in told:
        assert name in found.text


@pytest.fixture(scope="module")
def harmful(tmp_path_factory):
    """A data set whose every name means harm, its own included, and a fit of it."""
    rng = np.random.default_rng(0)
    features = rng.standard_normal((ROWS, 2))
    counts = rng.integers(1, 30, (2, ROWS))
    path = tmp_path_factory.mktemp("html") / HARM[1].replace("/", "")
    write_dataset(
        path, features, counts, feature_names=HARM, sample_names=HARM,
        candidate_labels=[HARM[i % 2] for i in range(ROWS)],
    )  # fmt: skip
    dataset = open_dataset(path)
    return dataset, SoftmaxMixture(1).fit(dataset, n_threads=1)


def test_a_data_set_in_a_notebook(harmful):
    dataset, _ = harmful
    assert_harmless(dataset._repr_html_(), *HARM, dataset.name)
    memory = ArrayDataset.of(np.eye(5, 2), np.ones(5), feature_names=HARM)
    assert_harmless(memory._repr_html_(), *HARM)


def test_a_model_in_a_notebook(harmful, tmp_path):
    dataset, model = harmful
    model.result_.warnings.append(HARM[0])
    try:
        model.save(tmp_path / "model.zarr")
        assert_harmless(model._repr_html_(), *HARM)
        assert_harmless(SoftmaxMixture.load(tmp_path / "model.zarr")._repr_html_(), *HARM)
    finally:
        model.result_.warnings.pop()
    assert_harmless(SoftmaxMixture(1, init=HARM[0])._repr_html_(), HARM[0])
    assert_harmless(model.goodness_of_fit(dataset, n_threads=1)._repr_html_(), HARM[0])
    found = select_components(dataset, components=[1], n_threads=1, max_passes=3)
    assert_harmless(found._repr_html_())


def test_shares_of_groups_in_a_notebook(harmful):
    dataset, model = harmful
    groups = np.array([HARM[i % 2] for i in range(ROWS)])
    raw = dataset.read_block(0)
    shares = model.predicted_shares(raw.features, groups=groups)
    assert_harmless(shares._repr_html_(), *HARM)


def test_a_page_about_a_model(harmful, tmp_path):
    dataset, model = harmful
    page = report(model, model.profile(dataset, n_threads=1), HARM[0])
    assert_harmless(page, *HARM)
    model.save(tmp_path / "model.zarr")
    path = tmp_path / "page.html"
    softmix("report", tmp_path / "model.zarr", "-o", path, "--data", dataset.path,
            "--title", HARM[1])  # fmt: skip
    assert_harmless(path.read_text(), *HARM)


def test_the_dashboard_takes_nothing_for_html():
    plugin = FitsPlugin()
    for phase in ("pass", HARM[0], "end"):
        plugin.log_event(
            TOPIC,
            {
                "fit": HARM[1], "time": 0.0, "phase": phase, "plan": HARM[1], "pass": 1,
                "objective": -1.0, "distance": 1.0, "weights": [1.0], "n_candidates": 5,
                "converged": True,
            },
        )  # fmt: skip
        page = Page(plugin)
        page.update()
        assert_harmless(page.told.text.replace("<b>", "").replace("</b>", ""), HARM[1])
        (div,) = page.root.select({"type": Div})
        assert div is page.told


def test_the_dashboard_stays_with_messages_that_are_none_of_ours():
    plugin = FitsPlugin()
    row = {"phase": "pass", "pass": 1, "objective": -1.0, "distance": 1.0}
    for changes in (
        {"n_candidates": HARM[0]}, {"pass": HARM[0]}, {"distance": HARM[0]}, {"objective": None},
        {"weights": HARM[0]}, {"phase": 5}, {"plan": None}, {"time": HARM[0]},
    ):  # fmt: skip
        plugin.log_event(TOPIC, {"fit": str(changes), "time": 0.0, **row, **changes})
        page = Page(plugin)
        page.update()
        assert_harmless(page.told.text.replace("<b>", "").replace("</b>", ""))


# ------------------------------------------------------------------ secrets

SECRET = "wJalrXUtnFEMI/K7MDENG"
URLS = (f"s3://AKIA:{SECRET}@bucket/x.zarr", f"s3://bucket/x.zarr?X-Amz-Signature={SECRET}")


@pytest.mark.parametrize("url", URLS)
def test_no_command_repeats_the_secret_of_a_url(url, data, model, tmp_path, caplog, monkeypatch):
    monkeypatch.chdir(tmp_path)
    new = tmp_path / "new.zarr"
    sizes = ("--candidates", 9, "--features", 1, "--components", 1, "--draws", 9)
    before = sorted(path.name for path in tmp_path.iterdir())
    for arguments in (
        ("check", url), ("fit", url, "-k", 1), ("fit", data, "-k", 1, "-o", url, "-q"),
        ("fit", data, "-k", 1, "--checkpoint", url, "-q"), ("show", url),
        ("select", url, "--components", "1:1"), ("predict", url, data, "-o", new),
        ("predict", model, url, "-o", new), ("predict", model, data, "-o", url),
        ("report", url, "-o", "page.html"), ("report", model, "-o", url),
        ("report", model, "-o", "page.html", "--data", url), ("simulate", url, *sizes),
        ("ingest", url, "--features", data, "--counts", data),
        ("ingest", new, "--features", url, "--counts", data),
        ("ingest", new, "--features", data, "--events", url),
        ("ingest", new, "--features", data, "--counts", data, "--like", url),
        ("ingest", new, "--anndata", url),
    ):  # fmt: skip
        result = softmix(*arguments, code=65)
        told = result.output + result.stderr + caplog.text
        assert SECRET.split("/")[0] not in told, arguments
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_no_secret_of_the_environment_is_in_what_is_written(data, tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    kept = tmp_path / "kept"
    model = SoftmaxMixture(1).fit(data, n_threads=1, checkpoint=kept)
    model.save(tmp_path / "model.zarr")
    written = [
        report(model), model._repr_html_(), repr(model), model.summary(),
        repr(pickle.dumps(model)), repr(pickle.dumps(open_dataset(data))),
        *(repr(path.read_bytes()) for path in tmp_path.rglob("*") if path.is_file()),
    ]  # fmt: skip
    assert not [text for text in written if SECRET in text]
