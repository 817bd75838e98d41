"""The limit of one BLAS thread holds for the process, whichever threads come and go."""

import subprocess
import sys
import threading
from collections.abc import Callable

import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from softmix_dist.engine import single_blas_thread


def limits() -> set[int]:
    return {found["num_threads"] for found in threadpool_info() if found["user_api"] == "blas"}


def in_a_thread(work: Callable[[], object]) -> None:
    thread = threading.Thread(target=work)
    thread.start()
    thread.join(30)
    assert not thread.is_alive()


@pytest.fixture(autouse=True)
def several_threads():
    """Start from two BLAS threads, and take them back."""
    with threadpool_limits(2, user_api="blas"):
        if limits() != {2}:
            pytest.skip("this BLAS has one thread")
        yield


def test_limit_holds_and_is_restored() -> None:
    with single_blas_thread():
        assert limits() == {1}
        with single_blas_thread():
            assert limits() == {1}
        assert limits() == {1}
    assert limits() == {2}


def test_last_to_leave_restores_whichever_thread_it_is() -> None:
    entered, leave = threading.Event(), threading.Event()

    def first() -> None:
        with single_blas_thread():
            entered.set()
            assert leave.wait(30)

    thread = threading.Thread(target=first)
    thread.start()
    assert entered.wait(30)
    with single_blas_thread():
        leave.set()
        thread.join(30)
        # The thread that set the limit has gone; this one still computes.
        assert limits() == {1}
    assert limits() == {2}


def test_a_thread_that_lives_on_does_not_keep_others_from_the_limit() -> None:
    done, end = threading.Event(), threading.Event()

    def early() -> None:
        with single_blas_thread():
            pass
        done.set()
        assert end.wait(30)

    thread = threading.Thread(target=early)
    thread.start()
    assert done.wait(30)
    try:
        assert limits() == {2}
        with single_blas_thread():
            assert limits() == {1}
        assert limits() == {2}
    finally:
        end.set()
        thread.join(30)


def test_a_limit_of_the_user_is_no_obstacle_and_comes_back() -> None:
    seen = []

    def fit() -> None:
        with single_blas_thread():
            seen.append(limits())
        seen.append(limits())

    in_a_thread(fit)  # while the fixture's context is open in this thread
    assert seen == [{1}, {2}]


def test_the_name_does_not_depend_on_which_library_was_loaded_first():
    script = "import {first}; from softmix_dist.engine import blas_kernel; print(blas_kernel())"
    names = {
        subprocess.run(
            [sys.executable, "-c", script.format(first=first)],
            check=True, capture_output=True, text=True,
        ).stdout
        for first in ("numpy", "softmix_dist.cli")
    }  # fmt: skip
    assert len(names) == 1
    assert names != {"unknown\n"}
