"""Value and log-determinant from one computation, and none of it remembered between eager calls.

TFP asks a bijector for its value and its log-determinant in two calls, and relies on a cache, keyed by bijector and
input tensor, to make them one computation. In eager mode that cache outlives the call: after a weight has changed, or
when a `tf.GradientTape` has been opened since, it answers with stale values and no gradient. Here the pair is one
method, `_forward_and_log_det` or `_inverse_and_log_det`. `OnePassChain` and `OnePassTransformedDistribution` call it
directly; for TFP's own chains and distributions a cache does the same within a graph, and in eager mode is silent.
"""

import abc
import collections
import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf
from tensorflow.python import pywrap_tfe
from tensorflow.python.eager import tape
from tensorflow_probability import bijectors as tfb
from tensorflow_probability.python.internal import cache_util

from tfp_realnvp.bijectors.permutation import (
    is_permutation_of_features,
    permutation_and_inverse,
    permute,
    without_batch,
)
from tfp_realnvp.checks import check_shape
from tfp_realnvp.variables import all_variables, keras_inference

__all__ = [
    "OnePassBijector",
    "OnePassChain",
    "forward_and_log_det",
    "has_parts",
    "inverse_and_log_det",
    "log_det_dtype",
]

ValueAndLogDet = tuple[tf.Tensor, tf.Tensor]


class _GraphCache(cache_util.BijectorCacheWithGreedyAttrs):
    """TFP's cache of values and log-determinants, one for each graph; silent in eager mode, and for inverses.

    After an inverse, TFP's chains and distributions ask for the forward value and the log-determinant, which this cache
    answers. The inverse itself is computed whenever it is asked for: a tape may have been opened since the sample.
    """

    def __get__(self, bijector, bijector_class=None):
        bound = super().__get__(bijector, bijector_class)
        bound.storage = None if bijector is None or tf.executing_eagerly() else _graph_storage(bijector)
        return bound

    def _lookup(self, input, forward_name, inverse_name, **kwargs):
        if self.storage is None:
            return self._invoke(input, forward_name, kwargs, attributes={})
        if forward_name == self._inverse_name:
            self._forget(self._get_or_create_edge(input, forward_name, kwargs))
        return super()._lookup(input, forward_name, inverse_name, **kwargs)

    def _get_or_create_edge(self, input, forward_name, kwargs):
        edge = super()._get_or_create_edge(input, forward_name, kwargs)
        computed = list(edge.attributes.values())
        if edge.output_ref and edge.dependencies is None:  # with dependencies, the input is what was computed
            computed.append(edge.output_ref())
        if computed and not _tapes_know(computed, input, self.bijector):
            self._forget(edge)  # A fresh one has computed nothing yet.
            edge = super()._get_or_create_edge(input, forward_name, kwargs)
        return edge

    def _forget(self, edge):
        for reference in (edge.input_ref, edge.output_ref):
            if reference is not None:
                reference.cancel()
                self.storage.pop(reference, None)

    def _invoke(self, input, fn_name, kwargs, attributes):
        output = super()._invoke(input, fn_name, kwargs, attributes)
        if self.storage is not None:  # What the network itself has written, such as a counter, makes nothing stale.
            self.storage = _graph_storage(self.bijector)
        return output

    def _attributes(self, input, fn_name, **kwargs):
        return {} if self.storage is None else super()._attributes(input, fn_name, **kwargs)


_READING_OPS = frozenset({"ReadVariableOp", "ResourceGather", "ResourceGatherNd", "VariableShape"})


def _graph_storage(bijector: tfb.Bijector) -> cache_util.EphemeralDict:
    """What the present graph remembers of `bijector`: nothing any more once it may have written a variable of it."""
    graph = tf.compat.v1.get_default_graph()
    writes = 0
    for variable in _parts(bijector):
        handle = graph.capture(variable.handle) if hasattr(graph, "capture") else variable.handle
        writes += sum(op.type not in _READING_OPS for op in handle.consumers())
    # Kept by the graph, so that it dies with it, and that no branch or loop sees the tensors of another.
    if not hasattr(graph, "_tfp_realnvp_caches"):
        graph._tfp_realnvp_caches = collections.defaultdict(cache_util.EphemeralDict)
    return graph._tfp_realnvp_caches[writes]


def _tapes_know(computed: list[tf.Tensor], input: tf.Tensor, bijector: tfb.Bijector) -> bool:
    """Whether the tape that would record a new pass from `input`, if there is one, has recorded `computed`.

    False, too, where several tapes or a persistent one would: TensorFlow does not tell which of them know what.
    """
    sources = [*tf.nest.flatten(input), *bijector._flatten(predicate=lambda part: isinstance(part, tf.Tensor))]
    for variable in _parts(bijector):
        if variable.trainable:
            tape.variable_accessed(variable)  # as a new pass would
        sources.append(variable.handle)
    gradient_types = pywrap_tfe.TFE_Py_TapeSetPossibleGradientTypes  # 0: no tape; 1: one; 2: persistent, or several
    needed = gradient_types(sources)
    return needed == 0 or needed == 1 == gradient_types(tf.nest.flatten(computed))


