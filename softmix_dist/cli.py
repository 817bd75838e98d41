"""The ``softmix`` command.

Heavy imports happen inside the commands, so that ``--help`` answers at once.
"""

from __future__ import annotations

import json
import os
import signal
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from softmix_dist import __version__
from softmix_dist.errors import (
    ClusterError,
    InputError,
    NumericalError,
    SoftmixError,
    SoftmixWarning,
    StoreError,
)
from softmix_dist.progress import ProgressLines, jsonable

if TYPE_CHECKING:
    from softmix_dist.estimator import SoftmaxMixture

BAD_DATA, NUMERICAL, RETRY = 65, 70, 75
_EXIT_CODES: tuple[tuple[type[SoftmixError], int], ...] = (
    (InputError, BAD_DATA),
    (StoreError, BAD_DATA),
    (NumericalError, NUMERICAL),
    (ClusterError, RETRY),
)


class _Interrupted(BaseException):
    """SIGTERM arrived; not an Exception, so that nothing takes it for an error."""


def _terminate(signum: int, frame: object) -> None:
    raise _Interrupted


class _Commands(click.Group):
    """Commands whose errors become one message and a documented exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        main_thread = threading.current_thread() is threading.main_thread()
        before = signal.signal(signal.SIGTERM, _terminate) if main_thread else None
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            warnings.simplefilter("always", SoftmixWarning)
            try:
                return super().invoke(ctx)
            except SoftmixError as error:
                click.echo(f"error: {error}", err=True)
                ctx.exit(next(code for kind, code in _EXIT_CODES if isinstance(error, kind)))
            except (KeyboardInterrupt, _Interrupted):
                click.echo("interrupted; run the same command again", err=True)
                ctx.exit(RETRY)
            finally:
                if main_thread:
                    signal.signal(signal.SIGTERM, before)


def _show_warning(message: Any, category: Any, *where: Any, **more: Any) -> None:
    if issubclass(category, SoftmixWarning):
        click.echo(f"warning: {message}", err=True)


@click.group(
    name="softmix", cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]}
)
@click.version_option(__version__, prog_name="softmix")
def main() -> None:
    """Fit softmax mixtures to counts over very many candidates.

    Exit codes: 0 done; 2 usage; 65 bad data, do not retry; 70 numerical failure;
    75 interrupted or cluster lost, retry.
    """


def _cluster_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.option(
            "--memory-limit",
            metavar="BYTES",
            default="auto",
            show_default=True,
            help="Memory of each worker of a local cluster, such as 2GiB.",
        ),
        click.option("--workers", type=click.IntRange(1), help="Workers, or threads, to use."),
        click.option(
            "--scheduler",
            metavar="ADDRESS|local|threads",
            default="threads",
            show_default=True,
            help="A running Dask scheduler, a local cluster of processes, or threads.",
        ),
    ):
        command = option(command)
    return command


@contextmanager
def _connected(scheduler: str, workers: int | None, memory_limit: str) -> Iterator[Any]:
    """Yield a client, or None for the threads of this process."""
    if scheduler == "threads":
        yield None
        return
    from dask.utils import parse_bytes
    from distributed import Client, LocalCluster

    try:
        if memory_limit != "auto":
            parse_bytes(memory_limit)
    except ValueError as error:
        raise click.BadParameter(f"--memory-limit: {error}") from error
    if scheduler == "local":
        with (
            LocalCluster(
                n_workers=workers or os.cpu_count() or 1,
                threads_per_worker=1,
                memory_limit=memory_limit,
                dashboard_address=":0",
            ) as cluster,
            Client(cluster) as client,
        ):
            yield client
        return
    try:
        client = Client(scheduler, timeout="20s")
    except ValueError as error:
        raise click.BadParameter(f"--scheduler {scheduler}: {error}") from error
    except (OSError, TimeoutError) as error:
        raise ClusterError(f"no Dask scheduler answers at {scheduler!r}: {error}") from error
    with client:
        yield client


def _fit_report(model: SoftmaxMixture) -> dict[str, Any]:
    result = model.result_
    return {
        "weights": result.weights,
        "atoms": result.atoms,
        "feature_names": result.feature_names,
        "log_likelihood": result.log_likelihood,
        "objective": result.objective,
        "n_draws": result.n_draws,
        "n_candidates": result.n_candidates,
        "n_passes": result.n_passes,
        "converged": result.converged,
        "verified": result.verified,
        "distance": result.distance,
        "effective_candidates": result.effective_candidates,
        "standard_errors": result.standard_errors,
        "errors_from": result.errors_from,
        "dispersion": result.dispersion,
        "seconds": result.seconds,
        "starts": result.starts,
        "gap": result.gap,
        "kurtosis": result.kurtosis,
        "history": result.history,
        "warnings": result.warnings,
        "settings": {
            k: v if isinstance(v, str) or k != "init" else "given"
            for k, v in model.get_params().items()
        },
    }


@main.command(short_help="Fit a mixture to a data set.")
@click.argument("data", type=str)
@click.option("-k", "--components", type=int, required=True, help="Number of components K.")
@click.option("-o", "--output", type=str, help="Where the model goes.")
@click.option("--overwrite", is_flag=True, help="Replace a model that is there.")
@click.option(
    "--init",
    type=click.Choice(["auto", "search", "moments", "tensor", "subspace", "random", "truth"]),
    default="auto",
    show_default=True,
    help="Where to begin; auto: the best of search, moments, tensor and subspace on a sketch; "
    "truth: what the simulator wrote.",
)
@click.option(
    "--n-init",
    type=int,
    default=8,
    show_default=True,
    help="Independent searches at most, or random starts.",
)
@click.option("--sketch-rows", type=int, help="Rows of the sketch; default: by K and L.")
@click.option(
    "--standard-errors",
    type=click.Choice(["sketch", "exact", "clustered", "scaled", "none"]),
    default="sketch",
    show_default=True,
    help="From the sketch, from all data by one more pass, clustered over samples, scaled by "
    "the root of the dispersion, or none.",
)
@click.option(
    "--solver",
    type=click.Choice(["auto", "newton", "em", "em-first-order"]),
    default="auto",
    show_default=True,
    help="newton: curvature from the sketch; em: accelerated; em-first-order: fixed gradient "
    "steps, as published.",
)
@click.option(
    "--l2",
    type=float,
    default=0.0,
    show_default=True,
    help="Penalty (l2/2) * sum of squared standardised atoms, nats per draw; 1e-3 is mild.",
)
@click.option(
    "--tol",
    type=float,
    default=0.01,
    show_default=True,
    help="Converged when this many standard errors from the maximum.",
)
@click.option(
    "--max-passes", type=int, default=500, show_default=True, help="Passes over the data at most."
)
@click.option(
    "--precision",
    type=click.Choice(["auto", "single", "double"]),
    default="auto",
    show_default=True,
    help="auto turns from single to double where single can no longer tell.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of all random numbers.")
@_cluster_options
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
@click.option("--log-json", is_flag=True, help="Progress as JSON lines on standard error.")
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
def fit(
    data: str,
    components: int,
    output: str | None,
    overwrite: bool,
    init: str,
    n_init: int,
    sketch_rows: int | None,
    standard_errors: str,
    solver: str,
    l2: float,
    tol: float,
    max_passes: int,
    precision: str,
    seed: int,
    scheduler: str,
    workers: int | None,
    memory_limit: str,
    as_json: bool,
    log_json: bool,
    quiet: bool,
) -> None:
    """Fit a mixture to the data set DATA."""
    from softmix_dist.data.dataset import open_dataset
    from softmix_dist.data.models import MARK
    from softmix_dist.data.store import check_target
    from softmix_dist.estimator import SoftmaxMixture

    if output is not None:
        check_target(output, MARK, overwrite)
    dataset = open_dataset(data)
    begin: Any = init
    if init == "truth":
        begin = dataset.truth()
        if begin is None:
            raise InputError(f"{str(data)!r} holds no truth; use another --init")
        if len(begin[0]) != components:
            raise InputError(f"the truth has {len(begin[0])} components; use -k {len(begin[0])}")
    model = SoftmaxMixture(
        components,
        init=begin,
        n_init=n_init,
        solver=solver,
        l2=l2,
        tol=tol,
        max_passes=max_passes,
        precision=precision,
        random_state=seed,
        sketch_rows=sketch_rows,
        standard_errors=standard_errors,
    )
    mode = "quiet" if quiet else "json" if log_json else "auto"
    with ProgressLines(mode) as progress, _connected(scheduler, workers, memory_limit) as client:
        model.fit(dataset, client=client, n_threads=None if client else workers, progress=progress)
    if output is not None:
        model.save(output, overwrite)
        click.echo(f"model written to {output}", err=True)
    click.echo(json.dumps(jsonable(_fit_report(model))) if as_json else model.summary())


@main.command(short_help="Choose the number of components.")
@click.argument("data", type=str)
@click.option(
    "--components",
    default="1:8",
    show_default=True,
    metavar="FIRST:LAST",
    help="The numbers to try, both ends included.",
)
@click.option("--l2", type=float, default=0.0, show_default=True, help="Penalty of the atoms.")
@click.option("--max-passes", type=int, default=500, show_default=True, help="Passes at most.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed.")
@_cluster_options
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
def select(
    data: str,
    components: str,
    l2: float,
    max_passes: int,
    seed: int,
    scheduler: str,
    workers: int | None,
    memory_limit: str,
    as_json: bool,
) -> None:
    """Fit several numbers of components to DATA in the same passes, and recommend one."""
    from dataclasses import asdict

    from softmix_dist.data.dataset import open_dataset
    from softmix_dist.selection import select_components

    try:
        first, last = (int(end) for end in components.split(":"))
    except ValueError as error:
        raise click.BadParameter(f"--components {components!r}: expected FIRST:LAST") from error
    dataset = open_dataset(data)
    with _connected(scheduler, workers, memory_limit) as client:
        found = select_components(
            dataset,
            components=range(first, last + 1),
            l2=l2,
            max_passes=max_passes,
            random_state=seed,
            client=client,
            n_threads=None if client else workers,
        )
    told = asdict(found) | {"reason": found.reason}
    click.echo(json.dumps(jsonable(told)) if as_json else str(found))


@main.command()
@click.argument("model", type=str)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
def show(model: str, as_json: bool) -> None:
    """Print the fitted model MODEL."""
    from softmix_dist.estimator import SoftmaxMixture

    loaded = SoftmaxMixture.load(model)
    click.echo(json.dumps(jsonable(_fit_report(loaded))) if as_json else loaded.summary())


@main.command(short_help="Write predictions for all candidates.")
@click.argument("model", type=str)
@click.argument("data", type=str)
@click.option("-o", "--output", type=str, required=True, help="Where the predictions go.")
@click.option("--overwrite", is_flag=True, help="Replace predictions that are there.")
@_cluster_options
def predict(
    model: str,
    data: str,
    output: str,
    overwrite: bool,
    scheduler: str,
    workers: int | None,
    memory_limit: str,
) -> None:
    """Write log-probabilities and responsibilities of all candidates of DATA under MODEL."""
    from softmix_dist.estimator import SoftmaxMixture

    loaded = SoftmaxMixture.load(model)
    with _connected(scheduler, workers, memory_limit) as client:
        threads = None if client else workers
        loaded.predict(data, output, client=client, n_threads=threads, overwrite=overwrite)
    click.echo(f"predictions written to {output}", err=True)


@main.command(short_help="Validate and describe a data set.")
@click.argument("data", type=str)
@_cluster_options
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
def check(data: str, scheduler: str, workers: int | None, memory_limit: str, as_json: bool) -> None:
    """Validate and describe the data set DATA; exit 65 with every problem named."""
    from softmix_dist.data.dataset import open_dataset
    from softmix_dist.engine import engine_for
    from softmix_dist.survey import describe

    dataset = open_dataset(data)
    with _connected(scheduler, workers, memory_limit) as client:
        engine = engine_for(client, workers)
        try:
            told = describe(dataset, engine)
        finally:
            engine.close()
    if as_json:
        click.echo(json.dumps(jsonable(told)))
    else:
        click.echo("\n".join(f"{name:<22}{_plain(value)}" for name, value in told.items()))


def _plain(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "-"}[value]
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.1f}" if isinstance(value, float) else str(value)


@main.command()
@click.argument("path", metavar="OUT.zarr", type=str)
@click.option("--candidates", type=int, required=True, help="Number of candidates p.")
@click.option("--features", type=int, required=True, help="Number of features L.")
@click.option("--components", type=int, required=True, help="Number of components K.")
@click.option("--draws", type=int, required=True, help="Number of draws N.")
@click.option("--samples", type=int, help="Number of samples S; default: one vector of counts.")
@click.option("--norm", type=float, default=2.0, show_default=True, help="Norm of the atoms.")
@click.option(
    "--feature-law",
    type=click.Choice(["gaussian", "uniform", "student", "clusters", "binary"]),
    default="gaussian",
    show_default=True,
)
@click.option(
    "--degrees-of-freedom", type=float, default=7.0, show_default=True, help="Of student features."
)
@click.option(
    "--overdispersion",
    type=float,
    default=1.0,
    show_default=True,
    help="Variance of the counts of a sample relative to multinomial ones.",
)
@click.option(
    "--dtype",
    type=click.Choice(["float32", "float64"]),
    default="float32",
    show_default=True,
    help="Of the features.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of all random numbers.")
@click.option("--overwrite", is_flag=True, help="Replace a data set that is there.")
def simulate(
    path: str,
    candidates: int,
    features: int,
    components: int,
    draws: int,
    samples: int | None,
    norm: float,
    feature_law: str,
    degrees_of_freedom: float,
    overdispersion: float,
    dtype: str,
    seed: int,
    overwrite: bool,
) -> None:
    """Write a simulated data set with its truth."""
    from softmix_dist.data.simulate import simulate as write

    write(
        path,
        candidates,
        features,
        components,
        draws,
        n_samples=samples,
        norm=norm,
        feature_law=feature_law,
        degrees_of_freedom=degrees_of_freedom,
        overdispersion=overdispersion,
        dtype=dtype,
        seed=seed,
        overwrite=overwrite,
    )
    click.echo(f"data set written to {path}", err=True)


@main.command(short_help="Fit four styles to US first names: a table and a picture.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for the data set, the model and the picture; default: data and model are "
    "temporary, the picture goes here as us_names.png.",
)
@click.option(
    "--workers",
    type=click.IntRange(1),
    default=2,
    show_default=True,
    help="Processes of the cluster.",
)
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
def demo(output: Path | None, workers: int, quiet: bool) -> None:
    """Fit four spelling styles to US first names: 88 496 names, 322 million births."""
    from softmix_dist.demo import run

    with tempfile.TemporaryDirectory(prefix="softmix-") as temporary:
        folder = output or Path(temporary)
        picture = (output or Path()) / "us_names.png"
        with (
            ProgressLines("quiet" if quiet else "auto") as progress,
            _connected("local", workers, "auto") as client,
        ):
            click.echo(run(folder, picture, client, progress))
