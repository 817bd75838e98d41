"""The study of warm starts, in small: what it writes, and what its numbers must obey."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "examples" / "warm_starts.py"
Table = dict[str, list[str]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """What the quick run writes."""
    pytest.importorskip("matplotlib")
    folder = tmp_path_factory.mktemp("study")
    subprocess.run(
        [sys.executable, str(SCRIPT), "--quick", "-o", str(folder)],
        check=True,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
        timeout=300,
    )
    return folder


@pytest.fixture(scope="module")
def page(folder) -> str:
    return (folder / "warm_starts.md").read_text(encoding="utf-8")


def tables_of(page: str) -> list[Table]:
    """Rows of each table by their first cell, the heads included."""
    tables: list[Table] = [{}]
    for line in page.splitlines():
        if line.startswith("| "):
            name, *cells = line.strip("| ").split(" | ")
            tables[-1][name] = cells
        elif tables[-1]:
            tables.append({})
    return [table for table in tables if table]


def test_a_page_and_a_figure(folder, page):
    figure = (folder / "warm_starts.png").read_bytes()
    assert figure.startswith(b"\x89PNG\r\n\x1a\n")
    assert 50_000 < len(figure) < 400_000
    assert "](warm_starts.png)" in page
    assert "{" not in page
    assert "nan" not in page
    heads = [next(iter(table)) for table in tables_of(page)[:4]]
    assert heads == ["N", "p", "init", "init"]


def test_the_fit_improves_with_draws_and_beats_its_starts(page):
    by_draws, by_candidates = tables_of(page)[:2]
    names = by_draws.pop("N")
    del by_draws["---"]
    medians = {
        n: {name: float(cell.split()[0]) for name, cell in zip(names, cells, strict=True)}
        for n, cells in by_draws.items()
        if n != "∞"
    }
    assert names[-1] == "fit"
    few, many = list(medians.values())
    # A hundred times as many draws: a tenth of the error, give or take.
    assert 5 < few["fit"] / many["fit"] < 20
    assert all(row["fit"] < row[name] for row in medians.values() for name in names[:-1])
    # More draws do not help a raw estimator below the floor that p sets.
    floor = dict(zip(names, by_draws["∞"], strict=True))
    for name in ("moments", "tensor"):
        assert many[name] == pytest.approx(float(floor[name].split()[0]), rel=0.2)
    # More candidates help the tensor.
    column = by_candidates["p"].index("tensor")
    errors = [float(row[column].split()[0]) for p, row in by_candidates.items() if p[0].isdigit()]
    assert errors[-1] < errors[0]


def test_auto_is_no_worse_than_its_parts(page):
    for table in tables_of(page)[2:4]:
        won = {
            init: [int(cell.split("/")[0]) for cell in cells]
            for init, cells in table.items()
            if init not in ("init", "---")
        }
        assert set(won) == {"auto", "search", "tensor", "subspace", "moments", "random"}
        for part in ("search", "tensor", "subspace", "moments"):
            assert all(a >= b for a, b in zip(won["auto"], won[part], strict=True))
