"""Warm starts of softmax mixtures, by simulation: how near they are, how often EM then arrives.

    python examples/warm_starts.py [--quick] [-o FOLDER]

Writes warm_starts.png and warm_starts.md, about X. Bing, F. Bunea, J. Niles-Weed, M. Wegkamp,
"Learning large softmax mixtures with warm start EM", arXiv:2409.09903. Takes minutes; with
--quick, small problems and seconds. The page is written from the results, so its numbers are
those of the run.
"""

from __future__ import annotations

import argparse
import re
import time
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from scipy.optimize import linear_sum_assignment

from softmix_dist import SoftmaxMixture
from softmix_dist.data.dataset import as_dataset
from softmix_dist.engine import engine_for, single_blas_thread
from softmix_dist.model import Array, Coordinates
from softmix_dist.moments import projected_moments, second_moments
from softmix_dist.solve import moments
from softmix_dist.survey import survey

NORM, WITHIN, MAX_PASSES = 2.0, 1e-6, 1500
INITS = "auto", "search", "tensor", "subspace", "moments", "random"
N_INIT = {"random": 20}
LAWS = "gaussian", "uniform", "clusters", "binary", "student"
RAW, FIT = ("moments", "tensor", "subspace"), "fit"
# Draws of the expected counts, which stand for infinitely many.
EXPECTED = 1e15
# Okabe and Ito: told apart by colour-blind readers, dark enough for text on white.
COLOURS = {"moments": "#D55E00", "tensor": "#0072B2", "subspace": "#8A6D00", FIT: "#007A5A"}
# Least distance of two labels, in heights of a panel.
GAP = 0.06
INK, GREY, FAINT = "#222222", "#6B6B6B", "#CFCFCF"


@dataclass(frozen=True)
class Plan:
    """Sizes of the study."""

    draws: Sequence[int] = (10**4, 10**5, 10**6, 10**7, 10**8)
    candidates: Sequence[int] = (2_000, 6_000, 20_000, 60_000, 200_000)
    seeds: int = 12
    p: int = 20_000
    n_draws: int = 10**6
    components: Sequence[int] = (2, 3, 4, 6, 8, 12)
    laws: Sequence[str] = LAWS
    law_components: int = 6
    problems: int = 5


QUICK = Plan(
    draws=(10**4, 10**6),
    candidates=(1_000, 10_000),
    seeds=3,
    p=2_000,
    n_draws=10**5,
    components=(2, 3),
    laws=("gaussian", "binary"),
    law_components=3,
    problems=2,
)


@dataclass(frozen=True)
class Problem:
    """A softmax mixture over candidates that are known: features (p, L), atoms (K, L)."""

    features: Array
    weights: Array
    atoms: Array

    @classmethod
    def draw(cls, law: str, p: int, L: int, K: int, number: int) -> Problem:
        """Problem of that number; equal arguments give equal problems."""
        rng = np.random.default_rng((LAWS.index(law), p, L, K, number))
        weights = np.sort(rng.dirichlet(np.full(K, 5.0)))[::-1]
        atoms = rng.standard_normal((K, L))
        atoms *= NORM / np.linalg.norm(atoms, axis=1, keepdims=True)
        return cls(features_of(law, rng, p, L), weights, atoms)

    def probabilities(self, weights: Array, atoms: Array) -> Array:
        """Probability of each candidate under a mixture, (p,)."""
        utility = self.features @ atoms.T
        softmaxes = np.exp(utility - utility.max(axis=0))
        shares = (softmaxes / softmaxes.sum(axis=0)) @ weights
        return np.asarray(shares / shares.sum())

    def counts(self, n_draws: int, number: int = 0) -> Array:
        """Counts of that many draws, (p,)."""
        rng = np.random.default_rng((number, n_draws))
        return rng.multinomial(n_draws, self.probabilities(self.weights, self.atoms))

    def expected_counts(self) -> Array:
        """Counts without sampling noise, (p,)."""
        return np.rint(EXPECTED * self.probabilities(self.weights, self.atoms)).astype(np.uint64)


