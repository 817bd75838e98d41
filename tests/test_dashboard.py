"""The page of fits in the Dask dashboard: over HTTP, by bokeh's own protocol, in a browser."""

from __future__ import annotations

import asyncio
import http.client
import io
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from urllib.parse import urlsplit

import numpy as np
import pytest
from bokeh.client import pull_session
from bokeh.models import ColumnDataSource, Div, Select
from browser import BROWSER, screenshot
from distributed import Client, LocalCluster
from matplotlib.image import imread

from softmix_dist import SoftmaxMixture
from softmix_dist.dashboard import NAME, FitsPlugin, Publisher, Watched

# Bokeh's session talks about its websocket; Dask's own pages too.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@contextmanager
def a_cluster(**options):
    with (
        LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=":0",
                     **options) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):  # fmt: skip
        yield client


@pytest.fixture
def client():
    with a_cluster() as found:
        yield found


def address(client):
    return urlsplit(client.dashboard_link)


def page(client):
    where = address(client)
    connection = http.client.HTTPConnection(where.hostname, where.port, timeout=20)
    try:
        connection.request("GET", "/softmix")
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def plugin(client) -> FitsPlugin:
    until(lambda: NAME in client.cluster.scheduler.plugins)
    return client.cluster.scheduler.plugins[NAME]


def until(true):
    for _ in range(200):
        if true():
            return
        time.sleep(0.05)
    raise AssertionError("not in ten seconds")


def ended(client, number=1):
    """Wait until so many fits have told their end; they are told by the way."""
    found = plugin(client).fits
    until(lambda: [fit.phase for fit in found.values()] == ["converged"] * number)
    return found


def fitted(client, medium, **options):
    model = SoftmaxMixture(2, sketch_rows=300, tol=1e-3, n_init=2, **options)
    return model.fit(medium.features, medium.counts, client=client)


def shown(client):
    """The document that a visitor gets, pulled as a browser does."""
    where = address(client)
    session = pull_session(url=f"http://{where.hostname}:{where.port}/softmix")
    try:
        return session.document
    finally:
        session.close()


def test_a_fit_shows_while_it_runs_and_after(client, medium):
    rows = []
    model = SoftmaxMixture(2, sketch_rows=300, tol=1e-3, n_init=2)
    model.fit(medium.features, medium.counts, client=client, progress=rows.append)
    passes = [row for row in rows if row["phase"] == "pass"]
    (fit,) = ended(client).values()
    assert fit.passes == [row["pass"] for row in passes]
    assert fit.objectives == [row["objective"] for row in passes]
    assert fit.distances == [row["distance"] for row in passes]
    assert "kept in memory" in fit.plan
    np.testing.assert_allclose(sorted(fit.weights)[::-1], model.weights_, atol=0.05)
    status, text = page(client)
    assert status == 200
    assert "bokeh" in text
    document = shown(client)
    data = [source.data for source in document.select({"type": ColumnDataSource})]
    assert any(list(values.get("objective", [])) == fit.objectives for values in data)
    assert any(list(values.get("weight", [])) == fit.weights for values in data)
    told = next(iter(document.select({"type": Div}))).text
    assert f"converged, after pass {fit.passes[-1]}: " in told
    assert "passes a minute" in told
    assert "kept in memory" in told


def test_several_fits_are_told_apart(client, medium):
    for _ in range(2):
        fitted(client, medium)
    ended(client, 2)
    options = next(iter(shown(client).select({"type": Select}))).options
    assert [name for _, name in options] == [
        f"2, {len(medium.counts):,} candidates", f"1, {len(medium.counts):,} candidates"
    ]  # fmt: skip


def test_who_does_not_want_it_has_none(client, medium, monkeypatch):
    import dask

    with dask.config.set({"softmix.engine.dashboard": False}):
        fitted(client, medium)
    assert NAME not in client.cluster.scheduler.plugins
    assert page(client)[0] == 404


def test_without_bokeh_the_page_says_so_and_fits_go_on(client, medium, monkeypatch):
    monkeypatch.setitem(sys.modules, "softmix_dist.dashboard_page", None)
    assert fitted(client, medium).converged_
    ended(client)
    status, text = page(client)
    assert status == 200
    assert "pip install 'softmix-dist[dashboard]'" in text


def test_a_scheduler_without_a_dashboard_is_left_alone(medium):
    script = """
import sys
import time
import numpy as np
from distributed import Client, LocalCluster
from softmix_dist import SoftmaxMixture

options = {"dashboard_address": ":0", "scheduler_kwargs": {"dashboard": False}}
with LocalCluster(n_workers=1, processes=False, **options) as cluster, Client(cluster) as client:
    SoftmaxMixture(1).fit(np.arange(20.0)[:, None], np.arange(20), client=client)
    plugins = cluster.scheduler.plugins
    while not ("softmix-fits" in plugins and plugins["softmix-fits"].fits):
        time.sleep(0.01)
    print("bokeh" in sys.modules)
"""
    command = [sys.executable, "-W", "ignore", "-c", script]
    told = subprocess.run(command, capture_output=True, text=True, check=True)
    assert told.stdout.split() == ["False"]


