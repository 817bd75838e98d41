"""Checkpoints: a fit that goes on ends where an uninterrupted one does, or says why not."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import zarr
from command import COMMAND, softmix
from engines import BLOCK_ROWS, local, on_cluster
from problems import signature, simulate

from softmix_dist import SoftmaxMixture, checkpoint, journal
from softmix_dist.codec import DamagedError, decode, encode, from_bytes, same, to_bytes
from softmix_dist.data.memory import ArrayDataset
from softmix_dist.data.place import Folder, place_at
from softmix_dist.errors import (
    CheckpointWarning,
    ClusterError,
    InputError,
    NumericalError,
    StoreError,
    StoreUnavailableError,
)
from softmix_dist.fit import Settings, fit
from softmix_dist.model import Mixture
from softmix_dist.sums import Extent, ScoreSums

SETTINGS = Settings(3, n_init=3, tol=1e-3, sketch_rows=400)


@pytest.fixture(scope="module")
def dataset(medium):
    return medium.dataset(BLOCK_ROWS)


class Cut:
    """An engine whose passes are counted, and end with an interrupt after so many."""

    def __init__(self, engine, n_passes=10**6):
        self.engine, self.left, self.made = engine, n_passes, 0
        self.plan, self.load, self.close = engine.plan, engine.load, engine.close
        self.bytes_read = 0

    def _count(self):
        if not self.left:
            raise KeyboardInterrupt
        self.left -= 1
        self.made += 1

    def reduce(self, kernel):
        self._count()
        return self.engine.reduce(kernel)

    def reduce_stored(self, source, task):
        self._count()
        return self.engine.reduce_stored(source, task)


def fit_in(folder, data, settings=SETTINGS, n_passes=10**6, streamed=False):
    """Fit with a checkpoint; return the result, None when it was cut, and the passes made."""
    with local(2, streamed) as engine:
        cut = Cut(engine, n_passes)
        try:
            return fit(data, settings, cut, checkpoint=place_at(folder)), cut.made
        except KeyboardInterrupt:
            return None, cut.made


def uninterrupted(data, settings=SETTINGS):
    with local(2) as engine:
        return fit(data, settings, engine)


def samples_of(problem, n_samples=60):
    rng = np.random.default_rng(0)
    counts = rng.multinomial(problem.counts, np.full(n_samples, 1 / n_samples)).T
    return ArrayDataset.of(problem.features, counts, block_rows=BLOCK_ROWS)


@pytest.mark.parametrize("streamed", [False, True])
def test_interrupted_after_any_pass(dataset, tmp_path, streamed):
    expected = uninterrupted(dataset)
    n_passes = expected.n_passes
    for made in range(n_passes):
        folder = tmp_path / str(made)
        assert fit_in(folder, dataset, n_passes=made, streamed=streamed) == (None, made)
        found, again = fit_in(folder, dataset, streamed=streamed)
        assert signature(found) == signature(expected)
        assert found.n_passes == n_passes
        # One pass more, where some were known: whether the data are the same.
        assert again == n_passes - made + (made > 0)


def test_interrupted_at_every_pass(dataset, tmp_path):
    # Each process makes one pass that is new, and the one that looks at the data.
    for _ in range(100):
        found, _ = fit_in(tmp_path, dataset, n_passes=2)
        if found is not None:
            break
    assert signature(found) == signature(uninterrupted(dataset))
    # Once more: nothing is left to do, but to look at the data.
    found, made = fit_in(tmp_path, dataset)
    assert made == 1
    assert signature(found) == signature(uninterrupted(dataset))


@pytest.mark.parametrize(
    "changes",
    [
        {"init": "tensor"},
        {"init": "random", "solver": "em"},
        {"n_components": 1},
        {"standard_errors": "exact", "sketch_rows": None},
        {"standard_errors": "scaled"},
        {"standard_errors": "clustered"},
        {"l2": 1e-3, "precision": "double"},
        {"init": (np.full(3, 1 / 3), np.eye(3))},
    ],
    ids=str,
)
def test_every_kind_of_pass_is_kept(medium, tmp_path, changes):
    data = samples_of(medium) if "clustered" in changes.values() else medium.dataset(BLOCK_ROWS)
    settings = replace(SETTINGS, **changes)
    expected = uninterrupted(data, settings)
    for made in {2, expected.n_passes // 2, expected.n_passes - 1}:
        folder = tmp_path / str(made)
        fit_in(folder, data, settings, n_passes=made)
        found, again = fit_in(folder, data, settings)
        assert signature(found) == signature(expected)
        assert again == expected.n_passes - made + 1


def test_products_of_a_large_information_are_kept(tmp_path, monkeypatch):
    monkeypatch.setattr("softmix_dist.passes._LARGEST_INFORMATION", 5)
    data = simulate(3000, 3, 2, 100_000, seed=5).dataset(512)
    settings = Settings(2, init="subspace", sketch_rows=200, tol=1e-5, standard_errors="none")
    expected = uninterrupted(data, settings)
    assert any(row["step"] == "information" for row in expected.history)
    fit_in(tmp_path, data, settings, n_passes=expected.n_passes - 2)
    assert signature(fit_in(tmp_path, data, settings)[0]) == signature(expected)


def test_another_engine_goes_on(dataset, tmp_path, client):
    fit_in(tmp_path, dataset, n_passes=5)
    with on_cluster(client, streamed=True) as engine:
        found = fit(dataset, SETTINGS, engine, checkpoint=place_at(tmp_path))
    assert signature(found) == signature(uninterrupted(dataset))


def test_a_seed_that_was_drawn_is_kept(dataset, tmp_path):
    settings = replace(SETTINGS, random_state=None)
    fit_in(tmp_path / "a", dataset, settings, n_passes=5)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    a, _ = fit_in(tmp_path / "a", dataset, settings)
    b, _ = fit_in(tmp_path / "b", dataset, settings)
    assert signature(a) == signature(b)


def test_more_passes_may_be_made(dataset, tmp_path):
    few = replace(SETTINGS, max_passes=3)
    with pytest.warns(UserWarning, match="not converged"):
        fit_in(tmp_path, dataset, few)
    found, made = fit_in(tmp_path, dataset)
    assert signature(found) == signature(uninterrupted(dataset))
    assert made < found.n_passes


def test_other_settings_are_refused_by_name(dataset, tmp_path):
    fit_in(tmp_path, dataset, n_passes=4)
    kept = sorted(path.name for path in tmp_path.iterdir())
    other = replace(SETTINGS, tol=1e-5, random_state=7, init=np.zeros((3, 3)))
    with pytest.raises(InputError) as error:
        fit_in(tmp_path, dataset, other)
    told = str(error.value)
    assert "- tol: 0.001 there, 1e-05 here" in told
    assert "- random_state: 0 there, 7 here" in told
    assert "- init: 'auto' there, 'given " in told
    assert "n_init" not in told
    assert sorted(path.name for path in tmp_path.iterdir()) == kept


def test_other_data_are_refused(medium, dataset, tmp_path):
    fit_in(tmp_path, dataset, n_passes=4)
    with pytest.raises(InputError, match="data, block rows: 256 there, 512 here"):
        fit_in(tmp_path, medium.dataset(512))
    counts = medium.counts.copy()
    counts[0] += 1
    with pytest.raises(InputError, match="data, first block: "):
        fit_in(tmp_path, replace(medium, counts=counts).dataset(BLOCK_ROWS))
    # In the middle, where only the sums show it.
    counts = medium.counts.copy()
    counts[1000] += 1
    with pytest.raises(InputError, match="their sums are others"):
        fit_in(tmp_path, replace(medium, counts=counts).dataset(BLOCK_ROWS))
    # And nothing was lost.
    found, made = fit_in(tmp_path, dataset)
    assert signature(found) == signature(uninterrupted(dataset))
    assert made == found.n_passes - 3


def test_other_data_are_refused_where_all_passes_are_known(medium, dataset, tmp_path):
    fit_in(tmp_path, dataset)
    features = medium.features.copy()
    features[BLOCK_ROWS:-BLOCK_ROWS] *= 2
    with pytest.raises(InputError, match="their sums are others"):
        fit_in(tmp_path, replace(medium, features=features).dataset(BLOCK_ROWS))


def test_the_same_command_refuses_other_data_after_a_death_while_it_saved(data, tmp_path):
    path, kept = tmp_path / "model.zarr", tmp_path / "model.zarr.checkpoint"
    here = shutil.copytree(data, tmp_path / "data.zarr")
    # As it is left between the last pass and the model.
    softmix("fit", here, "-k", 2, "-q", "--checkpoint", kept)
    counts = zarr.open_group(here, mode="r+")["counts"]
    counts[9000:9002] = counts[9000:9002][::-1] + np.array([1, -1])
    told = softmix("fit", here, "-k", 2, "-q", "-o", path, code=65).stderr
    assert "their sums are others" in told
    assert not path.exists()


def test_elsewhere_warns_and_goes_on(dataset, tmp_path, monkeypatch):
    fit_in(tmp_path, dataset, n_passes=5)
    here = checkpoint._environment()
    monkeypatch.setattr(checkpoint, "_environment", lambda: here | {"processor": "another"})
    with pytest.warns(CheckpointWarning, match="processor .* then, another now"):
        found, made = fit_in(tmp_path, dataset)
    assert made == found.n_passes - 4
    assert signature(found) == signature(uninterrupted(dataset))


def test_answers_within_rounding_are_taken_elsewhere(dataset, tmp_path, monkeypatch):
    # As if the driver's arithmetic were another: what it asks for differs in the last bits.
    fit_in(tmp_path, dataset, n_passes=6)
    here = checkpoint._environment()
    monkeypatch.setattr(checkpoint, "_environment", lambda: here | {"BLAS": "another"})
    plainly = journal.encode

    def elsewhere(value):
        encoded = plainly(value)
        arrays = [a * (1 + 1e-13) if a.dtype == float else a for a in encoded.arrays]
        return replace(encoded, arrays=arrays)

    monkeypatch.setattr(journal, "encode", elsewhere)
    with pytest.warns(CheckpointWarning):
        found, made = fit_in(tmp_path, dataset)
    assert made <= found.n_passes - 5
    assert found.log_likelihood == pytest.approx(uninterrupted(dataset).log_likelihood, abs=1e-12)


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "other"])
def test_a_damaged_entry_is_computed_again(dataset, tmp_path, damage):
    fit_in(tmp_path, dataset, n_passes=6)
    entry = tmp_path / "000004.npz"
    content = bytearray(entry.read_bytes())
    content[len(content) // 2] ^= 0xFF
    damaged = {"cut": content[:-100], "flipped": content, "empty": b"", "other": b"PK\3\4 no"}
    entry.write_bytes(damaged[damage])
    with pytest.warns(CheckpointWarning, match=r"000004\.npz .* is damaged"):
        found, _ = fit_in(tmp_path, dataset)
    assert signature(found) == signature(uninterrupted(dataset))


def test_an_entry_of_sound_parts_that_do_not_belong_together_is_computed_again(dataset, tmp_path):
    fit_in(tmp_path, dataset, n_passes=6)
    with np.load(tmp_path / "000003.npz") as one, np.load(tmp_path / "000005.npz") as other:
        mixed = dict(one) | {name: other[name] for name in other if name.startswith("answer")}
    np.savez(tmp_path / "000003.npz", **mixed)
    with pytest.warns(CheckpointWarning, match=r"000003\.npz .*not all of it is what was written"):
        found, _ = fit_in(tmp_path, dataset)
    assert signature(found) == signature(uninterrupted(dataset))


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "{}", '{"softmix_checkpoint": 2}', '{"softmix_checkpoint": 1}', "[" * 9999],
)
def test_a_manifest_that_is_none_is_refused(dataset, tmp_path, text):
    (tmp_path / "checkpoint.json").write_text(text)
    with pytest.raises(InputError, match="not that of a checkpoint"):
        fit_in(tmp_path, dataset)


@pytest.mark.parametrize("seed", [7, -1, True, 2**63, None])
def test_another_seed_than_was_asked_for_is_no_manifest(dataset, tmp_path, seed):
    fit_in(tmp_path, dataset, n_passes=2)
    told = json.loads((tmp_path / "checkpoint.json").read_text())
    (tmp_path / "checkpoint.json").write_text(json.dumps(told | {"seed": seed}))
    with pytest.raises(InputError, match="not that of a checkpoint"):
        fit_in(tmp_path, dataset)


def test_a_folder_of_other_files_is_refused(dataset, tmp_path):
    (tmp_path / "thesis.tex").write_text("all of it")
    with pytest.raises(InputError, match="holds other files"):
        fit_in(tmp_path, dataset)
    fit_in(tmp_path / "own", dataset, n_passes=3)
    (tmp_path / "own" / "notes.txt").write_text("mine")
    checkpoint.remove_checkpoint(place_at(tmp_path / "own"))
    assert [path.name for path in (tmp_path / "own").iterdir()] == ["notes.txt"]
    checkpoint.remove_checkpoint(place_at(tmp_path))
    assert (tmp_path / "thesis.tex").exists()


def test_passes_that_another_fit_left_without_a_manifest_are_no_obstacle(dataset, tmp_path):
    # Two at one place: the first to finish deletes it, and the other one goes on writing.
    def finish(row):
        if row.get("pass") == 6:
            checkpoint.remove_checkpoint(place_at(tmp_path))

    with local(1) as engine:
        fit(dataset, SETTINGS, engine, finish, place_at(tmp_path))
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left
    assert "checkpoint.json" not in left
    orphans = shutil.copytree(tmp_path, tmp_path.with_name("orphans"))
    assert signature(fit_in(tmp_path, dataset)[0]) == signature(uninterrupted(dataset))
    checkpoint.remove_checkpoint(place_at(orphans))
    assert not orphans.exists()


@pytest.mark.parametrize("save", [np.savez, lambda path, values: path.write_bytes(b"mine")])
def test_archives_of_others_are_refused_and_left(dataset, tmp_path, save):
    fit_in(tmp_path, dataset, n_passes=3)
    (tmp_path / "checkpoint.json").unlink()
    save(tmp_path / "000009.npz", np.arange(3))
    kept = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(InputError, match="holds other files"):
        fit_in(tmp_path, dataset)
    checkpoint.remove_checkpoint(place_at(tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == kept


def test_a_checkpoint_that_cannot_be_deleted_is_told(data, tmp_path, monkeypatch):
    path, kept = tmp_path / "model.zarr", tmp_path / "kept"
    (kept / "000001.npz" / "in the way").mkdir(parents=True)
    with pytest.raises(StoreError, match=r"cannot delete 000001\.npz"):
        place_at(kept).delete(["000001.npz"])

    def fails(*_):
        raise StoreError("cannot delete checkpoint.json")

    monkeypatch.setattr(Folder, "delete", fails)
    # The model is there, and told.
    told = softmix("fit", data, "-k", 2, "-q", "-o", path)
    assert "warning: the checkpoint is left there: cannot delete" in told.stderr
    assert "log-likelihood" in told.stdout
    softmix("show", path)


def test_passes_are_kept_where_some_were_made(data, tmp_path, monkeypatch):
    def lost(*arguments, progress, **more):
        for phase in phases:
            progress({"phase": phase, "plan": ""})
        raise ClusterError("the cluster was lost")

    monkeypatch.setattr(SoftmaxMixture, "fit", lost)
    command = ("fit", data, "-k", 2, "-q", "--checkpoint", tmp_path)
    phases = ["survey"]
    assert f"are kept in {tmp_path}" in softmix(*command, code=75).stderr
    phases = []
    assert "are kept" not in softmix(*command, code=75).stderr


def test_a_place_that_cannot_be_written_is_an_error(dataset, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="file"):
        fit_in(tmp_path / "file", dataset)


def test_data_that_were_refused_leave_nothing(medium, tmp_path):
    counts = medium.counts.astype(float)
    counts[700] = -1
    with pytest.raises(InputError, match="negative"):
        fit_in(tmp_path / "kept", replace(medium, counts=counts).dataset(BLOCK_ROWS))
    assert not (tmp_path / "kept").exists()
    far = Settings(2, init=np.full((2, 3), 1e6), solver="em")
    with pytest.raises(NumericalError):
        fit_in(tmp_path / "kept", medium.dataset(BLOCK_ROWS), far)
    assert not (tmp_path / "kept").exists()


def test_a_store_that_fails_later_loses_nothing(dataset, tmp_path, monkeypatch):
    fit_in(tmp_path, dataset, n_passes=5)
    kept = sorted(path.name for path in tmp_path.iterdir())

    def unavailable(*arguments):
        raise StoreUnavailableError("the endpoint does not answer")

    with monkeypatch.context() as patched:
        patched.setattr("softmix_dist.fit.survey", unavailable)
        with pytest.raises(StoreUnavailableError):
            fit_in(tmp_path, dataset)
    assert sorted(path.name for path in tmp_path.iterdir()) == kept


def test_the_estimator_goes_on(medium, tmp_path):
    class Enough(Exception):
        pass

    def stop(row):
        if row["phase"] == "pass" and row["pass"] == 6:
            raise Enough

    told = []
    arguments = {"n_threads": 1, "checkpoint": tmp_path / "kept"}
    model = SoftmaxMixture(3, sketch_rows=400)
    with pytest.raises(Enough):
        model.fit(medium.features, medium.counts, progress=stop, **arguments)
    model.fit(medium.features, medium.counts, progress=told.append, **arguments)
    assert told[0]["phase"] == "resume"
    plain = SoftmaxMixture(3, sketch_rows=400).fit(medium.features, medium.counts, n_threads=1)
    assert signature(model.result_) == signature(plain.result_)


ENDLESS = ("-k", 8, "--solver", "em-first-order", "--tol", 1e-9, "--max-passes", 300)


@pytest.fixture(scope="module")
def reference(data):
    path = data.parent / "reference.zarr"
    softmix("fit", data, *ENDLESS, "-q", "-o", path)
    return SoftmaxMixture.load(path).result_


@pytest.mark.parametrize("killed", [signal.SIGTERM, signal.SIGKILL, signal.SIGINT], ids=str)
def test_the_same_command_goes_on_after_a_signal(data, reference, tmp_path, killed):
    path = tmp_path / "model.zarr"
    command = [*COMMAND, "fit", data, *ENDLESS, "--log-json", "-o", path]
    with subprocess.Popen(
        list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr
        try:
            for line in process.stderr:
                if line.startswith("{") and json.loads(line).get("pass") == 20:
                    break
            process.send_signal(killed)
            _, err = process.communicate(timeout=20)
        finally:
            process.kill()
    if killed != signal.SIGKILL:
        assert process.returncode == 75
        assert f"the passes that were made are kept in {path}.checkpoint" in err
    assert not path.exists()
    assert len(list(Path(f"{path}.checkpoint").glob("*.npz"))) >= 20
    result = softmix("fit", data, *ENDLESS, "-o", path)
    assert "going on from the checkpoint" in result.stderr
    assert signature(SoftmaxMixture.load(path).result_) == signature(reference)
    assert [file.name for file in tmp_path.iterdir()] == ["model.zarr"]


def test_the_command_says_what_differs(data, tmp_path):
    kept = tmp_path / "kept"
    softmix("fit", data, "-k", 2, "-q", "--checkpoint", kept)
    told = softmix("fit", data, "-k", 3, "-q", "--checkpoint", kept, code=65).stderr
    assert "n_components: 2 there, 3 here" in told
    softmix("fit", data, "-k", 2, "--checkpoint", kept, "--no-checkpoint", code=2)
    softmix("fit", data, "-k", 2, "-q", "--no-checkpoint", "-o", tmp_path / "model.zarr")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kept", "model.zarr"]


VALUES = [
    None, True, 3, 2**120, -0.0, float("inf"), "text", np.float64(0.1), np.int32(-4), np.arange(3),
    np.asfortranarray(np.eye(3)[:, :2]), np.zeros((0, 4)), (1, [2.5, ("a", {"k": np.ones(1)})]),
    Mixture(np.ones(2), np.zeros((2, 3))),
    Extent(np.array([-np.inf]), np.array([np.nan])),
    (ScoreSums(-1.5, np.ones((2, 2)), np.ones((2, 2)), np.zeros(2)),),
]  # fmt: skip


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_values_come_back_as_they_were(value):
    encoded = encode(value)
    found = decode(from_bytes(to_bytes({"answer": encoded}))["answer"])
    assert type(found) is type(value)
    assert same(encode(found), encoded)
    if isinstance(value, np.ndarray):
        assert found.flags.f_contiguous == value.flags.f_contiguous


def test_only_what_is_the_same_compares_so():
    for i, a in enumerate(VALUES):
        assert [same(encode(a), encode(b)) for b in VALUES] == [i == j for j in range(len(VALUES))]
    assert not same(encode(np.ones(2)), encode(np.ones(2, np.float32)))
    assert not same(encode(np.array([1.0])), encode(np.array([1 + 1e-15])))
    assert same(
        encode((1.0, np.array([1e3, 0]))), encode((1 + 1e-12, np.array([1e3, 1e-9]))), 1e-11
    )
    assert not same(encode(np.array([np.inf])), encode(np.array([-np.inf])), 1e-8)


def test_bytes_that_are_damaged_anywhere_are_read_or_refused():
    content = to_bytes({"answer": encode(VALUES)})
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(2000):
        damaged = bytearray(
            content[: rng.integers(1, len(content))] if rng.random() < 0.2 else content
        )
        for place in rng.integers(0, len(damaged), rng.integers(1, 10)):
            damaged[place] = rng.integers(256)
        try:
            decode(from_bytes(bytes(damaged))["answer"])
        except (DamagedError, KeyError):
            refused += 1
    assert refused > 1000


def test_reading_executes_nothing():
    with pytest.raises(TypeError, match="object cannot be kept"):
        encode(object())
    for tree in ({"call": [print]}, {"Popen": {"args": "true"}}, {"function": "os.system"}):
        encoded = encode(None)
        with pytest.raises(DamagedError):
            decode(replace(encoded, tree=tree))
    objects = to_bytes({"answer": replace(encode(None), arrays=[np.array([print], dtype=object)])})
    with pytest.raises(DamagedError):
        from_bytes(objects)