@dataclass(frozen=True)
class Bout:
    """What one init reached on one problem; ``gap`` is to the fit begun at the truth."""

    law: str
    K: int
    number: int
    init: str
    gap: float
    ended: str

    @property
    def won(self) -> bool:
        """Whether it came within the tolerance of the truth's fit, or above."""
        return self.gap <= WITHIN

    @property
    def problem(self) -> str:
        """Name of the problem."""
        return f"{self.law}, K = {self.K}, #{self.number}"


@dataclass(frozen=True)
class Results:
    """All that the page and the figure tell; errors by estimator are (sizes, seeds)."""

    plan: Plan
    by_draws: dict[str, Array]
    floor: dict[str, Array]
    by_candidates: dict[str, Array]
    bouts: list[Bout]
    agreed: dict[str, int]
    n_auto: int
    truth_unconverged: int


# ------------------------------------------------------------------ the problems


def features_of(law: str, rng: np.random.Generator, p: int, L: int) -> Array:
    """Features with mean 0 and variance 1, (p, L)."""
    if law == "uniform":
        return rng.uniform(-np.sqrt(3), np.sqrt(3), (p, L))
    if law == "student":  # 7 degrees of freedom
        return np.sqrt(5 / 7) * rng.standard_t(7, (p, L))
    if law == "binary":
        return rng.choice([-1.0, 1.0], (p, L))
    if law == "clusters":
        centres = np.sqrt(0.75) * rng.standard_normal((10, L))
        return np.asarray(centres[rng.integers(10, size=p)] + 0.5 * rng.standard_normal((p, L)))
    return rng.standard_normal((p, L))


def atom_error(atoms: Array, truth: Array) -> float:
    """Mean distance of atoms (K, L) to the true ones, after the best matching."""
    distances = np.linalg.norm(atoms[:, None] - truth, axis=2)
    return float(distances[linear_sum_assignment(distances)].mean())


# ------------------------------------------------------------------ how near a start is


def raw_starts(
    problem: Problem, counts: Array, rng: np.random.Generator
) -> tuple[dict[str, Array], Coordinates]:
    """Atoms of the moment estimators before any EM, in standard coordinates."""
    K = len(problem.weights)
    engine = engine_for(n_threads=1)
    try:
        _, coordinates = survey(as_dataset(problem.features, counts), engine, K)
        second = engine.reduce(partial(second_moments, coordinates=coordinates))
        first, square, n_draws = second.first, second.second, second.n_draws
        values, basis = moments.leading_subspace(first, square, n_draws, K)
        lines = moments.directions(basis, 4, rng)
        project = partial(projected_moments, directions=lines, basis=basis, n_components=K)
        projected = engine.reduce(partial(project, coordinates=coordinates))
    finally:
        engine.close()
    radius = coordinates.radius

    def likeliest(estimates: list[moments.Estimate]) -> Array:
        def log_likelihood(estimate: moments.Estimate) -> float:
            atoms = coordinates.to_features(estimate.atoms)
            return float(counts @ np.log(problem.probabilities(estimate.weights, atoms)))

        return max(estimates, key=log_likelihood).atoms

    tensor = moments.tensor_estimate(first, square, projected.third, basis, n_draws, K, radius, rng)
    along = [moments.moment_estimate(projected, i, K, radius) for i in range(len(lines))]
    within = moments.subspace_starts(basis, values, first / n_draws, K, 8, radius, rng)
    raw = {"moments": likeliest(along), "tensor": tensor.atoms, "subspace": likeliest(within)}
    return raw, coordinates


def errors(problem: Problem, counts: Array, seed: int, fit: bool = False) -> dict[str, float]:
    """Atom errors of the raw estimators, and of the fit, in standard coordinates."""
    atoms, coordinates = raw_starts(problem, counts, np.random.default_rng(seed))
    if fit:
        atoms[FIT] = coordinates.from_features(fitted(problem, counts, "auto").atoms_)
    truth = coordinates.from_features(problem.atoms)
    return {name: atom_error(found, truth) for name, found in atoms.items()}


def errors_by_draws(plan: Plan) -> tuple[dict[str, Array], dict[str, Array]]:
    """Errors (draws, seeds) of raw starts and fit; and (seeds,) without sampling noise."""
    table = {name: np.zeros((len(plan.draws), plan.seeds)) for name in (*RAW, FIT)}
    floor = {name: np.zeros(plan.seeds) for name in RAW}
    for seed in range(plan.seeds):
        problem = Problem.draw("gaussian", plan.p, 5, 3, seed)
        for row, n_draws in enumerate(plan.draws):
            found = errors(problem, problem.counts(n_draws, seed), seed, fit=True)
            for name, values in table.items():
                values[row, seed] = found[name]
        found = errors(problem, problem.expected_counts(), seed)
        for name in RAW:
            floor[name][seed] = found[name]
    return table, floor


