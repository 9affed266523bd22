"""Data frames and other array-like data: their densities, and errors that name columns."""

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

import tfp_realnvp as nvp
from helpers.flows import X, conditional, flow, row_3, with_context
from tfp_realnvp.flows.columns import by_position


class Frame:
    """Minimal imitation of a pandas data frame."""

    def __init__(self, values):
        self.values = values

    @property
    def shape(self):
        return self.values.shape

    def __len__(self):
        return len(self.values)

    def __array__(self, dtype=None, copy=None):
        return np.array(self.values, dtype)

    def __getitem__(self, key):
        if not isinstance(key, slice):
            raise KeyError(key)
        return Frame(self.values[key])


def test_array_like_data_have_the_density_of_the_array():
    model = nvp.RealNVP(2, num_couplings=1, hidden_units=(), seed=0)
    model.compile("sgd")
    expected = model.log_prob(X)
    for data in (Frame(X), X.tolist(), tuple(map(tuple, X)), np.asfortranarray(X), X[::-1][::-1], tf.constant(X)):
        np.testing.assert_array_equal(model.log_prob(data), expected)
    for data in (Frame(X), np.asfortranarray(X), X[::-1][::-1], tf.constant(X)):
        np.testing.assert_allclose(model.predict(data, verbose=0), expected, rtol=1e-5)
    for integers in (np.arange(6).reshape(3, 2), np.arange(6, dtype="uint8").reshape(3, 2), np.eye(3, 2) > 0):
        np.testing.assert_array_equal(model.log_prob(integers), model.log_prob(integers.astype("float64")))


def frame(**columns) -> pd.DataFrame:
    return pd.DataFrame({"mass": X[:, 0], "radius": X[:, 1]} | columns)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (frame(radius="large"), r"convert or drop the columns 'radius' \((str|object)\)$"),
        (frame(mass=X[:, 0] > 0), r"convert or drop the columns 'mass' \(bool\)$"),
        (frame(mass="large").astype({"mass": "category"}), r"convert or drop the columns 'mass' \(category\)$"),
        (frame(name=1.0), r"got \[20, 3\] with the columns 'mass', 'radius', 'name'$"),
    ],
    ids=["strings", "booleans", "categories", "extra column"],
)
def test_errors_name_the_columns_of_a_data_frame(data, message):
    for call in (flow().fit, flow().evaluate, flow().predict, flow().adapt, flow().log_prob):
        with pytest.raises(ValueError, match=message):
            call(data)
    with pytest.raises(ValueError, match=rf'x\["context"\] must .*{message}'):
        conditional().fit(with_context(data))


def test_errors_name_the_column_with_a_nan():
    data = frame(radius=row_3(np.nan)[:, 1])
    for call in (flow().fit, flow().evaluate, flow().adapt):
        with pytest.raises(ValueError, match=r"in 1 of its 20 rows: 3 \(as float32\), in the columns 'radius'$"):
            call(data)


def test_adapt_names_the_columns_of_a_data_frame():
    with pytest.raises(ValueError, match="data is constant in the columns 'radius': drop"):
        flow().adapt(frame(radius=1.0))
    with pytest.raises(ValueError, match="data varies too little for float32 in the columns 'radius': "):
        flow().adapt(frame(radius=1e-60 * X[:, 1]))
    with pytest.raises(ValueError, match=r'data\["context"\] varies too little for float32 in the columns \'mass\': '):
        conditional().adapt(with_context(frame(mass=1e-60 * X[:, 0])))


def learned_flow(**options):
    model = nvp.RealNVP(2, num_couplings=2, hidden_units=(4,), seed=0, **options)
    model.compile("adam")
    return model


def test_adapt_learns_the_names_of_columns():
    model = learned_flow()
    assert model.feature_names is None
    model.adapt(X)
    assert model.feature_names is None
    model.adapt(frame())
    assert (model.feature_names, model.context_names) == (["mass", "radius"], None)


def test_the_first_fit_learns_the_names_of_columns():
    model = learned_flow(context_shape=2)
    context = frame().rename(columns={"mass": "u", "radius": "v"})
    model.fit({"x": frame(), "context": context}, verbose=0)
    assert (model.feature_names, model.context_names) == (["mass", "radius"], ["u", "v"])
    with pytest.raises(ValueError, match=r"^context must have .*\(context_names\); column 0 must be 'u', got 'v'$"):
        model.log_prob(frame(), context[["v", "u"]])
    with pytest.raises(ValueError, match=r"^context must have .*; missing: 'u'; unknown: 'w'$"):
        model.sample(3, context=context.rename(columns={"u": "w"}))


