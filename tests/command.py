"""The command, run in this process or as a process of its own."""

from __future__ import annotations

import signal
import sys

from click.testing import CliRunner, Result

from softmix_dist.cli import main

COMMAND = [sys.executable, "-m", "softmix_dist"]


def softmix(*arguments: object, code: int | None = 0) -> Result:
    """Run the command in this process; what escapes it as an exception fails the test.

    A ``code`` of None stands for any: success, or a refusal.
    """
    before = signal.getsignal(signal.SIGTERM)
    try:
        result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    finally:
        signal.signal(signal.SIGTERM, before)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code in ((0, 2, 65) if code is None else (code,)), result.stderr
    if result.exit_code:
        assert result.stdout == ""
        assert result.stderr
    return result