def errors_by_candidates(plan: Plan) -> dict[str, Array]:
    """Errors (candidates, seeds) of the raw moment estimators without sampling noise."""
    table = {name: np.zeros((len(plan.candidates), plan.seeds)) for name in RAW[:2]}
    for row, p in enumerate(plan.candidates):
        for seed in range(plan.seeds):
            problem = Problem.draw("gaussian", p, 5, 3, seed)
            found = errors(problem, problem.expected_counts(), seed)
            for name, values in table.items():
                values[row, seed] = found[name]
    return table


# ------------------------------------------------------------------ how often EM arrives


def fitted(problem: Problem, counts: Array, init: Any) -> SoftmaxMixture:
    """Fit from an init, with passes enough for slow ones."""
    n_init = N_INIT.get(init, 8) if isinstance(init, str) else 1
    model = SoftmaxMixture(len(problem.weights), init=init, n_init=n_init, max_passes=MAX_PASSES)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a run that did not converge is counted, not printed
        return model.fit(problem.features, counts, n_threads=1)


def ending(model: SoftmaxMixture) -> str:
    """How a fit ended, in words."""
    if model.converged_:
        return "converged"
    (stopped,) = (start["stopped"] for start in model.starts_ if start["best"])
    if stopped is None:
        return "passes ran out"
    return "separated" if "separation" in stopped else "stuck"


def agreeing(model: SoftmaxMixture) -> set[str]:
    """Methods of which a start reached the best log-likelihood on the sketch."""
    best = max(start["sketch_log_likelihood"] for start in model.starts_)
    return {
        start["method"]
        for start in model.starts_
        if start["sketch_log_likelihood"] >= best - WITHIN
    }


def contests(plan: Plan) -> tuple[list[Bout], list[set[str]], int]:
    """Fit every problem from every init: bouts, agreement in auto, truths not converged."""
    kinds = [("gaussian", K) for K in plan.components]
    kinds += [(law, plan.law_components) for law in plan.laws]
    bouts, agreement, unconverged = [], [], 0
    for law, K in dict.fromkeys(kinds):
        for number in range(plan.problems):
            problem = Problem.draw(law, plan.p, 8, K, number)
            counts = problem.counts(plan.n_draws, number)
            truth = fitted(problem, counts, (problem.weights, problem.atoms))
            unconverged += not truth.converged_
            for init in INITS:
                model = fitted(problem, counts, init)
                gap = truth.log_likelihood_ - model.log_likelihood_
                bouts.append(Bout(law, K, number, init, gap, ending(model)))
                if init == "auto":
                    agreement.append(agreeing(model))
        print(f"  {law}, K = {K}: {plan.problems} problems", flush=True)
    return bouts, agreement, unconverged


def wins(bouts: Iterable[Bout], init: str, law: str | None = None, K: int | None = None) -> int:
    """Number of problems that an init won."""
    return sum(
        bout.won and bout.init == init and law in (None, bout.law) and K in (None, bout.K)
        for bout in bouts
    )


def run(plan: Plan) -> Results:
    """All three parts of the study."""
    print("errors against the number of draws", flush=True)
    by_draws, floor = errors_by_draws(plan)
    print("errors against the number of candidates", flush=True)
    by_candidates = errors_by_candidates(plan)
    print("success of each init", flush=True)
    bouts, agreement, unconverged = contests(plan)
    agreed = {init: sum(init in found for found in agreement) for init in INITS[1:-1]}
    return Results(plan, by_draws, floor, by_candidates, bouts, agreed, len(agreement), unconverged)


# ------------------------------------------------------------------ the figure


def middle(errors: Array) -> Array:
    """Medians over seeds."""
    return np.asarray(np.median(errors, axis=-1))


def curve(axes: Axes, x: Sequence[float], errors: Array, colour: str) -> None:
    """Medians as a line, the quartiles as a band."""
    low, high = np.quantile(errors, (0.25, 0.75), axis=1)
    axes.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
    axes.plot(x, middle(errors), color=colour, marker="o", markersize=4.5, linewidth=1.8)


