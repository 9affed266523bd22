"""Extreme values, and a table of wrong uses with the error that each must give."""

import functools

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from tensorflow_probability import distributions as tfd

import tfp_realnvp as nvp
from registry import random_tensor

HALF = nvp.masks.half(2)
HUGE = 10**30
X = np.random.default_rng(0).normal(size=(20, 2))
CONTEXT = np.random.default_rng(1).normal(size=(20, 2))
MASKED = np.ma.masked_greater(X, np.sort(X[:, 0])[-3])
ONES = np.ones(20)


@functools.cache
def flow() -> nvp.RealNVP:
    flow = nvp.RealNVP(2, num_couplings=2, hidden_units=(4,), seed=0)
    flow.compile("sgd")
    return flow


@functools.cache
def conditional() -> nvp.RealNVP:
    flow = nvp.RealNVP(2, num_couplings=2, hidden_units=(4,), context_shape=2, seed=0)
    flow.compile("sgd")
    return flow


# Extremes


@functools.cache
def away_from_the_start(factor: float, dtype: str) -> nvp.RealNVP:
    """Four couplings of weights that training could have left, times `factor`."""
    flow = nvp.RealNVP(4, num_couplings=4, hidden_units=(16,), seed=0, dtype=dtype)
    for index, variable in enumerate(flow.trainable_variables):
        variable.assign(factor * (variable + random_tensor(variable.shape, dtype, index, 0.1)))
    return flow


def rows_of(magnitude: float, dtype: str) -> np.ndarray:
    random = np.random.default_rng(0)
    return (magnitude * random.uniform(0.5, 1.0, (50, 4)) * random.choice([-1.0, 1.0], (50, 4))).astype(dtype)


MAGNITUDES = (-0.0, 1e-40, 1e-30, 1.0, 1e6, 1e15)


