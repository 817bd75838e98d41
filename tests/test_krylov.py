"""Newton's direction from products with the information: the same as by the matrix."""

from __future__ import annotations

import numpy as np
import pytest
from problems import assert_never_falls, fitted, simulate
from test_convergence import true_distance
from test_information import CASES, case, information_at
from test_sample import DOUBLE, SINGLE, mixture, rows, sample_of

from softmix_dist import passes, runs, sketching, warm
from softmix_dist.curvature import information_product
from softmix_dist.engine import LocalEngine
from softmix_dist.errors import StandardErrorWarning
from softmix_dist.results import Settings
from softmix_dist.solve import em, krylov
from softmix_dist.solve import finish as polishing
from softmix_dist.solve.climb import climb
from softmix_dist.solve.information import Curvature, sketched_curvature
from softmix_dist.solve.krylov import ProductCurvature, sketched_products
from softmix_dist.sums import ProductSums
from softmix_dist.survey import survey


def on_block(block, coordinates, point, direction, dtype=DOUBLE):
    """Product at a point of all data, in standard coordinates."""
    change = coordinates.to_frame(krylov._change(direction, point.means))
    m = coordinates.to_frame(point.mixture)
    sums = information_product(block, m, change, dtype)
    mass = np.exp(point.mixture.offsets + point.log_normalisers)[:, None]
    n_draws = (block.draws * block.multiplicity).sum()
    scaled = ProductSums(sums.candidates / mass, sums.draws / n_draws)
    return krylov._product(point, scaled, point.resp, point.means, direction, coordinates)


@pytest.mark.parametrize("options", CASES)
@pytest.mark.parametrize(("dtype", "atol"), [(DOUBLE, 1e-12), (SINGLE, 1e-5)])
def test_a_product_is_that_of_the_matrix(options, dtype, atol):
    block, coordinates, point, _ = case(**options, p=150)
    matrix = information_at(block, coordinates, point)
    for direction in np.random.default_rng(0).standard_normal((5, 6)):
        found = on_block(block, coordinates, point, direction, dtype)
        np.testing.assert_allclose(found, matrix @ direction, atol=atol)


@pytest.mark.parametrize("options", CASES)
def test_a_product_is_minus_the_second_derivative_along_the_direction(options):
    block, coordinates, point, f = case(**options)
    x, shift = (
        np.append(np.log(point.weights), point.mixture.atoms),
        np.append(point.weights, [0] * 4),
    )
    for direction in np.random.default_rng(1).standard_normal((4, 6)):
        h = 3e-4 * direction
        expected = [
            (f(x + a - h) + f(x - a + h) - f(x + a + h) - f(x - a - h)) / 3.6e-7
            for a in 3e-4 * np.eye(6)
        ]
        # A common shift of the log weights means nothing: its eigenvalue is convention.
        found = on_block(block, coordinates, point, direction) - shift * (shift @ direction)
        np.testing.assert_allclose(found, expected, atol=2e-6)


@pytest.mark.parametrize("base", [None, "all", "some"])
@pytest.mark.parametrize("partly", [False, True])
def test_products_on_the_sketch_are_those_of_its_matrix(base, partly):
    data = rows(400, 3, base=base, density=0.6)
    chance = np.random.default_rng(5).uniform(0.3, 1, 400) if partly else 1.0
    sample = sample_of(data, chance, 2, l2=0.03, told=partly)
    (point,) = climb(sample_of(data, n_components=2, l2=0.03), [mixture(2, 3)], 3, dtype=DOUBLE)
    whole, found = sketched_curvature(point, sample), sketched_products(point, sample)
    assert found.sampled == partly == whole.noise.any()
    matrix = (whole.vectors * whole.values) @ whole.vectors.T * np.outer(whole.unit, whole.unit)
    for direction in np.eye(8):
        product, spread = found.products(direction)
        np.testing.assert_allclose(product, matrix @ direction, atol=1e-12)
        assert (spread is not None) == partly
    # As many products as coefficients see all of it. (Where eigenvalues are shifted by their
    # errors, those of other vectors have other errors.)
    slope, found.accurate = em.slope_at(point), 1e-9
    for name in ("gain",) if partly else ("gain", "most", "solve"):
        expected = getattr(whole, name)(slope)
        np.testing.assert_allclose(getattr(found, name)(slope), expected, rtol=2e-3, atol=1e-5)