def write(axes: Axes, labels: Sequence[tuple[str, float, float, str]]) -> None:
    """Write words (text, x, y, colour) beside the ends of lines, none over another."""
    low, high = np.log(axes.get_ylim())
    ordered = sorted(labels, key=lambda label: label[2])
    at = np.array([(np.log(y) - low) / (high - low) for _, _, y, _ in ordered])
    for _ in range(100):
        lack = np.maximum(GAP - np.diff(at), 0) / 2
        at += np.append(0, lack) - np.append(lack, 0)
    for (text, x, _, colour), height in zip(ordered, np.exp(low + at * (high - low)), strict=True):
        axes.annotate(
            text,
            (x, height),
            (9, 0),
            textcoords="offset points",
            color=colour,
            va="center",
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8},
        )


def guide(axes: Axes, x: Sequence[float], start: float) -> float:
    """Draw a dashed line of slope -1/2, from ``start``; return its other end."""
    height = start * (np.array(x) / x[0]) ** -0.5
    axes.plot(x, height, color=GREY, linestyle=(0, (4, 3)), linewidth=1.1)
    return float(height[-1])


def draws_panel(axes: Axes, results: Results) -> None:
    """Atom error against N, and the floors of the raw estimators at N = infinity."""
    draws = results.plan.draws
    end = 10.0 * draws[-1]
    labels = []
    for name, errors in results.by_draws.items():
        curve(axes, draws, errors, COLOURS[name])
        last = float(middle(errors)[-1])
        if name in results.floor:
            floor = float(middle(results.floor[name]))
            axes.plot([draws[-1], end], [last, floor], color=COLOURS[name], linestyle=":")
            axes.plot(end, floor, "D", color=COLOURS[name], markersize=5)
            labels.append((f"raw {name}", end, floor, COLOURS[name]))
        else:
            labels.append(("fit (auto)", draws[-1], last, COLOURS[name]))
    last = guide(axes, draws, 0.4 * float(middle(results.by_draws[FIT])[0]))
    labels.append((r"$\propto N^{-1/2}$", draws[-1], last, GREY))
    axes.set(xscale="log", yscale="log", xlabel="draws $N$", xlim=(draws[0] / 1.6, end * 150))
    axes.set_xticks([*draws, end], [power(n) for n in draws] + [r"$\infty$"])
    axes.spines.bottom.set_bounds(draws[0], end)
    write(axes, labels)


def candidates_panel(axes: Axes, results: Results) -> None:
    """Atom error of the raw estimators against p, without sampling noise."""
    sizes = results.plan.candidates
    labels = []
    for name, errors in results.by_candidates.items():
        curve(axes, sizes, errors, COLOURS[name])
        labels.append((f"raw {name}", sizes[-1], float(middle(errors)[-1]), COLOURS[name]))
    last = guide(axes, sizes, 0.5 * float(middle(results.by_candidates["tensor"])[0]))
    labels.append((r"$\propto p^{-1/2}$", sizes[-1], last, GREY))
    axes.set(xscale="log", yscale="log", xlabel="candidates $p$")
    axes.set(xlim=(sizes[0] / 1.3, sizes[-1] * 6))
    low, high = axes.get_ylim()
    heights = [y for y in (0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0) if low < y < high]
    axes.set_yticks(heights, [f"{y:g}" for y in heights])
    axes.set_xticks(sizes, [thousands(p) for p in sizes])
    axes.spines.bottom.set_bounds(sizes[0], sizes[-1])
    write(axes, labels)


def thousands(n: int) -> str:
    """Whole numbers with thin spaces between thousands."""
    return f"{n:,}".replace(",", "\N{THIN SPACE}")


def power(n: int) -> str:
    """Powers of ten as they are printed."""
    return f"$10^{{{len(str(n)) - 1}}}$"


