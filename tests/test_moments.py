"""Latent moments: the sums row by row, the theorems behind them with their rates, the starts."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
from numpy.polynomial.hermite_e import hermeval

from softmix_dist import moments
from softmix_dist.blocks import Block, Findings, RawBlock
from softmix_dist.kernels import prepare, survey
from softmix_dist.model import Coordinates, Frame
from softmix_dist.moments import ProjectedMomentSums, projected_moments, second_moments
from softmix_dist.solve.design import standard_coordinates
from softmix_dist.solve.moments import (
    directions,
    leading_subspace,
    moment_estimate,
    subspace_starts,
    tensor_estimate,
)

RADIUS = 5.0


def block_of(x, draws, log_base=None, multiplicity=None, step=50, sparse=False):
    """A block in memory, in slices of ``step`` rows."""
    rows = np.column_stack([np.ones(len(x)), x])
    slices = tuple(rows[i : i + step] for i in range(0, len(rows), step))
    observed = np.flatnonzero(draws) if sparse else None
    return Block(slices, draws, log_base, multiplicity, observed, Findings())


def unit_rows(rng, *shape):
    vectors = rng.standard_normal(shape)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def coordinates_of(n_features, seed=3):
    """Some coordinates other than the frame's."""
    rng = np.random.default_rng(seed)
    factor = np.tril(rng.normal(0, 0.3, (n_features, n_features)), -1) + np.diag(
        rng.uniform(0.7, 1.5, n_features)
    )
    frame = Frame(np.zeros(n_features), np.ones(n_features))
    return Coordinates(frame, rng.standard_normal(n_features), factor, 0.0, 5.0)


# The sums, against plain loops.