@pytest.mark.parametrize("magnitude", MAGNITUDES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_extreme_values_have_finite_densities_and_come_back(magnitude, dtype):
    flow, x = away_from_the_start(1.0, dtype), rows_of(magnitude, dtype)
    bijector = flow.bijector()
    assert np.all(np.isfinite(flow.log_prob(x)))
    z = bijector.inverse(x)
    tolerance = {"float32": 1e-4, "float64": 1e-12}[dtype] * max(1.0, magnitude)
    np.testing.assert_allclose(bijector.forward(tf.identity(z)), x, rtol=0, atol=tolerance)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("magnitude", MAGNITUDES)
def test_a_coupling_comes_back_up_to_rounding_of_the_largest_term(magnitude, dtype):
    """|x' - x| <= 16 eps (|x| + exp(B) |shift|), whatever the weights: B bounds the log-scale, nothing the shift."""
    coupling = next(part for part in away_from_the_start(50.0, dtype).bijector().bijectors if hasattr(part, "mask"))
    x = rows_of(magnitude, dtype)
    shift, log_scale = coupling.conditioner(tf.constant(x[:, coupling.mask]))
    bound = coupling.conditioner.log_scale_bound
    assert np.max(np.abs(log_scale)) <= bound
    for there, back in ((coupling.forward, coupling.inverse), (coupling.inverse, coupling.forward)):
        actual = back(tf.identity(there(tf.constant(x)))).numpy()
        np.testing.assert_array_equal(actual[:, coupling.mask], x[:, coupling.mask])
        error = np.abs(actual - x)[:, ~coupling.mask]
        terms = np.abs(x[:, ~coupling.mask]) + np.exp(bound) * np.abs(shift)
        assert np.all(error <= 16 * np.finfo(dtype).eps * terms)


@pytest.mark.parametrize("factor", [1.0, 50.0, 1000.0])
def test_the_log_determinant_is_bounded_whatever_the_weights(factor):
    """By B times the number of features that the couplings move, here 4 times 2."""
    flow = away_from_the_start(factor, "float64")
    for magnitude in (1.0, 1e6, 1e15):
        x = tf.constant(rows_of(magnitude, "float64"))
        log_det = flow.bijector().inverse_log_det_jacobian(x, event_ndims=1)
        assert np.max(np.abs(log_det)) <= 3.0 * 4 * 2


@pytest.mark.parametrize("magnitude", MAGNITUDES)
def test_huge_weights_give_finite_densities_in_double_precision(magnitude):
    """In float32 they may overflow: the sum of what each coupling shifts by has no bound."""
    flow, x = away_from_the_start(50.0, "float64"), rows_of(magnitude, "float64")
    assert np.all(np.isfinite(flow.log_prob(x)))
    assert np.all(np.isfinite(flow.sample(50, seed=1)))


@pytest.mark.parametrize("magnitude", [1e30, float(np.finfo("float32").max) / 10])
def test_beyond_the_square_root_of_the_largest_number_a_density_is_not_finite(magnitude):
    """The base squares z, which overflows beyond 1.8e19 in float32. No such row passes for a likely one."""
    x = rows_of(magnitude, "float32")
    assert not np.any(np.isfinite(away_from_the_start(1.0, "float32").log_prob(x)))
    assert np.all(np.isfinite(away_from_the_start(1.0, "float64").log_prob(x.astype("float64"))))


@pytest.mark.parametrize("value", [np.nan, np.inf, -3e38])
@pytest.mark.parametrize("way", ["log_prob", "call", "predict", "distribution", "bijector"])
def test_a_bad_row_leaves_the_others_alone(way, value):
    flow = away_from_the_start(1.0, "float32")
    calls = {
        "call": flow,
        "predict": lambda x: flow.predict(x, verbose=0),
        "distribution": lambda x: flow.distribution().log_prob(x),
        "bijector": lambda x: np.max(flow.bijector().inverse(x), axis=-1),
    }
    call = calls.get(way, flow.log_prob)
    x, bad = rows_of(1.0, "float32"), rows_of(1.0, "float32")
    rows = [0, 17, 30, 49]
    bad[rows, range(4)] = value
    expected, actual = np.array(call(x)), np.array(call(bad))
    np.testing.assert_allclose(np.delete(actual, rows), np.delete(expected, rows), rtol=1e-5, atol=1e-5)
    if way != "bijector":
        assert not np.any(np.isfinite(actual[rows]))


def test_a_bad_context_leaves_the_other_rows_alone():
    flow = conditional()
    expected = flow.log_prob(X, CONTEXT).numpy()
    for value in (np.nan, np.inf):
        context = CONTEXT.copy()
        context[3, 1] = value
        actual = flow.log_prob(X, context).numpy()
        np.testing.assert_allclose(np.delete(actual, 3), np.delete(expected, 3), rtol=1e-5)
        assert np.all(np.isfinite(np.delete(flow.sample(5, context, seed=1), 3, axis=1)))


# Wrong uses


def batches(data) -> tf.data.Dataset:
    return tf.data.Dataset.from_tensor_slices(data).batch(5)


def nothing_left() -> tf.data.Dataset:
    """Empty, but not known to be."""
    return batches(X).filter(lambda x: False)


def endless(data=X) -> tf.data.Dataset:
    return batches(data).repeat()


class EndlessPyDataset(keras.utils.PyDataset):
    num_batches = None

    def __getitem__(self, index):
        return (X[:5],)


def coupling(conditioner=lambda kept: (kept, kept), mask=HALF, context=None) -> nvp.AffineCoupling:
    return nvp.AffineCoupling(conditioner, mask, context)


def spline(conditioner=lambda kept: tf.zeros([len(kept), 1, 23]), mask=HALF, **options) -> nvp.SplineCoupling:
    return nvp.SplineCoupling(conditioner, mask, **options)


def conditioned(context) -> nvp.AffineCoupling:
    return coupling(lambda kept, context: (kept, kept), context=context)


def returning(*outputs) -> tf.Tensor:
    return coupling(lambda kept: outputs).forward(tf.ones([3, 2]))


def with_x(x) -> dict:
    return {"x": x, "context": CONTEXT}


def with_context(context) -> dict:
    return {"x": X, "context": context}


def row_3(value) -> np.ndarray:
    return np.where(np.arange(20)[:, np.newaxis] == 3, value, X)


LABELS = np.arange(20) % 2
NOT_AN_ARGUMENT = r'context must be passed with x, as \{"x": x, "context": context\}'
ONE_HOT = r"labels must be one-hot, as from keras.utils.to_categorical\(labels, 2\)"
ENDS = r"must end, got an infinite dataset \(as from repeat\(\)\)"
SIZE = "must be an integer of at least 1"
CONTEXT_OF_COUPLING = r"context must be numbers of shape \[\.\.\., K\]"
OF_FIT = "must be an array, a dictionary of arrays or a tf.data.Dataset, got"

WRONG_ARGUMENTS = {
    # masks
    "half None": (lambda: nvp.masks.half(None), "size .* got None"),
    "half string": (lambda: nvp.masks.half("4"), "size .* got '4'"),
    "half list": (lambda: nvp.masks.half([4]), r"size .* got \[4\]"),
    "half NaN": (lambda: nvp.masks.half(np.nan), "size .* got nan"),
    "half complex": (lambda: nvp.masks.half(1j), "size .* got 1j"),
    "half huge": (lambda: nvp.masks.half(HUGE), f"size .* got {HUGE}"),
    "checkerboard array": (lambda: nvp.masks.checkerboard(2, np.array([4])), r"width .* got array\(\[4\]\)"),
    "checkerboard huge": (lambda: nvp.masks.checkerboard(HUGE, 2), f"height .* got {HUGE}"),
    "flip None": (lambda: nvp.masks.alternating(2, flip=None), "flip .* got None"),
    "flip integer": (lambda: nvp.masks.channelwise(2, flip=1), "flip .* got 1"),
    # MLP
    "output_size None": (lambda: nvp.MLP(None), f"output_size {SIZE}, got None"),
    "output_size float": (lambda: nvp.MLP(2.0), f"output_size {SIZE}, got 2.0"),
    "output_size True": (lambda: nvp.MLP(True), f"output_size {SIZE}, got True"),
    "output_size huge": (lambda: nvp.MLP(HUGE)(tf.ones([1, 2])), f"output_size .* got {HUGE}"),
    "hidden_units None": (lambda: nvp.MLP(2, None), "hidden_units .* got None"),
    "hidden_units string": (lambda: nvp.MLP(2, "88"), "hidden_units .* got '88'"),
    "hidden_units bytes": (lambda: nvp.MLP(2, b"88"), "hidden_units .* got b'88'"),
    "hidden_units set": (lambda: nvp.MLP(2, {3, 4}), r"hidden_units .* got \{3, 4\}"),
    "hidden_units dictionary": (lambda: nvp.MLP(2, {3: 4}), r"hidden_units .* got \{3: 4\}"),
    "hidden_units generator": (lambda: nvp.MLP(2, (width for width in (3, 4))), "hidden_units .* got <generator"),
    "hidden_units array of rank 0": (lambda: nvp.MLP(2, np.array(4)), r"hidden_units .* got array\(4\)"),
    "hidden_units array of rank 2": (lambda: nvp.MLP(2, np.ones((2, 2), int)), r"hidden_units\[0\] .* got array"),
    "hidden_units huge": (lambda: nvp.MLP(2, (HUGE,))(tf.ones([1, 2])), rf"hidden_units\[0\] .* got {HUGE}"),
    "log_scale_bound None": (lambda: nvp.MLP(2, log_scale_bound=None), "log_scale_bound .* got None"),
    "log_scale_bound NaN": (lambda: nvp.MLP(2, log_scale_bound=np.nan), "log_scale_bound .* got nan"),
    "log_scale_bound negative": (lambda: nvp.MLP(2, log_scale_bound=-1), "log_scale_bound .* got -1"),
    "log_scale_bound True": (lambda: nvp.MLP(2, log_scale_bound=True), "log_scale_bound .* got True"),
    "log_scale_bound beyond floats": (lambda: nvp.MLP(2, log_scale_bound=10**400), "log_scale_bound .* got 1000"),
    "MLP seed float": (lambda: nvp.MLP(2, seed=1.0), "seed .* got 1.0"),
    "MLP seed array": (lambda: nvp.MLP(2, seed=np.array([1])), r"seed .* got array\(\[1\]\)"),
    "MLP seed huge": (lambda: nvp.MLP(2, (4,), seed=HUGE)(tf.ones([1, 2])), f"seed .* got {HUGE}"),
    "activation number": (lambda: nvp.MLP(2, activation=3), "activation .*3"),
    "MLP dtype unknown": (lambda: nvp.MLP(2, dtype="xyz"), "'xyz'"),
    "MLP dtype integer": (lambda: nvp.MLP(2, dtype="int32")(tf.ones([1, 2])), "dtype .*int32"),
    "kept of rank 0": (lambda: nvp.MLP(2)(tf.constant(1.0)), r"shape .*\[\]"),
    "kept of rank 1": (lambda: nvp.MLP(2)(tf.ones([3])), r"kept .*\[3\]"),
    "kept and context of other rows": (lambda: nvp.MLP(2)(tf.ones([2, 1]), tf.ones([3, 1])), r"2, 1.*3, 1"),
    # AffineCoupling
    "mask None": (lambda: coupling(mask=None), "mask must be a boolean vector .* dtype object"),
    "mask string": (lambda: coupling(mask="ab"), "mask must be a boolean vector .* dtype <U2"),
    "mask integers": (lambda: coupling(mask=[1, 0]), "mask must be a boolean vector .* dtype int64"),
    "mask objects": (lambda: coupling(mask=HALF.astype(object)), "mask must be a boolean vector .* dtype object"),
    "mask empty": (lambda: coupling(mask=np.zeros(0, bool)), r"mask must keep a part .* got \[\]"),
    "mask of rank 0": (lambda: coupling(mask=True), r"mask must be a boolean vector .* shape \[\]"),
    "mask of rank 2": (lambda: coupling(mask=[[True, False]]), r"mask must be a boolean vector .* shape \[1, 2\]"),
    "mask generator": (lambda: coupling(mask=(bit for bit in HALF)), "mask must be a boolean vector"),
    "mask sparse": (lambda: coupling(mask=tf.sparse.from_dense([1, 0])), "mask must be a boolean vector"),
    "context string": (lambda: conditioned("ab"), f"{CONTEXT_OF_COUPLING}, got string"),
    "context complex": (lambda: conditioned(np.ones((3, 2), complex)), f"{CONTEXT_OF_COUPLING}, got complex128"),
    "context booleans": (lambda: conditioned(np.ones((3, 2), bool)), f"{CONTEXT_OF_COUPLING}, got bool"),
    "context ragged list": (lambda: conditioned([[1.0], [1.0, 2.0]]), CONTEXT_OF_COUPLING),
    "context with None": (lambda: conditioned([None, 1.0]), CONTEXT_OF_COUPLING),
    "context objects": (lambda: conditioned(np.array([object()])), CONTEXT_OF_COUPLING),
    "context dictionary": (lambda: conditioned({"context": 1.0}), CONTEXT_OF_COUPLING),
    "context generator": (lambda: conditioned(number for number in (1.0, 2.0)), CONTEXT_OF_COUPLING),
    "context sparse": (lambda: conditioned(tf.sparse.from_dense([[1.0, 0.0]])), CONTEXT_OF_COUPLING),
    "context ragged": (lambda: conditioned(tf.ragged.constant([[1.0], [1.0, 2.0]])), CONTEXT_OF_COUPLING),
    "conditioner a string": (lambda: coupling("tanh"), "conditioner must be callable, got 'tanh'"),
    "conditioner a dictionary": (lambda: coupling({}), r"conditioner must be callable, got \{\}"),
    "conditioner of wrong size": (lambda: coupling(nvp.MLP(3, (4,))), r"conditioner .*\[N, 1\], got shapes \(1, 3\)"),
    "conditioner gives None": (lambda: coupling(lambda kept: None).forward(tf.ones([3, 2])), "conditioner .* got None"),
    "conditioner gives Nones": (lambda: returning(None, None), "conditioner .* got"),
    "conditioner gives strings": (lambda: returning([["a"]] * 3, [["a"]] * 3), "conditioner .* got .*string"),
    "conditioner gives complex": (lambda: returning([[1j]] * 3, [[1j]] * 3), "conditioner .* got .*complex"),
    "event strings": (lambda: coupling().forward([["a", "b"]]), "event .* got string"),
    "event complex": (lambda: coupling().inverse(np.ones((1, 2), complex)), "event .* got complex128"),
    "event booleans": (lambda: coupling().forward([[True, False]]), "event .* got bool"),
    # Other bijectors, residual networks
    "spline num_bins string": (lambda: spline(num_bins="8"), "num_bins must be an integer of at least 2, got '8'"),
    "spline num_bins huge": (lambda: spline(num_bins=HUGE), f"num_bins .* got {HUGE}"),
    "spline bound huge": (lambda: spline(bound=10**400), "bound must be above 0 and finite, got 10"),
    "spline bound array": (lambda: spline(bound=np.ones(2)), r"bound must be above 0 and finite, got array\(\["),
    "spline of a pair": (lambda: spline(lambda kept: (kept, kept)).forward(tf.ones([3, 2])), r"splines .* got \(<tf"),
    "spline of no parameters": (
        lambda: spline(lambda kept: kept).forward(tf.ones([3, 2])),
        r"23\].* got shapes \(3, 1\)",
    ),
    "spline of None": (lambda: spline(lambda kept: None).forward(tf.ones([3, 2])), r"splines .* got \(None,\)"),
    "spline event integers": (lambda: spline().forward(tf.ones([3, 2], tf.int32)), "event .* got int32"),
    "spline mask": (lambda: spline(mask=[True, True]), r"mask must keep a part .* got \[True, True\]"),
    "LU size float": (lambda: nvp.LULinear(2.0), f"size {SIZE}, got 2.0"),
    "LU permutation ragged": (lambda: nvp.LULinear(2, [[0], [0, 1]]), r"permutation must .* got \[\[0\], \[0, 1\]\]"),
    "LU permutation None inside": (lambda: nvp.LULinear(2, [None, 1]), r"permutation must .* got \[None, 1\]"),
    "LU permutation floats": (lambda: nvp.LULinear(2, [0.0, 1.0]), r"permutation must .* got \[0.0, 1.0\]"),
    "LU permutation booleans": (lambda: nvp.LULinear(2, [False, True]), r"permutation must .* got \[False, True\]"),
    "LU permutation set": (lambda: nvp.LULinear(2, {0, 1}), r"permutation must .* got \{0, 1\}"),
    "LU permutation square": (lambda: nvp.LULinear(2, np.eye(2, dtype=int)), r"permutation must .* got array\(\[\["),
    "LU dtype integer": (lambda: nvp.LULinear(2, dtype="int32"), "dtype must be a floating-point .* got 'int32'"),
    "ActNorm dtype unknown": (lambda: nvp.ActNorm(2, dtype="xyz"), "dtype must be a floating-point .* got 'xyz'"),
    "ActNorm size None": (lambda: nvp.ActNorm(None), f"size {SIZE}, got None"),
    "ActNorm epsilon True": (lambda: nvp.ActNorm(2, epsilon=True), "epsilon must be above 0 and finite, got True"),
    "ActNorm epsilon NaN": (lambda: nvp.ActNorm(2, epsilon=np.nan), "epsilon must be above 0 and finite, got nan"),
    "ActNorm event rank 0": (lambda: nvp.ActNorm(2).inverse(1.0), r"event of act_norm must .* got \[\]"),
    "BatchNorm event_ndims": (lambda: nvp.BatchNorm(2, event_ndims=True), f"event_ndims {SIZE}, got True"),
    "BatchNorm momentum False": (lambda: nvp.BatchNorm(2, momentum=False), "momentum must be from 0 .* got False"),
    "BatchNorm dtype None": (lambda: nvp.BatchNorm(2, dtype=None), "dtype must be a floating-point .* got None"),
    "BatchNorm image": (lambda: nvp.BatchNorm(2, event_ndims=3).forward(tf.ones([4, 2])), r"event of .* got \[4, 2\]"),
    "ResNet hidden_units string": (lambda: nvp.ResNet(1, "ab"), "hidden_units must be a sequence .* got 'ab'"),
    "ResNet hidden_units None": (lambda: nvp.ResNet(1, None), "hidden_units must be a sequence .* got None"),
    "ResNet normalization list": (
        lambda: nvp.ResNet(1, (4,), normalization=["batch"]),
        r"normalization .* \['batch'\]",
    ),
    "ResNet gate_context None": (lambda: nvp.ResNet(1, (4,), gate_context=None), "gate_context .* got None"),
    "MLP num_parameters float": (lambda: nvp.MLP(1, num_parameters=23.0), f"num_parameters {SIZE}, got 23.0"),
    # Flow
    "distribution a class": (lambda: nvp.Flow(tfd.Normal), "distribution must be a tfd.Distribution, got <class"),
    "distribution a string": (lambda: nvp.Flow("normal"), "distribution must be a tfd.Distribution, got 'normal'"),
    "Flow context_shape zero": (lambda: nvp.Flow(tfd.Normal(0.0, 1.0), context_shape=0), "context_shape .* got 0"),
    "Flow context_shape string": (lambda: nvp.Flow(tfd.Normal(0.0, 1.0), context_shape="a"), "context_shape .*'a'"),
    "Flow dtype unknown": (lambda: nvp.Flow(tfd.Normal(0.0, 1.0), dtype="xyz"), "dtype must .*'xyz'"),
    "Flow dtype number": (lambda: nvp.Flow(tfd.Normal(0.0, 1.0), dtype=3), "dtype.*3"),
    # RealNVP
    "event_shape string": (lambda: nvp.RealNVP("4"), "event_shape .* got '4'"),
    "event_shape NaN": (lambda: nvp.RealNVP(np.nan), "event_shape .* got nan"),
    "event_shape negative": (lambda: nvp.RealNVP(-3), "event_shape .* got -3"),
    "event_shape empty": (lambda: nvp.RealNVP(()), r"event_shape .* got \(\)"),
    "event_shape huge": (lambda: nvp.RealNVP(HUGE), f"event_shape .* got {HUGE}"),
    "num_couplings None": (lambda: nvp.RealNVP(2, num_couplings=None), f"num_couplings {SIZE}, got None"),
    "num_couplings float": (lambda: nvp.RealNVP(2, num_couplings=4.0), f"num_couplings {SIZE}, got 4.0"),
    "num_couplings True": (lambda: nvp.RealNVP(2, num_couplings=True), f"num_couplings {SIZE}, got True"),
    "context_shape negative": (lambda: nvp.RealNVP(2, context_shape=-1), "context_shape .* got -1"),
    "context_shape pair": (lambda: nvp.RealNVP(2, context_shape=(1, 2)), r"context_shape .* got \(1, 2\)"),
    "context_shape huge": (lambda: nvp.RealNVP(2, context_shape=HUGE), f"context_shape .* got {HUGE}"),
    "coupling None": (lambda: nvp.RealNVP(2, coupling=None), "coupling must be one of .* got None"),
    "coupling list": (lambda: nvp.RealNVP(2, coupling=["spline"]), r"coupling must be one of .*\['spline'\]"),
    "conditioner of RealNVP a layer": (lambda: nvp.RealNVP(2, conditioner=nvp.MLP(1)), "conditioner must be one of"),
    "dropout NaN": (lambda: nvp.RealNVP(2, dropout=np.nan), "dropout must be from 0 to below 1, got nan"),
    "dropout True": (lambda: nvp.RealNVP(2, dropout=True), "dropout must be from 0 to below 1, got True"),
    "dropout None": (lambda: nvp.RealNVP(2, dropout=None), "dropout must be from 0 to below 1, got None"),
    "num_bins huge": (lambda: nvp.RealNVP(2, coupling="spline", num_bins=HUGE), f"num_bins .* got {HUGE}"),
    "num_bins float": (lambda: nvp.RealNVP(2, num_bins=8.0), "num_bins must be an integer of at least 2, got 8.0"),
    "bound NaN": (lambda: nvp.RealNVP(2, coupling="spline", bound=np.nan), "bound must be .* got nan"),
    "bound True": (lambda: nvp.RealNVP(2, coupling="spline", bound=True), "bound must be .* got True"),
    "normalization True": (lambda: nvp.RealNVP(2, normalization=True), "normalization must be one of .* got True"),
    "bound None, of no use": (lambda: nvp.RealNVP(2, bound=None), "bound must be above 0 and finite, got None"),
    "bound string, of no use": (lambda: nvp.RealNVP(2, bound="a"), "bound must be above 0 and finite, got 'a'"),
    "dropout of no network": (lambda: nvp.RealNVP(1, dropout=2.0), "dropout must be from 0 to below 1, got 2.0"),
    "log_scale_bound of no network": (lambda: nvp.RealNVP(1, log_scale_bound="a"), "log_scale_bound must .* got 'a'"),
    "permutation list": (lambda: nvp.RealNVP(2, permutation=["random"]), r"permutation must be one of .*\['random'\]"),
    "dtype a number": (lambda: nvp.RealNVP(2, dtype=3), "dtype .* got 3"),
    "dtype complex": (lambda: nvp.RealNVP(2, dtype="complex64"), "dtype .* got 'complex64'"),
    "dtype bool": (lambda: nvp.RealNVP(2, dtype=bool), "dtype .* got <class 'bool'>"),
    "RealNVP seed huge": (lambda: nvp.RealNVP(2, seed=HUGE), f"seed .* got {HUGE}"),
    "RealNVP seed float": (lambda: nvp.RealNVP(2, seed=1.0), "seed .* got 1.0"),
    "base_distribution a class": (lambda: nvp.RealNVP(2, base_distribution=tfd.Normal), "base_distribution .*<class"),
}

WRONG_DATA = {
    # Every way that data go in
    "adapt None": (lambda: flow().adapt(None), f"data {OF_FIT} None"),
    "adapt string": (lambda: flow().adapt("ab"), f"data {OF_FIT} 'ab'"),
    "adapt list": (lambda: flow().adapt(X.tolist()), rf"data {OF_FIT} \[\["),
    "adapt sparse": (lambda: flow().adapt(tf.sparse.from_dense(X)), "data must be an array"),
    "adapt ragged": (lambda: flow().adapt(tf.ragged.constant([[1.0], [1.0, 2.0]])), r"data must .*"),
    "adapt dates": (lambda: flow().adapt(X.astype("M8[s]")), "data must be an array of numbers, got dtype datetime64"),
    "adapt rank 1": (lambda: flow().adapt(X[:, 0]), r"data must have shape \[N, 2\], got \[20\]"),
    "adapt no key": (lambda: flow().adapt({}), r"data must have the keys .* got \[\]"),
    "adapt mixed keys": (lambda: flow().adapt({1: X, "a": X}), r"data must have the keys .* got \[.*1"),
    "adapt list in a dictionary": (lambda: flow().adapt({"x": X.tolist()}), r'data\["x"\] must be an array'),
    "adapt dataset of rows": (lambda: flow().adapt(batches(X).unbatch()), r"data must have shape .*\[2\]"),
    "adapt dataset of strings": (lambda: flow().adapt(batches(X.astype(str))), "data must be an array of numbers"),
    "adapt dataset of complex": (lambda: flow().adapt(batches(X.astype(complex))), "data must be an array of numbers"),
    "adapt dataset, nothing left": (lambda: flow().adapt(nothing_left()), "data must have at least one row"),
    "adapt context of other rows in a dataset": (
        lambda: conditional().adapt(tf.data.Dataset.from_tensors(with_context(CONTEXT[:5]))),
        "as many rows, got 20 and 5",
    ),
    "adapt infinite row": (lambda: flow().adapt(row_3(np.inf)), "data has a NaN or infinity in 1 of its 20 rows: 3"),
    "adapt NaN in a context": (
        lambda: conditional().adapt(with_context(row_3(np.nan))),
        r'data\["context"\] has a NaN or infinity in 1 of its 20 rows: 3',
    ),
    "adapt dataset of infinite rows": (lambda: flow().adapt(batches(row_3(np.inf))), r"batch 0 of data has .*: 3 "),
    "adapt values too large": (lambda: flow().adapt(row_3(1e39)), r"data has .* in 1 .*: 3 \(as float32\)"),
    "adapt context too large": (
        lambda: conditional().adapt(with_context(row_3(1e39))),
        r'data\["context"\] has a NaN or infinity in 1 of its 20 rows: 3 \(as float32\)',
    ),
    "adapt context too large, dataset": (
        lambda: conditional().adapt(batches(with_context(row_3(1e39)))),
        r'batch 0 of data\["context"\] has a NaN or infinity in 1 of its 5 rows: 3 \(as float32\)',
    ),
    "adapt context too narrow": (
        lambda: conditional().adapt(with_context(CONTEXT * [1.0, 1e-50])),
        r'data\["context"\] varies too little for float32 in the features \[1\]: .* dtype="float64"',
    ),
    "adapt context too narrow, dataset": (
        lambda: conditional().adapt(batches(with_context(CONTEXT * [1.0, 1e-50]))),
        r'data\["context"\] varies too little for float32 in the features \[1\]',
    ),
    "adapt context too wide": (
        lambda: conditional().adapt(with_context(row_3(3e38) - 3e38 * (row_3(0.0) != 0.0))),
        r'data\["context"\] spreads too far for float32 in the features \[0, 1\]',
    ),
    "adapt deviation below normal numbers": (
        lambda: flow().adapt(X * [1e-39, 1.0]),
        r"data varies too little for float32 in the features \[0\]",
    ),
    "adapt rows equal in float32": (lambda: flow().adapt(1e8 + 1e-3 * X), r"data varies too little .* \[0, 1\]"),
    "adapt constant scalars": (
        lambda: nvp.Flow(tfd.Normal(tf.Variable(0.0), 1.0)).adapt(ONES),
        "data is constant: drop",
    ),
    "adapt constant entry of a matrix": (
        lambda: nvp.Flow(tfd.Independent(tfd.Normal(tf.Variable(tf.zeros([2, 2])), 1.0), 2)).adapt(
            np.stack([X, np.stack([X[:, 0], ONES], axis=1)], axis=1)
        ),
        r"data is constant in the features \[\(1, 1\)\]: drop",
    ),
    "adapt context argument": (lambda: conditional().adapt(X, context=CONTEXT), NOT_AN_ARGUMENT),
    "adapt no context": (
        lambda: conditional().adapt(X),
        r'is missing; pass it with x, as \{"x": x, "context": context',
    ),
    "adapt endless": (lambda: flow().adapt(endless()), f"data {ENDS}$"),
    "fit endless": (lambda: flow().fit(endless()), f"x {ENDS}; give steps_per_epoch"),
    "fit endless PyDataset": (lambda: flow().fit(EndlessPyDataset()), f"x {ENDS}; give steps_per_epoch"),
    "fit context argument": (lambda: conditional().fit(X, context=CONTEXT), NOT_AN_ARGUMENT),
    "fit labels": (lambda: conditional().fit(with_context(LABELS)), rf'x\["context"\] .* got \[20\]; {ONE_HOT}'),
    "fit labels [N, 1]": (lambda: conditional().fit(with_context(LABELS[:, np.newaxis])), rf"got \[20, 1\]; {ONE_HOT}"),
    "fit labels, dataset": (
        lambda: conditional().fit(batches(with_context(LABELS))),
        rf'x\["context"\] .* got \[None\]; {ONE_HOT}',
    ),
    "fit None": (lambda: flow().fit(None), f"x {OF_FIT} None"),
    "fit nothing": (lambda: flow().fit(), f"x {OF_FIT} None"),
    "fit number": (lambda: flow().fit(3.0), f"x {OF_FIT} 3.0"),
    "fit rank 0": (lambda: flow().fit(np.float64(3.0)), "x must"),
    "fit rank 3": (lambda: flow().fit(X[np.newaxis]), r"x must have shape \[N, 2\], got \[1, 20, 2\]"),
    "fit bytes": (lambda: flow().fit(X.astype("S5")), "x must be an array of numbers, got dtype"),
    "fit records": (lambda: flow().fit(np.zeros(20, [("a", float)])), r"x must have shape .* got \[20\]"),
    "fit mixed keys": (lambda: flow().fit({1: X, "a": X}), r"x must have the keys .* got \[.*1"),
    "fit x of None": (lambda: flow().fit({"x": None}), r'x\["x"\] must be an array, got'),
    "fit one more key": (lambda: flow().fit({"x": X, "y": X}), r"x must have the keys .* got \['x', 'y'\]"),
    "fit tuple": (lambda: conditional().fit((X, CONTEXT)), r"x must be an array"),
    "fit generator": (lambda: flow().fit(row for row in X), "generator"),
    "fit dataset of wrong shape": (lambda: flow().fit(batches(np.ones((20, 3)))), r"\[N, 2\], got \[.*3\]"),
    "fit dataset of strings": (lambda: flow().fit(batches(X.astype(str))), "array of numbers, got dtype string"),
    "fit dataset of wrong keys": (lambda: flow().fit(batches({"X": X})), r"keys .* got \['X'\]"),
    "fit dataset, nothing left": (lambda: flow().fit(nothing_left(), verbose=0), "at least one"),
    "fit context string": (lambda: conditional().fit(with_context("ab")), r'x\["context"\] must be an array'),
    "fit context rank 1": (lambda: conditional().fit(with_context(CONTEXT[:, 0])), r'x\["context"\] .* \[20\]'),
    "fit context objects": (lambda: conditional().fit(with_context(X.astype(object))), r'x\["context"\] .* object'),
    "fit context of other rows": (lambda: conditional().fit(with_context(X[:5])), "x: x and context .* 20 and 5"),
    "fit x and y": (lambda: conditional().fit(X, CONTEXT), "x: a flow has no targets y"),
    "validation list": (lambda: flow().fit(X, validation_data=X.tolist()), "validation_data"),
    "validation empty list": (lambda: flow().fit(X, validation_data=[]), "validation_data"),
    "validation string": (lambda: flow().fit(X, validation_data="ab"), f"validation_data {OF_FIT} 'ab'"),
    "validation shape": (lambda: flow().fit(X, validation_data=np.ones((4, 3))), r"validation_data .* got \[4, 3\]"),
    "validation masked": (lambda: flow().fit(X, validation_data=MASKED), "validation_data has a NaN or infinity in"),
    "validation weights": (
        lambda: flow().fit(X, validation_data=(X, None, ONES[:5])),
        "validation_data: sample_weight must have one weight for each of 20 rows, got 5",
    ),
    "validation context": (
        lambda: conditional().fit(with_x(X), validation_data=with_context(row_3(np.inf))),
        r'validation_data\["context"\] has a NaN or infinity in 1 of its 20 rows: 3',
    ),
    "validation endless": (
        lambda: flow().fit(X, validation_data=endless()),
        f"validation_data {ENDS}; give validation_steps",
    ),
    "weights string": (lambda: flow().fit(X, sample_weight="ab"), "sample_weight must be an array, got <class 'str'>"),
    "weights dictionary": (lambda: flow().fit(X, sample_weight={}), "sample_weight must be an array, got <class 'dict"),
    "weights rank 0": (lambda: flow().fit(X, sample_weight=np.float64(1.0)), r"sample_weight must .*got \[\]"),
    "weights complex": (lambda: flow().fit(X, sample_weight=ONES.astype(complex)), "sample_weight .* complex128"),
    "weights strings": (lambda: flow().fit(X, sample_weight=ONES.astype(str)), "sample_weight .* <U"),
    "weights of strings, tensor": (lambda: flow().fit(X, sample_weight=tf.fill([20], "1")), "sample_weight .*"),
    "weights objects": (lambda: flow().fit(X, sample_weight=ONES.astype(object)), "sample_weight .* object"),
    "weights records": (lambda: flow().fit(X, sample_weight=np.zeros(20, [("a", float)])), "sample_weight"),
    "evaluate weights rank 0": (lambda: flow().evaluate(X, sample_weight=np.float64(1.0)), "sample_weight must"),
    "evaluate list": (lambda: flow().evaluate(X.tolist()), f"x {OF_FIT}"),
    "evaluate masked": (lambda: flow().evaluate(MASKED), "x has a NaN or infinity in"),
    "evaluate empty": (lambda: flow().evaluate(X[:0]), "x must have at least one row"),
    "evaluate infinite context": (
        lambda: conditional().evaluate(with_context(row_3(np.inf))),
        r'x\["context"\] has a NaN or infinity in 1 of its 20 rows: 3',
    ),
    "evaluate dataset, nothing left": (lambda: flow().evaluate(nothing_left(), verbose=0), "at least one"),
    "evaluate endless": (lambda: flow().evaluate(endless()), f"x {ENDS}; give steps,"),
    "evaluate context argument": (lambda: conditional().evaluate(X, context=CONTEXT), NOT_AN_ARGUMENT),
    "predict endless": (lambda: flow().predict(endless()), f"x {ENDS}; give steps,"),
    "predict context argument": (lambda: conditional().predict(X, context=CONTEXT), NOT_AN_ARGUMENT),
    "predict None": (lambda: flow().predict(None), f"x {OF_FIT} None"),
    "predict complex": (
        lambda: flow().predict(X.astype(complex)),
        "x must be an array of numbers, got dtype complex128",
    ),
    "predict empty": (lambda: flow().predict(X[:0]), "x must have at least one row"),
    "predict mixed keys": (lambda: flow().predict({1: X, "a": X}), r"x must have the keys .* got \[.*1"),
    "predict masked": (lambda: flow().predict(MASKED, verbose=0), "x has a NaN or infinity in"),
    "predict dataset, nothing left": (lambda: flow().predict(nothing_left(), verbose=0), "at least one"),
    "log_prob strings": (lambda: flow().log_prob(X.astype(str)), "x must be an array of numbers, got dtype string"),
    "log_prob complex": (lambda: flow().log_prob(X.astype(complex)), "x must be an array of numbers, got dtype comp"),
    "log_prob objects": (lambda: flow().log_prob(X.astype(object)), "x must be an array of numbers, got array"),
    "log_prob sparse": (lambda: flow().log_prob(tf.sparse.from_dense(X)), "x must be an array of numbers, got Sparse"),
    "log_prob dictionary": (lambda: flow().log_prob({"x": X}), r"x must be an array, got a dictionary of \['x'\]"),
    "log_prob dataset": (lambda: flow().log_prob(batches(X)), "x must be an array of numbers, got <_BatchDataset"),
    "log_prob masked": (lambda: flow().log_prob(MASKED), "x "),
    "log_prob context string": (lambda: conditional().log_prob(X, "ab"), "context must be an array of numbers, got dt"),
    "log_prob context ragged": (lambda: conditional().log_prob(X, [[1.0], [1.0, 2.0]]), "context must be an array"),
    "log_prob conditional dictionary": (
        lambda: conditional().log_prob(with_context(CONTEXT)),
        r"pass log_prob\(x, context\)",
    ),
    "log_prob labels": (lambda: conditional().log_prob(X, LABELS), rf"context must .* got \[20\]; {ONE_HOT}"),
    "sample labels": (lambda: conditional().sample(context=LABELS[:, np.newaxis]), rf"got \[20, 1\]; {ONE_HOT}"),
    "log_prob context rank 0": (lambda: conditional().log_prob(X, 1.0), r"context must have shape .* got \[\]"),
    "call mixed keys": (lambda: flow()({1: X, "a": X}), r"must have the keys .* got \[.*1"),
    "call pair": (lambda: conditional()((X, CONTEXT)), r"a context of shape \[\.\.\., 2\] is missing"),
    "sample context complex": (lambda: conditional().sample(2, X.astype(complex)), "context .* got dtype complex128"),
    "distribution context None in a list": (
        lambda: conditional().distribution([None, 1.0]),
        "context must be an array",
    ),
    "bijector context sparse": (lambda: conditional().bijector(tf.sparse.from_dense(X)), "context must be an array"),
    "sample_shape None": (lambda: flow().sample(None), "sample_shape .* got None"),
    "sample_shape NaN": (lambda: flow().sample(np.nan), "sample_shape .* got nan"),
    "sample_shape True": (lambda: flow().sample_and_log_prob(True), "sample_shape .* got True"),
    "sample_shape dictionary": (lambda: flow().sample({}), r"sample_shape .* got \{\}"),
    "sample_shape nested": (lambda: flow().sample_and_log_prob([[1]]), r"sample_shape .* got \[\[1\]\]"),
    "sample_shape huge": (lambda: flow().sample(HUGE), f"sample_shape .* got {HUGE}"),
    "seed empty": (lambda: flow().sample(2, seed=[]), r"seed .* got \[\]"),
    "seed complex": (lambda: flow().sample(2, seed=1j), "seed .* got 1j"),
    "seed NaN": (lambda: flow().sample_and_log_prob(2, seed=np.nan), "seed .* got nan"),
    "seed tensor of floats": (lambda: flow().sample(2, seed=tf.constant([1.0, 2.0])), "seed .* got <tf.Tensor"),
    "seed generator": (lambda: flow().sample(2, seed=np.random.default_rng(0)), "seed .* got Generator"),
    "seed dictionary": (lambda: flow().sample(2, seed={}), r"seed .* got \{\}"),
}

WRONG_COMPILE = {
    "optimizer number": (lambda: flow().compile(3), "optimizer.*3"),
    "optimizer unknown": (lambda: flow().compile("no such"), "optimizer.*no such"),
    "optimizer class": (lambda: flow().compile(keras.optimizers.SGD), "optimizer.*<class"),
    "optimizer dictionary": (lambda: flow().compile({}), r"optimizer.*\{\}"),
    "loss": (lambda: flow().compile("sgd", "mse"), "loss must be None, got 'mse'"),
    "loss_weights": (lambda: flow().compile("sgd", loss_weights=[1.0]), r"loss_weights must be None, got \[1.0\]"),
    "jit_compile string": (lambda: flow().compile("sgd", jit_compile="yes"), "jit_compile .* got 'yes'"),
    "steps_per_execution NaN": (lambda: flow().compile("sgd", steps_per_execution=np.nan), f"{SIZE}, got nan"),
}
NUMBERS = [
    ("fit", "batch_size", (0, -1, 1.5, "a")),
    ("fit", "epochs", (-1, 1.5, "a")),
    ("fit", "steps_per_epoch", (0, -1, 1.5, "a")),
    ("fit", "validation_split", (-1.0, 1.0, 1.5, "a")),
    ("evaluate", "batch_size", (0, -1, 1.5, "a")),
    ("evaluate", "steps", (0, -1, 1.5, "a")),
    ("predict", "batch_size", (0, -1, 1.5, "a")),
    ("predict", "steps", (0, -1, 1.5, "a")),
]


@pytest.mark.parametrize(
    ("method", "argument", "value"),
    [(method, argument, value) for method, argument, values in NUMBERS for value in values],
)
def test_wrong_number(method, argument, value):
    with pytest.raises(ValueError, match=f"{argument}.*{value}"):
        getattr(flow(), method)(X, verbose=0, **{argument: value})


@pytest.mark.parametrize("use", [*WRONG_ARGUMENTS, *WRONG_DATA])
def test_wrong_use(use):
    call, message = (WRONG_ARGUMENTS | WRONG_DATA)[use]
    with pytest.raises(ValueError, match=f"(?s){message}"):
        call()


@pytest.mark.parametrize("use", WRONG_COMPILE)
def test_wrong_use_of_compile(use):
    call, message = WRONG_COMPILE[use]
    try:
        with pytest.raises(ValueError, match=f"(?s){message}"):
            call()
    finally:
        flow().compile("sgd")


WRONG_FILES = {
    "save None": (lambda file: flow().save(None), "filepath .* got None"),
    "save number": (lambda file: flow().save(3), "filepath .* got 3"),
    "save bytes": (lambda file: flow().save(b"flow.keras"), "filepath .* got b'flow.keras'"),
    "save empty": (lambda file: flow().save(""), r"filepath must end in \.keras, got ''"),
    "save_weights to another suffix": (
        lambda file: flow().save_weights("weights.keras"),
        r"filepath must end in \.weights\.h5, got .weights\.keras",
    ),
    "load_weights of a text": (lambda file: flow().load_weights(file), "filepath=.*text"),
    "export None": (lambda file: flow().export(None), "filepath .* got None"),
    "export number": (lambda file: flow().export(3), "filepath .* got 3"),
    "export empty": (lambda file: flow().export(""), "filepath .* got ''"),
    "export onto a file": (lambda file: flow().export(file), "filepath .* got .*text"),
}


@pytest.mark.parametrize("use", WRONG_FILES)
def test_wrong_use_of_files(use, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text").write_text("no flow")
    call, message = WRONG_FILES[use]
    with pytest.raises(ValueError, match=message):
        call(str(tmp_path / "text"))
    assert [path.name for path in tmp_path.iterdir()] == ["text"]


class Frame:
    """What a table of pandas shows of itself."""

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


def test_what_looks_like_an_array_is_one():
    model = nvp.RealNVP(2, num_couplings=1, hidden_units=(), seed=0)
    model.compile("sgd")
    expected = model.log_prob(X)
    for like in (Frame(X), X.tolist(), tuple(map(tuple, X)), np.asfortranarray(X), X[::-1][::-1], tf.constant(X)):
        np.testing.assert_array_equal(model.log_prob(like), expected)
    for like in (Frame(X), np.asfortranarray(X), X[::-1][::-1], tf.constant(X)):
        np.testing.assert_allclose(model.predict(like, verbose=0), expected, rtol=1e-5)
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
    ids=["strings", "truth values", "numbers of pandas", "one more"],
)
def test_errors_name_the_columns_of_a_data_frame(data, message):
    for call in (flow().fit, flow().evaluate, flow().predict, flow().adapt, flow().log_prob):
        with pytest.raises(ValueError, match=message):
            call(data)
    with pytest.raises(ValueError, match=rf'x\["context"\] must .*{message}'):
        conditional().fit(with_context(data))


def test_errors_name_the_columns_with_a_nan():
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


def test_at_most_ten_rows_are_named():
    with pytest.raises(ValueError, match=r"in 20 of its 20 rows: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, \.\.\. \(as float32\)"):
        flow().fit(np.full((20, 2), np.nan))
