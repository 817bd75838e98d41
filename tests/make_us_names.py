"""Make the shipped ``us_names.npz`` from the table of births by decade, name and sex.

    python tests/make_us_names.py us_names.parquet [softmix_dist/data/us_names.npz]

The table has the columns ``decade``, ``name``, ``sex`` (F or M) and ``births``. Needs pandas and
pyarrow, which the package itself does not. Same table, same arrays; the compressed bytes may
differ between versions of zlib.
"""

import sys
from pathlib import Path

import numpy as np
import pandas as pd

SHIPPED = Path(__file__).parents[1] / "softmix_dist" / "data" / "us_names.npz"


def tabulate(table: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return names (p,) in alphabetical order, decades (S,) and births (p, 2, S)."""
    names = np.unique(table["name"].to_numpy(dtype=str))
    decades = np.unique(table["decade"].to_numpy()).astype(np.int16)
    births = np.zeros((names.size, 2, decades.size), dtype=np.uint32)
    where = (
        np.searchsorted(names, table["name"].to_numpy(dtype=str)),
        (table["sex"] == "M").to_numpy(dtype=np.intp),
        np.searchsorted(decades, table["decade"].to_numpy()),
    )
    births[where] = table["births"].to_numpy()
    if int(births.sum(dtype=np.uint64)) != int(table["births"].sum()):
        raise SystemExit("births were lost: a (decade, name, sex) row occurs twice")
    return names, decades, births


def main(source: str, target: str | Path = SHIPPED) -> None:
    """Read the table and write the arrays that ``load_us_names`` reads."""
    names, decades, births = tabulate(pd.read_parquet(source))
    # Byte planes: nearly all of the middle and high bytes are zero, so that they cost nothing
    # once deflated; decades run fastest because a name's births change slowly.
    planes = np.stack([(births >> shift & 255).astype(np.uint8) for shift in (0, 8, 16)])
    if int(births.max()) >> 24:
        raise SystemExit("a count needs more than three bytes: add a plane")
    text = np.frombuffer("\n".join(names).encode("ascii"), dtype=np.uint8)
    np.savez_compressed(target, names=text, decades=decades, births_planes=planes)
    print(f"{target}: {names.size} names, {births.sum(dtype=np.uint64)} births")


if __name__ == "__main__":
    main(*sys.argv[1:3])
