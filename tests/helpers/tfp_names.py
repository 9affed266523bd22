"""The private names of TFP that the package uses, and a check of each."""

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp
from tensorflow_probability import bijectors as tfb
from tensorflow_probability import distributions as tfd


class Shift(tfb.Bijector):
    """y = x + shift. It is not a composite tensor."""

    def __init__(self, shift):
        self.shift = shift
        super().__init__(forward_min_event_ndims=1, parameters=dict(locals()))

    @classmethod
    def _parameter_properties(cls, dtype):
        return {"shift": tfp.util.ParameterProperties(event_ndims=1)}

    def _forward(self, x):
        return x + self.shift

    def _inverse(self, y):
        return y - self.shift

    def _forward_log_det_jacobian(self, x):
        return tf.constant(3.0)

    def _inverse_log_det_jacobian(self, y):
        return tf.constant(-3.0)


class Shaped(Shift):
    """Reports event shapes that the check below recognises."""

    def _forward_event_shape(self, shape):
        return shape.concatenate([1])

    def _inverse_event_shape(self, shape):
        return shape.concatenate([2])

    def _forward_event_shape_tensor(self, shape):
        return tf.concat([shape, [1]], 0)

    def _inverse_event_shape_tensor(self, shape):
        return tf.concat([shape, [2]], 0)


def bijectors_call_the_methods_of_a_subclass():
    shift, x = Shaped(tf.ones([5, 2])), tf.ones([2])
    np.testing.assert_array_equal(shift.forward(x), np.full([5, 2], 2.0))
    np.testing.assert_array_equal(shift.inverse(x), np.zeros([5, 2]))
    assert shift.forward_log_det_jacobian(x, 1) == 3.0 and shift.inverse_log_det_jacobian(x, 1) == -3.0
    assert shift.experimental_batch_shape() == [5]
    assert shift.forward_event_shape([2]) == [2, 1] and shift.inverse_event_shape([2]) == [2, 2]
    assert shift.forward_event_shape_tensor([2]).numpy().tolist() == [2, 1]
    assert shift.inverse_event_shape_tensor([2]).numpy().tolist() == [2, 2]


def classes_have_a_base_that_is_not_a_composite_tensor():
    """`is_stock` relies on the first base of these classes."""
    for part, first in ((tfb.Exp(), True), (Shift(tf.zeros([2])), False)):
        base = tfd.Sample(tfd.Normal(0.0, 1.0), 2)
        for whole, kind in (
            (tfb.Chain([part]), tfb.Chain),
            (tfb.Blockwise([part]), tfb.Blockwise),
            (tfb.Invert(part), tfb.Invert),
            (tfd.TransformedDistribution(base, part), tfd.TransformedDistribution),
        ):
            assert type(whole) is (kind if first else kind.__bases__[0])


def bijectors_know_whether_they_are_injective():
    assert tfb.Exp()._is_injective and not tfb.AbsoluteValue()._is_injective


def chains_override_the_log_det_methods_of_bijectors():
    for name in ("_call_forward_log_det_jacobian", "_call_inverse_log_det_jacobian"):
        assert getattr(tfb.Bijector, name) is not getattr(tfb.Chain, name)


def bijectors_have_a_method_that_broadcasts_parameters():
    broadcast = tfb.Shift(tf.zeros([2]))._broadcast_parameters_with_batch_shape(tf.constant([5, 2]), 0)
    assert broadcast.shift.shape == [5, 2]


def caches_keep_the_log_det_with_the_value():
    from tensorflow_probability.python.internal import cache_util

    calls = []

    class Counting(tfb.Exp):
        _cache = cache_util.BijectorCacheWithGreedyAttrs(forward_name="_augmented", inverse_name="_inverse")

        def _augmented(self, x):
            calls.append(x)
            return tf.exp(x), {"ildj": -x}

    bijector, x = Counting(), tf.constant(0.5)
    y = bijector.forward(x)
    assert bijector.inverse_log_det_jacobian(y, 0) == -0.5 and len(calls) == 1
    assert isinstance(bijector._cache.storage, cache_util.EphemeralDict)
    assert isinstance(tfb.Bijector._cache.storage, cache_util.EphemeralDict)
    for entry in bijector._cache.storage:
        assert entry() in (x, y) and callable(entry.cancel)