@pytest.fixture
def no_matrices(monkeypatch):
    """Small problems are solved as large ones are."""
    monkeypatch.setattr(krylov, "LARGEST_MATRIX", 0)
    monkeypatch.setattr(sketching, "LARGEST_MATRIX", 0)
    monkeypatch.setattr(polishing, "LARGEST_MATRIX", 0)
    monkeypatch.setattr(runs, "LARGEST_MATRIX", 0)
    monkeypatch.setattr(passes, "_LARGEST_INFORMATION", 0)


SLOW = [
    ("gaussian", 4, 3, 46, 0.1),
    ("clusters", 4, 3, 41, 0.1),
    ("clusters", 4, 3, 45, 0.01),
    ("binary", 6, 2, 43, 0.01),
    ("student", 4, 3, 54, 0.01),
]


@pytest.mark.usefixtures("no_matrices")
@pytest.mark.filterwarnings("ignore:not converged", "ignore:component")
@pytest.mark.parametrize(("law", "n_features", "n_components", "seed", "tol"), SLOW)
@pytest.mark.parametrize("options", [{}, {"sketch_rows": 1000}, {"solver": "em"}])
def test_converged_is_not_said_early(law, n_features, n_components, seed, tol, options):
    n_draws = 10 ** (4 + (seed - 40) % 3)
    problem = simulate(3000, n_features, n_components, n_draws, law=law, seed=seed, norm=1.7)
    result = fitted(problem, n_components, init=problem.truth, tol=tol, max_passes=300, **options)
    assert result.converged == result.verified
    # To stop without converging would be honest, too.
    assert not result.converged or true_distance(problem, result) < 3 * tol
    assert_never_falls(result)


@pytest.mark.filterwarnings("ignore:not converged", "ignore:component")
@pytest.mark.parametrize(("law", "n_features", "n_components", "seed", "tol"), SLOW[:3])
def test_claims_between_rest_on_passes(law, n_features, n_components, seed, tol, monkeypatch):
    # Too many coefficients for an exact matrix, few enough for one on the sketch.
    monkeypatch.setattr(passes, "_LARGEST_INFORMATION", 0)
    problem = simulate(3000, n_features, n_components, 10**6, law=law, seed=seed, norm=1.7)
    result = fitted(
        problem,
        n_components,
        init=problem.truth,
        tol=tol,
        sketch_rows=1000,
        standard_errors="exact",
    )
    assert result.converged
    assert result.verified
    assert true_distance(problem, result) < 3 * tol
    # A matrix on all data is still to be had for the errors, in one pass.
    assert result.errors_from == "exact"
    assert np.isfinite(result.covariance).all()


def believe(self, run):
    """Claim what the estimate at hand says."""
    run.converged = self.distance(run.state.remaining) < self.settings.tol
    run.stopped = None if run.converged or not run.state.stuck else "no step"


@pytest.mark.usefixtures("no_matrices")
@pytest.mark.filterwarnings("ignore:not converged", "ignore:component")
def test_what_em_alone_would_claim_early_is_refuted(monkeypatch):
    problem = simulate(3000, 4, 3, 10_000, law="clusters", seed=41, norm=1.7)
    settings = {"init": problem.truth, "solver": "em", "tol": 0.1, "max_passes": 300}
    result = fitted(problem, 3, **settings)
    assert result.converged
    assert true_distance(problem, result) < 0.2
    assert "information" in {row["step"] for row in result.history[:-1]}
    monkeypatch.setattr(runs.Stepper, "verify", believe)
    early = fitted(problem, 3, **settings)
    assert early.converged
    assert true_distance(problem, early) > 0.3


def test_the_step_within_a_radius_follows_an_upward_bend():
    rng = np.random.default_rng(2)
    unit, values = rng.uniform(0.2, 1, 30), np.append([-0.4, -0.1], np.linspace(0.1, 2, 28))
    vectors, _ = np.linalg.qr(rng.standard_normal((30, 30)))
    matrix = (vectors * values) @ vectors.T * np.outer(unit, unit)
    found = ProductCurvature(lambda x: (matrix @ x, None), unit, np.zeros(30), sampled=False)
    found.accurate = 1e-10
    whole = Curvature(values, vectors, unit, np.zeros(30), np.zeros(30))
    slope = rng.standard_normal(30) * unit
    for radius in (0.01, 1.0, 100.0):
        step, gain, length = found.trusted(slope, radius)
        assert length == pytest.approx(radius, rel=1e-6)
        assert gain == pytest.approx(whole.trusted(slope, radius)[1], rel=1e-6)
        assert gain == pytest.approx(slope @ step - 0.5 * step @ matrix @ step, rel=1e-6)
    assert found.gain(slope) == found.most(slope) == np.inf
    # A slope that does not show the bend: the random direction does.
    found.accurate = 1e-3
    level = vectors[:, 2:] @ rng.standard_normal(28) * unit
    assert np.isfinite(found.gain(level))
    assert found.most(level) == np.inf


