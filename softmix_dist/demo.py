"""The demo: four spelling styles in US first names."""

from __future__ import annotations

from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING

from softmix_dist.blocks import Array
from softmix_dist.data.examples import (
    USNames,
    letter_traits,
    load_us_names,
    typical_names,
    write_us_names,
)
from softmix_dist.data.predictions import read_responsibilities
from softmix_dist.estimator import SoftmaxMixture
from softmix_dist.fit import Progress

if TYPE_CHECKING:
    from distributed import Client

WHAT_IT_SHOWS = (
    "What this shows: the fit saw only the letters of each name, and all decades pooled. It "
    "found four spelling styles, and their use differs by sex and drifts over time: boys' names "
    "move into the style of the -y, -a and -n endings that girls' names favoured all along. "
    "What it does not show: styles are not cohorts, sexes or origins (Mary and Kevin share one, "
    "and each style is used for girls and boys); spelling hardly predicts how popular a name is, "
    "so the model is misspecified and a few very common names pull the small components; and "
    "the features and the penalty were chosen with sex and decade in view, so that the "
    "separation illustrates the method and is no finding."
)


def run(folder: Path, picture: Path, client: Client, progress: Progress) -> str:
    """Build the data set, fit it, predict, draw the picture; return the table.

    Parameters
    ----------
    folder : Path
        Where ``us_names.zarr``, ``model.zarr`` and ``predictions.zarr`` go.
    picture : Path
        Where the picture goes, if matplotlib is installed.
    client : distributed.Client
    progress : callable

    Returns
    -------
    str
    """
    folder.mkdir(parents=True, exist_ok=True)
    data, fitted, predicted = (
        folder / name for name in ("us_names.zarr", "model.zarr", "predictions.zarr")
    )
    write_us_names(data, overwrite=True)
    model = SoftmaxMixture(4, l2=3e-3, random_state=0)
    model.fit(data, client=client, progress=progress)
    model.save(fitted, overwrite=True)
    model.predict(data, predicted, client=client, overwrite=True)
    births = load_us_names()
    resp = read_responsibilities(predicted)
    draws = births.counts.sum(axis=0)
    typical = typical_names(births.names, draws, resp, 20)
    traits = letter_traits(births.names, draws, resp)
    by_sex = births.shares_by_decade(resp)
    girls = births.share_of_girls(resp)
    lines = _table(model, births, typical, traits, girls, by_sex)
    try:
        from softmix_dist.plots import names_figure
    except ImportError:
        lines.append("No picture: install matplotlib (pip install 'softmix-dist[plots]').")
        return "\n".join(lines)
    result = model.result_
    names_figure(
        result.weights,
        typical,
        births.decades,
        dict(zip(("girls", "boys"), by_sex, strict=True)),
        result.effective_candidates,
        share_of_girls=girls,
        traits=traits,
        path=picture,
    )
    return "\n".join([*lines, f"Picture: {picture.resolve()}"])


def _table(
    model: SoftmaxMixture, births: USNames, typical: list[list[str]],
    traits: list[list[tuple[str, float, float]]], girls: Array, by_sex: Array,
) -> list[str]:  # fmt: skip
    """Lines that say what each component is, and how its share drifts."""
    result = model.result_
    state = "converged" if result.converged else "NOT CONVERGED"
    lines = [
        "",
        (
            f"{result.n_candidates:,} names, {result.n_draws:,} births, "
            f"K = {len(result.weights)}, l2 = {model.l2:g}: {result.log_likelihood:.6f} nats per "
            f"birth, {state} after {result.n_passes} passes in {result.seconds:.1f} s"
        ),
    ]
    for k, names in enumerate(typical):
        told = ", ".join(f"{what} {s:.0%} (all births {all_:.0%})" for what, s, all_ in traits[k])
        lines += [
            "",
            (
                f"Component {k}: weight {result.weights[k]:.3f}, "
                f"{result.effective_candidates[k]:,.0f} effective candidates, {girls[k]:.0%} girls"
            ),
            f"  {told}",
            fill(", ".join(names[:14]), 88, initial_indent="  ", subsequent_indent="  "),
        ]
    # With as many girls as boys in each decade, for the early records miss many boys.
    shares = by_sex.mean(axis=0)
    lines += [
        "",
        "Share of births by decade (girls and boys weighted equally; 2010s: the year 2010)",
    ]
    lines += ["          " + "".join(f"{f'comp. {k}':>10}" for k in range(shares.shape[1]))]
    lines += [
        f"  {f'{decade}s':<8}" + "".join(f"{share:>10.1%}" for share in row)
        for decade, row in zip(births.decades, shares, strict=True)
    ]
    lines += ["", fill(WHAT_IT_SHOWS, 92), ""]
    return lines
