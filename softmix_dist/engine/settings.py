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
    device : {"cpu", "gpu"}
        What the passes are computed on.
    device_share : float
        Of the free memory of a device: that a fit may use.
    mixed_devices : bool
        Whether workers without a GPU may stand by while those with one compute.
    dashboard : bool
        Whether fits show on the scheduler's dashboard, at ``/softmix``.
    """

    keep: bool | None = None
    blocks_per_shard: int | None = None
    stall_timeout: float = 300.0
    device: str = "cpu"
    device_share: float = 0.8
    mixed_devices: bool = False
    dashboard: bool = True

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
        device, share, mixed = found["device"], found["device-share"], found["mixed-devices"]
        if device not in ("cpu", "gpu"):
            problems.append(f"device: expected cpu or gpu, found {device!r}")
        if not (isinstance(share, (int, float)) and 0 < share <= 1):
            problems.append(f"device-share: expected a number in (0, 1], found {share!r}")
        dashboard = found["dashboard"]
        for name, value in (("mixed-devices", mixed), ("dashboard", dashboard)):
            if not isinstance(value, bool):
                problems.append(f"{name}: expected true or false, found {value!r}")
        if problems:
            raise InputError("softmix.engine in Dask's configuration:\n- " + "\n- ".join(problems))
        return cls(
            None if keep == "auto" else keep, blocks, stall, device, float(share), mixed, dashboard
        )


_DEFAULTS = {
    "keep": "auto",
    "blocks-per-shard": None,
    "stall-timeout": "300 s",
    "device": "cpu",
    "device-share": 0.8,
    "mixed-devices": False,
    "dashboard": True,
}
