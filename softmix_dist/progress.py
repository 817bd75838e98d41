"""Progress of a fit on standard error, for people and for log collectors."""

from __future__ import annotations

import json
import math
import sys
from typing import Any

import click


class ProgressLines:
    """Progress on standard error: a bar with tqdm on a terminal, else a line a pass."""

    def __init__(self, mode: str):
        self.mode = mode
        self.bar: Any = None

    def __enter__(self) -> ProgressLines:
        if self.mode == "auto":
            self.mode = "lines"
            if sys.stderr.isatty():
                try:
                    from tqdm import tqdm

                    self.bar = tqdm(unit=" passes", bar_format="{n} passes, {elapsed}{postfix}")
                except ImportError:
                    pass
        return self

    def __exit__(self, *exc: object) -> None:
        if self.bar is not None:
            self.bar.close()

    def __call__(self, row: dict[str, Any]) -> None:
        """Show one row of progress, as `fit` publishes them."""
        if self.mode == "quiet":
            return
        if self.mode == "json":
            click.echo(json.dumps(jsonable(row)), err=True)
        elif row["phase"] == "resume":
            self._say(
                f"going on from the checkpoint {row['checkpoint']}: its {row['known']} passes "
                "come first"
            )
        elif row["phase"] == "survey":
            self._say(
                f"survey: {row['n_candidates']:,} candidates, {row['n_draws']:,} draws; "
                f"{row['plan']}"
            )
        elif row["phase"] == "starts":
            self._say(
                f"start: {row['best']}, best of {row['n_starts']} on a sketch of "
                f"{row['sketch_rows']:,} candidates; {row['agree']} agree with it"
            )
        elif row["phase"] != "pass":
            # Of the end the summary tells.
            return
        elif self.bar is not None:
            self.bar.set_postfix_str(
                f"objective {row['objective']:.9f}, {_in_errors(row['distance'])}"
            )
            self.bar.n = row["pass"]
            self.bar.refresh()
        else:
            self._say(
                f"pass {row['pass']:>3}  objective {row['objective']:.10f}  "
                f"{_in_errors(row['distance']):<22}  alive: {row['alive']}  {row['step']}"
            )

    def _say(self, text: str) -> None:
        if self.bar is not None:
            self.bar.write(text, file=sys.stderr)
        else:
            click.echo(text, err=True)


class ProgressBar:
    """A bar of passes, in a notebook or on a terminal: ``model.fit(..., progress=ProgressBar())``.

    Any function of one dict is a callback like it: its ``phase`` is "resume", "survey", "starts",
    "pass" or "end", and a pass tells among others ``pass``, ``objective`` (nats per draw) and
    ``distance`` (to the maximum, standard errors).

    Parameters
    ----------
    tol : float
        Where the bar ends: it shows the distance on a logarithmic scale from the first one.

    Raises
    ------
    ImportError
        If tqdm is not installed.
    """

    def __init__(self, tol: float = 0.01):
        try:
            from tqdm.auto import tqdm
        except ImportError as error:
            raise ImportError(
                "ProgressBar needs tqdm: pip install 'softmix-dist[progress]'"
            ) from error

        self._tol = tol
        self._first: float | None = None
        self._bar = tqdm(total=100, bar_format="{desc} {bar} {elapsed} {postfix}")

    def __call__(self, row: dict[str, Any]) -> None:
        """Show one row of progress, as `fit` publishes them."""
        if row["phase"] == "survey":
            self._bar.set_description(f"{row['n_candidates']:,} candidates")
        elif row["phase"] == "starts":
            self._bar.set_description(f"start: {row['best']}")
        elif row["phase"] == "pass":
            distance = float(row["distance"])
            if 0 < distance < float("inf"):
                self._first = max(self._first or distance, distance)
                whole = math.log(self._first / self._tol)
                done = math.log(self._first / distance) / whole if whole > 0 else 1.0
                self._bar.n = max(self._bar.n, min(100, round(100 * done)))
            self._bar.set_description(f"pass {row['pass']}")
            self._bar.set_postfix_str(_in_errors(distance))
        elif row["phase"] == "end":
            self._bar.n = 100 if row["converged"] else self._bar.n
            self._bar.set_description("converged" if row["converged"] else "not converged")
            self._bar.set_postfix_str(_in_errors(float(row["distance"])))
        self._bar.refresh()

    def close(self) -> None:
        """End the bar."""
        self._bar.close()


def _in_errors(distance: float) -> str:
    return f"{distance:.3g} standard errors" if distance < 1e6 else "distance unknown"


def jsonable(value: Any) -> Any:
    """Replace what JSON cannot say, infinities and NaN, by null."""
    if isinstance(value, dict):
        return {key: jsonable(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(part) for part in value]
    if isinstance(value, float) and not abs(value) < float("inf"):
        return None
    return jsonable(value.tolist()) if hasattr(value, "tolist") else value
