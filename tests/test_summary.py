"""What a fit tells: its table, intervals, ratios, rows, HTML and the model on disk."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import zarr
from problems import simulate
from scipy.special import logit, ndtr, ndtri

from softmix_dist import SoftmaxMixture
from softmix_dist.errors import InputError
from softmix_dist.summary import as_html, as_text, rows

NAMES = ["price", "<script>", "size of it"]


def fit(**settings) -> SoftmaxMixture:
    problem = simulate(500, 3, 2, 50_000, norm=1.5, seed=3, dtype="float64")
    model = SoftmaxMixture(2, init=problem.truth, **settings)
    return model.fit(problem.features, problem.counts, feature_names=NAMES)


@pytest.fixture(scope="module")
def model() -> SoftmaxMixture:
    return fit()


def rows_of(model):
    """Name, estimate, error and interval of every parameter, component by component."""
    result, intervals = model.result_, model.confidence_intervals()
    errors = model.standard_errors_
    for k in range(len(result.weights)):
        yield "weight", result.weights[k], errors["weights"][k], *intervals["weights"][k]
        for i, name in enumerate(result.feature_names):
            found = result.atoms[k, i], errors["atoms"][k, i]
            yield name, *found, *intervals["atoms"][k, i]


def test_the_table_holds_every_parameter(model):
    text = model.summary()
    assert "standard errors from the information on all data" in text
    lines = [line for line in text.splitlines() if line.startswith(("weight", *NAMES))]
    for line, (name, *expected) in zip(lines, rows_of(model), strict=True):
        assert line.startswith(name)
        found = [float(cell) for cell in line[len(name) :].split()]
        # Only coefficients are tested against 0.
        if name != "weight":
            z, p = found.pop(2), found.pop(2)
            exact = expected[0] / expected[1]
            assert (z, p) == pytest.approx((exact, 2 * ndtr(-abs(exact))), abs=0.006)
        np.testing.assert_allclose(found, expected, rtol=6e-3)
        np.testing.assert_allclose([found[0], *found[2:]], [expected[0], *expected[2:]], rtol=6e-6)


@pytest.mark.parametrize("how", ["sketch", "exact"])
def test_the_table_says_where_errors_come_from(model, how):
    told = as_text(replace(model.result_, errors_from=how))
    assert {"sketch": "on the sketch", "exact": "on all data"}[how] in told


def test_without_errors_components_are_columns():
    bare = fit(standard_errors="none")
    text = bare.summary()
    assert "component 0   component 1" in text
    assert "std. error" not in text
    assert "Wald" not in text
    lines = [line for line in text.splitlines() if line.startswith(("weight", *NAMES))]
    values = [
        [float(cell) for cell in line[len("effective candidates") :].split()] for line in lines
    ]
    np.testing.assert_allclose(values, [bare.weights_, *bare.atoms_.T], atol=1e-5)
    assert all(np.isnan(part).all() for part in bare.confidence_intervals().values())
    assert np.isnan(bare.ratios(0, 1)[1]).all()


def test_a_wide_fit_is_cut_short(model):
    names = [f"f{i}" for i in range(101)]
    wide = replace(
        model.result_, atoms=np.ones((2, 101)), feature_names=names, covariance=np.eye(204)
    )
    text = as_text(wide)
    assert "component 0   component 1" in text
    assert all(name in text for name in names)
    assert "<p>4 more: to_dataframe()</p>" in as_html(wide)


@pytest.mark.parametrize("level", [0.5, 0.95, 0.999])
def test_intervals_are_wald_and_on_the_logit_scale_for_weights(model, level):
    found, errors = model.confidence_intervals(level), model.standard_errors_
    half = ndtri((1 + level) / 2)
    sides = np.array([-1, 1]) * half * errors["atoms"][..., None]
    np.testing.assert_allclose(found["atoms"], model.atoms_[..., None] + sides, rtol=1e-12)
    w = model.weights_
    spread = half * errors["weights"] / (w * (1 - w))
    np.testing.assert_allclose(logit(found["weights"]).T, [logit(w) - spread, logit(w) + spread])
    # Those of two weights that sum to 1 mirror each other.
    np.testing.assert_allclose(found["weights"][0], 1 - found["weights"][1, ::-1])
    if level == 0.95:
        np.testing.assert_array_equal(model.confidence_intervals()["atoms"], found["atoms"])


@pytest.mark.parametrize("level", [0, 1, -0.5, 95, np.nan])
def test_a_level_that_is_none_is_refused(model, level):
    with pytest.raises(InputError, match="level: "):
        model.confidence_intervals(level)


def test_ratios_have_the_error_of_the_delta_method(model):
    ratio, errors = model.ratios("size of it", "price")
    np.testing.assert_allclose(ratio, model.atoms_[:, 2] / model.atoms_[:, 0])

    def ratios(parameters):
        atoms = parameters[2:].reshape(2, 3)
        return atoms[:, 2] / atoms[:, 0]

    at = np.append(model.weights_, model.atoms_)
    slopes = np.array([(ratios(at + h) - ratios(at - h)) / 2e-6 for h in 1e-6 * np.eye(8)])
    expected = np.sqrt(np.diag(slopes.T @ model.covariance_ @ slopes))
    np.testing.assert_allclose(errors, expected, rtol=1e-7)
    np.testing.assert_array_equal(model.ratios(2, np.int64(0)), (ratio, errors))


@pytest.mark.parametrize("feature", NAMES)
def test_the_ratio_of_a_feature_to_itself_is_certain(model, feature):
    np.testing.assert_allclose(model.ratios(feature, feature), [[1, 1], [0, 0]], atol=1e-6)


@pytest.mark.parametrize("feature", ["cost", 3, -1, None, 1.0])
def test_a_feature_that_is_none_is_refused(model, feature):
    for pair in ((feature, 0), (0, feature)):
        with pytest.raises(InputError, match=r"no feature .*price, <script>, size of it"):
            model.ratios(*pair)


def test_the_data_frame_has_a_row_for_each_parameter(model):
    pytest.importorskip("pandas")
    frame = model.to_dataframe()
    assert frame.index.names == ["component", "parameter"]
    assert frame.columns.tolist() == ["estimate", "standard_error", "z", "p_value", "low", "high"]
    assert frame.index.tolist() == [(k, name) for k in range(2) for name in ["weight", *NAMES]]
    values = frame[["estimate", "standard_error", "low", "high"]]
    np.testing.assert_array_equal(values, [row[1:] for row in rows_of(model)])
    tested = frame.drop("weight", level="parameter")
    np.testing.assert_allclose(tested.z, tested.estimate / tested.standard_error)
    np.testing.assert_allclose(tested.p_value, 2 * ndtr(-tested.z.abs()))
    assert frame.xs("weight", level="parameter")[["z", "p_value"]].isna().all(axis=None)


def test_html_escapes_names_and_warnings(model):
    told = as_html(replace(model.result_, warnings=["no <b> & no <i>"]))
    assert told.count("&lt;script&gt;") == 2
    assert "no &lt;b&gt; &amp; no &lt;i&gt;" in told
    assert "<script>" not in told
    assert told.count("<tr>") == 1 + 8
    assert all(f"<td>{row[1]:.6g}</td>" in model._repr_html_() for row in rows_of(model))
    unfitted = SoftmaxMixture(init="<script>")._repr_html_()
    assert unfitted == "<code>SoftmaxMixture(init=&#x27;&lt;script&gt;&#x27;)</code>"


@pytest.mark.parametrize("n_features", [1, 2, 10, 20])
def test_a_single_weight_has_no_error(n_features):
    problem = simulate(600, n_features, 1, 20_000, seed=4, dtype="float64", base=True)
    model = SoftmaxMixture(1).fit(problem.features, problem.counts, log_base=problem.log_base)
    assert model.standard_errors_["weights"] == pytest.approx([0], abs=1e-8)
    assert model.confidence_intervals()["weights"].tolist() == [[1, 1]]
    assert (model.standard_errors_["atoms"] > 0).all()


def test_the_disk_keeps_the_covariance_or_its_absence(model, tmp_path):
    flat = SoftmaxMixture(2)
    flat.result_ = replace(model.result_, covariance=np.full((8, 8), np.nan))
    for i, saved in enumerate((model, flat, fit(standard_errors="none"))):
        saved.save(tmp_path / f"{i}.zarr")
        loaded = SoftmaxMixture.load(tmp_path / f"{i}.zarr")
        np.testing.assert_array_equal(loaded.covariance_, saved.covariance_)
        assert loaded.result_.errors_from == saved.result_.errors_from
        assert loaded.summary() == saved.summary()


def test_a_model_from_before_there_were_errors_is_read(model, tmp_path):
    path = tmp_path / "model.zarr"
    model.save(path)
    group = zarr.open_group(str(path), mode="r+", use_consolidated=False)
    del group["covariance"]
    del group.attrs["errors_from"]
    loaded = SoftmaxMixture.load(path)
    assert (loaded.covariance_, loaded.result_.errors_from) == (None, "none")
    np.testing.assert_array_equal(loaded.atoms_, model.atoms_)
    assert "std. error" not in loaded.summary()


def test_a_feature_may_be_called_weight(model):
    names = ["price", "weight", "size of it"]
    result = replace(model.result_, feature_names=names)
    text, own = as_text(result), "weight of the component"
    assert [text.count(title) for title in ("component 0,", "component 1,")] == [1, 1]
    assert sum(line.startswith(own) for line in text.splitlines()) == 2
    assert as_html(result).count("<th>component 0</th>") == 1
    told = [row.parameter for row in rows(result)]
    assert told == 2 * [own, *names]
    wide = as_text(replace(result, covariance=None))
    assert [line.split("  ")[0] for line in wide.splitlines() if line.startswith("weight")] == [
        own,
        "weight",
    ]
