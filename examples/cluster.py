# ---
# jupyter:
#   jupytext:
#     text_representation:
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # A Dask cluster, and data on disk
#
# The same fit where the data do not fit in memory: a Zarr data set, read block by block by the
# workers of a Dask cluster. In a notebook that has a client the fit finds it; the client stays
# yours. The digits are those of a laptop, whatever the number of workers.

# %%
import tempfile
from pathlib import Path

from dask.distributed import Client

from softmix_dist import SoftmaxMixture, open_dataset
from softmix_dist.data.simulate import simulate

folder = Path(tempfile.mkdtemp())
# Its dashboard is at client.dashboard_link: open it beside the notebook.
client = Client(n_workers=2, threads_per_worker=1, dashboard_address=":0")

# %% [markdown]
# Data usually come from tables: `softmix ingest` and `softmix_dist.data.ingest.ingest` count
# events in Parquet or CSV. Here they are simulated.

# %%
simulate(
    folder / "choices.zarr",
    n_candidates=400_000,
    n_features=8,
    n_components=3,
    n_draws=4_000_000,
    seed=1,
)
data = open_dataset(folder / "choices.zarr")
data

# %% [markdown]
# Any function of a dict follows the fit while it runs; the tasks `softmix-load`, `softmix-score`
# and `softmix-merge` show on the dashboard.


# %%
def tell(row):
    if row["phase"] == "survey":
        print(row["plan"])
    elif row["phase"] == "pass":
        print(f"pass {row['pass']}: {row['distance']:.3g} standard errors from the maximum")


model = SoftmaxMixture(3).fit(data, progress=tell)
model

# %% [markdown]
# The simulator kept the truth:

# %%
weights, atoms = data.truth()
abs(model.weights_ - weights).max().round(4), abs(model.atoms_ - atoms).max().round(4)

# %% [markdown]
# Predictions are written in parallel, beside the data, and opened by xarray:

# %%
import xarray

model.predict(folder / "choices.zarr", folder / "predictions.zarr", n_worst=3)
xarray.open_zarr(folder / "predictions.zarr")

# %% [markdown]
# A long fit keeps what its passes found, and goes on after an interrupt, a crash or a lost
# cluster, to the same bits: `model.fit(data, checkpoint=folder / "passes")`.

# %%
client.close()
