"""Newton's direction from products with the information: the same as by the matrix."""

from __future__ import annotations

import numpy as np
import pytest
from problems import assert_never_falls, fitted, simulate
from test_convergence import true_distance
from test_information import CASES, case, information_at
from test_sample import DOUBLE, SINGLE, mixture, rows, sample_of

from softmix_dist import runs, warm
from softmix_dist.curvature import information_product
from softmix_dist.solve import em, krylov
from softmix_dist.solve.climb import climb
from softmix_dist.solve.information import sketched_curvature
from softmix_dist.solve.krylov import sketched_products
from softmix_dist.sums import ProductSums


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
    slope = em.slope_at(point)
    for name in ("gain",) if partly else ("gain", "most", "solve"):
        expected = getattr(whole, name)(slope)
        np.testing.assert_allclose(getattr(found, name)(slope), expected, rtol=2e-3, atol=1e-5)


@pytest.fixture
def no_matrices(monkeypatch):
    """Small problems are solved as large ones are."""
    monkeypatch.setattr(krylov, "LARGEST_MATRIX", 0)
    monkeypatch.setattr(warm, "LARGEST_MATRIX", 0)
    monkeypatch.setattr(runs, "LARGEST_MATRIX", 0)
    monkeypatch.setattr(runs, "_LARGEST_INFORMATION", 0)


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
