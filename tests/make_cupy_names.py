"""Write down what CuPy has, for the stand-in: python tests/make_cupy_names.py

Needs CuPy and no device. A line for each function or method: its name and its parameters.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cupy

TARGET = Path(__file__).with_name("cupy_names.txt")


def parameters(function: Any) -> list[str]:
    if isinstance(function, cupy.ufunc):
        return [*[f"x{i + 1}" for i in range(function.nin)], "out", "dtype", "casting"]
    try:
        return list(inspect.signature(function).parameters)
    except ValueError:
        # Compiled methods tell their parameters in their first line.
        told = re.search(r"\((?:self,? ?|_ndarray_base self,? ?)?(.*?)\)", function.__doc__ or "")
        return re.findall(r"(\w+)(?==|,|$)", re.sub(r"=[^,]*", "", told[1])) if told else []


def lines(prefix: str, owner: Any) -> Iterator[str]:
    for name, function in sorted(vars(owner).items()):
        if name.startswith("_") or inspect.isclass(function) or not callable(function):
            continue
        yield f"{prefix}{name} {' '.join(parameters(function))}".rstrip()


def main() -> None:
    methods = type("Methods", (), {
        name: getattr(cupy.ndarray, name) for name in dir(cupy.ndarray)
    })  # fmt: skip
    found = [f"# CuPy {cupy.__version__}", *lines("", cupy), *lines("ndarray.", methods)]
    TARGET.write_text("\n".join(found) + "\n")


if __name__ == "__main__":
    main()
