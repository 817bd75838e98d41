"""Object stores: a real S3 endpoint on loopback, whole, failing, missing."""

from __future__ import annotations

import json
import logging
import os
import pickle
import re
import threading
import time
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from socketserver import BaseRequestHandler, ThreadingTCPServer
from traceback import format_exception

import numpy as np
import pandas as pd
import pytest
import xarray
from command import softmix
from endpoint import BUCKET, Proxy, ask, free_port, s3_server
from engines import cluster_of, local
from problems import signature
from scipy.sparse import csr_array, save_npz

from softmix_dist import SoftmaxMixture, open_dataset
from softmix_dist.checkpoint import remove_checkpoint
from softmix_dist.data import objects, predictions, store
from softmix_dist.data.dataset import MARK
from softmix_dist.data.ingest import ingest
from softmix_dist.data.place import place_at
from softmix_dist.data.simulate import simulate
from softmix_dist.data.store import new_group
from softmix_dist.data.store_errors import without_place, without_secrets
from softmix_dist.data.writer import write_dataset
from softmix_dist.errors import InputError, StoreError, StoreUnavailableError

SECRETS = {
    "AWS_ACCESS_KEY_ID": "AKIAFAKEFAKEFAKE0001",
    "AWS_SECRET_ACCESS_KEY": "fake/secret+key/0002",
    "AWS_SESSION_TOKEN": "fake-session-token-0003",
    "AZURE_STORAGE_ACCOUNT_KEY": "ZmFrZSBhenVyZSBrZXkgMDAwNA==",
    "AZURE_STORAGE_SAS_KEY": "sig=fakesas0005",
    "GOOGLE_SERVICE_ACCOUNT_KEY": '{"private_key": "fake-google-0006"}',
}
SHAPE = {"n_candidates": 5_000, "n_features": 3, "n_components": 2, "n_draws": 200_000}
# What is not the same from one run to the next.
TIMES = {"seconds", "starts", "history", "settings"}


@pytest.fixture(scope="module")
def server():
    with s3_server() as port:
        yield port


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """Nobody's credentials but these, and no service that gives some."""
    for name in list(os.environ):
        if name.startswith(("AWS_", "AZURE_", "GOOGLE_")):
            monkeypatch.delenv(name)
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("AWS_REGION", "us-east-1")


