"""A page of the Dask dashboard, ``/softmix``: fits while they run.

A plugin of the scheduler keeps what fits publish, and draws it where bokeh is installed. Fits
register it; a cluster that lives long may have it from its beginning:
``dask scheduler --preload softmix_dist.dashboard``.
"""

from __future__ import annotations

import logging
import sys
import time
import uuid
from collections import OrderedDict, deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from distributed.diagnostics.plugin import SchedulerPlugin
from distributed.protocol.pickle import dumps

if TYPE_CHECKING:
    from distributed import Client

NAME, TOPIC = "softmix-fits", "softmix"
# What the scheduler remembers at most.
_FITS, _PASSES = 20, 2000
# Messages that wait at most, for a scheduler that does not answer.
_WAITING = 100

logger = logging.getLogger("softmix_dist")

Progress = Callable[[dict[str, Any]], None]


@dataclass
class Watched:
    """What is known of one fit.

    Attributes
    ----------
    began, last : float
        Seconds since the epoch, of its first and its last message.
    phase, plan : str
    n_candidates : int
    n_passes : int
        Since it began.
    passes, objectives, distances : list
        One entry for each of the last passes: its number, nats per draw, standard errors.
    weights : list of float
        Of the leader's components.
    """

    began: float
    last: float
    phase: str = "begun"
    plan: str = ""
    n_candidates: int = 0
    n_passes: int = 0
    passes: list[int] = field(default_factory=list)
    objectives: list[float] = field(default_factory=list)
    distances: list[float] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)

    def take(self, row: dict[str, Any]) -> None:
        """Take one message, a row of progress; all of it, or nothing where it is none.

        Raises
        ------
        KeyError, TypeError, ValueError
            If it is none.
        """
        phase, last, plan = str(row["phase"]), float(row["time"]), str(row.get("plan", self.plan))
        n_candidates = int(row.get("n_candidates", self.n_candidates))
        if phase == "end":
            phase = "converged" if row["converged"] else "not converged"
        if row["phase"] == "pass":
            number = int(row["pass"])
            objective, distance = float(row["objective"]), float(row["distance"])
            self.weights = [float(weight) for weight in row.get("weights") or self.weights]
            self.n_passes += 1
            self.passes.append(number)
            self.objectives.append(objective)
            self.distances.append(distance)
            for values in (self.passes, self.objectives, self.distances):
                del values[:-_PASSES]
        self.phase, self.last, self.plan, self.n_candidates = phase, last, plan, n_candidates

    def in_words(self) -> str:
        """Phase and throughput, in one line."""
        if not self.passes:
            return self.phase
        seconds = max(self.last - self.began, 1e-9)
        told = f"pass {self.passes[-1]}"
        if self.phase != "pass":
            told = f"{self.phase}, after {told}"
        return (
            f"{told}: {60 * self.n_passes / seconds:,.1f} passes a "
            f"minute, {self.n_candidates * self.n_passes / seconds:,.0f} rows a second; "
            f"{self.distances[-1]:.3g} standard errors from the maximum"
        )


class FitsPlugin(SchedulerPlugin):
    """Keeps what fits publish, and adds the page to the scheduler's dashboard.

    Attributes
    ----------
    fits : OrderedDict of Watched
        The last ones, by their ids.
    """

    name = NAME
    # Where it is there already, with what it knows, it stays.
    idempotent = True

    def __init__(self) -> None:
        self.fits: OrderedDict[str, Watched] = OrderedDict()

    async def start(self, scheduler: Any) -> None:
        """Add the page."""
        with suppress(Exception):
            add_page(scheduler, self)

    def log_event(self, topic: str, msg: Any) -> None:
        """Take what a fit publishes, of whatever version of this package."""
        if topic != TOPIC or not isinstance(msg, dict) or not {"fit", "time"} <= {*msg}:
            return
        # A newer package may say other things.
        with suppress(KeyError, TypeError, ValueError, OverflowError):
            began = float(msg["time"])
            self.fits.setdefault(str(msg["fit"]), Watched(began, began)).take(msg)
        while len(self.fits) > _FITS:
            self.fits.popitem(last=False)


def add_page(scheduler: Any, plugin: FitsPlugin) -> None:
    """Add the page to a scheduler's HTTP server; without bokeh one that says what is missing."""
    application = scheduler.http_application
    if "distributed.dashboard.scheduler" not in sys.modules and find_spec("bokeh") is not None:
        # It has no dashboard, and nobody asked for one: loading bokeh would hold it up.
        return
    try:
        from distributed.dashboard.core import BokehApplication
        from distributed.dashboard.scheduler import template_variables

        from softmix_dist.dashboard_page import document
    except ImportError:
        application.add_handlers(r".*", [(r".*/softmix", _missing())])
        return
    from tornado.ioloop import IOLoop

    pages = {"/softmix": lambda scheduler, extra, doc: document(plugin, extra, doc)}
    boards = [board for board in application.applications if hasattr(board, "app_paths")]
    variables = template_variables(scheduler)
    prefix = boards[0].prefix if boards else "/"
    found = BokehApplication(pages, scheduler, prefix=prefix, template_variables=variables)
    application.add_application(found)
    found.initialize(IOLoop.current())
    found.start()


def _missing() -> Any:
    from tornado.web import RequestHandler

    class Missing(RequestHandler):
        def get(self) -> None:
            self.write(
                "This page needs bokeh where the scheduler runs: "
                "pip install 'softmix-dist[dashboard]'"
            )

    return Missing


async def dask_setup(scheduler: Any) -> None:
    """Register the plugin, as a preload of a scheduler."""
    if NAME not in scheduler.plugins:
        plugin = FitsPlugin()
        scheduler.add_plugin(plugin, name=NAME)
        await plugin.start(scheduler)


class Publisher:
    """A callback that tells the scheduler what it is told, in order; it never fails, nor waits.

    Parameters
    ----------
    client : distributed.Client
    progress : callable or None
        What else is called.
    """

    def __init__(self, client: Client, progress: Progress | None = None):
        self._client, self._progress = client, progress
        self._fit = uuid.uuid4().hex
        self._waiting: deque[dict[str, Any]] = deque(maxlen=_WAITING)
        self._registered = self._sending = self._silent = False

    def __call__(self, row: dict[str, Any]) -> None:
        """Tell one row of progress, as `fit` publishes them."""
        told = {key: _plain(value) for key, value in row.items()}
        self._waiting.append({"fit": self._fit, "time": time.time(), **told})
        if not self._silent:
            with suppress(Exception):
                self._client.loop.add_callback(self._send)
        if self._progress is not None:
            self._progress(row)

    async def _send(self) -> None:
        # On the client's loop, one at a time, so that they keep their order.
        if self._sending:
            return
        self._sending = True
        try:
            if not self._registered:
                self._registered = True
                await self._client.scheduler.register_scheduler_plugin(
                    plugin=dumps(FitsPlugin()), name=NAME, idempotent=True
                )
            while self._waiting:
                message = self._waiting.popleft()
                await self._client.scheduler.log_event(topic=TOPIC, msg=message)
        except Exception as error:
            # A scheduler that is gone, or older, or without this package: no fit needs the page.
            logger.info("no progress on the dashboard: %s: %s", type(error).__name__, error)
            self._silent = True
        finally:
            self._sending = False


def _plain(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    value = value.item() if hasattr(value, "item") else value
    return value if isinstance(value, (bool, int, float, str)) else None
