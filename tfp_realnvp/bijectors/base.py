"""What all bijectors of this package share: value and log-determinant are one computation.

TFP asks a bijector for its value and for its log-determinant in two calls, and its cache, keyed by bijector and input,
makes them one computation. Here the pair is one method, `_forward_and_log_det` or `_inverse_and_log_det`, and all that
TFP asks for follows from it.
"""

import abc
import contextlib
from collections.abc import Iterator
from typing import Any

import tensorflow as tf
from tensorflow_probability import bijectors as tfb
from tensorflow_probability.python.internal import cache_util

__all__ = [
    "ForgetfulCache",
    "OnePass",
    "OnePassBijector",
    "ValueAndLogDet",
    "all_finite",
    "forgotten_by_tfp",
    "log_det_dtype",
    "nan_unless",
    "sum_of_parts",
    "with_dimensions",
]

ValueAndLogDet = tuple[tf.Tensor, tf.Tensor]


class ForgetfulCache(cache_util.BijectorCacheWithGreedyAttrs):
    """TFP's cache with an empty memory at each call, so that no result is ever reused."""

    def __get__(self, bijector, bijector_class=None):
        bound = super().__get__(bijector, bijector_class)
        bound.storage = self._memory()
        return bound

    def _memory(self) -> cache_util.EphemeralDict:
        return cache_util.EphemeralDict()


class GraphCache(ForgetfulCache):
    """TFP's cache with one memory for each graph; in eager mode it remembers nothing.

    In eager mode a memory would outlive the call: after a weight has changed, or within a `tf.GradientTape` opened
    since, TFP would answer with stale values and without gradients. A graph holds its own memory, so both are freed
    together, and no branch or loop sees the tensors of another.
    """

    def _memory(self):
        if tf.executing_eagerly():
            return super()._memory()
        graph = tf.compat.v1.get_default_graph()
        if not hasattr(graph, "_tfp_realnvp_cache"):
            graph._tfp_realnvp_cache = super()._memory()
        return graph._tfp_realnvp_cache


@contextlib.contextmanager
def forgotten_by_tfp() -> Iterator[None]:
    """What stock bijectors compute in here, in a graph, leaves nothing in TFP's cache.

    TFP has one cache for the whole process. A log-determinant in it keeps its graph, and the graph keeps the entry.
    """
    if tf.executing_eagerly():  # There, an entry is gone with its tensor.
        yield
        return
    memory, graph = tfb.Bijector._cache.storage, tf.compat.v1.get_default_graph()
    before = set(memory)
    try:
        yield
    finally:
        for entry in set(memory) - before:
            if any(tensor.graph is graph for tensor in tf.nest.flatten(entry()) if tf.is_symbolic_tensor(tensor)):
                entry.cancel()
                memory.pop(entry, None)


class OnePass:
    """What TFP asks of a bijector, derived from `_forward_and_log_det` and `_inverse_and_log_det`."""

    _cache = GraphCache(forward_name="_augmented_forward", inverse_name="_augmented_inverse")

    def _augmented_forward(self, x, **kwargs):
        y, log_det = self._forward_alone(x, **kwargs)
        return y, {"ildj": -log_det}

    def _augmented_inverse(self, y, **kwargs):
        x, log_det = self._inverse_alone(y, **kwargs)
        return x, {"ildj": log_det}

    def _forward(self, x, **kwargs):
        return self._forward_alone(x, **kwargs)[0]

    def _inverse(self, y, **kwargs):
        return self._inverse_alone(y, **kwargs)[0]

    def _forward_log_det_jacobian(self, x, **kwargs):
        return self._forward_alone(x, **kwargs)[1]

    def _inverse_log_det_jacobian(self, y, **kwargs):
        return self._inverse_alone(y, **kwargs)[1]

    def _forward_alone(self, x: tf.Tensor, **kwargs: Any) -> ValueAndLogDet:
        """What `forward` gives to a user."""
        return self._forward_and_log_det(x, **kwargs)

    def _inverse_alone(self, y: tf.Tensor, **kwargs: Any) -> ValueAndLogDet:
        """What `inverse` gives to a user."""
        return self._inverse_and_log_det(y, **kwargs)


class OnePassBijector(OnePass, tfb.AutoCompositeTensorBijector):
    """A `tfb.Bijector` that computes its value and its log-determinant together."""

    @abc.abstractmethod
    def _forward_and_log_det(self, x: tf.Tensor) -> ValueAndLogDet:
        """(y, log|det dy/dx|) of events of `forward_min_event_ndims` dimensions."""

    @abc.abstractmethod
    def _inverse_and_log_det(self, y: tf.Tensor) -> ValueAndLogDet:
        """(x, log|det dx/dy|) of events of `inverse_min_event_ndims` dimensions."""

    # Our chain calls the methods above. It marks the events that are not finite at its beginning, once for all.

    def _forward_alone(self, x):
        y, log_det = self._forward_and_log_det(x)
        return self._marked(all_finite(x, self.forward_min_event_ndims), y, log_det, self.inverse_min_event_ndims)

    def _inverse_alone(self, y):
        x, log_det = self._inverse_and_log_det(y)
        return self._marked(all_finite(y, self.inverse_min_event_ndims), x, log_det, self.forward_min_event_ndims)

    def _marked(self, valid: tf.Tensor, value: tf.Tensor, log_det: tf.Tensor, event_ndims: int) -> ValueAndLogDet:
        """NaN for the values of events that are not `valid`."""
        return nan_unless(with_dimensions(valid, event_ndims), value), log_det


def log_det_dtype(dtype: tf.DType) -> tf.DType:
    """Log-determinants of half precision events are kept in float32: they add up many small terms."""
    return tf.float32 if dtype in (tf.float16, tf.bfloat16) else dtype


def all_finite(tensor: tf.Tensor, event_ndims: int) -> tf.Tensor:
    """Whether all numbers of each event are finite: `[...]` for a tensor of events `[..., *event]`."""
    return tf.reduce_all(tf.math.is_finite(tensor), axis=list(range(-event_ndims, 0)))


def with_dimensions(tensor: tf.Tensor, ndims: int) -> tf.Tensor:
    """`tensor [...]` with `ndims` further dimensions of size 1."""
    for _ in range(ndims):
        tensor = tensor[..., tf.newaxis]
    return tensor


def nan_unless(valid: tf.Tensor, values: tf.Tensor) -> tf.Tensor:
    """`values`, bit for bit, where `valid` is true, and NaN elsewhere, with a gradient of 0; shapes broadcast.

    Some kernels turn NaN into a plausible number, such as oneDNN's fused product with a rectifier, which gives 0.
    """
    # No constant NaN, which `tf.debugging.enable_check_numerics` would report where all events are valid, too.
    one = tf.ones([], values.dtype)
    return tf.where(valid, values, tf.sqrt(tf.where(valid, one, -one)))


def sum_of_parts(log_det: tf.Tensor, value: tf.Tensor, event_ndims: int, min_event_ndims: int) -> tf.Tensor:
    """The log-determinant of events of `event_ndims` dimensions, from those of their parts of `min_event_ndims`."""
    parts = list(range(min_event_ndims - event_ndims, 0))
    if not parts:
        return log_det
    log_det = tf.broadcast_to(log_det, tf.shape(value)[: -min_event_ndims or None])  # a constant of each part
    return tf.reduce_sum(log_det, axis=parts)
