"""Data frames and other array-like data: their densities, and errors that name columns."""

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

import tfp_realnvp as nvp
from helpers.flows import X, conditional, flow, row_3, with_context


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
        (frame().astype({"mass": "Float64"}), r"convert or drop the columns 'mass' \(Float64\)$"),
        (frame(name=1.0), r"got \[20, 3\] with the columns 'mass', 'radius', 'name'$"),
    ],
    ids=["strings", "booleans", "pandas dtype", "extra column"],
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
