"""Simulate a softmax mixture, fit it, and compare with the truth.

python examples/first_fit.py
"""

import numpy as np

from softmix_dist import SoftmaxMixture

rng = np.random.default_rng(0)
features = rng.standard_normal((20_000, 5))
weights = np.array([0.5, 0.3, 0.2])
atoms = rng.standard_normal((3, 5))

utility = np.exp(features @ atoms.T)
probability = (utility / utility.sum(axis=0)) @ weights
counts = rng.multinomial(1_000_000, probability)

model = SoftmaxMixture(n_components=3, random_state=0).fit(features, counts)
print(model.summary())
print("largest error of an atom:", np.abs(model.atoms_ - atoms).max().round(3))
