"""Features of the spelling of names: columns a person can read, then spectral ones."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.linalg import eigsh

from softmix_dist.errors import InputError

_BOUNDARY, _OTHER, _NOTHING, _BASE = 0, 27, -1, 28
_SYMBOLS = "·abcdefghijklmnopqrstuvwxyz?"
_ENDINGS = {
    "-a": "a",
    "-e": "e",
    "-y": "y",
    "-i": "i",
    "-o": "o",
    "-n": "n",
    "-h": "h",
    "-l -r": "lr",
    "-s -z -x": "szx",
    "-b -c -d -g -k -p -t": "bcdgkpt",
}
# One group of letters (f v w) stays out: shares of all groups would add up to one.
_SOUNDS = ("a", "e", "iy", "ou", "lr", "mn", "bcdgkpqt", "szxjh")


def spelling_features(
    names: Sequence[str] | NDArray[np.str_], n_features: int = 30, min_names: int = 10
) -> tuple[NDArray[np.float32], list[str]]:
    """Describe names by their spelling alone.

    The first 22 columns can be read: length, vowel groups, a doubled letter; how the name ends
    (indicators, against all other endings); the share of its letters in groups of sounds
    (against f, v, w). The rest are leading principal components of how names begin (1 or 2
    letters), end (1 to 3) and which letters and pairs they hold: indicators of n-grams, each of
    the three parts scaled to unit length so that long names and large parts weigh no more.

    Parameters
    ----------
    names : sequence of str, length p
        Case does not matter; whatever is not one of the letters a to z counts as one symbol.
        Meant for thousands of names: in a short list some ending may never occur.
    n_features : int
        Columns L; the spectral ones (unit variance) fill up after the readable ones.
    min_names : int
        An n-gram found in fewer names is left out.

    Returns
    -------
    features : ndarray of float32, shape (p, L)
    feature_names : list of str, length L
        A spectral column is named by its three heaviest n-grams; ``·`` is the edge of the name.

    Raises
    ------
    InputError
        If a name is empty, or ``n_features`` asks for fewer columns than the readable ones or
        for more spectral ones than there are n-grams.
    """
    letters, lengths = _letter_codes(names)
    readable = _readable_columns(letters, lengths)
    n_spectral = n_features - len(readable)
    if n_spectral < 0:
        raise InputError(f"n_features is {n_features}; expected at least {len(readable)}")
    columns, labels = list(readable.values()), list(readable)
    if n_spectral:
        parts = [
            _ngrams(letters, lengths, sizes, where, min_names)
            for where, sizes in (("start", (2, 3)), ("end", (2, 3, 4)), ("inside", (1, 2)))
        ]
        scores, axis_names = _principal_components(
            sparse.hstack([part for part, _ in parts], format="csr"),
            [gram for _, grams in parts for gram in grams],
            n_spectral,
        )
        columns, labels = [*columns, *scores.T], labels + axis_names
    return np.column_stack(columns).astype(np.float32), labels


def _letter_codes(
    names: Sequence[str] | NDArray[np.str_],
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return letters (p, width + 2), a = 1 .. z = 26 between boundaries, and lengths (p,)."""
    lower = np.char.lower(np.asarray(names, dtype=np.str_))
    lengths = np.char.str_len(lower).astype(np.int64)
    if lower.size == 0 or lengths.min() == 0:
        where = f"row {lengths.argmin()} is empty" if lower.size else "there are none"
        raise InputError(f"expected names of at least one letter, but {where}")
    points = lower.view(np.uint32).reshape(lower.size, -1).astype(np.int64)
    codes = points - (ord("a") - 1)
    codes[(codes < 1) | (codes > 26)] = _OTHER
    framed = np.full((lower.size, points.shape[1] + 2), _NOTHING, dtype=np.int64)
    framed[:, 1:-1] = np.where(np.arange(points.shape[1]) < lengths[:, None], codes, _NOTHING)
    framed[:, 0] = _BOUNDARY
    framed[np.arange(lower.size), lengths + 1] = _BOUNDARY
    return framed, lengths


def _is_one_of(letters: NDArray[np.int64], group: str) -> NDArray[np.bool_]:
    return np.isin(letters, [_SYMBOLS.index(letter) for letter in group])


