"""How choices respond: elasticities and shares, their identities and their standard errors."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pandas as pd
import pytest
import reference
from problems import simulate
from scipy.special import logsumexp

from softmix_dist import SoftmaxMixture, write_dataset
from softmix_dist import scenario as scenarios
from softmix_dist.errors import InputError
from softmix_dist.shares import Units, shares

P, L, K = 60, 3, 2
CHOSEN = [4, 0, 41]


@pytest.fixture(scope="module")
def problem():
    found = simulate(P, L, K, 20_000, norm=1.5, seed=8, dtype="float64", base=True)
    found.log_base[9], found.counts[9] = -np.inf, 0
    return found


@pytest.fixture(scope="module")
def model(problem):
    return SoftmaxMixture(K, init=problem.truth, standard_errors="exact").fit(
        problem.features, problem.counts, log_base=problem.log_base, feature_names=["a", "b", "c"]
    )


@pytest.fixture(scope="module")
def changed(problem):
    """The last candidate a third dearer, the first taken away."""
    features, log_base = problem.features.copy(), problem.log_base.copy()
    features[-1, 0] += 0.3
    log_base[0] = -np.inf
    return features, log_base


def probabilities(parameters, features, log_base):
    """pi_j by the parameters, plainly; the weights are taken to the simplex."""
    weights, atoms = parameters[:K], parameters[K:].reshape(K, L)
    logits = features @ atoms.T + log_base[:, None]
    return np.exp(logits - logsumexp(logits, axis=0)) @ (weights / weights.sum())


def parameters_of(model):
    return np.append(model.weights_, model.atoms_)


def delta_errors(model, function):
    """Standard errors of a function of the parameters, by numerical derivatives."""
    at = parameters_of(model)
    slopes = [(function(at + h) - function(at - h)) / 2e-5 for h in 1e-5 * np.eye(len(at))]
    slopes = np.stack(slopes, axis=-1)
    return np.sqrt(np.einsum("...i,ij,...j->...", slopes, model.covariance_, slopes))


# ------------------------------------------------------------------ elasticities


def semi_elasticities(pi_of, features, feature, candidates):
    """d log pi_j / d x_il by differences, (c, c)."""
    columns = []
    for i in candidates:
        moved = np.zeros_like(features)
        moved[i, feature] = 1e-5
        up, down = (np.log(pi_of(x)[candidates]) for x in (features + moved, features - moved))
        columns.append((up - down) / 2e-5)
    return np.stack(columns, axis=1)


@pytest.mark.parametrize("feature", range(L))
def test_elasticities_are_derivatives_of_log_prob(feature, problem, model):
    x, base = problem.features, problem.log_base
    semi, _ = model.elasticities(feature, x, base, candidates=CHOSEN, semi=True)
    numeric = semi_elasticities(lambda x: np.exp(model.log_prob(x, base)), x, feature, CHOSEN)
    np.testing.assert_allclose(semi, numeric, rtol=1e-6, atol=1e-9)
    # In the form of the textbook, loop by loop.
    full, _ = model.elasticities("abc"[feature], x, base, candidates=CHOSEN)
    resp = model.responsibilities(x, base)
    for a, j in enumerate(CHOSEN):
        for b, i in enumerate(CHOSEN):
            expected = sum(
                resp[j, k]
                * model.atoms_[k, feature]
                * x[i, feature]
                * ((i == j) - float(np.exp(reference.log_softmax(x, model.atoms_[k], base)[i])))
                for k in range(K)
            )
            assert full[a, b] == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("semi", [True, False])
def test_errors_of_elasticities_are_those_of_the_delta_method(semi, problem, model):
    x, base = problem.features, problem.log_base
    _, errors = model.elasticities(1, x, base, candidates=CHOSEN, semi=semi)

    def values(parameters):
        # The form that the test above holds against differences, by the parameters.
        weights, atoms = parameters[:K] / parameters[:K].sum(), parameters[K:].reshape(K, L)
        logits = x @ atoms.T + base[:, None]
        softmaxes = np.exp(logits - logsumexp(logits, axis=0))[CHOSEN]
        joint = softmaxes * weights
        resp = joint / joint.sum(axis=1, keepdims=True)
        open_ = np.eye(len(CHOSEN))[:, :, None] - softmaxes
        return (1.0 if semi else x[CHOSEN, 1]) * np.einsum("jk,k,jik->ji", resp, atoms[:, 1], open_)

    np.testing.assert_allclose(errors, delta_errors(model, values), rtol=1e-6)


def test_shares_stay_one_whatever_moves(problem, model):
    there = np.flatnonzero(np.isfinite(problem.log_base))
    semi, _ = model.elasticities(
        "a", problem.features, problem.log_base, candidates=there, semi=True
    )
    pi = np.exp(model.log_prob(problem.features, problem.log_base))[there]
    np.testing.assert_allclose(pi @ semi, 0, atol=1e-15)
    # d pi_j / d x_i is symmetric in i and j.
    np.testing.assert_allclose(pi[:, None] * semi, (pi[:, None] * semi).T, atol=1e-16)


def test_one_component_has_the_elasticities_of_the_logit(problem):
    x = problem.features
    one = SoftmaxMixture(1).fit(x, problem.counts)
    found, _ = one.elasticities(2, x, candidates=CHOSEN)
    pi = np.exp(one.log_prob(x))[CHOSEN]
    slopes = one.atoms_[0, 2] * x[CHOSEN, 2]
    np.testing.assert_allclose(np.diag(found), slopes * (1 - pi), rtol=1e-11)
    # Independence of irrelevant alternatives: what one gains it takes from all in proportion.
    for a in range(3):
        for b in range(3):
            assert a == b or found[a, b] == pytest.approx(-slopes[b] * pi[b], rel=1e-11)


# ------------------------------------------------------------------ shares


def test_shares_are_probabilities(problem, model):
    x, base = problem.features, problem.log_base
    pi = np.exp(model.log_prob(x, base))
    every = model.predicted_shares(x, base)
    np.testing.assert_allclose(every.share, pi, rtol=1e-12)
    np.testing.assert_array_equal(every.name, np.arange(P))
    assert every.share.sum() == pytest.approx(1, abs=1e-14)
    some = model.predicted_shares(x, base, candidates=CHOSEN)
    np.testing.assert_allclose(some.share, pi[CHOSEN], rtol=1e-12)
    np.testing.assert_allclose(some.standard_error, every.standard_error[CHOSEN], rtol=1e-7)
    # What is not available has no share, for certain.
    assert (every.share[9], every.standard_error[9]) == (0, 0)


def test_groups_add_up(problem, model):
    brands = np.array(["A", "<i>", "C"])[np.arange(P) % 3]
    found = model.predicted_shares(problem.features, problem.log_base, groups=brands)
    pi = np.exp(model.log_prob(problem.features, problem.log_base))
    assert found.name.tolist() == ["<i>", "A", "C"]
    np.testing.assert_allclose(found.share, [pi[brands == name].sum() for name in found.name])
    assert "&lt;i&gt;" in found._repr_html_()
    assert "<i>" not in found._repr_html_()
    assert "standard error" in str(found)
    whole = model.predicted_shares(problem.features, problem.log_base, groups=np.zeros(P))
    assert whole.share == pytest.approx([1], abs=1e-14)
    assert whole.standard_error == pytest.approx([0], abs=1e-9)


def test_errors_of_shares_are_those_of_the_delta_method(problem, model, changed):
    before = problem.features, problem.log_base
    groups = np.arange(P) % 4
    member = (groups == np.arange(4)[:, None]).astype(float)
    every = model.predicted_shares(*before)
    np.testing.assert_allclose(
        every.standard_error, delta_errors(model, lambda w: probabilities(w, *before)), rtol=1e-6,
        atol=1e-12,
    )  # fmt: skip
    grouped = model.predicted_shares(*before, groups=groups)
    np.testing.assert_allclose(
        grouped.standard_error,
        delta_errors(model, lambda w: member @ probabilities(w, *before)),
        rtol=1e-6,
    )
    for options, matrix in (({}, np.eye(P)), ({"groups": groups}, member)):
        found = model.share_changes(before, changed, **options)
        np.testing.assert_allclose(
            found.standard_error,
            delta_errors(
                model,
                lambda w, m=matrix: m @ (probabilities(w, *changed) - probabilities(w, *before)),
            ),
            rtol=1e-5,
            atol=1e-11,
        )


def test_changes_are_differences(problem, model, changed):
    before = problem.features, problem.log_base
    found = model.share_changes(before, changed)
    np.testing.assert_array_equal(found.before, model.predicted_shares(*before).share)
    np.testing.assert_array_equal(found.after, model.predicted_shares(*changed).share)
    np.testing.assert_allclose(found.change, found.after - found.before)
    assert found.change.sum() == pytest.approx(0, abs=1e-14)
    assert found.after[0] == 0
    # Nothing changes, for certain, where nothing is changed.
    same = model.share_changes(problem.features, problem.features, candidates=CHOSEN)
    np.testing.assert_array_equal([same.change, same.standard_error], 0)
    assert "... 40 more" in str(found)
    # Others gain what the one that was taken away had.
    gone = model.share_changes(before, (problem.features, changed[1]))
    others = np.flatnonzero(np.isfinite(changed[1]))
    assert (gone.change[others] > 0).all()


def test_slices_and_blocks_change_nothing(problem, model, changed, monkeypatch, tmp_path):
    before = problem.features, problem.log_base
    groups = np.arange(P) % 4
    whole = [
        model.share_changes(before, changed).standard_error,
        model.predicted_shares(*before, groups=groups).standard_error,
        model.elasticities(0, *before, candidates=CHOSEN)[1],
    ]
    monkeypatch.setattr(scenarios, "_SLICE", 7 * K * L)
    monkeypatch.setattr(scenarios, "default_block_rows", lambda row_bytes: 16)
    parts = [
        model.share_changes(before, changed).standard_error,
        model.predicted_shares(*before, groups=groups).standard_error,
        model.elasticities(0, *before, candidates=CHOSEN)[1],
    ]
    path, other = tmp_path / "data.zarr", tmp_path / "other.zarr"
    for place, names, rows in ((path, "abc", 16), (other, "acb", None)):
        write_dataset(
            place, problem.features, problem.counts, log_base=problem.log_base,
            feature_names=list(names), block_rows=rows,
        )  # fmt: skip
    with pytest.raises(InputError, match="has the features a, c, b"):
        model.predicted_shares(other)
    stored = [
        model.share_changes(path, changed).standard_error,
        model.predicted_shares(path, groups=groups).standard_error,
        model.elasticities(0, path, candidates=CHOSEN)[1],
    ]
    for a, b, c in zip(whole, parts, stored, strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-7, atol=1e-12)
        np.testing.assert_array_equal(b, c)
    wide = problem.dataset(block_rows=32)
    with pytest.raises(InputError, match="blocks of 16 and 32 rows"):
        model.share_changes(path, wide)


@pytest.mark.parametrize("groups", [None, np.arange(400_000) % 9], ids=["each", "groups"])
def test_no_array_has_a_number_for_every_candidate_component_and_feature(groups):
    rng = np.random.default_rng(0)
    p, n_components, n_features = 400_000, 8, 4
    features = rng.standard_normal((p, n_features)).astype(np.float32)
    weights, atoms = np.full(n_components, 1 / 8), rng.standard_normal((n_components, n_features))
    tracemalloc.start()
    try:
        scenario = scenarios.Scenario.of(weights, atoms, features)
        found, _ = shares([scenario], Units.of(p, None, groups), np.eye(40))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert found[0].sum() == pytest.approx(1)
    assert peak < p * n_components * n_features * 8 / 2


def test_without_a_covariance_errors_are_not_told(problem):
    bare = SoftmaxMixture(K, init=problem.truth, standard_errors="none").fit(
        problem.features, problem.counts, log_base=problem.log_base
    )
    x = problem.features
    assert np.isnan(bare.elasticities(0, x, candidates=[1])[1]).all()
    assert np.isnan(bare.predicted_shares(x).standard_error).all()
    assert np.isnan(bare.share_changes(x, x + 1, groups=np.zeros(P)).standard_error).all()


def test_large_offsets_cost_nothing(problem, model):
    shifted = problem.features + [2000.0, -1e4, 0.0]
    for groups in (None, np.arange(P) % 2):
        near = model.predicted_shares(problem.features, groups=groups)
        far = model.predicted_shares(shifted, groups=groups)
        np.testing.assert_allclose(far.share, near.share, rtol=1e-9)
        np.testing.assert_allclose(far.standard_error, near.standard_error, rtol=1e-6)


def test_candidates_may_be_labels(problem, model, changed, tmp_path):
    labels = [f"{i:03d}A" for i in range(P)]
    wanted = [labels[i] for i in CHOSEN]
    frame = pd.DataFrame(problem.features, labels, ["a", "b", "c"])
    write_dataset(
        tmp_path / "x.zarr", problem.features, problem.counts, log_base=problem.log_base,
        candidate_labels=labels, feature_names=["a", "b", "c"],
    )  # fmt: skip
    for given in ((frame, problem.log_base), (str(tmp_path / "x.zarr"),)):
        rows = model.predicted_shares(*given, candidates=CHOSEN)
        named = model.predicted_shares(*given, candidates=wanted)
        assert named.name.tolist() == wanted
        assert repr(named) == str(named)
        np.testing.assert_array_equal(named.share, rows.share)
        for found, expected in zip(
            model.elasticities("a", *given, candidates=wanted),
            model.elasticities("a", *given, candidates=CHOSEN),
            strict=True,
        ):
            np.testing.assert_array_equal(found, expected)
    features, log_base = changed
    after = pd.DataFrame(features, labels, ["a", "b", "c"])
    changes = model.share_changes(frame, (after, log_base), candidates=wanted)
    assert changes.name.tolist() == wanted
    assert changes.after[1] == 0
    with pytest.raises(InputError, match="after: its labels are not those of before"):
        model.share_changes(frame, after[::-1])
    as_strings = after.set_axis(pd.Index(labels, dtype="string"))
    same = model.share_changes(frame, (as_strings, log_base), candidates=wanted)
    np.testing.assert_array_equal(same.after, changes.after)
    twice = frame.set_axis(["000A", *labels[:-1]])
    with pytest.raises(InputError, match="'000A' is the label of 2 candidates"):
        model.predicted_shares(twice, candidates=wanted)


@pytest.mark.parametrize(
    ("use", "fragment"),
    [
        (lambda m, x: m.elasticities("d", x, candidates=[1]), "no feature 'd'"),
        (lambda m, x: m.elasticities(0, x, candidates=[]), "candidates: expected row numbers"),
        (lambda m, x: m.elasticities(0, x, candidates=[0.5]), "candidates: expected row numbers"),
        (lambda m, x: m.elasticities(0, x, candidates="1"), "candidates: expected row numbers"),
        (
            lambda m, x: m.elasticities(0, x, candidates=["c"]),
            "'c' is the label of no candidate; or",
        ),
        (lambda m, x: m.predicted_shares(x, candidates=3), "candidates: expected row numbers"),
        (lambda m, x: m.predicted_shares(x, candidates=iter("a")), "expected row numbers"),
        (lambda m, x: m.elasticities(0, x, candidates=[P]), "distinct rows from 0 to 59"),
        (lambda m, x: m.elasticities(0, x, candidates=[3, 3]), "distinct rows"),
        (lambda m, x: m.elasticities(0, x, candidates=[-1]), "distinct rows"),
        (lambda m, x: m.elasticities(0, x[:, :1], candidates=[1]), "features: expected shape"),
        (
            lambda m, x: m.elasticities(
                0, x, np.where(np.arange(P) == 5, -np.inf, 0), candidates=[4, 5]
            ),
            r"not available.*\[5\]",
        ),
        (lambda m, x: m.predicted_shares(pd.DataFrame(x, columns=["b", "a", "c"])), "b, a, c"),
        (lambda m, x: m.predicted_shares(x[0]), "features: expected shape"),
        (lambda m, x: m.predicted_shares(x[:0]), "features: expected shape"),
        (lambda m, x: m.predicted_shares(np.where(x > 1, np.nan, x)), "features: NaN"),
        (lambda m, x: m.predicted_shares(x, np.full(P, -np.inf)), "no candidate is available"),
        (lambda m, x: m.predicted_shares(x, np.zeros(3)), "log_base"),
        (lambda m, x: m.predicted_shares(x, candidates=[1], groups=x[:, 0]), "not both"),
        (lambda m, x: m.predicted_shares(x, groups=["a", "b"]), "groups: expected a label"),
        (lambda m, x: m.share_changes(x, x[1:]), "after: expected 60 candidates"),
        (lambda m, x: m.share_changes(x, (x,)), "after: expected features or a pair"),
    ],
)
def test_what_cannot_be_asked_is_refused(use, fragment, problem, model):
    with pytest.raises(InputError, match=fragment):
        use(model, problem.features)
