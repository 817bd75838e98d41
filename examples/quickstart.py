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
# # Softmax mixtures in ten minutes
#
# Candidates $j = 1, …, p$ have known features $x_j$, and each of many draws chooses one of them:
# customers choose products, readers choose words, parents choose names. In a **softmax mixture**
# there are $K$ kinds of chooser, each with tastes $\theta_k$ of its own:
#
# $$\pi_j = \sum_k \alpha_k \frac{e^{x_j \cdot \theta_k}}{\sum_i e^{x_i \cdot \theta_k}}.$$
#
# Here everything is in memory, as NumPy arrays. What is large goes to disk, and to a cluster:
# see `cluster.ipynb`.

# %%
import numpy as np

from softmix_dist import SoftmaxMixture, select_components
from softmix_dist.progress import ProgressBar

rng = np.random.default_rng(0)
features = rng.standard_normal((20_000, 4))
names = ["price", "size", "quality", "age"]
weights = np.array([0.5, 0.3, 0.2])
tastes = np.array([[-2.0, 0.5, 1.0, 0.0], [-0.5, 1.5, 0.0, 0.5], [0.0, -1.0, 2.0, -0.5]])
utility = np.exp(features @ tastes.T)
counts = rng.multinomial(500_000, (utility / utility.sum(axis=0)) @ weights)

# %% [markdown]
# ## Fit
#
# One pass over the data an iteration, until the maximum is 0.01 standard errors away. The start
# comes from a search on a sketch of the data, so that there is nothing to guess.

# %%
model = SoftmaxMixture(n_components=3)
progress = ProgressBar()
model.fit(features, counts, feature_names=names, progress=progress)
progress.close()
model

# %% [markdown]
# The truth is found to within its standard errors:

# %%
errors = model.standard_errors_["atoms"]
np.round((model.atoms_ - tastes) / errors, 1)

# %% [markdown]
# ## See

# %%
import matplotlib.pyplot as plt

from softmix_dist.plots import coefficients_plot, convergence_plot, observed_plot

figure, (left, middle, right) = plt.subplots(1, 3, figsize=(13, 4), layout="constrained")
coefficients_plot(model, left)
convergence_plot(model, middle)
observed_plot(model.profile(), right)
plt.show()

# %% [markdown]
# ## Ask
#
# Who would choose what; how likely each candidate is; and tables for pandas and xarray.

# %%
model.responsibilities(features[:3]).round(3)

# %%
model.to_dataframe().head()

# %%
model.goodness_of_fit(n_worst=3)

# %% [markdown]
# ## How many kinds?
#
# All numbers are fitted in the same passes, on one half of the draws, and compared on the other.

# %%
select_components(features, counts, components=range(1, 6))

# %% [markdown]
# ## Keep
#
# `model.save("model.zarr")` writes a Zarr group that xarray opens, `SoftmaxMixture.load` reads it;
# `softmix report model.zarr -o report.html` makes a page of it.
