"""The information where it is too large for a matrix: by its products, in a Krylov space.

Newton's direction comes from as many products with the information as it needs: conjugate
gradients, preconditioned by the complete-data information, here in the form of Lanczos'
recursion. Its space shows the likelihood along the slope as a small tridiagonal matrix,
whose eigenvalues and eigenvectors stand for those of the whole, so the step within a trust
radius, the upward bends and what is left to gain are found as with the whole matrix.

The preconditioner is diagonal. The covariance of each component's softmax, a block a component,
was measured: it halves the products (to a hundredth of the slope 9 instead of 15 on Gaussian
features, 23 instead of 45 on clusters; L = 96, K = 8), but to compute it costs as much as 50
products at L = 512, and a fit asks for 40 to 200 in all.

Sources: Gould, Lucidi, Roma & Toint, SIAM J. Optim. 9 (1999), 504-525 (trust region by
Lanczos); Golub & Meurant, Matrices, Moments and Quadrature (2010), for the bound.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.linalg import eigh_tridiagonal

from softmix_dist.curvature import information_product
from softmix_dist.kernels import score
from softmix_dist.model import Array, Coordinates, Mixture
from softmix_dist.solve.information import Curvature, sketched_curvature
from softmix_dist.solve.point import Point
from softmix_dist.solve.sample import LARGEST_MATRIX, Sample
from softmix_dist.sums import ProductSums

# The residual of a step, relative to the slope.
_ACCURATE = 1e-2
# Products of one step at most, and between two looks at the residual; of a random direction.
_MOST_PRODUCTS, _LOOK, _PROBE = 200, 5, 40
# The same where each product is a pass over the data: with the bound by the residual a rough
# step is enough to claim, or to refuse.
_ROUGH, _MOST_PASSES = 0.1, 20
# In units of the complete data: rounding of single precision may bend by this.
_FLAT = 1e-5

# The information times a direction, (d,), and an estimate of the error of that by the sampling
# of the rows; None where it is exact.
Products = Callable[[Array], tuple[Array, Array | None]]


@dataclass(frozen=True)
class _Space:
    """A Krylov space: the information seen from one slope, and the residual of its step."""

    slope: Array
    seen: Curvature
    residual: float


class ProductCurvature:
    """Observed information at a point, known by its products alone.

    It has the methods of `Curvature`; each sees as much of the information as the Krylov
    space of the slope that it is given.

    Parameters
    ----------
    products : callable
        Of a direction, (d,), as `Products` says.
    unit : (d,) array
        Square roots of the diagonal of the complete-data information.
    x : (d,) array
        Where it was taken: log weights, then atoms.
    sampled : bool
        Whether it has errors by the sampling of the rows.
    known : Curvature, optional
        About the same information: what it knows is taken out beforehand, so that fewer
        products are needed.
    most_products, accurate : int, float
        Products of one step at most, and the residual that is small enough, relative to the
        slope.
    """

    partial = False

    def __init__(
        self,
        products: Products,
        unit: Array,
        x: Array,
        sampled: bool,
        known: Curvature | None = None,
        most_products: int = _MOST_PRODUCTS,
        accurate: float = _ACCURATE,
    ):
        self.products = products
        self.unit = unit
        self.x = x
        self.sampled = sampled
        # Where products are exact they are taken anew at each point: that costs no more.
        self.lapses = not sampled
        self.known = known
        self.most_products = most_products
        self.accurate = accurate
        # A pass costs more than an eigendecomposition.
        self.look = _LOOK if most_products == _MOST_PRODUCTS else 1
        self._spaces: list[_Space] = []
        self._probe: Curvature | None = None

    def seen(self, slope: Array) -> Curvature:
        """Return the information as the Krylov space of a slope shows it."""
        return self._space(slope).seen

    def knows(self, x: Array) -> bool:
        """Whether it is exact, and was taken at x."""
        return not self.sampled and np.array_equal(x, self.x)

    def solve(self, slope: Array, damping: float = 0.0) -> Array:
        """Newton's step, as `Curvature.solve`."""
        return self._space(slope).seen.solve(slope, damping)

    def damping(self, slope: Array, radius: float) -> float:
        """Damping at which the step is as long as ``radius``, in complete-data units."""
        return self._space(slope).seen.damping(slope, radius)

    def trusted(self, slope: Array, radius: float) -> tuple[Array, float, float]:
        """Best step within a radius, as `Curvature.trusted`."""
        return self._space(slope).seen.trusted(slope, radius)

    def gain(self, slope: Array) -> float:
        """Estimate what is left to gain by the quadratic model, nats per draw.

        Conjugate gradients approach it from below, and the residual over the lowest value that
        was seen is added. No bound: a weaker direction than any seen would add more.
        """
        space = self._space(slope)
        if not space.seen.lowest > _FLAT:
            return np.inf
        return space.seen.gain(slope) + space.residual**2 / (2 * space.seen.lowest)

    def most(self, slope: Array) -> float:
        """Estimate the gain with every eigenvalue that is seen lowered by two standard errors.

        A random direction is asked as well: at a saddle the slope may not see the bend.
        """
        if self._probe is None:
            direction = np.random.default_rng(0).standard_normal(len(self.unit))
            few = min(_PROBE, self.most_products)
            self._probe = self._explore(direction * self.unit, few).seen
        space = self._space(slope)
        lowest = min(
            float((seen.values - 2 * seen.noise).min()) for seen in (space.seen, self._probe)
        )
        if not lowest > _FLAT:
            return np.inf
        return space.seen.most(slope) + space.residual**2 / (2 * lowest)

    def _space(self, slope: Array) -> _Space:
        """Krylov space of a slope; the last two are kept, for a step asks several times."""
        for space in self._spaces:
            if np.array_equal(space.slope, slope):
                return space
        self._spaces = [*self._spaces[-1:], self._explore(slope, self.most_products)]
        return self._spaces[-1]

    def _explore(self, slope: Array, most: int) -> _Space:
        """Lanczos' recursion from a slope, fully reorthogonalised."""
        start = self._scaled(slope / self.unit)
        size = float(np.linalg.norm(start))
        most = min(most, len(start))
        basis, spreads = np.zeros((most, len(start))), []
        diagonal, beside = np.zeros(most), np.zeros(most)
        vector = start / size if size > 0 else np.eye(1, len(start))[0]
        for i in range(most):
            basis[i] = vector
            product, spread = self.products(self._scaled(vector) / self.unit)
            spreads += [] if spread is None else [self._scaled(spread / self.unit)]
            rest = self._scaled(product / self.unit)
            diagonal[i] = vector @ rest
            known = basis[: i + 1]
            for _ in range(2):
                rest -= (known @ rest) @ known
            beside[i] = np.linalg.norm(rest)
            ended = beside[i] < 1e-10 or i + 1 == most
            if ended or (i + 1) % self.look == 0:
                values, vectors = eigh_tridiagonal(diagonal[: i + 1], beside[:i])
                share = vectors[0] * size / np.maximum(np.abs(values), _FLAT)
                residual = float(beside[i] * abs(vectors[-1] @ share))
                if ended or residual <= self.accurate * size:
                    break
            vector = rest / beside[i]
        noise = np.zeros(len(values))
        if spreads:
            inside = known @ np.array(spreads).T
            noise = np.abs(np.einsum("ia,ij,ja->a", vectors, inside, vectors))
        seen = Curvature(values, self._scaled(known.T @ vectors), self.unit, self.x, noise)
        return _Space(slope, seen, residual)

    def _scaled(self, vectors: Array) -> Array:
        """Vectors, (d,) or (d, n), by the inverse root of what is known of the information."""
        if self.known is None:
            return vectors
        axes = self.known.vectors
        shrunk = 1 / np.sqrt(self.known.bends) - 1
        return vectors + axes @ ((axes.T @ vectors).T * shrunk).T


