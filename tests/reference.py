"""An oracle for the tests: the model candidate by candidate, as METHOD.md writes it.

Shares no code with the package and none of its shortcuts. Plain loops over scalars in
extended precision, logarithms of sums by hand, every normaliser computed before whatever
needs it. Only `two_pass_em`, which makes hundreds of passes, works on whole columns (in
float64); the loops judge where it ends.

Throughout: ``features`` (p, L), ``counts`` (p,) or (S, p), ``weights`` (K,), ``atoms``
(K, L), ``log_base`` (p,) or None for a base measure of 1.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

Number = np.longdouble
Numbers = list[Number]


def log_sum_exp(values):
    """log of a sum of exponentials, shifted by the largest."""
    top = max(values)
    if top == -np.inf:
        return top
    total = Number(0)
    for value in values:
        total += np.exp(value - top)
    return top + np.log(total)


def dot(left, right):
    """Inner product of two vectors."""
    total = Number(0)
    for a, b in zip(left, right, strict=True):
        total += a * b
    return total


def logits(features, atom, log_base=None) -> Numbers:
    """log u_j + x_j.theta of every candidate."""
    atom = np.asarray(atom).astype(Number)
    found = [dot(row, atom) for row in np.asarray(features).astype(Number)]
    if log_base is not None:
        found = [a + Number(b) for a, b in zip(found, log_base, strict=True)]
    return found


def log_softmax(features, atom, log_base=None) -> Numbers:
    """log A_j(theta) of every candidate."""
    found = logits(features, atom, log_base)
    log_normaliser = log_sum_exp(found)
    return [value - log_normaliser for value in found]


def log_probabilities(features, weights, atoms, log_base=None) -> Numbers:
    """log pi_j = log sum_k alpha_k A_j(theta_k) of every candidate."""
    softmaxes = [log_softmax(features, atom, log_base) for atom in atoms]
    log_weights = [np.log(Number(weight)) for weight in weights]
    return [
        log_sum_exp([w + log_a for w, log_a in zip(log_weights, row, strict=True)])
        for row in zip(*softmaxes, strict=True)
    ]


def probabilities(features, weights, atoms, log_base=None) -> np.ndarray:
    """pi_j of every candidate, (p,)."""
    return np.exp(np.array(log_probabilities(features, weights, atoms, log_base)))


def draws_of(counts) -> list[int]:
    """Draws of every candidate, samples added up."""
    table = np.atleast_2d(counts)
    return [sum(int(sample[j]) for sample in table) for j in range(table.shape[1])]


def log_likelihood(features, counts, weights, atoms, log_base=None) -> float:
    """sum_j q_j log pi_j, nats per draw."""
    draws = draws_of(counts)
    total = Number(0)
    for n, log_pi in zip(draws, log_probabilities(features, weights, atoms, log_base), strict=True):
        if n:
            total += n * log_pi
    return float(total / sum(draws))


def entropies(features, atoms, log_base=None) -> np.ndarray:
    """Entropy of each component's softmax over candidates, nats, (K,)."""
    found = []
    for atom in atoms:
        total = Number(0)
        for log_a in log_softmax(features, atom, log_base):
            if log_a > -np.inf:
                total -= np.exp(log_a) * log_a
        found.append(float(total))
    return np.array(found)


class Sums(NamedTuple):
    """Sums over rows for the pair (b, theta), with n_j draws instead of shares q_j.

    ``T`` sum_j n_j log lambda_j; ``Z`` (K,) sum_j e_jk with e_jk = u_j exp(b_k + x_j.theta_k);
    ``M`` (K, L) sum_j e_jk x_j; ``R`` (K,) and ``S`` (K, L) sums of n_j r_jk and n_j r_jk x_j;
    ``B`` (K,) sum_j e_jk log u_j; ``N`` sum_j n_j.
    """

    T: float
    Z: np.ndarray
    M: np.ndarray
    R: np.ndarray
    S: np.ndarray
    B: np.ndarray
    N: float


def score_sums(features, counts, offsets, atoms, log_base=None, multiplicity=None) -> Sums:
    """The sums of METHOD.md section 2, one row and one component after another."""
    draws = draws_of(counts)
    p, n_features, n_components = len(draws), len(features[0]), len(offsets)
    x = np.asarray(features).astype(Number)
    base = np.zeros(p) if log_base is None else log_base
    times = np.ones(p) if multiplicity is None else multiplicity
    columns = [logits(features, atom, log_base) for atom in atoms]
    t = total = Number(0)
    z, r, b = (np.zeros(n_components, Number) for _ in range(3))
    m, s = (np.zeros((n_components, n_features), Number) for _ in range(2))
    for j in range(p):
        exponents = [Number(offsets[k]) + columns[k][j] for k in range(n_components)]
        log_lambda = log_sum_exp(exponents)
        w, n = Number(times[j]), Number(times[j]) * draws[j]
        total += n
        if n:
            t += n * log_lambda
        for k in range(n_components):
            e = w * np.exp(exponents[k])
            resp = n * np.exp(exponents[k] - log_lambda) if n else Number(0)
            z[k] += e
            r[k] += resp
            b[k] += e * base[j] if base[j] > -np.inf else 0
            for i in range(n_features):
                m[k, i] += e * x[j, i]
                s[k, i] += resp * x[j, i]
    return Sums(t, z, m, r, s, b, total)


def implied_weights(features, offsets, atoms, log_base=None) -> np.ndarray:
    """alpha_k proportional to exp(b_k) Z_k(theta_k), (K,)."""
    log_masses = [
        Number(offset) + log_sum_exp(logits(features, atom, log_base))
        for offset, atom in zip(offsets, atoms, strict=True)
    ]
    return np.exp(np.array([mass - log_sum_exp(log_masses) for mass in log_masses]))