def _parts(bijector: tfb.Bijector) -> list[tf.Variable]:
    """Its variables; of a distributed variable, one a replica."""
    return [part for variable in all_variables(bijector) for part in getattr(variable, "values", (variable,))]


class _OnePass:
    """What TFP asks of a bijector, derived from `_forward_and_log_det` and `_inverse_and_log_det`."""

    _cache = _GraphCache(forward_name="_augmented_forward", inverse_name="_augmented_inverse")

    def _augmented_forward(self, x, **kwargs):
        y, log_det = self._forward_and_log_det(x, **kwargs)
        return y, {"ildj": -log_det}

    def _augmented_inverse(self, y, **kwargs):
        x, log_det = self._inverse_and_log_det(y, **kwargs)
        return x, {"ildj": log_det}

    def _forward(self, x, **kwargs):
        return self._forward_and_log_det(x, **kwargs)[0]

    def _inverse(self, y, **kwargs):
        return self._inverse_and_log_det(y, **kwargs)[0]

    def _forward_log_det_jacobian(self, x, **kwargs):
        return self._forward_and_log_det(x, **kwargs)[1]

    def _inverse_log_det_jacobian(self, y, **kwargs):
        return self._inverse_and_log_det(y, **kwargs)[1]


class OnePassBijector(_OnePass, tfb.AutoCompositeTensorBijector):
    """A `tfb.Bijector` that computes its value and its log-determinant together."""

    @abc.abstractmethod
    def _forward_and_log_det(self, x: tf.Tensor) -> ValueAndLogDet:
        """(y, log|det dy/dx|) of events of `forward_min_event_ndims` dimensions."""

    @abc.abstractmethod
    def _inverse_and_log_det(self, y: tf.Tensor) -> ValueAndLogDet:
        """(x, log|det dx/dy|) of events of `inverse_min_event_ndims` dimensions."""


class OnePassChain(_OnePass, tfb.Chain):
    """A `tfb.Chain` that walks its bijectors once for value and log-determinant.

        y = b_1(b_2(... b_n(x))),        log|det dy/dx| = sum of the log|det| of each b_i at its own input.

    Args:
        bijectors: list of bijectors; the last one is applied first.
        event_shape: shape of an event of y, the data side, or None if any will do.
        inference: run Keras networks in inference mode, even within a Keras layer that is being trained.
        validate_args: as in `tfb.Chain`.
        name: name of the ops.

    Raises:
        ValueError: if an event of y does not have that shape, or one of x the shape that belongs to it.

    >>> chain = OnePassChain([tfb.Shift([1.0, 2.0]), tfb.Scale([2.0, 2.0])])
    >>> chain.forward([0.0, 1.0]).numpy()
    array([1., 4.], dtype=float32)
    """

    def __init__(
        self,
        bijectors: Sequence[tfb.Bijector],
        event_shape: Sequence[int] | None = None,
        inference: bool = False,
        validate_args: bool = False,
        name: str | None = None,
    ):
        bijectors = [without_batch(bijector) for bijector in bijectors]
        parameters = dict(locals())
        self._inference = inference
        self._event_shape = self._no_dependency(None if event_shape is None else tuple(event_shape))
        super().__init__(bijectors, validate_args=validate_args, parameters=parameters, name=name)

    # Composition walks its parts for log-determinants; with the value at hand Bijector's own way serves.
    _call_forward_log_det_jacobian = tfb.Bijector._call_forward_log_det_jacobian
    _call_inverse_log_det_jacobian = tfb.Bijector._call_inverse_log_det_jacobian

    def _forward_and_log_det(self, x, event_ndims=None, **kwargs):
        event_ndims = self.forward_min_event_ndims if event_ndims is None else event_ndims
        if self._event_shape is not None:
            check_shape(f"event of {self.name}", x, self.inverse_event_shape(self._event_shape))
        log_det = tf.zeros([], log_det_dtype(x.dtype))
        with self._keras_mode():
            for bijector in reversed(self.bijectors):
                x, term = forward_and_log_det(bijector, x, event_ndims, **kwargs.get(bijector.name, {}))
                event_ndims = bijector.forward_event_ndims(event_ndims)
                log_det += tf.cast(term, log_det.dtype)
        return x, log_det

    def _inverse_and_log_det(self, y, event_ndims=None, **kwargs):
        event_ndims = self.inverse_min_event_ndims if event_ndims is None else event_ndims
        if self._event_shape is not None:
            check_shape(f"event of {self.name}", y, self._event_shape)
        log_det = tf.zeros([], log_det_dtype(y.dtype))
        with self._keras_mode():
            for bijector in self.bijectors:
                y, term = inverse_and_log_det(bijector, y, event_ndims, **kwargs.get(bijector.name, {}))
                event_ndims = bijector.inverse_event_ndims(event_ndims)
                log_det += tf.cast(term, log_det.dtype)
        return y, log_det

    def _keras_mode(self) -> contextlib.AbstractContextManager:
        return keras_inference() if self._inference else contextlib.nullcontext()