def curvature_at(point: Point, sample: Sample) -> Curvature | ProductCurvature:
    """Curvature at a point of the whole data from the sketch, as a matrix where one fits."""
    if point.mixture.n_coefficients > LARGEST_MATRIX:
        return sketched_products(point, sample)
    return sketched_curvature(point, sample)


def sketched_products(point: Point, sample: Sample) -> ProductCurvature:
    """Curvature at a point of the whole data, from products on the sketch.

    Parameters
    ----------
    point : Point
    sample : Sample
        Its rows are read as they are held: where that is single precision, so is the
        arithmetic of a slice, whose rounding is 1e-6 of the complete-data information at most.
    """
    # 1. The mixture on the sketch: same weights and atoms, the sketch's normalisers.
    block = sample.blocks[np.dtype(np.float64)]
    dtype = block.slices[0].dtype
    (begin,) = sample.points([Mixture(-point.log_normalisers, point.mixture.atoms)], dtype)
    offsets = np.log(point.weights) - begin.log_normalisers
    mixture = Mixture(offsets, point.mixture.atoms)
    # 2. One half of the rows and the other, for the error; all at once where there is none.
    parts = (block,) if sample.is_all else block.halves()
    plain = [score(part, [mixture], dtype)[0] for part in parts]
    masses = [sums.candidates[:, 0] for sums in plain]
    totals = [float(sums.draws[:, 0].sum()) for sums in plain]
    mass, total = np.sum(masses, axis=0), sum(totals)
    resp = np.sum([sums.draws[:, 0] for sums in plain], axis=0) / total
    means = np.sum([sums.candidates[:, 1:] for sums in plain], axis=0) / mass[:, None]

    def products(direction: Array) -> tuple[Array, Array | None]:
        change = _change(direction, means)
        found = [information_product(part, mixture, change, dtype) for part in parts]

        def product(sums: ProductSums, mass: Array, n_draws: float) -> Array:
            scaled = ProductSums(sums.candidates / mass[:, None], sums.draws / n_draws)
            return _product(point, scaled, resp, means, direction, sample.coordinates)

        whole = product(sum(found[1:], found[0]), mass, total)
        if len(parts) == 1:
            return whole, None
        one, other = map(product, found, masses, totals)
        return whole, (one - other) / 2

    return ProductCurvature(products, *_place(point), sampled=len(parts) > 1)


