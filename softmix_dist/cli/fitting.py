"""``softmix fit`` and ``softmix show``: a model fitted, and shown again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

import click

from softmix_dist.cli.cluster import cluster_options, connected, device_option
from softmix_dist.cli.exits import Interrupted, log_in_json, tell
from softmix_dist.errors import ClusterError, InputError, StoreError, StoreUnavailableError
from softmix_dist.progress import ProgressLines, jsonable

if TYPE_CHECKING:
    from softmix_dist.blocks import Array
    from softmix_dist.data.blockwise import Dataset
    from softmix_dist.data.stored import ZarrDataset
    from softmix_dist.estimator import SoftmaxMixture


def fit_report(model: SoftmaxMixture) -> dict[str, Any]:
    """Return what ``--json`` prints of a fitted model."""
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


@click.command(short_help="Fit a mixture to a data set.")
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
    "--max-passes",
    type=int,
    default=500,
    show_default=True,
    help="Passes after which no step is made; survey, start and checks at the end come beside.",
)
@click.option(
    "--precision",
    type=click.Choice(["auto", "single", "double"]),
    default="auto",
    show_default=True,
    help="auto turns from single to double where single can no longer tell.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of all random numbers.")
@click.option(
    "--checkpoint",
    type=str,
    metavar="DIR",
    help="Where the passes are kept until the model is written, so that the same command goes on "
    "after an interrupt; default: MODEL.checkpoint, beside the output.",
)
@click.option("--no-checkpoint", is_flag=True, help="Keep no passes.")
@cluster_options
@device_option
@click.option(
    "--plan", "only_plan", is_flag=True, help="Say how the passes would be made; do not fit."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
@click.option(
    "--log-json",
    is_flag=True,
    help="Progress, warnings and errors as JSON lines on standard error; lines of Dask stay text.",
)
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
    checkpoint: str | None,
    no_checkpoint: bool,
    scheduler: str,
    workers: int | None,
    memory_limit: str,
    device: str | None,
    only_plan: bool,
    as_json: bool,
    log_json: bool,
    quiet: bool,
) -> None:
    """Fit a mixture to the data set DATA."""
    from softmix_dist.checkpoint import remove_checkpoint
    from softmix_dist.data.dataset import open_dataset
    from softmix_dist.data.models import MARK
    from softmix_dist.data.place import place_at
    from softmix_dist.data.store import check_target
    from softmix_dist.estimator import SoftmaxMixture

    if log_json:
        log_in_json()
    if checkpoint is not None and no_checkpoint:
        raise click.UsageError("--checkpoint and --no-checkpoint exclude each other")
    kept = checkpoint
    if output is not None:
        check_target(output, MARK, overwrite)
        if kept is None and not no_checkpoint:
            kept = f"{output.rstrip('/')}.checkpoint"
    dataset = open_dataset(data)
    if only_plan:
        with connected(scheduler, workers, memory_limit) as client:
            _print_plan(dataset, client, None if client else workers, device, as_json)
        return
    model = SoftmaxMixture(
        components,
        init=_truth(dataset, components) if init == "truth" else init,
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
    with (
        _kept_passes(kept) as phases,
        ProgressLines(mode) as progress,
        connected(scheduler, workers, memory_limit) as client,
    ):

        def told(row: dict[str, Any]) -> None:
            phases.append(row["phase"])
            progress(row)

        model.fit(
            dataset,
            client=client,
            n_threads=None if client else workers,
            device=device,
            progress=told,
            checkpoint=kept,
        )
    if output is not None:
        model.save(output, overwrite)
        tell("written", f"model written to {output}")
        if kept is not None:
            try:
                remove_checkpoint(place_at(kept))
            except StoreError as error:
                # The model is there: to fit it again would be refused.
                tell("warning", f"the checkpoint is left there: {error}")
    click.echo(json.dumps(jsonable(fit_report(model))) if as_json else model.summary())


def _truth(dataset: ZarrDataset, components: int) -> tuple[Array, Array]:
    """Return the weights and atoms that the simulator wrote, where they are so many."""
    truth = dataset.truth()
    if truth is None:
        raise InputError(f"{dataset.name!r} holds no truth; use another --init")
    if len(truth[0]) != components:
        raise InputError(f"the truth has {len(truth[0])} components; use -k {len(truth[0])}")
    return truth


@contextmanager
def _kept_passes(checkpoint: str | None) -> Iterator[list[str]]:
    """Say where they are, when a fit ends before its time and has told of a phase."""
    phases: list[str] = []
    try:
        yield phases
    except (ClusterError, StoreUnavailableError, KeyboardInterrupt, Interrupted):
        # The first is told when its pass is kept, or when some are known.
        if checkpoint is not None and phases:
            tell("kept", f"the passes that were made are kept in {checkpoint}")
        raise


def _print_plan(
    dataset: Dataset, client: Any, n_threads: int | None, device: str | None, as_json: bool
) -> None:
    from dataclasses import asdict

    from softmix_dist.engine import engine_for
    from softmix_dist.survey import held_bytes

    with closing(engine_for(client, n_threads, device)) as engine:
        plan = engine.plan(dataset, held_bytes(dataset, dataset.read_block(0)))
    click.echo(json.dumps(asdict(plan)) if as_json else str(plan))


@click.command()
@click.argument("model", type=str)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
def show(model: str, as_json: bool) -> None:
    """Print the fitted model MODEL."""
    from softmix_dist.estimator import SoftmaxMixture

    loaded = SoftmaxMixture.load(model)
    click.echo(json.dumps(jsonable(fit_report(loaded))) if as_json else loaded.summary())
