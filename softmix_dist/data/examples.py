"""The example that ships with the package: US first names, and features of their spelling.

Nothing here looks at the births when it makes features: a feature is a function of the letters.
Which features to make was chosen with sex and decade in view, so that the demo says something:
how well its components tell them apart is an illustration, not a finding.
"""

from dataclasses import dataclass
from pathlib import Path
from string import ascii_lowercase

import numpy as np
from numpy.typing import NDArray

from softmix_dist.data.spelling import spelling_features
from softmix_dist.data.writer import write_dataset


@dataclass(frozen=True)
class USNames:
    """Births in the United States by decade, first name and sex.

    Source: US Social Security Administration, names given to at least five children of one sex
    in a year, summed to decades; a work of the US government, in the public domain. The last
    decade holds the year 2010 only.

    Attributes
    ----------
    names : ndarray of str, shape (p,)
        The 88 496 distinct names, in alphabetical order: the candidates.
    decades : ndarray of int, shape (S,)
        First year of each of the 14 decades, 1880 to 2010: the samples.
    births : ndarray of uint32, shape (S, p, 2)
        Births by decade, name and sex (0 girls, 1 boys).
    """

    names: NDArray[np.str_]
    decades: NDArray[np.int64]
    births: NDArray[np.uint32]

    @property
    def counts(self) -> NDArray[np.uint32]:
        """Births of both sexes by decade and name, shape (S, p)."""
        return self.births.sum(axis=2, dtype=np.uint32)

    def shares_by_decade(self, resp: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return each component's expected share of the girls and boys of a decade, (2, S, K).

        By sex because the early records miss many boys (68 % of the births of the 1900s are
        girls); the mean over the first axis is the share with as many girls as boys.

        Parameters
        ----------
        resp : ndarray, shape (p, K)
            Posterior of the component given the name.
        """
        expected: NDArray[np.float64] = self.births.transpose(2, 0, 1).astype(np.float64) @ resp
        return expected / expected.sum(axis=2, keepdims=True)

    def share_of_girls(self, resp: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return the share of girls among each component's births, shape (K,)."""
        by_sex = self.births.sum(axis=0, dtype=np.float64).T @ resp
        girls: NDArray[np.float64] = by_sex[0] / by_sex.sum(axis=0)
        return girls


def load_us_names() -> USNames:
    """Read the US first names that ship with the package: 322 402 727 births."""
    with np.load(Path(__file__).with_name("us_names.npz"), allow_pickle=False) as stored:
        names = np.array(stored["names"].tobytes().decode("ascii").split("\n"))
        low, middle, high = stored["births_planes"].astype(np.uint32)
        decades = stored["decades"].astype(np.int64)
    births = low | middle << 8 | high << 16  # (p, sex, S)
    return USNames(names, decades, np.ascontiguousarray(births.transpose(2, 0, 1)))


def write_us_names(path: str | Path, n_features: int = 30, overwrite: bool = False) -> None:
    """Write the US names as a data set: spelling features, births by decade, labels.

    Parameters
    ----------
    path : str or Path
        Where the Zarr group goes; `overwrite` replaces one that is there.
    n_features : int
        Columns of `spelling_features`.
    overwrite : bool
    """
    data = load_us_names()
    features, feature_names = spelling_features(data.names, n_features)
    write_dataset(
        path,
        features,
        data.counts,
        feature_names=feature_names,
        candidate_labels=data.names.tolist(),
        sample_names=[f"{decade}s" for decade in data.decades],
        overwrite=overwrite,
    )


def typical_names(
    names: NDArray[np.str_],
    draws: NDArray[np.integer],
    resp: NDArray[np.floating],
    n_names: int = 12,
    min_resp: float = 0.6,
) -> list[list[str]]:
    """Return, for each component, the most frequent names that are clearly its own.

    Parameters
    ----------
    names, draws : ndarray, shape (p,)
        Names and how often each was drawn.
    resp : ndarray, shape (p, K)
        Posterior of the component given the name.
    n_names : int
        Names per component, at most.
    min_resp : float
        The posterior a name needs; above one half, so that it is listed only once.
    """
    expected = np.where(resp >= min_resp, resp * draws[:, None], 0.0)
    order = np.argsort(-expected, axis=0, kind="stable")[:n_names]
    return [
        [str(names[j]) for j in order[:, k] if expected[j, k] > 0] for k in range(resp.shape[1])
    ]


def letter_traits(
    names: NDArray[np.str_],
    draws: NDArray[np.integer],
    resp: NDArray[np.floating],
    n_traits: int = 3,
) -> list[list[tuple[str, float, float]]]:
    """Return, for each component, the letters its draws have more often than all draws.

    Arguments are those of `typical_names`. Each trait is (what, share in the component, share of
    all draws), such as ("starts with J", 0.67, 0.13). First come those that tell most, by share
    times log(share / overall share); a letter is named once per component.
    """
    lower, labels, has = np.char.lower(names), [], []
    for letter in ascii_lowercase:
        labels += [f"starts with {letter.upper()}", f"ends in {letter}", f"has {letter}"]
        has += [np.char.startswith(lower, letter), np.char.endswith(lower, letter)]
        has += [np.char.find(lower, letter) >= 0]
    traits = np.array(has, dtype=np.float64)
    mass = resp * draws[:, None]
    within, overall = traits @ (mass / mass.sum(axis=0)), traits @ draws / draws.sum()
    found: list[list[tuple[str, float, float]]] = []
    for share in within.T:
        best: dict[str, tuple[str, float, float]] = {}
        telling = share * np.log(np.maximum(share, 1e-300) / np.maximum(overall, 1e-300))
        for i in np.argsort(-telling, kind="stable"):
            best.setdefault(labels[i][-1].lower(), (labels[i], float(share[i]), float(overall[i])))
        found.append(list(best.values())[:n_traits])
    return found