@pytest.mark.parametrize("asked", ["register_scheduler_plugin", "log_event"])
def test_a_scheduler_that_refuses_costs_no_fit(client, medium, monkeypatch, asked, caplog):
    async def refuses(*_, **__):
        raise RuntimeError("no such module on the scheduler")

    monkeypatch.setitem(client.cluster.scheduler.handlers, asked, refuses)
    rows = []
    with caplog.at_level("INFO", logger="softmix_dist"):
        model = SoftmaxMixture(1).fit(
            medium.features, medium.counts, client=client, progress=rows.append
        )
    assert model.converged_
    assert rows[-1]["phase"] == "end"
    assert caplog.text.count("no progress on the dashboard") == 1


def test_a_scheduler_that_does_not_answer_is_not_waited_for(client, medium, monkeypatch):
    asked = threading.Event()

    async def waits(*_, **__):
        asked.set()
        await asyncio.sleep(3600)

    monkeypatch.setitem(client.cluster.scheduler.handlers, "log_event", waits)
    assert fitted(client, medium).converged_
    assert asked.wait(10)


def test_messages_keep_their_order(client):
    tell = Publisher(client)
    for number in range(300):
        tell({"phase": "pass", "pass": number, "objective": -1.0, "distance": 1.0})
        if number % 50 == 0:
            time.sleep(0.05)
    until(
        lambda: plugin(client).fits and next(iter(plugin(client).fits.values())).passes[-1] == 299
    )
    (fit,) = plugin(client).fits.values()
    assert fit.passes == sorted(fit.passes)
    assert len(fit.passes) >= 100


def test_a_scheduler_has_it_by_a_preload(medium):
    with a_cluster(scheduler_kwargs={"preload": ["softmix_dist.dashboard"]}) as client:
        assert page(client)[0] == 200
        before = plugin(client)
        fitted(client, medium)
        ended(client)
        assert plugin(client) is before


def message(fit, number, **more):
    return {"fit": fit, "time": float(number), "phase": "pass", "pass": number, "objective": -1.0,
            "distance": 0.5, **more}  # fmt: skip


def test_what_is_remembered_is_bounded():
    found = FitsPlugin()
    for number in range(3000):
        found.log_event("softmix", message("a", number))
    assert len(found.fits["a"].passes) == len(found.fits["a"].objectives) == 2000
    assert found.fits["a"].passes[-1] == 2999
    for number in range(30):
        found.log_event("softmix", message(f"fit {number}", 1))
    assert len(found.fits) == 20
    assert "fit 29" in found.fits


def test_other_messages_are_left_alone():
    found = FitsPlugin()
    for topic, told in (
        ("other", message("a", 1)), ("softmix", "text"), ("softmix", {"phase": "pass"}),
        ("softmix", {"fit": "a", "phase": "pass"}),
    ):  # fmt: skip
        found.log_event(topic, told)
    assert not found.fits
    found.log_event("softmix", {"fit": "a", "time": 1.0, "unknown": 2})
    assert found.fits["a"].phase == "begun"


def test_throughput_in_words():
    fit = Watched(0.0, 0.0, n_candidates=1000)
    assert fit.in_words() == "begun"
    for number in (1, 2, 3):
        fit.take(message("a", 10 * number))
    assert fit.in_words().startswith(
        "pass 30: 6.0 passes a minute, 100 rows a second; 0.5 standard"
    )
    # Of all passes, also of those that are no longer drawn.
    for number in range(4, 4001):
        fit.take(message("a", 10 * number))
    assert "6.0 passes a minute, 100 rows a second" in fit.in_words()


@pytest.mark.browser
def test_a_browser_draws_it(client, medium, tmp_path):
    if BROWSER is None:
        pytest.skip("no chromium")
    fitted(client, medium)
    ended(client)
    where = address(client)
    url = f"http://{where.hostname}:{where.port}/softmix"
    ready = "!!window.Bokeh && Bokeh.documents.length > 0 && Bokeh.documents[0].is_idle"
    drawn = imread(io.BytesIO(screenshot(url, ready, tmp_path)))[..., :3]
    # Lines and bars in the colours of the page, not only its frame.
    for colour in ((0, 0x72, 0xB2), (0xD5, 0x5E, 0), (0, 0x7A, 0x5A)):
        near = np.abs(drawn - np.array(colour) / 255).max(axis=2) < 0.1
        assert near.sum() > 50


def test_plugins_start_where_there_is_no_server():
    asyncio.run(FitsPlugin().start(object()))
