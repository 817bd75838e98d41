"""The US names, features of their spelling, the demo and its picture."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import xarray
from click.testing import CliRunner

from softmix_dist.cli import main
from softmix_dist.data.dataset import open_dataset
from softmix_dist.data.examples import (
    USNames,
    letter_traits,
    load_us_names,
    typical_names,
    write_us_names,
)
from softmix_dist.data.spelling import spelling_features
from softmix_dist.errors import InputError


@pytest.fixture(scope="module")
def us_names() -> USNames:
    return load_us_names()


@pytest.fixture(scope="module")
def some_names(us_names) -> np.ndarray:
    """A tenth of the names, enough for every ending to occur."""
    return us_names.names[::10]


# ------------------------------------------------------------------ the data


def test_the_names_are_all_there(us_names):
    assert us_names.names.shape == (88_496,)
    assert us_names.births.shape == (14, 88_496, 2)
    assert us_names.births.sum() == 322_402_727
    assert us_names.decades.tolist() == list(range(1880, 2020, 10))
    assert (np.sort(us_names.names) == us_names.names).all()
    assert len(set(us_names.names)) == 88_496
    # Every name was given to somebody, and counts add up both sexes.
    assert us_names.counts.shape == (14, 88_496)
    assert us_names.counts.sum(axis=0).min() > 0
    assert us_names.counts.sum() == 322_402_727


def test_known_names_are_where_they_belong(us_names):
    row = {name: int(np.flatnonzero(us_names.names == name)[0]) for name in ("Mary", "James")}
    by_sex = us_names.births.sum(axis=0)
    assert by_sex[row["Mary"], 0] > 100 * by_sex[row["Mary"], 1]
    assert by_sex[row["James"], 1] > 100 * by_sex[row["James"], 0]
    # Mary led the first decade among girls.
    assert us_names.births[0, :, 0].argmax() == row["Mary"]


def test_shares_add_up(us_names):
    rng = np.random.default_rng(0)
    resp = rng.dirichlet([1, 2, 3], 88_496)
    shares = us_names.shares_by_decade(resp)
    assert shares.shape == (2, 14, 3)
    np.testing.assert_allclose(shares.sum(axis=2), 1, rtol=1e-12)
    girls = us_names.births[..., 0].sum() / us_names.births.sum()
    np.testing.assert_allclose(us_names.share_of_girls(np.ones((88_496, 2))), girls, rtol=1e-12)


# ------------------------------------------------------------------ the features


@pytest.mark.parametrize("n_features", [22, 26, 30])
def test_features_are_numbers_of_the_letters(n_features, some_names):
    features, names = spelling_features(some_names, n_features)
    assert features.shape == (len(some_names), n_features)
    assert features.dtype == np.float32
    assert len(names) == len(set(names)) == n_features
    centred = features.astype(float) - features.mean(axis=0)
    spread = centred.std(axis=0)
    assert np.isfinite(features).all()
    assert (spread > 0).all()
    # Of full rank, with a constant column as well: every coefficient is identified.
    assert np.linalg.svd(centred / spread, compute_uv=False).min() > 0.01 * np.sqrt(len(features))


def test_features_are_the_same_from_run_to_run(some_names):
    first, again = spelling_features(some_names), spelling_features(some_names.tolist())
    np.testing.assert_array_equal(first[0], again[0])
    assert first[1] == again[1]
    # A function of the letters, whatever their case.
    upper = spelling_features(np.char.upper(some_names))
    np.testing.assert_array_equal(first[0], upper[0])


def test_readable_features_say_what_their_names_say(some_names):
    names = np.append(some_names, ["Anna", "Robbie", "José"])
    features, labels = spelling_features(names, 22)
    table = {
        name: dict(zip(labels, row.tolist(), strict=True))
        for name, row in zip(names[-3:], features[-3:], strict=True)
    }
    assert table["Anna"]["log length"] == pytest.approx(np.log(4), rel=1e-6)
    assert table["Anna"]["vowel groups"] == 2
    assert table["Anna"]["doubled letter"] == table["Robbie"]["doubled letter"] == 1
    assert table["Anna"]["ends -a"] == 1
    assert table["Anna"]["share of a"] == table["Anna"]["share of mn"] == 0.5
    assert (table["Robbie"]["ends -e"], table["Robbie"]["ends -ie"]) == (1, 1)
    endings = [label for label in labels if label.startswith("ends ")]
    assert sum(table["José"][label] for label in endings) == 0


@pytest.mark.parametrize(
    ("names", "n_features", "fragment"),
    [
        (["Anna", "", "Mary"], 30, "row 1 is empty"),
        ([], 30, "there are none"),
        (["Anna", "Mary"], 21, "at least 22"),
        (["Anna", "Mary"], 30, "spectral"),
    ],
)
def test_names_without_features(names, n_features, fragment):
    with pytest.raises(InputError, match=fragment):
        spelling_features(names, n_features)


def test_the_names_are_a_data_set(us_names, tmp_path):
    write_us_names(tmp_path / "names.zarr", n_features=22)
    data = open_dataset(tmp_path / "names.zarr")
    assert (data.n_candidates, data.n_features, data.n_samples) == (88_496, 22, 14)
    assert data.n_draws == 322_402_727
    assert data.sample_names[0] == "1880s"
    assert data.feature_names[0] == "log length"
    assert data.labels([0, 88_495]) == us_names.names[[0, -1]].tolist()
    with xarray.open_zarr(tmp_path / "names.zarr") as stored:
        assert stored.counts.dims == ("sample", "candidate")
        np.testing.assert_array_equal(stored.counts.sel(sample="1950s"), us_names.counts[7])


# ------------------------------------------------------------------ what is told of components


def test_typical_names_are_frequent_and_clear():
    names = np.array(["Ann", "Bob", "Cid", "Dan", "Eve"])
    draws = np.array([5, 100, 40, 60, 0])
    resp = np.array([[0.9, 0.1], [0.5, 0.5], [0.7, 0.3], [0.1, 0.9], [1.0, 0.0]])
    assert typical_names(names, draws, resp) == [["Cid", "Ann"], ["Dan"]]
    assert typical_names(names, draws, resp, n_names=1) == [["Cid"], ["Dan"]]
    assert typical_names(names, draws, resp, min_resp=0.95) == [[], []]


def test_letter_traits_are_shares():
    names, draws = np.array(["Jon", "Joan", "Mia", "Ida"]), np.array([3, 1, 4, 2])
    resp = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    js, others = letter_traits(names, draws, resp, n_traits=2)
    assert ("starts with J", 1.0, 0.4) in js
    assert ("ends in a", 1.0, 0.6) in others
    assert len(js) == len(others) == 2


# ------------------------------------------------------------------ the picture and the demo

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.mark.parametrize("n_components", [1, 2, 7])
def test_a_picture_of_any_number_of_components(n_components, tmp_path):
    pytest.importorskip("matplotlib")
    from softmix_dist.plots import names_figure

    rng = np.random.default_rng(0)
    shares = rng.dirichlet(np.ones(n_components), (2, 14))
    path = tmp_path / "names.png"
    figure = names_figure(
        np.full(n_components, 1 / n_components),
        [["Mary", "John"], *([[]] * (n_components - 1))],
        np.arange(1880, 2020, 10),
        {"girls": shares[0], "boys": shares[1]},
        np.geomspace(1, 50_000, n_components),
        path=path,
    )
    assert path.read_bytes().startswith(PNG)
    assert len(figure.axes) == 2 * n_components


def test_the_demo_from_end_to_end(tmp_path):
    pytest.importorskip("matplotlib")
    result = CliRunner().invoke(main, ["demo", "-o", str(tmp_path), "--quiet"])
    assert result.exit_code == 0, result.stderr
    told = result.stdout
    assert "88,496 names, 322,402,727 births, K = 4" in told
    assert ", converged after" in told
    weights = [float(w) for w in re.findall(r"Component \d: weight (0\.\d+)", told)]
    assert len(weights) == 4
    assert sum(weights) == pytest.approx(1, abs=0.003)
    rows = re.findall(r"^  (\d{4})s((?: +\d+\.\d%){4})$", told, re.MULTILINE)
    assert [int(decade) for decade, _ in rows] == list(range(1880, 2020, 10))
    for _, shares in rows:
        assert sum(float(s) for s in re.findall(r"\d+\.\d", shares)) == pytest.approx(100, abs=0.3)
    assert "What it does not show" in " ".join(told.split())
    picture = Path(re.findall(r"^Picture: (.*)$", told, re.MULTILINE)[0])
    assert picture == (tmp_path / "us_names.png").resolve()
    assert picture.read_bytes().startswith(PNG)
    assert picture.stat().st_size > 50_000
    assert result.stderr == ""