def success_panel(axes: Axes, table: Array, columns: Sequence[str], of: int, what: str) -> None:
    """Wins of each init (rows) in each column, out of ``of``, as tiles with their numbers."""
    missed = 1 - table / of
    axes.pcolormesh(missed, cmap="Greys", vmin=-0.08, vmax=1.25, edgecolors="w", linewidth=2)
    for row, column in np.ndindex(*table.shape):
        colour = "white" if missed[row, column] > 0.7 else INK
        text = str(table[row, column])
        axes.text(column + 0.5, row + 0.5, text, color=colour, ha="center", va="center", size=11)
    axes.set_xticks(np.arange(len(columns)) + 0.5, columns)
    axes.set_yticks(np.arange(len(INITS)) + 0.5, INITS)
    axes.set_xlabel(what)
    axes.invert_yaxis()
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def win_tables(results: Results) -> tuple[Array, Array]:
    """Wins by init and K for Gaussian features, and by init and law."""
    plan, bouts = results.plan, results.bouts
    by_size = [[wins(bouts, init, "gaussian", K) for K in plan.components] for init in INITS]
    size = plan.law_components
    by_law = [[wins(bouts, init, law, size) for law in plan.laws] for init in INITS]
    return np.array(by_size), np.array(by_law)


def draw_figure(results: Results, path: Path) -> None:
    """Write the figure of four panels."""
    plan = results.plan
    layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12, wspace=0.04, hspace=0.04)
    figure = Figure(figsize=(10.6, 8.4), facecolor="white", layout=layout)
    panels = figure.subplots(2, 2)
    draws_panel(panels[0, 0], results)
    candidates_panel(panels[0, 1], results)
    by_size, by_law = win_tables(results)
    law = f"law of the features, $K$ = {plan.law_components}"
    sizes = [str(K) for K in plan.components]
    success_panel(panels[1, 0], by_size, sizes, plan.problems, "components $K$, Gaussian features")
    success_panel(panels[1, 1], by_law, plan.laws, plan.problems, law)
    won = f"Problems won, of {plan.problems}"
    titles = (
        f"a  Error of starts and fit, $p$ = {thousands(plan.p)}",
        "b  Error of raw starts at $N = \\infty$",
        f"c  {won}, by number of components",
        f"d  {won}, by law of the features",
    )
    for axes, title in zip(panels.flat, titles, strict=True):
        axes.set_title(title, loc="left", size=11.5, color=INK, pad=9)
        axes.tick_params(labelsize=10, colors=INK)
        axes.xaxis.label.set_size(11)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in panels[0]:
        axes.minorticks_off()
        axes.set_ylabel("atom error, standard coordinates", size=11)
        axes.grid(axis="y", color=FAINT, linewidth=0.6)
        axes.set_axisbelow(True)
    figure.savefig(path, dpi=170)


# ------------------------------------------------------------------ the page


