"""What each number of components is worth, and which one is recommended."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape

from softmix_dist.blocks import Array


@dataclass(frozen=True)
class Candidate:
    """One number of components.

    Attributes
    ----------
    n_components : int
        K.
    n_parameters : int
        K (L + 1) - 1.
    log_likelihood : float
        Of the fit of all draws, nats per draw.
    aic, bic : float
    held_out : float
        Log-likelihood of the second half of the draws at the fit of the first, nats per draw.
    behind : float
        How far that is behind the best, nats per draw.
    behind_error : float
        Standard error of it, by the draws of the second half, paired.
    converged : bool
        Both fits.
    weights, atoms : (K,), (K, L) arrays
        Of the fit of all draws, in the features' own coordinates.
    """

    n_components: int
    n_parameters: int
    log_likelihood: float
    aic: float
    bic: float
    held_out: float
    behind: float
    behind_error: float
    converged: bool
    weights: Array
    atoms: Array


@dataclass(frozen=True)
class Selection:
    """What each number of components is worth, and which one is recommended.

    Attributes
    ----------
    candidates : list of Candidate
        By increasing K.
    recommended : int or None
        The smallest K within one paired standard error of the best held-out likelihood; None
        where no fit converged.
    by_bic : int or None
        K with the smallest BIC.
    n_draws, n_passes : int
    seconds : float
    """

    candidates: list[Candidate]
    recommended: int | None
    by_bic: int | None
    n_draws: int
    n_passes: int
    seconds: float

    @classmethod
    def of(
        cls, candidates: list[Candidate], n_draws: int, n_passes: int, seconds: float
    ) -> Selection:
        """Recommend one of some candidates, which are in the order of K."""
        good = [c for c in candidates if c.converged]
        near = [c.n_components for c in good if c.behind <= c.behind_error]
        by_bic = min(good, key=lambda c: c.bic).n_components if good else None
        return cls(candidates, near[0] if near else None, by_bic, n_draws, n_passes, seconds)

    @property
    def reason(self) -> str:
        """Why that one."""
        if self.recommended is None:
            return "no fit converged, so none is recommended; raise max_passes or use l2 > 0"
        left_out = [c.n_components for c in self.candidates if not c.converged]
        (chosen,) = (c for c in self.candidates if c.n_components == self.recommended)
        best = max((c for c in self.candidates if c.converged), key=lambda c: c.held_out)
        text = f"K = {self.recommended} has the best held-out likelihood"
        if chosen is not best:
            text = (
                f"K = {self.recommended} is the smallest within one standard error of the best "
                f"held-out likelihood, that of K = {best.n_components} ({chosen.behind:.1e} nats "
                f"per draw behind, standard error {chosen.behind_error:.1e})"
            )
        text += f"; BIC prefers K = {self.by_bic}"
        if self.recommended == self.candidates[-1].n_components:
            text += "; it is the largest that was tried: try more"
        if left_out:
            # A component too many may run off to ever larger coefficients, passes without end.
            text += (
                "; not converged and left out (a small l2 may help): "
                f"K = {', '.join(map(str, left_out))}"
            )
        ahead = [c.n_components for c in self.candidates if c.behind < -c.behind_error]
        if ahead:
            text += f", though K = {', '.join(map(str, ahead))} is ahead: raise max_passes"
        return text

    def __str__(self) -> str:
        head = ("K", "parameters", "log-likelihood", "AIC - min", "BIC - min", "held-out", "behind")
        lines = ["".join(f"{name:>16}" for name in head)]
        least_aic, least_bic = (
            min(getattr(c, name) for c in self.candidates) for name in ("aic", "bic")
        )
        for c in self.candidates:
            cells = (
                str(c.n_components), str(c.n_parameters), f"{c.log_likelihood:.8f}",
                f"{c.aic - least_aic:.1f}", f"{c.bic - least_bic:.1f}", f"{c.held_out:.8f}",
                f"{c.behind:.1e}",
            )  # fmt: skip
            marks = f" ± {c.behind_error:.0e}" + ("" if c.converged else "  NOT CONVERGED")
            lines.append("".join(f"{cell:>16}" for cell in cells) + marks)
        return "\n".join([*lines, "", self.reason])

    # Python's own would be a wall of numbers in a session without HTML.
    __repr__ = __str__

    def _repr_html_(self) -> str:
        return f"<pre>{escape(str(self))}</pre>"
