"""The whole fit against what a user would write instead, in one run.

    pip install jax                      # or the extra "bench"; without it JAX is left out
    python tests/bench/rivals.py [--problems small,large] [--seeds 2]

Rivals are scipy's L-BFGS-B on the likelihood with its analytic gradient in NumPy, and on
`jax.value_and_grad` in float64, compilation included, from random starts. A start that ends
elsewhere is charged: a rival's time is that of all its starts up to the first that reaches the
log-likelihood of the fit, to 1e-7 nats per draw. What it needs is in memory beforehand.
"""

import argparse
import time
import warnings
from collections.abc import Callable

import numpy as np
from finish import problem
from scipy.optimize import minimize
from scipy.special import logsumexp

from softmix_dist import SoftmaxMixture

# Rows, features, components and draws.
SIZES = {
    "small": (100_000, 16, 5, 2_000_000),
    "large": (2_000_000, 16, 5, 50_000_000),
}
WITHIN = 1e-7
STARTS = 8
Rival = Callable[[np.ndarray], tuple[float, np.ndarray]]


def with_numpy(X: np.ndarray, q: np.ndarray, K: int) -> Rival:
    """Minus the mean log-likelihood and its gradient by (logits of the weights, atoms)."""
    seen = np.flatnonzero(q)
    X_seen, q_seen = X[seen], q[seen]

    def value_and_grad(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        b, theta = parameters[:K], parameters[K:].reshape(K, -1)
        log_weights = b - logsumexp(b)
        logits = X @ theta.T
        top = logits.max(axis=0)
        softmax = np.exp(logits - top, out=logits)
        total = softmax.sum(axis=0)
        softmax /= total
        joint = softmax[seen] * np.exp(log_weights)
        density = joint.sum(axis=1)
        resp = joint * (q_seen / density)[:, None]
        mass = resp.sum(axis=0)
        slope = resp.T @ X_seen - mass[:, None] * (softmax.T @ X)
        by_weights = mass - np.exp(log_weights)
        value = q_seen @ np.log(density)
        return -value, -np.concatenate([by_weights, slope.ravel()])

    return value_and_grad


def with_jax(X: np.ndarray, q: np.ndarray, K: int) -> Rival:
    """The same by automatic differentiation, compiled at the first call."""
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_enable_x64", True)
    X, q = jnp.asarray(X), jnp.asarray(q)

    def loss(parameters: jax.Array, X: jax.Array, q: jax.Array) -> jax.Array:
        b, theta = parameters[:K], parameters[K:].reshape(K, -1)
        log_softmax = jax.nn.log_softmax(X @ theta.T, axis=0)
        return -q @ jax.nn.logsumexp(jax.nn.log_softmax(b) + log_softmax, axis=1)

    both = jax.jit(jax.value_and_grad(loss))

    def value_and_grad(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        value, slope = both(parameters, X, q)
        return float(value), np.asarray(slope)

    return value_and_grad


def raced(
    make: Callable[[], Rival], K: int, L: int, wanted: float, patience: float
) -> tuple[float, int, float]:
    """Seconds until some start reached what is wanted, starts, and the best that was reached."""
    began = time.perf_counter()
    rng = np.random.default_rng(0)
    function, best, starts = make(), -np.inf, 0
    for _ in range(STARTS):
        starts += 1
        begin = np.concatenate([np.zeros(K), rng.standard_normal(K * L)])
        end = minimize(
            function,
            begin,
            jac=True,
            method="L-BFGS-B",
            options={"maxiter": 2000, "maxfun": 4000, "ftol": 1e-13, "gtol": 1e-7},
        )
        best = max(best, -end.fun)
        seconds = time.perf_counter() - began
        if best > wanted - WITHIN or seconds > patience:
            break
    return seconds, starts, best


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--problems", default="small,large")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--patience", type=float, default=300.0, help="Seconds of a rival at most.")
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    for name in asked.problems.split(","):
        p, L, K, N = SIZES[name]
        for seed in range(asked.seeds):
            features, counts = problem(p, L, K, N, "gaussian", seed)
            X, q = features.astype(np.float64), counts / counts.sum()
            began = time.perf_counter()
            model = SoftmaxMixture(K).fit(features, counts)
            ours = time.perf_counter() - began
            print(
                f"{name}: p {p}, L {L}, K {K}, N {N:.0e}, seed {seed}: fit {ours:.2f} s, "
                f"converged {model.converged_}, {model.n_passes_} passes",
                flush=True,
            )
            for rival, make in (("numpy", with_numpy), ("jax", with_jax)):
                try:
                    seconds, starts, best = raced(
                        lambda make=make, X=X, q=q, K=K: make(X, q, K),
                        K, L, model.log_likelihood_, asked.patience,
                    )  # fmt: skip
                except ImportError:
                    print(f"  {rival}: not installed")
                    continue
                short = model.log_likelihood_ - best
                reached = "reached it" if short < WITHIN else f"ended {short:.1e} below"
                print(
                    f"  {rival}: {seconds:.2f} s in {starts} starts, {reached}; "
                    f"{seconds / ours:.1f} times the fit's time",
                    flush=True,
                )


if __name__ == "__main__":
    main()
