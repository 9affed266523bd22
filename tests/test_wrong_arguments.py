"""Wrong arguments to masks, networks, bijectors and flows, with the error that each must give."""

import numpy as np
import pytest
import tensorflow as tf
from tensorflow_probability import distributions as tfd

import tfp_realnvp as nvp

X = np.random.default_rng(0).normal(size=(20, 2))
SIZE_ERROR = "must be an integer of at least 1"


HALF = nvp.masks.half(2)


HUGE = 10**30


def coupling(conditioner=lambda kept: (kept, kept), mask=HALF, context=None) -> nvp.AffineCoupling:
    return nvp.AffineCoupling(conditioner, mask, context)


def spline(conditioner=lambda kept: tf.zeros([len(kept), 1, 23]), mask=HALF, **options) -> nvp.SplineCoupling:
    return nvp.SplineCoupling(conditioner, mask, **options)


def coupling_given(context) -> nvp.AffineCoupling:
    return coupling(lambda kept, context: (kept, kept), context=context)


def forward_with_outputs(*outputs) -> tf.Tensor:
    return coupling(lambda kept: outputs).forward(tf.ones([3, 2]))


CONTEXT_ERROR = r"context must be numbers of shape \[\.\.\., K\]"


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
    "output_size None": (lambda: nvp.MLP(None), f"output_size {SIZE_ERROR}, got None"),
    "output_size float": (lambda: nvp.MLP(2.0), f"output_size {SIZE_ERROR}, got 2.0"),
    "output_size True": (lambda: nvp.MLP(True), f"output_size {SIZE_ERROR}, got True"),
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
    "kept and context with different rows": (lambda: nvp.MLP(2)(tf.ones([2, 1]), tf.ones([3, 1])), r"2, 1.*3, 1"),
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
    "context string": (lambda: coupling_given("ab"), f"{CONTEXT_ERROR}, got string"),
    "context complex": (lambda: coupling_given(np.ones((3, 2), complex)), f"{CONTEXT_ERROR}, got complex128"),
    "context booleans": (lambda: coupling_given(np.ones((3, 2), bool)), f"{CONTEXT_ERROR}, got bool"),
    "context ragged list": (lambda: coupling_given([[1.0], [1.0, 2.0]]), CONTEXT_ERROR),
    "context with None": (lambda: coupling_given([None, 1.0]), CONTEXT_ERROR),
    "context objects": (lambda: coupling_given(np.array([object()])), CONTEXT_ERROR),
    "context dictionary": (lambda: coupling_given({"context": 1.0}), CONTEXT_ERROR),
    "context generator": (lambda: coupling_given(number for number in (1.0, 2.0)), CONTEXT_ERROR),
    "context sparse": (lambda: coupling_given(tf.sparse.from_dense([[1.0, 0.0]])), CONTEXT_ERROR),
    "context ragged": (lambda: coupling_given(tf.ragged.constant([[1.0], [1.0, 2.0]])), CONTEXT_ERROR),
    "conditioner string": (lambda: coupling("tanh"), "conditioner must be callable, got 'tanh'"),
    "conditioner dictionary": (lambda: coupling({}), r"conditioner must be callable, got \{\}"),
    "conditioner with wrong size": (lambda: coupling(nvp.MLP(3, (4,))), r"conditioner .*\[N, 1\], got shapes \(1, 3\)"),
    "conditioner gives None": (lambda: coupling(lambda kept: None).forward(tf.ones([3, 2])), "conditioner .* got None"),
    "conditioner gives Nones": (lambda: forward_with_outputs(None, None), "conditioner .* got"),
    "conditioner gives strings": (
        lambda: forward_with_outputs([["a"]] * 3, [["a"]] * 3),
        "conditioner .* got .*string",
    ),
    "conditioner gives complex": (lambda: forward_with_outputs([[1j]] * 3, [[1j]] * 3), "conditioner .* got .*complex"),
    "event strings": (lambda: coupling().forward([["a", "b"]]), "event .* got string"),
    "event complex": (lambda: coupling().inverse(np.ones((1, 2), complex)), "event .* got complex128"),
    "event booleans": (lambda: coupling().forward([[True, False]]), "event .* got bool"),
    # Other bijectors and residual networks
    "spline num_bins string": (lambda: spline(num_bins="8"), "num_bins must be an integer of at least 2, got '8'"),
    "spline num_bins huge": (lambda: spline(num_bins=HUGE), f"num_bins .* got {HUGE}"),
    "spline bound huge": (lambda: spline(bound=10**400), "bound must be above 0 and finite, got 10"),
    "spline bound array": (lambda: spline(bound=np.ones(2)), r"bound must be above 0 and finite, got array\(\["),
    "spline conditioner gives a pair": (
        lambda: spline(lambda kept: (kept, kept)).forward(tf.ones([3, 2])),
        r"splines .* got \(<tf",
    ),
    "spline conditioner gives one number": (
        lambda: spline(lambda kept: kept).forward(tf.ones([3, 2])),
        r"23\].* got shapes \(3, 1\)",
    ),
    "spline conditioner gives None": (
        lambda: spline(lambda kept: None).forward(tf.ones([3, 2])),
        r"splines .* got None",
    ),
    "spline event integers": (lambda: spline().forward(tf.ones([3, 2], tf.int32)), "event .* got int32"),
    "spline mask": (lambda: spline(mask=[True, True]), r"mask must keep a part .* got \[True, True\]"),
    "Bounds string": (lambda: nvp.Bounds("a", [1.0]), "lower must be a sequence of numbers, got 'a'"),
    "Bounds scalar": (lambda: nvp.Bounds([0.0], 1.0), r"upper must have shape \[D\], got \[\]"),
    "Bounds empty": (lambda: nvp.Bounds([], []), r"lower must have shape \[D\], got \[0\]"),
    "Bounds of different sizes": (lambda: nvp.Bounds([0.0], [1.0, 2.0]), r"the same shape, got \[1\] and \[2\]"),
    "Bounds NaN": (lambda: nvp.Bounds([np.nan], [1.0]), r"lower\[0\] must be below upper\[0\], got nan and 1.0"),
    "Bounds swapped": (lambda: nvp.Bounds([0, 2], [1, 1]), r"lower\[1\] must be below upper\[1\], got 2.0 and 1.0"),
    "Bounds inf": (lambda: nvp.Bounds([np.inf], [np.inf]), r"lower\[0\] must be below upper\[0\], got inf and inf"),
    "Bounds too close": (
        lambda: nvp.Bounds([1e6], [1e6 + 1], dtype="float32"),
        "must be finite and apart in float32, got 1000000.0",
    ),
    "Bounds too large": (
        lambda: nvp.Bounds([-1e39], [0.0], dtype="float32"),
        r"must be finite and apart in float32, got -1e\+39",
    ),
    "Bounds dtype": (lambda: nvp.Bounds([0.0], [1.0], dtype="int32"), "dtype must be a floating-point .* got 'int32'"),
    "Bounds event": (lambda: nvp.Bounds([0.0], [1.0]).forward(tf.ones([3, 2])), r"shape \[\.\.\., 1\], got \[3, 2\]"),
    "LU size float": (lambda: nvp.LULinear(2.0), f"size {SIZE_ERROR}, got 2.0"),
    "LU permutation ragged": (lambda: nvp.LULinear(2, [[0], [0, 1]]), r"permutation must .* got \[\[0\], \[0, 1\]\]"),
    "LU permutation with None": (lambda: nvp.LULinear(2, [None, 1]), r"permutation must .* got \[None, 1\]"),
    "LU permutation floats": (lambda: nvp.LULinear(2, [0.0, 1.0]), r"permutation must .* got \[0.0, 1.0\]"),
    "LU permutation booleans": (lambda: nvp.LULinear(2, [False, True]), r"permutation must .* got \[False, True\]"),
    "LU permutation set": (lambda: nvp.LULinear(2, {0, 1}), r"permutation must .* got \{0, 1\}"),
    "LU permutation square": (lambda: nvp.LULinear(2, np.eye(2, dtype=int)), r"permutation must .* got array\(\[\["),
    "LU dtype integer": (lambda: nvp.LULinear(2, dtype="int32"), "dtype must be a floating-point .* got 'int32'"),
    "ActNorm dtype unknown": (lambda: nvp.ActNorm(2, dtype="xyz"), "dtype must be a floating-point .* got 'xyz'"),
    "ActNorm size None": (lambda: nvp.ActNorm(None), f"size {SIZE_ERROR}, got None"),
    "ActNorm epsilon True": (lambda: nvp.ActNorm(2, epsilon=True), "epsilon must be above 0 and finite, got True"),
    "ActNorm epsilon NaN": (lambda: nvp.ActNorm(2, epsilon=np.nan), "epsilon must be above 0 and finite, got nan"),
    "ActNorm event rank 0": (lambda: nvp.ActNorm(2).inverse(1.0), r"event of act_norm must .* got \[\]"),
    "BatchNorm event_ndims": (lambda: nvp.BatchNorm(2, event_ndims=True), f"event_ndims {SIZE_ERROR}, got True"),
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
    "MLP num_parameters float": (lambda: nvp.MLP(1, num_parameters=23.0), f"num_parameters {SIZE_ERROR}, got 23.0"),
    # Flow
    "distribution class": (lambda: nvp.Flow(tfd.Normal), "distribution must be a tfd.Distribution, got <class"),
    "distribution string": (lambda: nvp.Flow("normal"), "distribution must be a tfd.Distribution, got 'normal'"),
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
    "num_couplings None": (lambda: nvp.RealNVP(2, num_couplings=None), f"num_couplings {SIZE_ERROR}, got None"),
    "num_couplings float": (lambda: nvp.RealNVP(2, num_couplings=4.0), f"num_couplings {SIZE_ERROR}, got 4.0"),
    "num_couplings True": (lambda: nvp.RealNVP(2, num_couplings=True), f"num_couplings {SIZE_ERROR}, got True"),
    "context_shape negative": (lambda: nvp.RealNVP(2, context_shape=-1), "context_shape .* got -1"),
    "context_shape pair": (lambda: nvp.RealNVP(2, context_shape=(1, 2)), r"context_shape .* got \(1, 2\)"),
    "context_shape huge": (lambda: nvp.RealNVP(2, context_shape=HUGE), f"context_shape .* got {HUGE}"),
    "coupling None": (lambda: nvp.RealNVP(2, coupling=None), "coupling must be one of .* got None"),
    "coupling list": (lambda: nvp.RealNVP(2, coupling=["spline"]), r"coupling must be one of .*\['spline'\]"),
    "RealNVP conditioner layer": (lambda: nvp.RealNVP(2, conditioner=nvp.MLP(1)), "conditioner must be one of"),
    "dropout one": (lambda: nvp.RealNVP(2, dropout=1.0), "dropout must be from 0 to below 1, got 1.0"),
    "dropout NaN": (lambda: nvp.RealNVP(2, dropout=np.nan), "dropout must be from 0 to below 1, got nan"),
    "dropout True": (lambda: nvp.RealNVP(2, dropout=True), "dropout must be from 0 to below 1, got True"),
    "dropout None": (lambda: nvp.RealNVP(2, dropout=None), "dropout must be from 0 to below 1, got None"),
    "num_bins huge": (lambda: nvp.RealNVP(2, coupling="spline", num_bins=HUGE), f"num_bins .* got {HUGE}"),
    "num_bins float": (lambda: nvp.RealNVP(2, num_bins=8.0), "num_bins must be an integer of at least 2, got 8.0"),
    "bound NaN": (lambda: nvp.RealNVP(2, coupling="spline", bound=np.nan), "bound must be .* got nan"),
    "bound True": (lambda: nvp.RealNVP(2, coupling="spline", bound=True), "bound must be .* got True"),
    "normalization True": (lambda: nvp.RealNVP(2, normalization=True), "normalization must be one of .* got True"),
    "bound None, unused": (lambda: nvp.RealNVP(2, bound=None), "bound must be above 0 and finite, got None"),
    "bound string, unused": (lambda: nvp.RealNVP(2, bound="a"), "bound must be above 0 and finite, got 'a'"),
    "dropout without a network": (lambda: nvp.RealNVP(1, dropout=2.0), "dropout must be from 0 to below 1, got 2.0"),
    "log_scale_bound without a network": (
        lambda: nvp.RealNVP(1, log_scale_bound="a"),
        "log_scale_bound must .* got 'a'",
    ),
    "permutation list": (lambda: nvp.RealNVP(2, permutation=["random"]), r"permutation must be one of .*\['random'\]"),
    "dtype number": (lambda: nvp.RealNVP(2, dtype=3), "dtype .* got 3"),
    "dtype complex": (lambda: nvp.RealNVP(2, dtype="complex64"), "dtype .* got 'complex64'"),
    "dtype bool": (lambda: nvp.RealNVP(2, dtype=bool), "dtype .* got <class 'bool'>"),
    "support string": (lambda: nvp.RealNVP(2, support="ab"), "support must be None or .* 2 features, got 'ab'"),
    "support short": (lambda: nvp.RealNVP(2, support=[None]), r"one entry for each of 2 features, got \[None\]"),
    "support dictionary": (lambda: nvp.RealNVP(1, support={0: None}), r"support must be .* got \{0: None\}"),
    "support number": (lambda: nvp.RealNVP(2, support=[0.0, 1.0]), r"support\[0\] must be None or a pair .* got 0.0"),
    "support triple": (lambda: nvp.RealNVP(1, support=[(0, 1, 2)]), r"support\[0\] must be .* got \(0, 1, 2\)"),
    "support word": (lambda: nvp.RealNVP(1, support=[("a", 1)]), r"support\[0\] must be .* got \('a', 1\)"),
    "support swapped": (
        lambda: nvp.RealNVP(1, support=[(1, 0)]),
        r"support\[0\] must be .* lower below upper, got \(1, 0\)",
    ),
    "RealNVP seed huge": (lambda: nvp.RealNVP(2, seed=HUGE), f"seed .* got {HUGE}"),
    "RealNVP seed float": (lambda: nvp.RealNVP(2, seed=1.0), "seed .* got 1.0"),
    "base_distribution class": (lambda: nvp.RealNVP(2, base_distribution=tfd.Normal), "base_distribution .*<class"),
}


@pytest.mark.parametrize("case", WRONG_ARGUMENTS)
def test_wrong_argument_is_a_value_error(case):
    call, message = WRONG_ARGUMENTS[case]
    with pytest.raises(ValueError, match=f"(?s){message}"):
        call()