@pytest.mark.parametrize("products", [3, 6, 12, 40])
def test_the_gain_is_bounded_however_few_the_products(products):
    rng = np.random.default_rng(3)
    values = np.geomspace(0.02, 2, 40)
    vectors, _ = np.linalg.qr(rng.standard_normal((40, 40)))
    matrix, slope = (vectors * values) @ vectors.T, rng.standard_normal(40)
    found = ProductCurvature(
        lambda x: (matrix @ x, None), np.ones(40), np.zeros(40), False, None, products, 1e-9
    )
    exact = 0.5 * slope @ np.linalg.solve(matrix, slope)
    assert found.seen(slope).gain(slope) <= exact * (1 + 1e-9)
    if products > 3:
        assert found.gain(slope) >= exact * (1 - 1e-9)
    if products == 40:
        assert found.gain(slope) == pytest.approx(exact, rel=1e-6)


def test_what_is_known_beforehand_saves_products():
    rng = np.random.default_rng(4)
    values = np.geomspace(0.01, 2, 60)
    vectors, _ = np.linalg.qr(rng.standard_normal((60, 60)))
    matrix, slope = (vectors * values) @ vectors.T, rng.standard_normal(60)
    counts = []
    for known in (None, Curvature(1.1 * values, vectors, np.ones(60), np.zeros(60), 0 * values)):
        calls = []

        def product(x, calls=calls):
            calls.append(x)
            return matrix @ x, None

        found = ProductCurvature(product, np.ones(60), np.zeros(60), False, known, 20, 1e-8)
        found.gain(slope)
        counts.append(len(calls))
    assert counts[0] == 20
    assert counts[1] <= 3
    assert found.gain(slope) == pytest.approx(0.5 * slope @ np.linalg.solve(matrix, slope))
    np.testing.assert_allclose(matrix @ found.solve(slope), slope, atol=1e-6)


@pytest.fixture(scope="module")
def wide():
    """2 052 coefficients."""
    return simulate(3000, 512, 4, 1_000_000, norm=1.0, seed=1)


@pytest.mark.parametrize("solver", ["auto", "em"])
def test_more_coefficients_than_fit_in_a_matrix(wide, solver, monkeypatch):
    # No matrix of all coefficients is decomposed.
    monkeypatch.setattr(Curvature, "of", None)
    settings = {"l2": 1e-3, "max_passes": 300}
    with pytest.warns(StandardErrorWarning, match="no standard errors: 2052 coefficients"):
        result = fitted(wide, 4, init=wide.truth, solver=solver, **settings)
    assert result.converged
    assert result.verified
    assert result.distance < 0.01
    assert_never_falls(result)
    start = result.weights, result.atoms
    tight = fitted(wide, 4, init=start, tol=1e-4, standard_errors="none", **settings)
    assert tight.converged
    short = tight.objective - result.objective
    assert short < 0.01**2 / (2 * result.n_draws) * 1.5
    # As many numbers as coefficients squared are not asked for.
    assert result.covariance is None
    assert result.errors_from == "none"


def test_a_wide_sketch_is_held_once(wide):
    settings = Settings(4, l2=1e-3)
    engine = LocalEngine(1)
    try:
        design, coordinates = survey(wide.dataset(block_rows=512), engine, 4)
        warmer = warm.Warmer(engine, settings, design, coordinates, 0)
        sample = warmer.sample_of(warmer.look(engine)[0])
    finally:
        engine.close()
    held = {x.base is sample.z for block in sample.blocks.values() for x in block.slices}
    assert sample.z.dtype == np.float32
    assert held == {True}


def test_a_wide_sketch_has_room_in_memory():
    rows = [sketching.sketch_rows(Settings(8), n) for n in (240, 512, 4000)]
    assert rows[0] == (60 * 8 * 241, 250 * 8 * 241)
    for (first, second), n in zip(rows[1:], (512, 4000), strict=True):
        assert 20_000 <= first <= second
        assert 4 * second * (n + 1) <= 2**29
