"""What is released: one version everywhere, the files of the wheel, and what extras are for."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib.metadata import Distribution, distribution
from pathlib import Path

import pytest
from packaging.version import Version

import softmix_dist

ROOT = Path(__file__).parents[1]
PACKAGE = Path(softmix_dist.__file__).parent

# Everything that may be missing beside the core, and a small fit that needs none of it.
WITHOUT_EXTRAS = """
import json
import sys

missing = "matplotlib", "tqdm", "pyarrow", "obstore", "s3fs", "bokeh", "cupy", "pandas", "xarray"
sys.modules.update(dict.fromkeys(missing))

import numpy as np

import softmix_dist
from softmix_dist import SoftmaxMixture

rng = np.random.default_rng(0)
features = rng.standard_normal((500, 2))
choice = np.exp(features @ [1.0, -1.0])
model = SoftmaxMixture(1).fit(features, rng.multinomial(10_000, choice / choice.sum()))
assert model.converged_ and "0" in model.summary()


def told(what):
    try:
        what()
    except (ImportError, softmix_dist.errors.SoftmixError) as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


def gpu():
    SoftmaxMixture(1).fit(features, np.ones(500, int), device="gpu")


def bar():
    from softmix_dist.progress import ProgressBar

    ProgressBar()


def one_ingest():
    softmix_dist.ingest


def another_ingest():
    from softmix_dist.data.ingest import ingest_anndata


def plots():
    import softmix_dist.plots


def report():
    import softmix_dist.report


def store():
    softmix_dist.open_dataset("s3://bucket/data.zarr")


asked = gpu, bar, one_ingest, another_ingest, plots, report, store
asked = {what.__name__: told(what) for what in asked}
asked |= {"pandas": told(model.to_dataframe), "xarray": told(model.to_xarray)}
print(json.dumps(asked))
"""


@pytest.fixture(scope="module")
def installed() -> Distribution:
    """The distribution whose package these tests import."""
    found = distribution("softmix-dist")
    if Path(str(found.locate_file("softmix_dist"))).resolve() != PACKAGE.resolve():
        pytest.skip("the package comes from a source tree, not from a wheel")
    return found


def test_one_version(installed):
    assert installed.version == softmix_dist.__version__
    told = subprocess.run(
        [sys.executable, "-m", "softmix_dist", "--version"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert told.stdout == f"softmix, version {softmix_dist.__version__}\n"


def test_manifests_and_their_page_name_images_of_this_release():
    release = Version(softmix_dist.__version__).base_version
    paths = [*(ROOT / "deploy").rglob("*.yaml"), ROOT / "deploy/README.md"]
    tags = {
        path.relative_to(ROOT).as_posix(): set(
            re.findall(r"(?:newTag: |softmix-dist:|…:)(\d+\.[\w.]*\w)", path.read_text())
        )
        for path in paths
    }
    named = {name: found for name, found in tags.items() if found}
    assert len(named) >= 7
    assert named == dict.fromkeys(named, {release})


def test_the_wheel_holds_the_package_and_nothing_else(installed):
    files = {file.as_posix() for file in installed.files or []}
    files = {name for name in files if "__pycache__" not in name and not name.startswith("..")}
    metadata = {name for name in files if ".dist-info/" in name}
    source = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "softmix_dist").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert files - metadata == source
    assert {"softmix_dist/py.typed", "softmix_dist/score.cu", "softmix_dist/data/us_names.npz"} <= (
        source
    )
    assert any(name.endswith("licenses/LICENSE") for name in metadata)
    commands = {(entry.group, entry.name) for entry in installed.entry_points}
    assert commands == {("console_scripts", "softmix"), ("dask_cli", "softmix")}


def test_extras_that_are_told_of_are_there(installed):
    extras = set(installed.metadata.get_all("Provides-Extra") or [])
    pages = [ROOT / "README.md", *ROOT.glob("deploy/*.md"), *ROOT.glob("examples/*.md")]
    paths = [*(ROOT / "softmix_dist").rglob("*.py"), *pages]
    told = {
        extra
        for path in paths
        for names in re.findall(r"softmix-dist\[([\w,-]+)\]", path.read_text())
        for extra in names.split(",")
    }
    assert {"plots", "progress", "ingest", "stores", "dashboard", "gpu"} <= told <= extras


def test_without_extras_it_fits_and_says_what_to_install(tmp_path):
    told = subprocess.run(
        [sys.executable, "-c", WITHOUT_EXTRAS],
        capture_output=True, text=True, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert told.returncode == 0, told.stderr
    ingest = "ImportError: ingest needs pyarrow: pip install 'softmix-dist[ingest]'"
    pictures = "ImportError: pictures need matplotlib: pip install 'softmix-dist[plots]'"
    found = json.loads(told.stdout)
    assert "CuPy is not installed; pip install 'softmix-dist[gpu]'" in found.pop("gpu")
    assert found == {
        "bar": "ImportError: ProgressBar needs tqdm: pip install 'softmix-dist[progress]'",
        "one_ingest": ingest,
        "another_ingest": ingest,
        "plots": pictures,
        "report": pictures,
        "store": "StoreError: s3:// is not read by what is installed here; "
        "install softmix-dist[stores]",
        "pandas": "ImportError: to_dataframe needs pandas: pip install pandas",
        "xarray": "ImportError: to_xarray needs xarray: pip install xarray",
    }