def forward_and_log_det(bijector: tfb.Bijector, x: tf.Tensor, event_ndims: int, **kwargs: Any) -> ValueAndLogDet:
    """(y, log|det dy/dx|) of any bijector at `x`, whose last `event_ndims` dimensions are the event."""
    bijector = _one_pass_chain(bijector)
    with tf.name_scope(bijector.name):
        if isinstance(bijector, OnePassChain):
            return bijector._forward_and_log_det(x, event_ndims, **kwargs)
        if isinstance(bijector, OnePassBijector):
            y, log_det = bijector._forward_and_log_det(x, **kwargs)
            return y, _of_events(log_det, x, event_ndims, bijector.forward_min_event_ndims)
        if isinstance(bijector, tfb.Invert):
            return inverse_and_log_det(bijector.bijector, x, event_ndims, **kwargs)
        if is_permutation_of_features(bijector):
            permutation, inverse = permutation_and_inverse(bijector)
            return permute(x, permutation, inverse), tf.zeros([], x.dtype)
        if type(bijector).__name__ in ("Blockwise", "_Blockwise"):
            return _block_by_block(forward_and_log_det, bijector, bijector.block_sizes, x, event_ndims, kwargs)
        x = tf.identity(x)  # A tensor nobody else holds: the cache of a stock bijector cannot know it.
        return bijector.forward(x, **kwargs), bijector.forward_log_det_jacobian(x, event_ndims, **kwargs)


def inverse_and_log_det(bijector: tfb.Bijector, y: tf.Tensor, event_ndims: int, **kwargs: Any) -> ValueAndLogDet:
    """(x, log|det dx/dy|) of any bijector at `y`, whose last `event_ndims` dimensions are the event."""
    bijector = _one_pass_chain(bijector)
    with tf.name_scope(bijector.name):
        if isinstance(bijector, OnePassChain):
            return bijector._inverse_and_log_det(y, event_ndims, **kwargs)
        if isinstance(bijector, OnePassBijector):
            x, log_det = bijector._inverse_and_log_det(y, **kwargs)
            return x, _of_events(log_det, y, event_ndims, bijector.inverse_min_event_ndims)
        if isinstance(bijector, tfb.Invert):
            return forward_and_log_det(bijector.bijector, y, event_ndims, **kwargs)
        if is_permutation_of_features(bijector):
            permutation, inverse = permutation_and_inverse(bijector)
            return permute(y, inverse, permutation), tf.zeros([], y.dtype)
        if type(bijector).__name__ in ("Blockwise", "_Blockwise"):
            return _block_by_block(inverse_and_log_det, bijector, bijector.inverse_block_sizes, y, event_ndims, kwargs)
        y = tf.identity(y)
        return bijector.inverse(y, **kwargs), bijector.inverse_log_det_jacobian(y, event_ndims, **kwargs)


def has_parts(bijector: tfb.Bijector) -> bool:
    """Whether its events are structures of several tensors."""
    return tf.nest.is_nested(bijector.forward_min_event_ndims) or tf.nest.is_nested(bijector.inverse_min_event_ndims)


def _one_pass_chain(bijector: tfb.Bijector) -> tfb.Bijector:
    """The same bijector; of a stock chain, the one-pass form."""
    if type(bijector).__name__ not in ("Chain", "_Chain") or any(has_parts(part) for part in bijector.bijectors):
        return bijector
    return OnePassChain(bijector.bijectors, name=bijector.name)


def _block_by_block(
    transform: Callable, bijector: tfb.Blockwise, sizes: tf.Tensor, event: tf.Tensor, event_ndims: int, kwargs: dict
) -> ValueAndLogDet:
    """`transform`, one of the two above, of each block of the event by its own bijector."""
    blocks = tf.split(event, sizes, axis=-1)
    log_det = tf.zeros([], log_det_dtype(event.dtype))
    for index, part in enumerate(bijector.bijectors):
        blocks[index], term = transform(part, blocks[index], event_ndims, **kwargs.get(part.name, {}))
        log_det += tf.cast(term, log_det.dtype)
    return tf.concat(blocks, axis=-1), log_det


def log_det_dtype(dtype: tf.DType) -> tf.DType:
    """Log-determinants of half precision events are kept in float32: they add up many small terms."""
    return tf.float32 if dtype in (tf.float16, tf.bfloat16) else dtype


def _of_events(log_det: tf.Tensor, value: tf.Tensor, event_ndims: int, min_event_ndims: int) -> tf.Tensor:
    """The log-determinant of events of `event_ndims` dimensions, from that of each part of `min_event_ndims`."""
    parts = list(range(min_event_ndims - event_ndims, 0))
    if not parts:
        return log_det
    log_det = tf.broadcast_to(log_det, tf.shape(value)[: value.shape.rank - min_event_ndims])  # a constant of each part
    return tf.reduce_sum(log_det, axis=parts)
