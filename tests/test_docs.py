"""The pages: links lead somewhere, commands exist, what is told twice is told alike."""

from __future__ import annotations

import re
import shlex
from collections import defaultdict
from pathlib import Path
from urllib.parse import unquote

import click
import dask
import pytest

import softmix_dist
from softmix_dist.cli import main
from softmix_dist.engine.settings import EngineSettings

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    [ROOT / "README.md"]
    + [page for room in ("deploy", "examples", "tests") for page in (ROOT / room).rglob("*.md")]
)
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
each_page = pytest.mark.parametrize("page", PAGES, ids=NAMES)


def blocks(page: Path) -> list[tuple[str, str]]:
    """Language and text of each block of code."""
    return re.findall(r"^ *```(\w*)\n(.*?)^ *```$", page.read_text(), re.MULTILINE | re.DOTALL)


def prose(page: Path) -> str:
    return re.sub(r"^ *```.*?^ *```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """Anchors of its headings, as GitHub names them."""
    found = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in found}


def commands(page: Path) -> list[str]:
    """Commands of `softmix` that a page gives, in its blocks and in its lines."""
    found = []
    for language, text in blocks(page):
        if language in ("sh", "bash"):
            lines = text.replace("\\\n", " ").splitlines()
            found += [line[line.index("softmix ") :] for line in lines if starts(line)]
    found += re.findall(r"`(softmix [^`]*)`", prose(page))
    return [" ".join(command.split()) for command in found]


def starts(line: str) -> bool:
    return re.match(r"\s*([\w./]*/)?softmix [a-z]", line) is not None


def tables(page: Path) -> list[list[str]]:
    """Rows of each table, their links as plain text."""
    text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", prose(page))
    found = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
    return [table.splitlines() for table in found]


# ------------------------------------------------------------------ links


@each_page
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"\w+:", target):
            continue
        path, _, anchor = unquote(target).partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), target
        assert there.is_relative_to(ROOT), target
        if anchor:
            assert anchor in anchors(there), target


def test_pages_are_found_from_the_readme():
    seen, ahead = set(), [ROOT / "README.md"]
    while ahead:
        page = ahead.pop()
        seen.add(page)
        targets = re.findall(r"\]\(([^)#\s]+\.md)", prose(page))
        ahead += [
            there for target in targets if (there := (page.parent / target).resolve()) not in seen
        ]
    assert seen >= set(PAGES)


# ------------------------------------------------------------------ commands


@each_page
def test_commands_exist(page):
    for text in commands(page):
        words = shlex.split(text.replace("…", ""), comments=True)[1:]
        command, path = main, ["softmix"]
        while isinstance(command, click.Group) and words and re.match(r"[a-z]", words[0]):
            assert words[0] in command.commands, text
            path.append(words[0])
            command = command.commands[words.pop(0)]
        known = {"--help", "-h"}
        for parameter in command.params:
            known.update(parameter.opts)
        for word in words:
            if re.match(r"--?[a-z]", word):
                assert word.partition("=")[0] in known, text


@each_page
def test_settings_exist(page):
    known = {name.replace("_", "-") for name in EngineSettings.__dataclass_fields__}
    for setting in re.findall(r"softmix\.engine\.([a-z-]+)", page.read_text()):
        assert setting in known, setting


def test_the_table_of_settings_is_that_of_the_command():
    with dask.config.set({"softmix": {}}):
        settings = EngineSettings.configured()
    (table,) = [
        table
        for table in tables(ROOT / "examples" / "clusters.md")
        if table[0].startswith("| setting |")
    ]
    told = dict(re.match(r"\| `([a-z-]+)` \| (\S+)", row).groups() for row in table[2:])
    spelt = {None: "auto", True: "true", False: "false", 300.0: "300"}
    assert told == {
        name.replace("_", "-"): spelt.get(getattr(settings, name), str(getattr(settings, name)))
        for name in EngineSettings.__dataclass_fields__
    }


def test_the_second_command_is_that_of_the_checks():
    shell = [text.strip() for language, text in blocks(ROOT / "README.md") if language == "sh"]
    assert shell[0].endswith(".venv/bin/softmix demo")
    assert shell[1] in (ROOT / ".ci" / "run").read_text().splitlines()


def test_the_first_example_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (example,) = [text for language, text in blocks(ROOT / "README.md") if language == "python"]
    exec(example, {})
    assert "converged" in capsys.readouterr().out
    assert (tmp_path / "model.zarr").is_dir()


def test_the_pages_of_the_api_are_of_modules_that_exist():
    (text,) = [text for _, text in blocks(ROOT / "README.md") if "pdoc" in text]
    for package, names in re.findall(r"softmix_dist(\.\w+)?\.{([\w,]+)}", text):
        room = ROOT / "softmix_dist" / package.strip(".")
        for name in names.split(","):
            assert (room / f"{name}.py").exists() or (room / name).is_dir(), name


# ------------------------------------------------------------------ tables


def test_tables_that_stand_on_several_pages_are_the_same():
    found = defaultdict(list)
    for page in PAGES:
        for table in tables(page):
            if table[0].strip("| "):
                found[table[0]].append(table)
    several = [same for same in found.values() if len(same) > 1]
    assert len(several) >= 5
    for same in several:
        assert all(table == same[0] for table in same), same[0][0]


def test_each_module_lives_on_one_floor():
    (floors,) = [table for table in tables(ROOT / "README.md") if table[0].startswith("| floor |")]
    told = [name for row in floors[2:] for name in re.findall(r"`(\w+)`", row.split("|")[2])]
    package = Path(softmix_dist.__file__).parent
    modules = {
        path.stem
        for path in package.iterdir()
        if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    assert sorted(told) == sorted(name for name in modules if not name.startswith("__"))


def test_each_benchmark_is_told_of():
    page = (ROOT / "tests/bench/README.md").read_text()
    found = [path.name for path in (ROOT / "tests/bench").glob("*.py")]
    assert found
    assert [name for name in found if f"]({name})" not in page] == []
