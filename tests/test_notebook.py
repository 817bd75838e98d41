"""Manners in a notebook, in a real Jupyter kernel, whose event loop runs all the time."""

from __future__ import annotations

import os
import signal
import threading
import time

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from softmix_dist import SoftmaxMixture

DATA = """
import numpy as np
from softmix_dist import SoftmaxMixture

rng = np.random.default_rng(0)
features = rng.standard_normal((3000, 3))
choice = np.exp(features @ [1.0, -1.0, 0.5])
counts = rng.multinomial(100_000, choice / choice.sum())
"""
BEGIN = (
    DATA
    + """
from dask.distributed import Client

client = Client(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=":0")
"""
)
FIT = "model = SoftmaxMixture(1).fit(features, counts); repr(model.log_likelihood_)"
LEFT = """
import time
while client.cluster.scheduler.tasks:
    time.sleep(0.01)
assert client.status == "running"
"""


@pytest.fixture
def notebook(monkeypatch):
    """Cells run one by one in a kernel of this Python."""
    monkeypatch.setenv("PYDEVD_DISABLE_FILE_VALIDATION", "1")
    notebook = nbformat.v4.new_notebook()
    client = NotebookClient(notebook, timeout=60, kernel_name="python3")
    with client.setup_kernel():
        number = 0

        def run(source: str) -> str:
            nonlocal number
            notebook.cells.append(nbformat.v4.new_code_cell(source))
            cell = client.execute_cell(notebook.cells[-1], number)
            number += 1
            told = [out["data"]["text/plain"] for out in cell.outputs if "data" in out]
            return "".join(told)

        yield run


def test_the_current_client_is_used_and_left_clean(notebook):
    notebook(BEGIN)
    told = notebook(FIT)
    notebook(LEFT)
    here: dict = {}
    exec(DATA, here)
    model = SoftmaxMixture(1).fit(here["features"], here["counts"], n_threads=1)
    assert repr(model.log_likelihood_) in told
    # With await at hand, as cells have it.
    notebook("import asyncio\nawait asyncio.sleep(0)\n" + FIT)
    notebook(LEFT)


def test_an_interrupted_cell_cancels_its_tasks(notebook):
    notebook(BEGIN)
    pid = int(notebook("import os; os.getpid()"))
    endless = (
        "SoftmaxMixture(2, solver='em-first-order', tol=1e-12, max_passes=10**6)"
        ".fit(features, counts, progress=lambda row: open('passed', 'a').write('.'))"
    )
    notebook("import os, tempfile; os.chdir(tempfile.mkdtemp())")
    folder = notebook("os.getcwd()").strip("'")

    def interrupt() -> None:
        while not (os.path.exists(f"{folder}/passed") and os.path.getsize(f"{folder}/passed") > 9):
            time.sleep(0.01)
        # Python ignores an exception in a callback of its collector: so users press again. Not
        # soon, for one that comes while the kernel draws the traceback costs it the answer.
        while True:
            os.kill(pid, signal.SIGINT)
            if ended.wait(15):
                return

    ended = threading.Event()
    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(CellExecutionError, match="KeyboardInterrupt"):
        notebook(endless)
    ended.set()
    thread.join()
    notebook("import sys; sys.last_value = sys.last_traceback = None\n" + LEFT)
    notebook(FIT)