def exact_products(
    point: Point,
    reduce: Callable[[Mixture, Mixture], ProductSums],
    coordinates: Coordinates,
    n_draws: int,
    known: Curvature | None,
) -> ProductCurvature:
    """Curvature at a point of the whole data, each product a pass over them.

    Parameters
    ----------
    point : Point
    reduce : callable
        Sums for the product, of a mixture and a direction in the frame.
    coordinates : Coordinates
    n_draws : int
    known : Curvature or None
        From the sketch: where that is good a few passes are enough.
    """
    mixture = coordinates.to_frame(point.mixture)
    mass = np.exp(point.mixture.offsets + point.log_normalisers)

    def products(direction: Array) -> tuple[Array, None]:
        change = coordinates.to_frame(_change(direction, point.means))
        sums = reduce(mixture, change)
        scaled = ProductSums(sums.candidates / mass[:, None], sums.draws / n_draws)
        return _product(point, scaled, point.resp, point.means, direction, coordinates), None

    return ProductCurvature(
        products, *_place(point), sampled=False, known=known,
        most_products=_MOST_PASSES, accurate=_ROUGH,
    )  # fmt: skip


def _place(point: Point) -> tuple[Array, Array]:
    """Roots of the complete-data information, and (log weights, atoms), at a point."""
    n_features = point.mixture.atoms.shape[1]
    mass = np.concatenate([point.weights, np.repeat(point.weights + point.l2, n_features)])
    return np.sqrt(mass), np.concatenate([np.log(point.weights), point.mixture.atoms.ravel()])


def _change(direction: Array, means: Array) -> Mixture:
    """Change of (b, atoms) for one of (log weights, atoms): db_k = dlog alpha_k - m_k.dtheta_k."""
    n_components = len(means)
    atoms = direction[n_components:].reshape(means.shape)
    return Mixture(direction[:n_components] - np.sum(means * atoms, axis=1), atoms)


def _product(
    point: Point,
    sums: ProductSums,
    resp: Array,
    means: Array,
    direction: Array,
    coordinates: Coordinates,
) -> Array:
    """Product of the information with a direction of x, (d,); see `observed_information`.

    ``sums`` are means: over candidates by each softmax, and over draws.
    """
    n_components = point.mixture.n_components
    atoms = direction[n_components:].reshape(means.shape)
    expected, drawn = sums.candidates[:, 0], sums.draws[:, 0]
    # The b-part; atoms also move their means, which bends by the covariance of a softmax.
    by_weights = point.weights * expected - drawn
    spread = coordinates.standardise(sums.candidates) - expected[:, None] * means
    bent = coordinates.standardise(sums.draws) - drawn[:, None] * means
    by_atoms = resp[:, None] * spread - bent + point.l2 * atoms
    return np.concatenate([by_weights, by_atoms.ravel()])