@pytest.mark.parametrize(
    ("data", "difference"),
    [
        (frame()[["radius", "mass"]], "column 0 must be 'mass', got 'radius'"),
        (frame().rename(columns={"mass": "Mass"}), "missing: 'mass'; unknown: 'Mass'"),
        (frame()[["mass"]], "missing: 'radius'"),
        (frame(name=1.0), "unknown: 'name'"),
    ],
)
def test_other_columns_than_those_learned_are_errors(data, difference):
    model = learned_flow()
    model.adapt(frame())
    for call, argument in (
        (model.adapt, "data"),
        (model.fit, "x"),
        (model.evaluate, "x"),
        (model.predict, "x"),
        (model.log_prob, "x"),
        (lambda data: model.fit(frame(), validation_data=data), "validation_data"),
        (model, "inputs"),
        (model.train_on_batch, "x"),
        (model.test_on_batch, "x"),
        (model.predict_on_batch, "x"),
    ):
        with pytest.raises(ValueError, match=rf"^{argument} must have the columns .*\(feature_names\); {difference}$"):
            call(data)
    model.log_prob(X)  # Arrays have no names.
    model.log_prob(pd.DataFrame(X))  # Nor have these columns.


def test_names_that_are_not_strings():
    model = learned_flow()
    model.adapt(pd.DataFrame(X, columns=[1, ("a", "b")]))
    assert model.feature_names == ["1", "('a', 'b')"]
    with pytest.raises(ValueError, match="missing: \"\\('a', 'b'\\)\"; unknown: '0'"):
        model.log_prob(pd.DataFrame(X, columns=[1, 0]))


def test_a_fit_that_fails_learns_no_names():
    model = learned_flow()
    with pytest.raises(ValueError, match=r"^validation_data must have the columns .*; missing: 'mass'; unknown: 'm'$"):
        model.fit(frame(), validation_data=frame().rename(columns={"mass": "m"}), verbose=0)
    assert model.feature_names is None


def test_members_of_an_ensemble_learn_the_same_names(tmp_path):
    ensemble = nvp.Ensemble([learned_flow(), learned_flow()])
    ensemble.flows[0].adapt(frame())
    with pytest.raises(ValueError, match="column 0 must be 'mass', got 'radius'"):
        ensemble.flows[1].adapt(frame()[["radius", "mass"]])
    ensemble.flows[1].adapt(X)
    ensemble.save(tmp_path / "ensemble.keras")
    assert keras.models.load_model(tmp_path / "ensemble.keras").flows[1].feature_names == ["mass", "radius"]
    one, other = learned_flow(), learned_flow()
    one.adapt(frame())
    other.adapt(frame()[["radius", "mass"]])
    unnamed = learned_flow()
    with pytest.raises(ValueError, match=r"^flows must have the columns .* column 0 must be 'mass', got 'radius'$"):
        nvp.Ensemble([unnamed, one, other])
    assert unnamed.feature_names is None


def test_files_of_weights_keep_names(tmp_path):
    model, other = learned_flow(), learned_flow()
    model.adapt(frame())
    model.save_weights(tmp_path / "flow.weights.h5")
    other.load_weights(tmp_path / "flow.weights.h5")
    assert other.feature_names == ["mass", "radius"]
    wider = nvp.RealNVP(2, num_couplings=2, hidden_units=(9,), seed=0)
    with pytest.raises(ValueError, match="filepath"):
        wider.load_weights(tmp_path / "flow.weights.h5")
    assert wider.feature_names is None


def test_names_are_saved(tmp_path):
    ensemble = nvp.Ensemble([learned_flow(), learned_flow()])
    ensemble.adapt(frame())
    assert ensemble.feature_names == ["mass", "radius"]
    for model in (ensemble, ensemble.flows[0]):
        model.save(tmp_path / "flow.keras")
        loaded = keras.models.load_model(tmp_path / "flow.keras")
        assert (loaded.feature_names, loaded.context_names) == (["mass", "radius"], None)
        with pytest.raises(ValueError, match="column 0 must be 'mass'"):
            loaded.log_prob(frame()[["radius", "mass"]])


@pytest.mark.parametrize("dtype", ["Float64", "Float32", "double[pyarrow]"])
def test_nullable_numbers_of_pandas(dtype):
    if "pyarrow" in dtype:
        pytest.importorskip("pyarrow")
    data = frame().astype({"mass": dtype})
    model = learned_flow()
    model.adapt(data)
    model.fit(data, verbose=0)
    expected = model.log_prob(frame())
    np.testing.assert_allclose(model.log_prob(data), expected, rtol=1e-5)
    np.testing.assert_allclose(model.predict(data, verbose=0), expected, rtol=1e-5)
    integers = frame(mass=np.arange(20)).astype({"mass": "Int64"})
    np.testing.assert_allclose(model.log_prob(integers), model.log_prob(frame(mass=np.arange(20))))
    data.loc[3, "mass"] = pd.NA
    with pytest.raises(ValueError, match=r"in 1 of its 20 rows: 3 .* in the columns 'mass'"):
        model.fit(data)
    assert np.isnan(model.log_prob(data)[3])
    for_data = nvp.RealNVP.for_data(integers, integers, num_couplings=1, hidden_units=(4,), verbose=False)
    assert for_data.context_names == ["mass", "radius"]