def problem_rows(p=130, n_features=3, density=1.0, base=True, times=True, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((p, n_features))
    draws = (1.0 + rng.poisson(5, p)) * (rng.random(p) < density)
    log_base = rng.normal(0, 1, p)
    gone = rng.random(p) < 0.2
    log_base[gone], draws[gone] = -np.inf, 0
    multiplicity = rng.uniform(0.5, 4, p)
    return x, draws, log_base if base else None, multiplicity if times else None


def oracle(rows, coordinates, vectors, basis, n_components):
    """Both kinds of sums, one row and one entry after the other."""
    x, draws, log_base, multiplicity = rows
    n_features, d = basis.shape
    first, second = np.zeros(n_features), np.zeros((n_features, n_features))
    powers, n_draws, mass = np.zeros((3, n_features)), 0.0, 0.0
    hermite = np.zeros((len(vectors), 2 * n_components))
    mixed, third = np.zeros((len(vectors), n_components, n_features)), np.zeros((d, d, d))
    for j in range(len(x)):
        z = np.linalg.inv(coordinates.factor) @ (x[j] - coordinates.mean)
        w = 1.0 if multiplicity is None else multiplicity[j]
        u, n = w * (1.0 if log_base is None else np.exp(log_base[j])), w * draws[j]
        n_draws, mass = n_draws + n, mass + u
        for i in range(n_features):
            first[i] += n * z[i]
            for r in (2, 3, 4):
                powers[r - 2, i] += u * z[i] ** r
            for m in range(n_features):
                second[i, m] += n * z[i] * z[m]
        for i, v in enumerate(vectors):
            for r in range(2 * n_components):
                value = n * hermeval(float(v @ z), np.eye(r + 1)[r])
                hermite[i, r] += value
                if r < n_components:
                    mixed[i, r] += value * z
        y = basis.T @ z
        for a in range(d):
            for b in range(d):
                for c in range(d):
                    trace = y[a] * (b == c) + y[b] * (a == c) + y[c] * (a == b)
                    third[a, b, c] += n * (y[a] * y[b] * y[c] - trace)
    return (first, second, powers, n_draws, mass), (vectors, hermite, mixed, third)


def frame_of_reference(n_features=3, n_directions=4, d=2, seed=1):
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(rng.standard_normal((n_features, d)))[0]
    return coordinates_of(n_features), unit_rows(rng, n_directions, n_features), basis


def assert_same(found, expected, rtol=1e-12):
    for value, wanted in zip(vars(found).values(), expected, strict=True):
        scale = max(np.abs(wanted).max(), 1.0)
        np.testing.assert_allclose(value, wanted, rtol=0, atol=rtol * scale)


@pytest.mark.parametrize("base", [False, True])
@pytest.mark.parametrize("times", [False, True])
@pytest.mark.parametrize("density", [1.0, 0.1])
def test_sums_are_the_oracles(base, times, density):
    rows = problem_rows(density=density, base=base, times=times)
    coordinates, vectors, basis = frame_of_reference()
    block = block_of(*rows, sparse=density < 0.25)
    seconds, projected = oracle(rows, coordinates, vectors, basis, 3)
    assert_same(second_moments(block, coordinates), seconds)
    assert_same(projected_moments(block, coordinates, vectors, basis, 3), projected)


def test_single_precision_blocks_are_summed_in_double():
    x, draws, *_ = problem_rows(base=False, times=False)
    coordinates, vectors, basis = frame_of_reference()
    stored = x.astype(np.float32)
    frame = Frame(np.zeros(3, np.float32), np.ones(3, np.float32))
    block = prepare(RawBlock(0, stored, draws.astype(np.uint32)), frame, 3)
    rows = stored.astype(float), draws, None, None
    seconds, projected = oracle(rows, coordinates, vectors, basis, 3)
    found = second_moments(block, coordinates)
    # Powers only tell how Gaussian the features are.
    np.testing.assert_allclose(found.powers, seconds[2], rtol=1e-6)
    assert_same(replace(found, powers=seconds[2]), seconds)
    assert_same(projected_moments(block, coordinates, vectors, basis, 3), projected)


def test_powers_do_not_vanish_with_a_small_base_measure():
    x, draws, *_ = problem_rows(base=False, times=False)
    coordinates, *_ = frame_of_reference()
    frame = Frame(np.zeros(3, np.float32), np.ones(3, np.float32))
    usual, low = (
        second_moments(
            prepare(
                RawBlock(0, x.astype(np.float32), draws.astype(np.uint32), np.full(len(x), level)),
                frame,
                3,
            ),
            coordinates,
        )
        for level in (0.0, -200.0)
    )
    np.testing.assert_allclose(low.powers / low.mass, usual.powers / usual.mass, rtol=1e-6)


@pytest.mark.parametrize("rows_together", [1, 7, 64, 2048])
def test_chunks_make_no_difference_beyond_rounding(monkeypatch, rows_together):
    rows = problem_rows()
    coordinates, vectors, basis = frame_of_reference()
    whole = block_of(*rows, step=1000)
    seconds = vars(second_moments(whole, coordinates)).values()
    projected = vars(projected_moments(whole, coordinates, vectors, basis, 4)).values()
    monkeypatch.setattr(moments, "_ROWS", rows_together)
    ragged = block_of(*rows, step=33)
    assert_same(second_moments(ragged, coordinates), seconds)
    assert_same(projected_moments(ragged, coordinates, vectors, basis, 4), projected)


@pytest.mark.parametrize("third", [False, True])
def test_blocks_add_up(third):
    rows = problem_rows()
    coordinates, vectors, basis = frame_of_reference()
    axes = basis if third else None
    upper, lower = (block_of(*(v[part] for v in rows)) for part in (np.s_[:47], np.s_[47:]))
    seconds = second_moments(upper, coordinates) + second_moments(lower, coordinates)
    assert_same(seconds, vars(second_moments(block_of(*rows), coordinates)).values())
    total, both = (
        projected_moments(block, coordinates, vectors, axes, 3)
        for block in (block_of(*rows), upper)
    )
    both += projected_moments(lower, coordinates, vectors, axes, 3)
    assert (both.third is not None) == third
    for name in ("directions", "hermite", "mixed", "third")[: 3 + third]:
        np.testing.assert_allclose(getattr(both, name), getattr(total, name), rtol=1e-9, atol=1e-9)


def test_block_without_draws_adds_nothing():
    x, draws, *_ = problem_rows()
    coordinates, vectors, basis = frame_of_reference()
    block = block_of(x, 0 * draws, sparse=True)
    sums = projected_moments(block, coordinates, vectors, basis, 3)
    assert not any(values.any() for values in (sums.hermite, sums.mixed, sums.third))
    assert not second_moments(block, coordinates).second.any()


# The theorem: averages over draws tend to the moments of the mixing measure.


def mixture_of(n_components, n_features, norm=1.0, seed=2):
    rng = np.random.default_rng(seed)
    return rng.dirichlet(np.full(n_components, 8.0)), norm * unit_rows(
        rng, n_components, n_features
    )


def drawn(p, weights, atoms, seed):
    """Features with their own standard coordinates, and the exact pi_j there."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((p, atoms.shape[1]))
    frame = Frame(np.zeros(x.shape[1]), np.ones(x.shape[1]))
    design, _ = survey(block_of(x, np.zeros(p), step=4096))
    names = [str(i) for i in range(x.shape[1])]
    coordinates = standard_coordinates(design, frame, names, np.dtype(float))
    z = np.linalg.solve(coordinates.factor, (x - coordinates.mean).T).T
    softmaxes = np.exp(z @ atoms.T)
    return x, coordinates, (softmaxes / softmaxes.sum(axis=0)) @ weights


def averages(x, coordinates, draws, vectors, basis, n_components=3):
    """Moments of one draw, from draws."""
    block = block_of(x, draws, step=4096)
    seconds = second_moments(block, coordinates)
    sums = projected_moments(block, coordinates, vectors, basis, n_components)
    n = draws.sum()
    return by_name(
        seconds.first / n,
        seconds.second / n,
        ProjectedMomentSums(vectors, sums.hermite / n, sums.mixed / n, sums.third / n),
    )


def by_name(first, second, sums):
    """All moments by their names, those that are always 1 left out."""
    return {
        "first": first,
        "second": second,
        "third": sums.third,
        **{f"hermite {r}": sums.hermite[:, r] for r in range(1, sums.hermite.shape[1])},
        **{f"mixed {r}": sums.mixed[:, r] for r in range(sums.mixed.shape[1])},
    }


def low_moments(weights, atoms):
    """First and second moments of z in closed form."""
    return weights @ atoms, (atoms.T * weights) @ atoms + np.eye(atoms.shape[1])


def population(weights, atoms, vectors, basis, n_components):
    """The projected moments of one draw in closed form."""
    along = atoms @ vectors.T
    hermite = np.stack([weights @ along**r for r in range(2 * n_components)], axis=1)
    mixed = np.stack(
        [
            # t He_r = He_{r+1} + r He_{r-1} gives the second term, along v.
            (along**r * weights[:, None]).T @ atoms
            + (r * (weights @ along ** max(r - 1, 0)))[:, None] * vectors
            for r in range(n_components)
        ],
        axis=1,
    )
    y = atoms @ basis
    third = np.einsum("k,ka,kb,kc->abc", weights, y, y, y)
    return ProjectedMomentSums(vectors, hermite, mixed, third)


def root_mean_squares(tries, limits):
    return {
        name: np.sqrt(np.mean([np.sum((found[name] - limit) ** 2) for found in tries]))
        for name, limit in limits.items()
    }


def test_bias_of_the_moments_falls_as_the_root_of_p():
    # Short atoms and orders up to 3: higher ones live on tails that few of 1000 points see.
    weights, atoms = mixture_of(2, 3, norm=0.5)
    _, vectors, basis = frame_of_reference()
    limits = by_name(*low_moments(weights, atoms), population(weights, atoms, vectors, basis, 2))
    errors = [
        root_mean_squares(
            [
                averages(x, coordinates, 1e6 * pi, vectors, basis, 2)
                for x, coordinates, pi in (drawn(p, weights, atoms, seed) for seed in range(40))
            ],
            limits,
        )
        for p in (1_000, 16_000)
    ]
    for name in limits:
        # 4 for the rate p^-1/2. A root of a mean of 40 squares is known to about 11 %, the
        # ratio of two to 16 %. A wrong limit would leave a ratio of 1.
        assert 2.7 < errors[0][name] / errors[1][name] < 5.8, name


def test_noise_of_the_moments_falls_as_the_root_of_the_draws():
    weights, atoms = mixture_of(2, 3)
    _, vectors, basis = frame_of_reference()
    x, coordinates, pi = drawn(2_000, weights, atoms, 0)
    exact = averages(x, coordinates, pi, vectors, basis)
    rng = np.random.default_rng(4)
    errors = [
        root_mean_squares(
            [
                averages(x, coordinates, rng.multinomial(n, pi).astype(float), vectors, basis)
                for _ in range(40)
            ],
            exact,
        )
        for n in (1_000, 16_000)
    ]
    for name in exact:
        # 4 for the rate N^-1/2, exactly in the mean; the ratio of two roots is known to 16 %.
        assert 2.5 < errors[0][name] / errors[1][name] < 6.5, name


def test_powers_over_candidates_say_how_gaussian_the_design_is():
    rng = np.random.default_rng(5)
    p, n_features = 20_000, 3
    x = np.column_stack([rng.standard_normal((p, 2)), rng.uniform(0, 1, p)])
    block = block_of(x, np.zeros(p), log_base=rng.normal(0, 0.3, p), step=4096)
    frame = Frame(np.zeros(n_features), np.ones(n_features))
    coordinates = standard_coordinates(survey(block)[0], frame, list("abc"), np.dtype(float))
    sums = second_moments(block, coordinates)
    # Whitened by its own covariance, the variance is 1 exactly; three, and 9/5 when uniform.
    np.testing.assert_allclose(sums.powers[0] / sums.mass, 1, rtol=1e-10)
    # Five standard errors, with variances 15 and 96 of z^3 and z^4, 9 % more for the weights.
    np.testing.assert_allclose(sums.powers[1] / sums.mass, 0, atol=5 * np.sqrt(16.5 / p))
    np.testing.assert_allclose(sums.powers[2] / sums.mass, [3, 3, 1.8], atol=5 * np.sqrt(105 / p))


# The estimators on exact moments.


def assert_recovered(estimate, weights, atoms, tolerance=1e-6):
    best = min(
        permutations(range(len(weights))),
        key=lambda order: np.abs(estimate.atoms[list(order)] - atoms).sum(),
    )
    np.testing.assert_allclose(estimate.atoms[list(best)], atoms, rtol=0, atol=tolerance)
    np.testing.assert_allclose(estimate.weights[list(best)], weights, rtol=0, atol=tolerance)
    assert estimate.notes == ()


def exact_moments(weights, atoms, n_directions=5, n_draws=1e4, seed=6):
    """Sums over ``n_draws`` draws without bias or noise, the subspace and its directions."""
    n_components = len(weights)
    first, second = low_moments(weights, atoms)
    eigenvalues, basis = leading_subspace(n_draws * first, n_draws * second, n_draws, n_components)
    vectors = directions(basis, n_directions, np.random.default_rng(seed))
    sums = population(weights, atoms, vectors, basis, n_components)
    scaled = ProjectedMomentSums(
        vectors, n_draws * sums.hermite, n_draws * sums.mixed, n_draws * sums.third
    )
    return n_draws * first, n_draws * second, scaled, eigenvalues, basis


@pytest.mark.parametrize("n_components", [1, 2, 3])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_moment_estimate_of_exact_moments_is_the_mixture(n_components, seed):
    weights, atoms = mixture_of(n_components, 4, norm=2.0, seed=seed)
    sums = exact_moments(weights, atoms)[2]
    # Along a direction in which two atoms nearly coincide digits are lost: take the best.
    gaps = [np.diff(np.sort(atoms @ v)).min(initial=9.0) for v in sums.directions]
    estimate = moment_estimate(sums, int(np.argmax(gaps)), n_components, RADIUS)
    assert_recovered(estimate, weights, atoms)


@pytest.mark.parametrize("n_components", [1, 3, 6])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_tensor_estimate_of_exact_moments_is_the_mixture(n_components, seed):
    weights, atoms = mixture_of(n_components, 6, norm=0.8, seed=seed)
    # Clearly independent, six of them too.
    atoms += 2 * np.eye(n_components, 6)
    first, second, sums, _, basis = exact_moments(weights, atoms)
    rng = np.random.default_rng(seed)
    estimate = tensor_estimate(first, second, sums.third, basis, 1e4, n_components, RADIUS, rng)
    assert_recovered(estimate, weights, atoms)


def test_leading_subspace_spans_the_atoms():
    weights, atoms = mixture_of(3, 7, norm=2.0)
    first, second, _, eigenvalues, basis = exact_moments(weights, atoms)
    np.testing.assert_allclose(basis.T @ basis, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(atoms @ basis @ basis.T, atoms, atol=1e-9)
    truth = np.linalg.eigvalsh((atoms.T * weights) @ atoms)[::-1][:3]
    np.testing.assert_allclose(eigenvalues, truth, atol=1e-12)
    # Signs do not depend on the eigensolver: the draws lie on the positive side.
    assert (first @ basis >= 0).all()
    assert leading_subspace(first, second, 1e4, 9)[1].shape == (7, 7)


def test_directions_are_units_in_the_subspace_and_repeat():
    basis = np.linalg.qr(np.random.default_rng(0).standard_normal((6, 3)))[0]
    found, again = (directions(basis, 8, np.random.default_rng(1)) for _ in range(2))
    np.testing.assert_array_equal(found, again)
    np.testing.assert_array_equal(found[0], basis[:, 0])
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-12)
    np.testing.assert_allclose(found @ basis @ basis.T, found, atol=1e-12)


def test_subspace_starts_lie_in_the_span_with_the_moments_of_the_mixture():
    weights, atoms = mixture_of(3, 6, norm=2.0)
    first, _, _, eigenvalues, basis = exact_moments(weights, atoms)
    centre = first / 1e4
    starts = subspace_starts(basis, eigenvalues, centre, 3, 2_000, 1e3, np.random.default_rng(7))
    assert all(start.notes == () for start in starts)
    points = np.concatenate([start.atoms for start in starts])
    np.testing.assert_allclose(points @ basis @ basis.T, points, atol=1e-9)
    # Five standard errors of 6000 points whose spread is at most the norm of the atoms.
    np.testing.assert_allclose(points.mean(axis=0), centre, atol=5 * 2 / np.sqrt(6_000))
    second = np.mean((points @ basis) ** 2, axis=0)
    np.testing.assert_allclose(second[1:], eigenvalues[1:], rtol=0.2)
    shorter = subspace_starts(basis, eigenvalues, centre, 3, 20, 1.0, np.random.default_rng(7))
    assert max(np.linalg.norm(start.atoms, axis=1).max() for start in shorter) <= 1 + 1e-9


def test_estimates_tend_to_the_mixture_as_p_grows():
    weights, atoms = np.array([0.6, 0.4]), np.array([[1.2, 0.0, 0.3], [-0.5, 1.0, 0.0]])
    errors = {"moments": [], "tensor": []}
    for p in (2_000, 32_000):
        found = {name: [] for name in errors}
        for seed in range(20):
            x, coordinates, pi = drawn(p, weights, atoms, seed)
            block = block_of(x, pi, step=4096)
            low = second_moments(block, coordinates)
            basis = leading_subspace(low.first, low.second, low.n_draws, 2)[1]
            rng = np.random.default_rng(seed)
            sums = projected_moments(block, coordinates, directions(basis, 1, rng), basis, 2)
            for estimate in (
                moment_estimate(sums, 0, 2, RADIUS),
                tensor_estimate(low.first, low.second, sums.third, basis, 1.0, 2, RADIUS, rng),
            ):
                away = np.linalg.norm(estimate.atoms[:, None] - atoms, axis=2)
                error = min(away[0, 0] + away[1, 1], away[0, 1] + away[1, 0]) / 2
                found[estimate.method].append(error)
        for name, values in found.items():
            errors[name].append(np.median(values))
    for far, near in errors.values():
        # 4 for the rate; medians of 20 are known to 20 % each, and 2000 points to less.
        assert 2 < far / near < 8


# Moments of no mixture, or of one that they do not determine.


def assert_usable(estimate, n_components, n_features, radius=RADIUS):
    """A finite start: weights inside the simplex, atoms within the radius, all distinct."""
    assert estimate.atoms.shape == (n_components, n_features)
    assert np.isfinite(estimate.atoms).all()
    assert np.linalg.norm(estimate.atoms, axis=1).max() <= radius * (1 + 1e-9)
    assert (estimate.weights > 0.01 / n_components).all()
    assert estimate.weights.sum() == pytest.approx(1, abs=1e-12)
    assert len(np.unique(estimate.atoms.round(9), axis=0)) == n_components


def every_estimate(weights, atoms, n_components):
    """All three estimators on exact moments of a mixture, asked for ``n_components``."""
    first, second = low_moments(weights, atoms)
    eigenvalues, basis = leading_subspace(first, second, 1.0, n_components)
    rng = np.random.default_rng(8)
    vectors = directions(basis, 4, rng)
    sums = population(weights, atoms, vectors, basis, n_components)
    yield from (moment_estimate(sums, i, n_components, RADIUS) for i in range(4))
    yield tensor_estimate(first, second, sums.third, basis, 1.0, n_components, RADIUS, rng)
    yield from subspace_starts(basis, eigenvalues, first, n_components, 3, RADIUS, rng)


@pytest.mark.parametrize("n_components", [2, 3, 5])
@pytest.mark.parametrize("atom", [[0.0, 0.0, 0.0], [1.0, -2.0, 0.5]])
def test_equal_atoms(atom, n_components):
    weights, atoms = np.full(n_components, 1 / n_components), np.tile(atom, (n_components, 1))
    for estimate in every_estimate(weights, atoms, n_components):
        assert_usable(estimate, n_components, 3)
        assert estimate.notes
        if estimate.method == "moments":
            # All that the moments say: where the atoms are.
            np.testing.assert_allclose(estimate.weights @ estimate.atoms, atom, atol=0.3)


def test_more_components_than_the_moments_show():
    weights, atoms = mixture_of(2, 5, norm=2.0)
    for estimate in every_estimate(weights, atoms, 4):
        assert_usable(estimate, 4, 5)
        assert estimate.notes


def test_atoms_on_a_line_have_second_moments_of_rank_one():
    weights, atoms = np.array([0.5, 0.3, 0.2]), np.outer([-1.0, 0.5, 2.0], [0.6, 0.0, 0.8])
    estimates = list(every_estimate(weights, atoms, 3))
    for estimate in estimates:
        assert_usable(estimate, 3, 3)
    # Along the line the moments determine everything; the two others lack directions.
    assert_recovered(estimates[0], weights, atoms)
    assert all(estimate.notes for estimate in estimates[4:])


@pytest.mark.parametrize("n_features", [1, 2, 3])
def test_more_components_than_features(n_features):
    weights, atoms = mixture_of(4, n_features, norm=2.0)
    atoms *= np.linspace(0.4, 1.2, 4)[:, None]
    for estimate in every_estimate(weights, atoms, 4):
        assert_usable(estimate, 4, n_features)
        assert estimate.notes or estimate.method == "moments"


def test_atoms_beyond_the_radius_are_shortened():
    weights, atoms = mixture_of(2, 4, norm=9.0)
    *others, tensor = list(every_estimate(weights, atoms, 2))[:5]
    for estimate in (*others, tensor):
        assert_usable(estimate, 2, 4)
        assert estimate.notes


@pytest.mark.parametrize("size", [1e-6, 1e-2, 1.0, 1e3, 1e12])
@pytest.mark.parametrize(("n_components", "n_features"), [(1, 3), (2, 1), (3, 5), (20, 30)])
def test_noise_instead_of_moments(n_components, n_features, size):
    noted = 0
    for seed in range(6):
        rng = np.random.default_rng(seed)
        d, n_directions = min(n_components, n_features), 2
        first, second = size * rng.standard_normal(n_features), np.eye(n_features)
        second = second + size * rng.standard_normal(second.shape)
        eigenvalues, basis = leading_subspace(first, second, 1.0, n_components)
        vectors = directions(basis, n_directions, rng)
        hermite = size * rng.standard_normal((n_directions, 2 * n_components))
        hermite[:, 0] = 1
        mixed = size * rng.standard_normal((n_directions, n_components, n_features))
        third = size * rng.standard_normal((d, d, d))
        sums = ProjectedMomentSums(vectors, hermite, mixed, third)
        estimates = [
            moment_estimate(sums, 0, n_components, RADIUS),
            tensor_estimate(first, second, third, basis, 1.0, n_components, RADIUS, rng),
            *subspace_starts(basis, eigenvalues, first, n_components, 2, RADIUS, rng),
        ]
        for estimate in estimates[: 2 if size > 1 else 4]:
            assert_usable(estimate, n_components, n_features)
        noted += sum(bool(estimate.notes) for estimate in estimates[:2])
    # One atom is the mean of the draws, whatever that is, so nothing is wrong with it.
    assert noted > (0 if n_components == 1 else 9)


def test_no_draws_at_all():
    first, second, third = np.zeros(3), np.zeros((3, 3)), np.zeros((2, 2, 2))
    _, basis = leading_subspace(first, second, 0.0, 2)
    sums = ProjectedMomentSums(basis.T, np.zeros((2, 4)), np.zeros((2, 2, 3)), third)
    rng = np.random.default_rng(0)
    for estimate in (
        moment_estimate(sums, 1, 2, RADIUS),
        tensor_estimate(first, second, third, basis, 0.0, 2, RADIUS, rng),
    ):
        assert_usable(estimate, 2, 3)
        assert estimate.notes


def test_estimates_repeat():
    weights, atoms = mixture_of(3, 2, norm=2.0)
    for one, two in zip(
        every_estimate(weights, atoms, 3), every_estimate(weights, atoms, 3), strict=True
    ):
        assert one.atoms.tobytes() == two.atoms.tobytes()
        assert one.weights.tobytes() == two.weights.tobytes()
        assert one.notes == two.notes
