"""``softmix config`` and ``softmix completion``: what is configured, and help for the shell."""

from __future__ import annotations

import json
from dataclasses import asdict

import click


@click.command(short_help="Print what is configured.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
def config(as_json: bool) -> None:
    """Print the settings of the engine, and where Dask's configuration is read from.

    They are set under softmix.engine: in a YAML file of Dask's, by variables such as
    DASK_SOFTMIX__ENGINE__DEVICE=gpu, or in Python by dask.config.set.
    """
    import dask

    from softmix_dist.engine.settings import EngineSettings

    found = {
        name.replace("_", "-"): "auto" if value is None else value
        for name, value in asdict(EngineSettings.configured()).items()
    }
    places = [str(place) for place in dask.config.paths]
    if as_json:
        click.echo(json.dumps({"softmix.engine": found, "places": places}))
        return
    click.echo("softmix:\n  engine:")
    for name, value in found.items():
        click.echo(f"    {name}: {json.dumps(value) if isinstance(value, bool) else value}")
    click.echo("# read from " + ", ".join(places))


@click.command(short_help="Print a script that completes commands.")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print a script for SHELL; for bash: eval "$(softmix completion bash)" in ~/.bashrc."""
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None
    command = context.find_root().command
    click.echo(kind(command, {}, "softmix", "_SOFTMIX_COMPLETE").source())