def gradient(features, counts, weights, atoms, log_base=None) -> tuple[np.ndarray, np.ndarray]:
    """Derivatives of the log-likelihood by b, (K,), and by theta, (K, L), at (alpha, theta)."""
    offsets = [
        np.log(Number(weight)) - log_sum_exp(logits(features, atom, log_base))
        for weight, atom in zip(weights, atoms, strict=True)
    ]
    sums = score_sums(features, counts, offsets, atoms, log_base)
    by_offset = sums.R / sums.N - sums.Z
    by_atom = sums.S / sums.N - sums.M
    return by_offset.astype(float), by_atom.astype(float)


def two_pass_em(
    features, counts, weights, atoms, log_base=None, tolerance=1e-10, max_iterations=20_000
) -> tuple[np.ndarray, np.ndarray, int]:
    """Textbook EM from (weights, atoms) to its fixed point.

    E-step: one pass for the normalisers, another for the responsibilities. M-step: each
    component's weighted softmax regression solved by Newton's method. Ends when an
    iteration moves no parameter by more than ``tolerance``; returns the iterations too.
    """
    x = np.asarray(features, dtype=np.float64)
    shares = np.array(draws_of(counts)) / sum(draws_of(counts))
    base = np.zeros(len(x)) if log_base is None else np.asarray(log_base, dtype=np.float64)
    weights, atoms = np.array(weights, dtype=np.float64), np.array(atoms, dtype=np.float64)
    for iteration in range(1, max_iterations + 1):
        log_a = np.stack([_log_softmax_column(x, atom, base) for atom in atoms], axis=1)
        joint = np.exp(log_a) * weights
        total = joint.sum(axis=1, keepdims=True)
        resp = np.divide(joint, total, out=np.zeros_like(joint), where=total > 0)
        targets = shares[:, None] * resp
        new_weights = targets.sum(axis=0)
        new_atoms = np.stack(
            [
                softmax_regression(x, targets[:, k] / new_weights[k], base, atoms[k])
                for k in range(len(atoms))
            ]
        )
        change = max(np.abs(new_weights - weights).max(), np.abs(new_atoms - atoms).max())
        weights, atoms = new_weights, new_atoms
        if change < tolerance:
            return weights, atoms, iteration
    raise AssertionError(f"the oracle's EM did not settle in {max_iterations} iterations")


def softmax_regression(x, shares, base, atom) -> np.ndarray:
    """Maximise sum_j shares_j log A_j(theta) by Newton's method with halved steps."""
    target = shares @ x
    for _ in range(100):
        log_a = _log_softmax_column(x, atom, base)
        a = np.exp(log_a)
        mean = a @ x
        centred = x - mean
        step = np.linalg.solve(centred.T @ (centred * a[:, None]), target - mean)
        value = np.dot(shares[shares > 0], log_a[shares > 0])
        if np.abs(step).max() < 1e-13:
            break
        for _ in range(50):
            trial = _log_softmax_column(x, atom + step, base)
            if np.dot(shares[shares > 0], trial[shares > 0]) >= value - 1e-14:
                break
            step = step / 2
        atom = atom + step
    return atom


def _log_softmax_column(x, atom, base) -> np.ndarray:
    found = x @ atom + base
    top = found.max()
    return found - top - np.log(np.exp(found - top).sum())


def first_derivatives(f, at, steps):
    """Derivatives of a function of a vector by central differences, one row a coordinate."""
    found = []
    for i, step in enumerate(steps):
        shift = np.zeros(len(at))
        shift[i] = step
        found.append((np.asarray(f(at + shift)) - np.asarray(f(at - shift))) / (2 * step))
    return np.array(found)


def second_derivatives(f, at, steps):
    """Second derivatives of a scalar function of a vector, (d, d)."""
    found = np.zeros((len(at), len(at)))
    for i in range(len(at)):
        for j in range(len(at)):
            a, b = np.zeros(len(at)), np.zeros(len(at))
            a[i], b[j] = steps[i], steps[j]
            bent = f(at + a + b) - f(at + a - b) - f(at - a + b) + f(at - a - b)
            found[i, j] = bent / (4 * steps[i] * steps[j])
    return found


def sandwich(objectives, at, steps):
    """Covariance of a maximum of sum_s f_s, the f_s independent, by numerical derivatives.

    ``objectives`` returns all S of them, (S,): H^-1 (sum_s g_s g_s^T) H^-1 S / (S - 1).
    """
    slopes = first_derivatives(objectives, at, steps).T
    meat = np.zeros((len(at), len(at)))
    for slope in slopes:
        meat += np.outer(slope, slope)
    bread = np.linalg.inv(-second_derivatives(lambda x: objectives(x).sum(), at, steps))
    return bread @ meat @ bread * len(slopes) / (len(slopes) - 1)


def joined_cells(draws, expected, least):
    """Cells of Pearson's statistic: neighbours with too few expected draws joined in pairs.

    Returns the cells as pairs (draws, expected) and the draws and expected draws that were
    too few for one.
    """
    cells, left = [], list(zip(draws, expected, strict=True))
    while True:
        cells += [(n, e) for n, e in left if e >= least]
        left = [(n, e) for n, e in left if e < least]
        if len(left) < 2:
            return cells, (left or [(0.0, 0.0)])[0]
        pairs = [left[i : i + 2] for i in range(0, len(left), 2)]
        left = [(sum(n for n, _ in pair), sum(e for _, e in pair)) for pair in pairs]
