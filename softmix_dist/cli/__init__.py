"""The ``softmix`` command.

Heavy imports happen inside the commands, so that ``--help`` answers at once.
"""

from __future__ import annotations

import click

from softmix_dist import __version__
from softmix_dist.cli.configuring import completion, config
from softmix_dist.cli.datasets import check, simulate
from softmix_dist.cli.demonstration import demo
from softmix_dist.cli.exits import Commands
from softmix_dist.cli.fitting import fit, show
from softmix_dist.cli.ingesting import ingest
from softmix_dist.cli.pods import pod
from softmix_dist.cli.predicting import predict
from softmix_dist.cli.reporting import report
from softmix_dist.cli.selecting import select


@click.group(name="softmix", cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="softmix")
def main() -> None:
    """Fit softmax mixtures to counts over very many candidates.

    Exit codes: 0 done; 2 usage; 65 bad data, do not retry; 70 numerical failure;
    75 interrupted or cluster lost, retry.
    """


for _command in (
    fit, select, show, predict, report, ingest, check, simulate, demo, pod, config, completion
):  # fmt: skip
    main.add_command(_command)