def chains_know_whether_they_increase():
    assert tfb.Chain([tfb.Exp(), tfb.Scale(2.0)])._internal_is_increasing()
    assert not tfb.Chain([tfb.Exp(), tfb.Scale(-2.0)])._internal_is_increasing()

    class Rising(Shift):
        @classmethod
        def _is_increasing(cls):
            return True

    assert Rising(0.0)._internal_is_increasing()


def distributions_call_the_methods_of_a_subclass():
    class Constant(tfd.TransformedDistribution):
        def _log_prob(self, y, **kwargs):
            return tf.constant(7.0)

        def _sample_and_log_prob(self, sample_shape, seed, **kwargs):
            return tf.constant(8.0), tf.constant(9.0)

        def _cdf(self, y, **kwargs):
            return tf.constant(1.0)

        def _log_cdf(self, y, **kwargs):
            return tf.constant(2.0)

        def _survival_function(self, y, **kwargs):
            return tf.constant(3.0)

        def _log_survival_function(self, y, **kwargs):
            return tf.constant(4.0)

        def _quantile(self, value, **kwargs):
            return tf.constant(5.0)

    distribution = Constant(tfd.Normal(0.0, 1.0), tfb.Shift(tf.zeros([2])))
    assert distribution.log_prob([1.0, 1.0]) == 7.0
    assert distribution.experimental_sample_and_log_prob() == (8.0, 9.0)
    tails = "cdf", "log_cdf", "survival_function", "log_survival_function", "quantile"
    assert [float(getattr(distribution, tail)(0.5)) for tail in tails] == [1.0, 2.0, 3.0, 4.0, 5.0]


def distributions_have_methods_that_split_arguments_and_sample():
    class Sampled(tfd.TransformedDistribution):
        def _call_sample_n(self, sample_shape, seed, **kwargs):
            return tf.constant(6.0)

    distribution = Sampled(tfd.Normal(0.0, 1.0), tfb.Shift(tf.zeros([2])))
    assert distribution.sample() == 6.0
    assert distribution._kwargs_split_fn({}) == ({}, {})
    assert distribution._maybe_broadcast_distribution_batch_shape().batch_shape == [2]


# Each row holds the check, its use in the package, and the names: full paths of names that the package imports.
ROWS = [
    (
        classes_have_a_base_that_is_not_a_composite_tensor,
        "stock chains and distributions, which get a one-pass form",
    ),
    (bijectors_know_whether_they_are_injective, "bijectors that TFP handles itself", "_is_injective"),
    (
        chains_override_the_log_det_methods_of_bijectors,
        "one pass through a chain",
        "_call_forward_log_det_jacobian",
        "_call_inverse_log_det_jacobian",
    ),
    (
        bijectors_have_a_method_that_broadcasts_parameters,
        "slices of batches with permutations",
        "_broadcast_parameters_with_batch_shape",
    ),
    (
        caches_keep_the_log_det_with_the_value,
        "one pass through a coupling in a graph; graphs that are freed",
        "_cache",
        "tensorflow_probability.python.internal.cache_util.BijectorCacheWithGreedyAttrs",
        "tensorflow_probability.python.internal.cache_util.EphemeralDict",
    ),
    (chains_know_whether_they_increase, "cumulative probabilities of one feature", "_internal_is_increasing"),
    (
        distributions_have_methods_that_split_arguments_and_sample,
        "one pass for a sample with its density; graphs that are freed",
        "_call_sample_n",
        "_kwargs_split_fn",
        "_maybe_broadcast_distribution_batch_shape",
    ),
]
# Private methods that TFP expects subclasses to define.
METHODS = [
    (
        bijectors_call_the_methods_of_a_subclass,
        "our bijectors",
        "_parameter_properties",
        "_is_increasing",
        "_forward",
        "_inverse",
        "_forward_log_det_jacobian",
        "_inverse_log_det_jacobian",
        "_forward_event_shape",
        "_forward_event_shape_tensor",
        "_inverse_event_shape",
        "_inverse_event_shape_tensor",
    ),
    (
        distributions_call_the_methods_of_a_subclass,
        "one pass for a density, or a sample with its density",
        "_log_prob",
        "_sample_and_log_prob",
        "_cdf",
        "_log_cdf",
        "_survival_function",
        "_log_survival_function",
        "_quantile",
    ),
]