def rows_of(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def spread(errors: Array) -> str:
    """Median and range over seeds."""
    return f"{np.median(errors):.2g} ({errors.min():.2g} to {errors.max():.2g})"


def slope(x: Sequence[float], errors: Array) -> float:
    """Slope of the medians in logarithms, by least squares."""
    return float(np.polyfit(np.log(x), np.log(middle(errors)), 1)[0])


def number(n: float) -> str:
    """Whole numbers with spaces between thousands, round large ones as powers of ten."""
    text = f"{n:.0e}"
    if n >= 1e4 and float(text) == n and text[0] == "1":
        return f"10^{int(text[3:])}"
    return f"{n:,.0f}".replace(",", "\N{NO-BREAK SPACE}")


def error_tables(results: Results) -> tuple[str, str]:
    """Tables of errors by N and by p."""
    plan = results.plan
    names = (*RAW, FIT)
    by_draws = [
        [number(n), *(spread(results.by_draws[name][i]) for name in names)]
        for i, n in enumerate(plan.draws)
    ]
    by_draws.append(["∞", *(spread(results.floor[name]) for name in RAW), "–"])
    by_candidates = [
        [number(p), *(spread(results.by_candidates[name][i]) for name in RAW[:2])]
        for i, p in enumerate(plan.candidates)
    ]
    return rows_of(["N", *names], by_draws), rows_of(["p", *RAW[:2]], by_candidates)


def success_tables(results: Results) -> tuple[str, str]:
    """Tables of wins by K and by law."""
    plan = results.plan
    heads = [f"K = {K}" for K in plan.components], plan.laws
    tables = []
    for head, table in zip(heads, win_tables(results), strict=True):
        body = [
            [init, *(f"{won}/{plan.problems}" for won in row)]
            for init, row in zip(INITS, table, strict=True)
        ]
        tables.append(rows_of(["init", *head], body))
    return tables[0], tables[1]


def misses(results: Results) -> str:
    """Every bout that was lost, as a table."""
    rows = [[b.problem, b.init, f"{b.gap:.1e}", b.ended] for b in results.bouts if not b.won]
    if not rows:
        return "There were no misses."
    return rows_of(["problem", "init", "nats per draw below", "the fit"], rows)


def bullet(text: str) -> str:
    """Item of a list, filled."""
    return fill(re.sub(r"[ \n]+", " ", text), 98, initial_indent="* ", subsequent_indent="  ")


def rounded(n: float) -> str:
    """Two significant digits."""
    return number(float(f"{n:.2g}"))


def told_of_errors(results: Results) -> str:
    """What the error tables say, in numbers."""
    plan, table = results.plan, results.by_draws
    ends = {name: (middle(errors)[0], middle(errors)[-1]) for name, errors in table.items()}
    first, last = number(plan.draws[0]), number(plan.draws[-1])
    near, far = number(plan.candidates[0]), number(plan.candidates[-1])
    lines = [
        f"""**The fit.** From N = {first} to {last} its median error goes from {ends[FIT][0]:.2g}
        to {ends[FIT][1]:.2g}, with slope {slope(plan.draws, table[FIT]):.2f} in logarithms
        (parametric rate: -0.50)."""
    ]
    for name in RAW[:2]:
        by_size = results.by_candidates[name]
        at_near, at_far = middle(by_size)[[0, -1]]
        lines.append(
            f"""**Raw {name}.** Its median error goes from {ends[name][0]:.2g} to
            {ends[name][1]:.2g}, which is {rounded(ends[name][1] / ends[FIT][1])} times that of
            the fit. At N = ∞ it is {middle(results.floor[name]):.2g}: the floor at this number
            of candidates, which more draws do not lower: features of draws from one
            component are Gaussian only in the limit of many candidates. The floor goes from
            {at_near:.2g} at p = {near} to {at_far:.2g} at p = {far}, with slope
            {slope(plan.candidates, by_size):.2f} in logarithms (-0.50 for a bias that falls as
            the noise of an average over p candidates does)."""
        )
    lines.append(
        f"""**Raw subspace** is no estimator but random points in the estimated span of the
        atoms: its median error is {ends["subspace"][0]:.2g} at N = {first} and
        {ends["subspace"][1]:.2g} at N = {last}."""
    )
    return "\n".join(map(bullet, lines))


def told_of_success(results: Results) -> str:
    """What the tables of wins say, in numbers."""
    bouts, total = results.bouts, results.n_auto
    won = ", ".join(f"{init} {wins(bouts, init)}" for init in INITS)
    solved = len({bout.problem for bout in bouts if bout.won})
    above = [bout for bout in bouts if bout.gap < -WITHIN]
    on = len({bout.problem for bout in above})
    unconverged = [bout for bout in bouts if bout.ended != "converged"]
    lost = sum(not bout.won for bout in unconverged)
    separated = sum(bout.ended == "separated" for bout in unconverged)
    agreed = ", ".join(f"{init} in {count}" for init, count in results.agreed.items())
    worst = max(bout.gap for bout in bouts if bout.init == "auto")
    below = f"{worst:.1e} nats per draw below" if worst > 0 else "at or above"
    lines = [
        f"""**Problems won, of {total}:** {won}. At least one init won {solved} of them. The
        worst that auto did is {below} the fit begun at the truth.""",
        f"""**Above the fit begun at the truth** by more than the tolerance: {len(above)} of
        {len(bouts)} fits, on {on} problems.""",
        f"""**Not converged:** {len(unconverged)} of these fits, {lost} of them misses, and
        {results.truth_unconverged} of the {total} begun at the truth. {separated} had separated:
        a component ran off to infinity, and the fit says so.""",
        f"""**Inside auto.** Of its {total} fits, the best log-likelihood on the sketch was
        reached by a start of {agreed} (read from `model.starts_`, each start after EM on the
        sketch).""",
    ]
    return "\n".join(map(bullet, lines))


PAGE = """# Warm starts of softmax mixtures

Written by `examples/warm_starts.py{flag}` from the results of that run: every number below is
measured, none is typed in. The question is that of X. Bing, F. Bunea, J. Niles-Weed, M. Wegkamp,
*Learning large softmax mixtures with warm start EM*, arXiv:2409.09903: how near do moment
estimators come to the atoms, and from which starts does EM reach the maximum of the likelihood?

![Error of starts and fit; how often each start succeeds](warm_starts.png)

*a, b: medians over {seeds} problems, bands from quartile to quartile. Diamonds: N = ∞. c, d: how
many of {problems} problems each init won (the darker, the fewer).*

## What was done

A draw is candidate j with probability π_j = Σ_k α_k softmax_j(x_j·θ_k). Atoms have norm {norm:g}
and uniform directions, weights are Dirichlet(5, …, 5), features have variance 1 and are
independent, but for clusters (ten); student has 7 degrees of freedom. All data are arrays in
memory, all seeds fixed.

* **Error** is the mean over components of |θ̂_k − θ_k| after the best matching, in standard
  coordinates (features whitened by the design). L = 5, K = 3, Gaussian features; p = {p} where N
  varies.
* **Raw** estimators are measured *before any EM*, from `softmix_dist.moments` and
  `softmix_dist.solve.moments`: `moments` is the likeliest of four directions, `tensor` the
  decomposition of third moments, `subspace` the likeliest of 8 random starts in the leading
  eigenspace. They are not the starts in `model.starts_`, which EM on the sketch has polished.
  `search` has no raw form: it runs EM between its steps.
* **N = ∞** means counts in proportion to π: no sampling noise, only the bias of finite p.
* **Fit** is `SoftmaxMixture(3)` with its default `init="auto"`.
* **Won** means: the final log-likelihood is at most {within:g} nats per draw below that of a fit
  begun at the truth. L = 8, p = {p}, N = {draws}, `n_init` 8 and for random {n_random}. At
  this p the sketch holds all candidates. For all draws together that is a
  log-likelihood lower by {nats:g}.

## Error against the number of draws

Median (least to largest) over {seeds} problems.

{by_draws}

## Error of the raw estimators against the number of candidates, N = ∞

{by_candidates}

## Problems won against the number of components, Gaussian features

{by_size}

## Problems won against the law of the features, K = {law_components}

{by_law}

## Misses

{misses}

## What it shows

{told_errors}
{told_success}

## What it does not show

* **Rates of success.** {problems} problems a cell are few: winning all {problems} is what an init
  with a success rate of {least:.0%} still does one time in twenty.
* **The global maximum.** A fit begun at the truth is a high optimum, not a proven maximum.
* **The paper's own code.** The estimators are this project's, derived from the idea of latent
  moments; the Gaussian (Hermite) form is used for every law of the features.
* **Other settings.** One norm of the atoms, weights of one kind, data from the model itself, and
  one size for which the sketch holds every candidate: starts found on a true subsample, nearly
  equal atoms, tiny weights and misspecified data are not in it.
* **Time.** Nothing here is timed.
"""


def page(results: Results, quick: bool) -> str:
    """Text of the page."""
    plan = results.plan
    by_draws, by_candidates = error_tables(results)
    by_size, by_law = success_tables(results)
    return PAGE.format(
        flag=" --quick" if quick else "",
        seeds=plan.seeds,
        problems=plan.problems,
        p=number(plan.p),
        draws=number(plan.n_draws),
        law_components=plan.law_components,
        norm=NORM,
        within=WITHIN,
        nats=WITHIN * plan.n_draws,
        n_random=N_INIT["random"],
        least=0.05 ** (1 / plan.problems),
        by_draws=by_draws,
        by_candidates=by_candidates,
        by_size=by_size,
        by_law=by_law,
        misses=misses(results),
        told_errors=told_of_errors(results),
        told_success=told_of_success(results),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small problems, seconds")
    parser.add_argument("-o", "--output", type=Path, default=Path(), help="folder to write to")
    asked = parser.parse_args()
    asked.output.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    with single_blas_thread():
        results = run(QUICK if asked.quick else Plan())
    draw_figure(results, asked.output / "warm_starts.png")
    text = page(results, asked.quick)
    (asked.output / "warm_starts.md").write_text(text, encoding="utf-8")
    print(f"{asked.output / 'warm_starts.md'}, {time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
