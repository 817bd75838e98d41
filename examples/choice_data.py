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
# # Choice data: an econometrician's path
#
# A softmax mixture is a latent-class logit model. Here the choosers are parents in the United
# States, the alternatives 88 496 first names, and the attributes what the letters say: length,
# endings, vowels. The path is the usual one: attributes, classes and their number, ratios of
# coefficients, shares if an alternative were gone. Births: US Social Security Administration,
# public domain.

# %%
import numpy as np

from softmix_dist import SoftmaxMixture, select_components
from softmix_dist.data.examples import load_us_names
from softmix_dist.data.spelling import spelling_features

names = load_us_names()
features, labels = spelling_features(names.names)
births = names.counts.sum(axis=0)
features.shape, f"{births.sum():,} births"

# %% [markdown]
# A few attributes, which one can read:

# %%
attributes = ["log length", "vowel groups", "ends -a", "ends -e", "ends -y", "ends -n"]
x = features[:, [labels.index(name) for name in attributes]]

# %% [markdown]
# ## Classes
#
# How many? BIC and the draws held out decide on the same passes.

# %%
selection = select_components(x, births, components=range(1, 5), l2=1e-3)
selection

# %%
model = SoftmaxMixture(2, l2=1e-3, standard_errors="scaled")
model.fit(x, births, feature_names=attributes)
model

# %% [markdown]
# Names are far from a multinomial given their letters: the estimated dispersion says so, and the
# standard errors are multiplied by its root.

# %%
model.result_.dispersion

# %% [markdown]
# ## Trade-offs
#
# A ratio of two coefficients is a willingness to pay where the denominator is a price; the price
# here is the first attribute. Standard errors come by the delta method.

# %%
ratio, error = model.ratios(attributes[1], attributes[0])
for k, (value, spread) in enumerate(zip(ratio, error, strict=True)):
    print(f"class {k}: {attributes[1]} is worth {value:.2f} ({spread:.2f}) of {attributes[0]}")

# %% [markdown]
# ## Counterfactual shares
#
# If the most frequent name of 2010 were not available, who would win? Each class moves to what it
# likes; the mixture does not have the independence of irrelevant alternatives.

# %%
favourite = int(np.argmax(names.counts[-1]))
gone = np.zeros(len(births))
gone[favourite] = -np.inf
before = np.exp(model.log_prob(x))
after = np.exp(model.log_prob(x, log_base=gone))
gain = (after / before)[names.counts[-1] > 5000]
common = names.names[names.counts[-1] > 5000]
order = np.argsort(-gain)
print(f"without {names.names[favourite]}, whose share is {before[favourite]:.4%} by the model:")
for j in (*order[:3], *order[-3:-1]):
    print(f"{common[j]:<12}{gain[j] - 1:+.4%}")

# %% [markdown]
# ## Elasticities
#
# Of the five most frequent names with respect to the first attribute: own ones on the diagonal.

# %%
top = np.argsort(-births)[:5]
elasticity, _ = model.elasticities(attributes[0], x, candidates=top, semi=True)
print([str(name) for name in names.names[top]])
elasticity.round(3)