@pytest.fixture
def url(server, request, monkeypatch):
    """A place of its own for each test."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server}")
    return f"s3://{BUCKET}/{re.sub('[^a-z0-9]+', '-', request.node.name)}"


@pytest.fixture
def proxy(server, url, monkeypatch):
    found = Proxy(server)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{found.port}")
    yield found
    found.close()


@pytest.fixture
def impatient(monkeypatch):
    """Fewer retries, for tests that wait until there are no more."""
    backoff = {"init_backoff": timedelta(milliseconds=10), "max_backoff": timedelta(seconds=0.1)}
    retry = {"max_retries": 6, "retry_timeout": timedelta(seconds=5)}
    monkeypatch.setattr(objects, "RETRY", {**retry, "backoff": {**backoff, "base": 2}})


@contextmanager
def within(seconds):
    start = time.monotonic()
    yield
    assert time.monotonic() - start < seconds


def keys(url):
    """Objects below a URL, asked of the server itself."""
    port = int(os.environ["AWS_ENDPOINT_URL"].rpartition(":")[2])
    prefix = url.removeprefix(f"s3://{BUCKET}/")
    answer = ask(port, "GET", f"/{BUCKET}?list-type=2&prefix={prefix}/")[1].decode()
    return re.findall("<Key>([^<]+)</Key>", answer)


def report(*arguments):
    told = json.loads(softmix(*arguments, "--json").stdout)
    return {name: value for name, value in told.items() if name not in TIMES}


def first(n, wanted=""):
    """Pick the first requests whose path holds a text."""
    left = [n]

    def fails(method, path):
        left[0] -= wanted in path
        return wanted in path and left[0] >= 0

    return fails


# ------------------------------------------------------------------ from it and to it


def test_the_command_works_on_an_object_store_as_on_a_disk(url, tmp_path):
    sizes = ("--candidates", 5000, "--features", 3, "--components", 2, "--draws", 200000)
    told = {}
    for place in (str(tmp_path), url):
        data, model, predicted = (f"{place}/{name}.zarr" for name in ("data", "model", "new"))
        softmix("simulate", data, *sizes)
        fitted = report("fit", data, "-k", 2, "-o", model)
        assert report("show", model) == fitted
        described = report("check", data)
        described.pop("name", None)
        fit = report("predict", model, data, "-o", predicted)["goodness_of_fit"]
        softmix("select", data, "--components", "1:2")
        told[place] = fitted, {k: v for k, v in described.items() if v != data}, fit
    # Not a digit differs.
    assert told[url] == told[str(tmp_path)]


def test_a_cluster_reads_and_writes_it_with_the_same_digits(url, tmp_path):
    places = str(tmp_path), url
    for place in places:
        simulate(f"{place}/data.zarr", **SHAPE, block_rows=512)
    with cluster_of(2, processes=True) as client:
        there = SoftmaxMixture(2).fit(f"{url}/data.zarr", client=client)
        there.predict(f"{url}/data.zarr", f"{url}/new.zarr", client=client)
    here = SoftmaxMixture(2).fit(f"{tmp_path}/data.zarr")
    here.predict(f"{tmp_path}/data.zarr", f"{tmp_path}/new.zarr")
    np.testing.assert_array_equal(there.atoms_, here.atoms_)
    assert there.result_.log_likelihood == here.result_.log_likelihood
    found, expected = (
        predictions.read_responsibilities(f"{place}/new.zarr") for place in (url, tmp_path)
    )
    np.testing.assert_array_equal(found, expected)


def test_labels_names_and_truth_are_read_from_it(url):
    path = f"{url}/data.zarr"
    names = {"feature_names": ["price", "size"], "candidate_labels": ["a", "b", "c"]}
    write_dataset(path, np.eye(3, 2), np.array([5, 3, 1]), **names)
    dataset = open_dataset(path)
    assert dataset.feature_names == ["price", "size"]
    assert dataset.labels([2, 0]) == ["c", "a"]
    assert dataset.truth() is None
    simulate(path, **SHAPE, overwrite=True)
    assert open_dataset(path).truth()[1].shape == (2, 3)


def test_what_is_written_opens_in_xarray_with_consolidated_metadata(url):
    simulate(f"{url}/data.zarr", **SHAPE)
    opened = xarray.open_zarr(objects.open_store(f"{url}/data.zarr"), consolidated=True)
    assert opened["features"].shape == (5000, 3)
    assert set(opened.attrs) == {MARK, "n_draws", "block_rows"}


def test_several_reads_are_in_flight(proxy, url):
    simulate(f"{url}/data.zarr", **SHAPE, block_rows=256)
    dataset = open_dataset(f"{url}/data.zarr")
    proxy.delay, proxy.most = 0.05, 0
    with local(1, streamed=True) as engine:
        assert len(engine.visit(dataset, len_of)) == 20
    assert 3 <= proxy.most <= 5


def len_of(raw):
    return len(raw.features)


def test_a_place_keeps_whole_files(url):
    place = place_at(url)
    assert (place.keys(), place.get("b")) == ([], None)
    place.put("b", b"old")
    place.put("b", b"new")
    place.put("a", b"")
    assert (place.keys(), place.get("b"), place.get("a")) == (["a", "b"], b"new", b"")
    place.delete(["a", "b", "never there"])
    assert (place.keys(), keys(url)) == ([], [])


# ------------------------------------------------------------------ what is not there


def test_a_fit_goes_on_from_a_checkpoint_there(url, tmp_path):
    simulate(f"{url}/data.zarr", **SHAPE, seed=3, block_rows=512)

    class Stopped(Exception):
        pass

    def stop(row):
        if row.get("pass") == 5:
            raise Stopped

    model = SoftmaxMixture(2, sketch_rows=500)
    where = {"n_threads": 1, "checkpoint": f"{url}/kept"}
    with pytest.raises(Stopped):
        model.fit(f"{url}/data.zarr", progress=stop, **where)
    assert len(place_at(f"{url}/kept").keys()) > 5
    told = []
    found = model.fit(f"{url}/data.zarr", progress=told.append, **where).result_
    assert told[0]["phase"] == "resume"
    plain = SoftmaxMixture(2, sketch_rows=500).fit(f"{url}/data.zarr", n_threads=1).result_
    assert signature(found) == signature(plain)
    remove_checkpoint(place_at(f"{url}/kept"))
    assert place_at(f"{url}/kept").keys() == []


def test_a_group_that_is_not_there(url):
    softmix("check", f"{url}/data.zarr", code=65)
    place_at(url).put("readme", b"nothing")
    for path, problem in ((f"{url}/data.zarr", "does not exist"), (url, "is not a Zarr group")):
        with pytest.raises(StoreError, match=problem):
            open_dataset(path)


def test_a_missing_bucket(url, tmp_path):
    simulate(tmp_path / "data.zarr", **SHAPE)
    path = "s3://no-such-bucket/some.zarr"
    with within(10):
        for arguments in (
            ("check", path),
            ("fit", path, "-k", 2),
            ("fit", tmp_path / "data.zarr", "-k", 2, "-o", path),
        ):
            told = softmix(*arguments, code=65).stderr
            assert f"{path!r}: there is no bucket 'no-such-bucket'" in told
            assert "log-likelihood" not in told
    for call in (lambda place: place.put("a", b""), lambda place: place.keys()):
        with pytest.raises(StoreError, match="no bucket"):
            call(place_at(path))


def test_missing_credentials(url, impatient, monkeypatch):
    for name in SECRETS:
        monkeypatch.delenv(name)
    for scheme, wanted in (("s3", "AWS_SECRET_ACCESS_KEY"), ("az", "AZURE_STORAGE_ACCOUNT_KEY")):
        with within(30):
            told = softmix("check", f"{scheme}://{BUCKET}/data.zarr", code=65).stderr
        assert "no credentials were found" in told
        assert wanted in told
    monkeypatch.setenv("AWS_SKIP_SIGNATURE", "true")
    assert "no credentials" not in softmix("check", f"{url}/data.zarr", code=65).stderr


@pytest.mark.parametrize(
    ("status", "answer", "message"),
    [
        (403, "InvalidAccessKeyId", "the credentials were refused (InvalidAccessKeyId); correct"),
        (400, "ExpiredToken", "the credentials were refused (ExpiredToken); correct or renew"),
        (403, "AccessDenied", "access is denied"),
        (400, "AuthorizationHeaderMalformed", "another region; set AWS_REGION"),
        (418, "Teapot", "status code: 418"),
    ],
)
def test_a_refusal_is_said_in_one_line(proxy, url, status, answer, message):
    proxy.fails = lambda method, path: True
    proxy.status, proxy.body = status, f"<Error><Code>{answer}</Code></Error>".encode()
    with within(10):
        told = softmix("fit", f"{url}/data.zarr", "-k", 2, code=65).stderr
    assert message in told
    assert told.count("\n") == 1


@pytest.mark.parametrize("path", ["connections", "timed out/SlowDown", "AccessDenied/data.zarr"])
def test_the_words_of_a_path_say_nothing_of_an_error(proxy, url, path):
    proxy.fails = lambda method, path: True
    proxy.status, proxy.body = 400, b"<Error><Code>InvalidArgument</Code></Error>"
    with pytest.raises(StoreError, match="status code: 400 Bad Request") as caught:
        place_at(f"s3://{BUCKET}/{path}").get("x")
    assert not isinstance(caught.value, StoreUnavailableError)
    assert proxy.failed == 1


@pytest.mark.parametrize(
    ("told", "left"),
    [
        ("GET https://timeouts.s3.aws.com/a/SlowDown/x in 3ms", "GET https://s3.aws.com in 3ms"),
        ("GET http://host:1/timeouts?prefix=a%2FSlowDown%2F in", "GET http://host:1 in"),
        ("Object at location a/SlowDown/c/0 not found", "Object at location  not found"),
        ("PermissionError: timeouts/a/SlowDown", "PermissionError: "),
        ("PUT http://host/latest/api/token: end", "PUT http://host/latest/api/token: end"),
    ],
)  # fmt: skip
def test_errors_are_read_without_what_the_user_named(told, left):
    assert without_place(told, "s3://timeouts/a/SlowDown") == left


def test_an_endpoint_that_drips_is_not_asked_again(url, monkeypatch):
    head = b'HTTP/1.1 200 OK\r\nContent-Length: 1000\r\nETag: "x"\r\n'
    head += b"Last-Modified: Wed, 12 Oct 2022 17:50:00 GMT\r\n\r\n"
    asked, over = [], threading.Event()

    class Drip(BaseRequestHandler):
        def handle(self):
            asked.append(self.request.recv(65536))
            self.request.sendall(head)
            with suppress(OSError):
                while not over.wait(0.1):
                    self.request.sendall(b" ")

    # In the order of the bounds that users have: obstore itself does not ask again either.
    retry = {**objects.RETRY, "retry_timeout": timedelta(seconds=0.5)}
    monkeypatch.setattr(objects, "RETRY", retry)
    monkeypatch.setattr(objects, "_TOTAL", 1.0)
    monkeypatch.setitem(objects._CLIENT, "timeout", "1s")
    with ThreadingTCPServer(("127.0.0.1", 0), Drip) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_address[1]}")
        try:
            with pytest.raises(StoreUnavailableError, match="timed out"):
                place_at(url).get("x")
        finally:
            over.set()
            server.shutdown()
    assert len(asked) == 1


def test_an_endpoint_that_is_down(url, monkeypatch, tmp_path):
    # The bounds that users have, and not those of the impatient.
    port = free_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    with within(60):
        told = softmix("fit", f"{url}/data.zarr", "-k", 2, code=75).stderr
    assert f"http://127.0.0.1:{port} does not answer (Connection refused)" in told


# ------------------------------------------------------------------ failures that pass


@pytest.mark.parametrize("status", [503, 429, None], ids=["busy", "throttled", "cut"])
def test_a_failure_that_passes_is_tried_again(proxy, url, impatient, status):
    proxy.status, proxy.fails = status, first(2)
    simulate(f"{url}/data.zarr", **SHAPE, block_rows=1024)
    proxy.fails = first(3, "/c/")
    model = SoftmaxMixture(2, init="random", n_init=1).fit(f"{url}/data.zarr")
    proxy.fails = first(2)
    model.save(f"{url}/model.zarr")
    assert proxy.failed == 7
    loaded = SoftmaxMixture.load(f"{url}/model.zarr")
    np.testing.assert_array_equal(loaded.atoms_, model.atoms_)


@pytest.mark.parametrize("on_cluster", [False, True])
def test_a_failure_that_stays_ends_the_fit_and_may_be_retried(
    proxy, url, impatient, client, on_cluster
):
    simulate(f"{url}/data.zarr", **SHAPE, block_rows=1024)
    dataset = open_dataset(f"{url}/data.zarr")
    # Not the first block, which the driver itself reads.
    proxy.fails = lambda method, path: "/c/3" in path
    with (
        within(60),
        pytest.raises(StoreUnavailableError, match=r"data.zarr.*503 Service Unavailable") as caught,
    ):
        SoftmaxMixture(2).fit(dataset, client=client if on_cluster else None)
    assert type(pickle.loads(pickle.dumps(caught.value))) is StoreUnavailableError
    if not on_cluster:
        assert "503" in softmix("fit", f"{url}/data.zarr", "-k", 2, code=75).stderr


# ------------------------------------------------------------------ half-written groups


class StopError(Exception):
    pass


def test_an_interrupted_write_leaves_nothing_that_opens(url):
    path = f"{url}/data.zarr"
    simulate(path, **SHAPE)
    late = []

    def interrupted():
        with new_group(path, MARK, overwrite=True) as group:
            group.attrs[MARK] = 1
            store.put(group, "features", ("candidate",), np.arange(3.0))
            with pytest.raises(StoreError, match="half-written; write it again"):
                open_dataset(path)
            late.append(group["features"])
            raise StopError

    with pytest.raises(StopError):
        interrupted()
    # The mark alone is left, and in nobody's way.
    assert [key.rpartition("/")[2] for key in keys(path)] == ["zarr.json"]
    assert "half-written" in softmix("check", path, code=65).stderr
    # Nor is what a worker writes that was not told.
    late[0][...] = 1.0
    assert [key for key in keys(path) if key.endswith("features/c/0")]
    simulate(path, **SHAPE)
    softmix("check", path)
    assert not [key for key in keys(path) if key.endswith("features/c/0")]


def test_an_overwrite_that_cannot_begin_leaves_the_old_group(proxy, url, impatient):
    path = f"{url}/data.zarr"
    simulate(path, **SHAPE)
    before = open_dataset(path).read_block(0)
    proxy.status, proxy.fails = 403, lambda method, path: method == "PUT"
    with pytest.raises(StoreError, match="access is denied"):
        simulate(path, **SHAPE, seed=1, overwrite=True)
    again = open_dataset(path).read_block(0)
    np.testing.assert_array_equal(again.features, before.features)
    np.testing.assert_array_equal(again.counts, before.counts)


def test_what_a_dead_process_left_is_refused_and_written_again(proxy, url, impatient):
    path = f"{url}/data.zarr"

    def killed():
        with new_group(path, MARK) as group:
            store.put(group, "left", ("candidate",), np.arange(3.0))
            proxy.fails = lambda method, path: True
            raise StopError

    with pytest.raises(StopError):
        killed()
    proxy.fails = first(0)
    assert len(keys(path)) == 3
    assert "half-written" in softmix("fit", path, "-k", 2, code=65).stderr
    simulate(path, **SHAPE)
    assert open_dataset(path).n_candidates == 5000
    assert not [key for key in keys(path) if key.endswith("left/zarr.json")]


def test_only_groups_of_its_kind_are_overwritten(url):
    path = f"{url}/data.zarr"
    simulate(path, **SHAPE, n_samples=3)
    model = SoftmaxMixture(2, init="random", n_init=1).fit(path)
    with pytest.raises(StoreError, match="exists already"):
        simulate(path, **SHAPE)
    with pytest.raises(StoreError, match="something else"):
        model.save(path, overwrite=True)
    place_at(url + "/other").put("file", b"of another")
    with pytest.raises(StoreError, match="something else"):
        model.save(url + "/other", overwrite=True)
    before = keys(path)
    simulate(path, **SHAPE, overwrite=True)
    assert open_dataset(path).n_samples == 1
    # Chunks of three samples have one more index.
    assert set(before) - set(keys(path))


@pytest.mark.parametrize("remote", [False, True])
def test_a_data_set_that_was_overwritten_is_read_anew(url, tmp_path, remote):
    path = f"{url if remote else tmp_path}/data.zarr"
    features, counts = np.random.default_rng(0).normal(size=(40, 2)), np.arange(1, 41)
    write_dataset(path, features, counts)
    before = open_dataset(path)
    before.read_block(0)
    write_dataset(path, -features, counts, overwrite=True, block_rows=8)
    again = open_dataset(path)
    np.testing.assert_array_equal(again.read_block(1).features, -features[8:16])
    write_dataset(path, features[:30], counts[:30], overwrite=True)
    copy = pickle.loads(pickle.dumps(again))
    object.__setattr__(copy, "token", "of another process")
    with pytest.raises(StoreError, match="not what it was"):
        copy.read_block(0)


# ------------------------------------------------------------------ secrets


def secrets_in(text):
    text = text if isinstance(text, bytes) else str(text).encode()
    return [name for name, value in SECRETS.items() if value.encode() in text]


def test_no_secret_is_told(proxy, url, impatient, client, caplog, monkeypatch):
    told = []
    with caplog.at_level(logging.DEBUG):
        data, model = f"{url}/data.zarr", f"{url}/model.zarr"
        simulate(data, **SHAPE, block_rows=1024)
        dataset = open_dataset(data)
        fitted = SoftmaxMixture(2, init="random", n_init=1).fit(dataset, client=client)
        fitted.save(model)
        output = predictions.Output(data, "token")
        task = predictions.Predict(None, 0, "deviance", output)
        dataset.read_block(0)
        assert output.arrays
        told += [pickle.dumps(dataset), pickle.dumps(task), pickle.dumps(fitted), repr(dataset)]
        told += [fitted.summary(), fitted._repr_html_(), repr(fitted), repr(task)]
        told += [repr(value) for value in output.arrays.values()]
        port = proxy.port
        told += [ask(port, "GET", f"/{BUCKET}/{key}")[1] for key in keys(url)]
        result = softmix("show", model)
        told += [result.stdout, result.stderr]
        # Answers that repeat the request, its headers or its address, and endpoints with a user.
        leak = " ".join(SECRETS.values()).encode()
        for status, body in ((400, b""), (400, leak), (503, leak), (403, leak), (418, leak)):
            proxy.fails = lambda method, path: True
            proxy.status, proxy.body = status, body
            code = 75 if status == 503 else 65
            with pytest.raises(StoreError) as caught:
                fitted.save(f"{url}/other.zarr")
            told += [*format_exception(caught.value), caught.value, repr(caught.value)]
            told += [pickle.dumps(caught.value), softmix("check", data, code=code).stderr]
        # Workers log the task that failed, with its arguments.
        proxy.fails, proxy.status = lambda method, path: "/c/3" in path, 503
        logging.getLogger("distributed").addHandler(caplog.handler)
        try:
            with pytest.raises(StoreUnavailableError) as caught:
                SoftmaxMixture(2).fit(dataset, client=client)
        finally:
            logging.getLogger("distributed").removeHandler(caplog.handler)
        assert "StoreUnavailableError" in caplog.text
        told += [caught.value, *format_exception(caught.value)]
        user = "http://{AWS_ACCESS_KEY_ID}:fakepassword@127.0.0.1:1".format(**SECRETS)
        monkeypatch.setenv("AWS_ENDPOINT_URL", user)
        with pytest.raises(StoreError) as caught:
            open_dataset(data)
        assert "fakepassword" not in str(caught.value)
        told += [caught.value, *format_exception(caught.value)]
    told += [caplog.text]
    assert [found for text in told if (found := secrets_in(text))] == []
    for handle in (*output.arrays.values(), objects.open_store(data)):
        with pytest.raises(TypeError, match="credentials do not travel"):
            pickle.dumps(handle)


def test_messages_lose_what_may_be_secret():
    text = "http://me:word@host/x?X-Amz-Signature=abc and " + " ".join(SECRETS.values())
    assert without_secrets(text) == "http://host/x and " + " ".join(["***"] * len(SECRETS))


@pytest.mark.parametrize(
    "path",
    [
        "s3://key:fakesecret@bucket/data.zarr",
        "s3://key:fake/secret@bucket/data.zarr",
        "s3://fakesecret@bucket/data.zarr",
        "s3://bucket/data.zarr?X-Amz-Signature=fakesecret",
        "https://bucket/data.zarr#fakesecret",
    ],
)
def test_credentials_in_a_url_are_refused_and_not_repeated(path):
    for arguments in (("check", path), ("fit", "x", "-k", 2, "-o", path)):
        told = softmix(*arguments, code=65).stderr
        assert "credentials in the environment" in told
        assert "fake" not in told


@pytest.mark.parametrize(
    "path", ["s3://bucket", "s3://bucket/", "s3:///data.zarr", Path("s3://bucket/data.zarr")]
)
def test_a_url_names_a_bucket_and_a_path(path):
    with pytest.raises(StoreError, match=r"s3://bucket/path"):
        open_dataset(path)
    with pytest.raises(StoreError, match=r"s3://bucket/path"):
        simulate(path, **SHAPE)


def test_a_url_that_cannot_be_parsed():
    with pytest.raises(StoreError, match="not the URL"):
        open_dataset("s3://[bucket/data.zarr")


# ------------------------------------------------------------------ without obstore


def test_other_schemes_go_through_fsspec(url):
    path = "memory://softmix/data.zarr"
    simulate(path, **SHAPE)
    model = SoftmaxMixture(2, init="random", n_init=1).fit(path)
    model.save("memory://softmix/model.zarr")
    assert SoftmaxMixture.load("memory://softmix/model.zarr").result_.n_draws == 200_000
    with pytest.raises(StoreError, match="half-written"), new_group("memory://m/x", MARK):
        open_dataset("memory://m/x")
    with pytest.raises(StoreError, match="s3://, gs:// and az:// are"):
        open_dataset("nosuch://bucket/data.zarr")


def test_s3_goes_through_fsspec_where_obstore_is_not_there(url, monkeypatch):
    pytest.importorskip("s3fs", minversion="2024.6", reason="needs a recent s3fs")
    monkeypatch.setattr(objects, "find_spec", lambda name: name != "obstore")
    test_a_place_keeps_whole_files(url + "/place")
    simulate(f"{url}/data.zarr", **SHAPE)
    assert open_dataset(f"{url}/data.zarr").read_block(0).features.shape == (5000, 3)
    with pytest.raises(StoreError, match="no bucket"):
        open_dataset("s3://no-such-bucket/data.zarr")


def test_without_packages_it_says_which_to_install(url, monkeypatch):
    monkeypatch.setattr(objects, "find_spec", lambda name: None)
    with pytest.raises(StoreError, match=r"install softmix-dist\[stores\]"):
        open_dataset(f"{url}/data.zarr")


# ------------------------------------------------------------------ tables


def put(url, content):
    port = int(os.environ["AWS_ENDPOINT_URL"].rpartition(":")[2])
    assert ask(port, "PUT", "/" + url.removeprefix("s3://"), content)[0] == 200


def test_tables_come_from_a_store_and_go_there(url, tmp_path):
    ids = np.arange(400)
    frame = pd.DataFrame({"id": ids, "price": np.sin(ids), "size": ids % 7})
    drawn = np.random.default_rng(0).integers(0, 380, 20_000)
    frame.to_parquet(tmp_path / "features.parquet")
    put(f"{url}/features.parquet", (tmp_path / "features.parquet").read_bytes())
    for i, part in enumerate(np.array_split(drawn, 5)):
        pd.DataFrame({"id": part}).to_csv(tmp_path / "part.csv", index=False)
        put(f"{url}/events/{i}.csv", (tmp_path / "part.csv").read_bytes())
    put(f"{url}/events/_SUCCESS", b"")
    report = ingest(f"{url}/data.zarr", f"{url}/features.parquet", f"{url}/events", n_threads=2)
    assert report.n_draws == 20_000
    data = open_dataset(f"{url}/data.zarr")
    counts = np.bincount(drawn, minlength=400)
    np.testing.assert_array_equal(data.read_block(0).counts, counts)
    with cluster_of(2) as client:
        again = ingest(tmp_path / "here.zarr", f"{url}/features.parquet", f"{url}/events/",
                       client=client)  # fmt: skip
    assert again.n_draws == 20_000


def test_matrices_and_patterns_of_a_store(url, tmp_path):
    np.save(tmp_path / "features.npy", np.eye(4, 2))
    save_npz(tmp_path / "counts.npz", csr_array(np.array([[4, 3, 2, 1]])))
    for name in ("features.npy", "counts.npz"):
        put(f"{url}/{name}", (tmp_path / name).read_bytes())
    for name in ("a-1.csv", "a-2.csv", "b-1.csv", "deep/a-1.csv"):
        put(f"{url}/events/{name}", b"id\n0\n0\n3\n")
    ingest(tmp_path / "x", f"{url}/features.npy", counts=f"{url}/counts.npz")
    block = open_dataset(tmp_path / "x").read_block(0)
    np.testing.assert_array_equal(block.features, np.eye(4, 2))
    assert block.counts.tolist() == [[4, 3, 2, 1]]
    for pattern, times in (("events/a-*.csv", 2), ("events/*.csv", 3), ("*/*/*.csv", 1)):
        ingest(tmp_path / "y", f"{url}/features.npy", f"{url}/{pattern}", overwrite=True)
        counts = open_dataset(tmp_path / "y").read_block(0).counts
        assert counts.tolist() == [2 * times, 0, 0, times]
    for name in ("no.npy", "no*.csv"):
        with pytest.raises(StoreError, match="does not exist|no files at"):
            ingest(tmp_path / "z", f"{url}/{name}", f"{url}/events")
    with pytest.raises(StoreError, match="does not exist"):
        ingest(tmp_path / "z", f"{url}/features.npy", counts=f"{url}/no.npz")


def test_a_report_comes_from_a_store_and_goes_there(url):
    simulate(f"{url}/data.zarr", **SHAPE)
    softmix("fit", f"{url}/data.zarr", "-k", 2, "-o", f"{url}/model.zarr", "-q")
    told = "-o", f"{url}/page.html", "--data", f"{url}/data.zarr"
    softmix("report", f"{url}/model.zarr", *told)
    assert "exists already" in softmix("report", f"{url}/model.zarr", *told, code=65).stderr
    page = place_at(url).get("page.html")
    assert page.startswith(b"<!DOCTYPE html>")
    assert page.count(b"data:image/png") == 3 + 2 + 1


def test_tables_that_are_not_in_a_store(url, tmp_path):
    events = pd.DataFrame({"id": [1]})
    with pytest.raises(StoreError, match="does not exist; give the URL of an object"):
        ingest(tmp_path / "x", f"{url}/no.parquet", events)
    put(f"{url}/features.parquet", b"nothing")
    with pytest.raises(InputError, match="features.parquet: cannot be read"):
        ingest(tmp_path / "x", f"{url}/features.parquet", events)
    with pytest.raises(StoreError, match=f"no files at {url}/none"):
        ingest(tmp_path / "x", events, f"{url}/none")
    assert not (tmp_path / "x").exists()
