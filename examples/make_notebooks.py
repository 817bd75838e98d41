"""Execute the notebooks' sources: python examples/make_notebooks.py [NAME ...]

Each ``.py`` that says that it is one becomes a ``.ipynb`` beside it, with its outputs. Needs
jupytext, nbclient and ipykernel; run it after the sources changed.
"""

from __future__ import annotations

import re
import sys
import tempfile
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).parent
SOURCES = [path for path in sorted(FOLDER.glob("*.py")) if "jupytext" in path.read_text()[:80]]


def read(path: Path) -> nbformat.NotebookNode:
    """Read a source as a notebook without outputs."""
    notebook = jupytext.read(path)
    for number, cell in enumerate(notebook.cells):
        # Made anew they would differ each time.
        cell["id"] = f"cell-{number}"
    notebook.metadata.pop("jupytext", None)
    return notebook


def execute(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Execute a notebook in a kernel of this Python."""
    NotebookClient(notebook, timeout=600, kernel_name="python3").execute()
    for cell in notebook.cells:
        cell.get("metadata", {}).pop("execution", None)
        # Progress bars leave a widget, which no forge draws, and folders have names by chance.
        if cell.cell_type == "code":
            cell["outputs"] = [
                _plain(output) for output in cell["outputs"] if output.get("name") != "stderr"
            ]
    notebook.metadata.pop("widgets", None)
    return notebook


def _plain(output: nbformat.NotebookNode) -> nbformat.NotebookNode:
    if "data" in output:
        output.data.pop("application/vnd.jupyter.widget-view+json", None)
        for kind, text in output.data.items():
            if kind.startswith("text/"):
                output.data[kind] = _nameless(text)
    if "text" in output:
        output["text"] = _nameless(output["text"])
    return output


def _nameless(text: str) -> str:
    """Folders for a while have names by chance."""
    return re.sub(rf"{re.escape(tempfile.gettempdir())}/\w+", "folder", text)


def main() -> None:
    """Write the notebooks that are named, or all."""
    for source in SOURCES:
        if not sys.argv[1:] or source.stem in sys.argv[1:]:
            nbformat.write(execute(read(source)), source.with_suffix(".ipynb"))
            print(f"{source.stem}.ipynb")


if __name__ == "__main__":
    main()
