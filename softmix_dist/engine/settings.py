"""Settings of the engine, from ``softmix.engine`` in Dask's configuration.

They change how a fit runs and never what it finds.
"""

from __future__ import annotations

from dataclasses import dataclass

import dask
from dask.utils import parse_timedelta

from softmix_dist.errors import InputError


@dataclass(frozen=True)
class EngineSettings:
    """How a fit runs.

    Attributes
    ----------
    keep : bool or None
        Whether data stay in memory between passes; None decides by what there is.
    blocks_per_shard : int or None
        Blocks of a task; None decides by the threads there are.
    stall_timeout : float
        Seconds without a running worker, or without an answer of the scheduler, after which a
        fit gives up.
    """

    keep: bool | None = None
    blocks_per_shard: int | None = None
    stall_timeout: float = 300.0

    @classmethod
    def configured(cls) -> EngineSettings:
        """Read what is configured.

        Raises
        ------
        InputError
            If a value cannot be used.
        """
        found = {**_DEFAULTS, **dask.config.get("softmix.engine", {})}
        found = {key.replace("_", "-"): value for key, value in found.items()}
        problems = [
            f"{key}: no such setting; there are {', '.join(_DEFAULTS)}"
            for key in found
            if key not in _DEFAULTS
        ]
        keep, blocks = found["keep"], found["blocks-per-shard"]
        if keep not in (True, False, None, "auto"):
            problems.append(f"keep: expected true, false or auto, found {keep!r}")
        if blocks is not None and not (isinstance(blocks, int) and blocks >= 1):
            problems.append(f"blocks-per-shard: expected at least 1, found {blocks!r}")
        try:
            stall = float(parse_timedelta(found["stall-timeout"]))
        except (ValueError, KeyError, TypeError, AttributeError):
            stall = 0.0
        if not stall > 0:
            problems.append(
                "stall-timeout: expected a time such as 5 minutes, found "
                f"{found['stall-timeout']!r}"
            )
        if problems:
            raise InputError("softmix.engine in Dask's configuration:\n- " + "\n- ".join(problems))
        return cls(None if keep == "auto" else keep, blocks, stall)


_DEFAULTS = {"keep": "auto", "blocks-per-shard": None, "stall-timeout": "300 s"}
