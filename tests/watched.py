"""One case of a fuzz test: its end, a limit of time, and what it did to files."""

from __future__ import annotations

import os
import resource
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from softmix_dist.errors import SoftmixError

SECONDS = 30

# Places of paths among the arguments of an event, and of the folder that each is relative to.
_WRITES = {
    "os.mkdir": ((0, 2),), "os.remove": ((0, 1),), "os.rmdir": ((0, 1),),
    "os.rename": ((0, 2), (1, 3)), "os.symlink": ((1, 2),), "os.link": ((1, 3),),
    "os.truncate": ((0, None),), "os.chmod": ((0, 2),), "shutil.rmtree": ((0, 1),),
}  # fmt: skip
# Code out of data: what unpickles, or starts programs.
_RUNS = {"pickle.find_class", "subprocess.Popen", "os.system", "os.exec", "os.posix_spawn"}
_seen: list[str] | None = None
_allowed: tuple[str, ...] = ()


class Hang(BaseException):
    """A case took too long."""


def _audit(event: str, arguments: Any) -> None:
    # Every thread of the process comes here, and for ever: hooks cannot be removed.
    if _seen is None:
        return
    if event in _RUNS:
        if "BASH_VERSION" in str(arguments) or "uname" in str(arguments):
            # Click, before it prints what completes commands; what asks for the processor.
            return
        _seen.append(f"{event} {str(arguments)[:100]}")
    elif event == "open":
        path, mode, flags = arguments
        if isinstance(path, str | bytes | os.PathLike) and flags & (
            os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
        ):
            _note(event, path)
    elif event in _WRITES:
        for place, folder in _WRITES[event]:
            _note(event, arguments[place], None if folder is None else arguments[folder])


def _note(event: str, path: Any, folder: Any = None) -> None:
    if not isinstance(path, str | bytes | os.PathLike):
        return
    start = f"/proc/self/fd/{folder}" if isinstance(folder, int) and folder >= 0 else ""
    full = os.path.realpath(os.path.join(start, os.fsdecode(path)))
    if not full.startswith((*_allowed, "/dev/")) and "__pycache__" not in full:
        assert _seen is not None
        _seen.append(f"{event} {full}")


sys.addaudithook(_audit)


@contextmanager
def watched(*allowed: Path) -> Iterator[list[str]]:
    """Yield a list that fills with writes elsewhere, and with code that was run."""
    global _seen, _allowed
    _allowed = tuple(os.path.realpath(path) for path in allowed)
    _seen = found = []
    try:
        yield found
    finally:
        _seen = None


@contextmanager
def limited(seconds: float = SECONDS, nbytes: int = 3 << 30) -> Iterator[None]:
    """End what takes longer with `Hang`; let nothing take more memory, as in a container."""

    def late(signum: int, frame: Any) -> None:
        raise Hang(f"after {seconds} s: " + "".join(traceback.format_stack(frame, 12)))

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limits = resource.getrlimit(resource.RLIMIT_AS)
    limit = pages * resource.getpagesize() + nbytes
    resource.setrlimit(resource.RLIMIT_AS, (limit, limits[1]))
    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        resource.setrlimit(resource.RLIMIT_AS, limits)


def outcome(case: Callable[[], Any], *allowed: Path) -> tuple[str, str]:
    """Run a case; say how it ended, and what was wrong with that ("" for nothing)."""
    wrong = ""
    with watched(*allowed) as seen, limited(), warnings.catch_warnings():
        # A user sees them; here only errors count.
        warnings.simplefilter("ignore")
        try:
            ended = str(case() or "ok")
        except SoftmixError as error:
            ended = type(error).__name__
        except (Exception, Hang) as error:
            ended = type(error).__name__
            where = traceback.extract_tb(error.__traceback__)
            own = [frame for frame in where if "softmix_dist" in frame.filename]
            place = f"{Path(own[-1].filename).name}:{own[-1].lineno}" if own else "?"
            wrong = f"{ended} at {place}: {str(error)[: 3000 if ended == 'Hang' else 150]}"
    return ended, wrong or (f"it did {seen[:3]}" if seen else "")


def tree(root: Path) -> dict[str, Any]:
    """What is in a folder: names, and the content or the aim of each."""
    return {
        str(path.relative_to(root)): os.readlink(path)
        if path.is_symlink()
        else path.read_bytes() if path.is_file() else None
        for path in sorted(root.rglob("*"))
    }  # fmt: skip