def test_data_frames_of_polars():
    polars = pytest.importorskip("polars")
    data = polars.DataFrame({"mass": X[:, 0], "radius": X[:, 1]})
    model = nvp.RealNVP.for_data(data, num_couplings=1, hidden_units=(4,), verbose=False, seed=0)
    model.compile()
    model.fit(data, validation_data=data, verbose=0)
    np.testing.assert_allclose(model.predict(data, verbose=0), model.log_prob(X), rtol=1e-5)
    np.testing.assert_array_equal(model.log_prob(data), model.log_prob(X))
    with pytest.raises(ValueError, match="column 0 must be 'mass', got 'radius'"):
        model.log_prob(data[["radius", "mass"]])
    with pytest.raises(ValueError, match=r"convert or drop the columns 'mass' \(String\)"):
        model.fit(data.with_columns(mass=polars.lit("large")))


def test_rows_of_a_data_frame_are_checked_too():
    model = nvp.RealNVP(2, num_couplings=1, hidden_units=(), seed=0)
    model.adapt(frame())
    row = frame().iloc[0]
    np.testing.assert_array_equal(model.log_prob(row), model.log_prob(X[0]))
    with pytest.raises(ValueError, match=r"x must have the columns .* column 0 must be 'mass', got 'radius'"):
        model.log_prob(row[::-1])


def test_columns_with_equal_names_are_errors():
    twice = pd.DataFrame(X, columns=["mass", "mass"])
    with pytest.raises(ValueError, match="data must have different column names, got 'mass' twice"):
        nvp.RealNVP(2, num_couplings=1, hidden_units=(), seed=0).adapt(twice)


def test_for_data_takes_bounds_and_whole_numbers_by_name():
    table = pd.DataFrame({"mass": np.exp(X[:, 0]), "count": np.arange(20) % 5})
    options = {"num_couplings": 1, "hidden_units": (4,), "seed": 0, "verbose": False}
    named = nvp.RealNVP.for_data(table, support={"mass": (0, None)}, integers=["count"], **options).get_config()
    assert named["support"] == [[0.0, None], [None, None]] and named["integers"] == [1]
    with pytest.raises(ValueError, match="integers names 'counts', but x has the columns 'mass', 'count'"):
        nvp.RealNVP.for_data(table, integers=["counts"], **options)
    with pytest.raises(ValueError, match="support names 'flux', but x has"):
        nvp.RealNVP.for_data(table, support={"flux": (0, None)}, **options)
    with pytest.raises(ValueError, match=r"data must hold whole numbers .* in the columns 'mass'"):
        nvp.RealNVP.for_data(table, integers=["mass"], **options)
    with pytest.raises(ValueError, match=r"support\['mass'\] must be None or a pair .* got \(1, 0\)"):
        nvp.RealNVP.for_data(table, support={"mass": (1, 0)}, **options)
    with pytest.raises(ValueError, match=r"integers must be None or indices of features, .* got 'count'"):
        nvp.RealNVP.for_data(table, integers="count", **options)


def test_integers_are_positions_unless_they_are_names():
    names = ["mass", "radius"]
    given = {"support": {0: (0, None), "radius": (0, 1)}, "integers": ["radius", 0]}
    by_name = {"support": [(0, None), (0, 1)], "integers": [1, 0]}
    assert by_position(given, pd.DataFrame(X, columns=names)) == by_name
    assert by_position({"support": {1: (0, 1)}}, pd.DataFrame(X)) == {"support": [None, (0, 1)]}
    for options in ({"support": {1: None}}, {"integers": [1]}):
        with pytest.raises(ValueError, match="1 is a position and also the name of another column; rename the columns"):
            by_position(options, pd.DataFrame(X, columns=[1, 0]))


def test_a_series_with_equal_labels_is_no_row_of_a_table():
    flow = learned_flow()
    flow.adapt(frame())
    with pytest.raises(ValueError, match=r"x must have shape \[\.\.\., 2\], got \[3\]"):
        flow.log_prob(pd.Series([1.0, 2.0, 3.0], index=[7, 7, 8]))
