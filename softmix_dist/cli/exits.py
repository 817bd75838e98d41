"""Errors of the package as exit codes of the command."""

from __future__ import annotations

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
                click.echo(f"error: {error}", err=True)
                ctx.exit(next(code for kind, code in _EXIT_CODES if isinstance(error, kind)))
            except (KeyboardInterrupt, Interrupted):
                click.echo("interrupted; run the same command again", err=True)
                ctx.exit(RETRY)


def _show_warning(message: Any, category: Any, *where: Any, **more: Any) -> None:
    if issubclass(category, SoftmixWarning):
        click.echo(f"warning: {message}", err=True)