def _readable_columns(
    letters: NDArray[np.int64], lengths: NDArray[np.int64]
) -> dict[str, NDArray[np.float64]]:
    """Return the columns a person can read, by name, each of shape (p,)."""
    rows = np.arange(lengths.size)
    vowel = _is_one_of(letters, "aeiouy")
    doubled = (letters[:, 1:] == letters[:, :-1]) & (letters[:, 1:] > 0)
    columns = {
        "log length": np.log(lengths),
        # Capped: the few names with more would otherwise be an extreme direction of their own.
        "vowel groups": np.minimum((vowel[:, 1:] & ~vowel[:, :-1]).sum(axis=1), 5.0),
        "doubled letter": doubled.any(axis=1).astype(np.float64),
    }
    last, before = letters[rows, lengths], letters[rows, lengths - 1]
    for label, endings in _ENDINGS.items():
        columns[f"ends {label}"] = _is_one_of(last, endings).astype(np.float64)
    diminutive = _is_one_of(before, "i") & _is_one_of(last, "e")
    columns["ends -ie"] = diminutive.astype(np.float64)
    for group in _SOUNDS:
        columns[f"share of {group}"] = _is_one_of(letters, group).sum(axis=1) / lengths
    return columns


def _ngrams(
    letters: NDArray[np.int64],
    lengths: NDArray[np.int64],
    sizes: tuple[int, ...],
    where: str,
    min_names: int,
) -> tuple[sparse.csr_array, list[str]]:
    """Return indicators of n-grams at the start, the end or inside, in rows of unit length.

    A number in base 28 names an n-gram exactly, so that no hash is needed: none collides, and
    the columns are the same on every machine.
    """
    rows, columns, grams, n_columns = [], [], [], 0
    for size in sizes:
        window = np.lib.stride_tricks.sliding_window_view(letters, size, axis=1)
        first, last = window[:, :, 0] == _BOUNDARY, window[:, :, -1] == _BOUNDARY
        complete = (window != _NOTHING).all(axis=2)
        wanted = complete & {"start": first, "end": last, "inside": ~first & ~last}[where]
        row, position = np.nonzero(wanted)
        found = window[row, position]
        codes = found @ _BASE ** np.arange(size - 1, -1, -1)
        _, example, column = np.unique(codes, return_index=True, return_inverse=True)
        rows.append(row)
        columns.append(column + n_columns)
        n_columns += example.size
        grams += ["".join(_SYMBOLS[code] for code in gram) for gram in found[example]]
    row, column = np.concatenate(rows), np.concatenate(columns)
    shape = (lengths.size, n_columns)
    table = sparse.csr_array((np.ones(row.size), (row, column)), shape=shape)
    table.data[:] = 1.0  # a pair that occurs twice in a name still counts once
    kept = np.flatnonzero(np.bincount(table.indices, minlength=n_columns) >= min_names)
    table = table[:, kept]
    norms = np.sqrt(np.maximum(table.sum(axis=1), 1.0))
    return sparse.diags_array(1.0 / norms) @ table, [grams[i] for i in kept]


def _principal_components(
    table: sparse.csr_array, grams: list[str], n_components: int
) -> tuple[NDArray[np.float64], list[str]]:
    """Return scores of unit variance, shape (p, n_components), and a name for each."""
    if n_components >= len(grams):
        raise InputError(
            f"{n_components} spectral features were asked for, but there are {len(grams)} n-grams"
        )
    n_rows = table.shape[0]
    mean = np.asarray(table.mean(axis=0)).ravel()
    covariance = (table.T @ table).toarray() / n_rows - np.outer(mean, mean)
    # A fixed start and sign make the axes the same from run to run.
    variances, axes = eigsh(covariance, k=n_components, v0=np.ones(len(grams)))
    variances, axes = variances[::-1], axes[:, ::-1]
    heaviest = np.argsort(-np.abs(axes), axis=0, kind="stable")[:3]
    axes = axes * np.sign(axes[heaviest[0], np.arange(n_components)])
    labels = [
        f"axis {k + 1}: "
        + " ".join(f"{'+' if axes[i, k] > 0 else '-'}{grams[i]}" for i in heaviest[:, k])
        for k in range(n_components)
    ]
    return (table @ axes - mean @ axes) / np.sqrt(variances), labels
