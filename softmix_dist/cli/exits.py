"""Errors of the package as exit codes of the command, and what it tells on standard error."""

from __future__ import annotations

import json
import signal
import threading
import warnings
from typing import Any

import click

from softmix_dist.errors import (
    ClusterError,
    InputError,
    NumericalError,
    SoftmixError,
    SoftmixWarning,
    StoreError,
    StoreUnavailableError,
)

BAD_DATA, NUMERICAL, RETRY = 65, 70, 75
_EXIT_CODES: tuple[tuple[type[SoftmixError], int], ...] = (
    (InputError, BAD_DATA),
    (StoreUnavailableError, RETRY),
    (StoreError, BAD_DATA),
    (NumericalError, NUMERICAL),
    (ClusterError, RETRY),
)


# Where the context of a command says that its log is JSON.
_JSON = "softmix_dist.log_json"


def log_in_json() -> None:
    """Tell everything from here on as lines of JSON, for a log collector."""
    click.get_current_context().meta[_JSON] = True


def tell(phase: str, message: str, **values: Any) -> None:
    """Tell on standard error: a line of text, or of JSON where the command logs that.

    Parameters
    ----------
    phase : {"written", "kept", "warning", "error", "interrupted"}
        Warnings and errors have it before their text.
    message : str
    **values
        What a JSON line has beside them.
    """
    context = click.get_current_context(silent=True)
    if context is not None and context.meta.get(_JSON):
        line = json.dumps({"phase": phase, "message": message, **values})
    else:
        line = f"{phase}: {message}" if phase in ("warning", "error") else message
    click.echo(line, err=True)


class Interrupted(BaseException):
    """SIGTERM arrived; not an Exception, so that nothing takes it for an error."""


def _terminate(signum: int, frame: object) -> None:
    raise Interrupted


class Commands(click.Group):
    """Commands whose errors become one message and a documented exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; warnings and errors of the package go to standard error."""
        main_thread = threading.current_thread() is threading.main_thread()
        before = signal.signal(signal.SIGTERM, _terminate) if main_thread else None
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            warnings.simplefilter("always", SoftmixWarning)
            try:
                try:
                    return super().invoke(ctx)
                finally:
                    # In here, so that a signal in the last moment is handled as well.
                    if main_thread:
                        signal.signal(signal.SIGTERM, before)
            except SoftmixError as error:
                exit_code = next(code for kind, code in _EXIT_CODES if isinstance(error, kind))
                tell("error", str(error), exit_code=exit_code)
                ctx.exit(exit_code)
            except (KeyboardInterrupt, Interrupted):
                tell("interrupted", "interrupted; run the same command again", exit_code=RETRY)
                ctx.exit(RETRY)


def _show_warning(message: Any, category: Any, *where: Any, **more: Any) -> None:
    if issubclass(category, SoftmixWarning):
        tell("warning", str(message))
