"""Tables of text: for a terminal, and as HTML with every cell escaped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

_GAP = "  "


def text_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return lines: the first column to the left, the others to the right.

    >>> print(text_table(["K", "value"], [["one", "1.5"]]))
    K    value
    one    1.5
    """
    table = [list(head), *map(list, rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return "\n".join(
        _GAP.join(
            [
                row[0].ljust(widths[0]),
                *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True)),
            ]
        ).rstrip()
        for row in table
    )


def html_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return the same as an HTML table."""
    lines = ["".join(f"<th>{escape(cell)}</th>" for cell in head)]
    for first, *rest in rows:
        cells = "".join(f"<td>{escape(cell)}</td>" for cell in rest)
        lines.append(f"<th>{escape(first)}</th>{cells}")
    return "<table>" + "".join(f"<tr>{line}</tr>" for line in lines) + "</table>"
