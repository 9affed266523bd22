"""The one file that uses private names of TensorFlow Probability, apart from methods that TFP has subclasses define.

`tests/test_private_names.py` lists each of them and checks that it does what this file needs.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import tensorflow as tf
from tensorflow_probability import bijectors as tfb
from tensorflow_probability import distributions as tfd
from tensorflow_probability.python.internal import cache_util

__all__ = [
    "CachedInGraphs",
    "ForgottenSamples",
    "NeverCached",
    "Unbatched",
    "broadcast_base",
    "forgotten_by_tfp",
    "is_increasing",
    "is_injective",
    "is_stock",
    "split_kwargs",
]

# What bijectors remember


class ForgetfulCache(cache_util.BijectorCacheWithGreedyAttrs):
    """TFP's cache with an empty memory at each call, so that no result is ever reused."""

    def __get__(self, bijector: Any, bijector_class: type | None = None) -> Any:
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

    def _memory(self) -> cache_util.EphemeralDict:
        if tf.executing_eagerly():
            return super()._memory()
        graph = tf.compat.v1.get_default_graph()
        if not hasattr(graph, "_tfp_realnvp_cache"):
            graph._tfp_realnvp_cache = super()._memory()
        return graph._tfp_realnvp_cache


_METHODS = {"forward_name": "_augmented_forward", "inverse_name": "_augmented_inverse"}


class CachedInGraphs:
    """For a bijector that in a graph remembers the results of its `_augmented_forward` and `_augmented_inverse`."""

    _cache = GraphCache(**_METHODS)


class NeverCached:
    """For a chain that remembers nothing, and has its log-determinants from its own methods, not from its parts."""

    _cache = ForgetfulCache(**_METHODS)
    _call_forward_log_det_jacobian = tfb.Bijector._call_forward_log_det_jacobian
    _call_inverse_log_det_jacobian = tfb.Bijector._call_inverse_log_det_jacobian


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


# What bijectors and distributions know of themselves


def is_stock(part: Any, kind: type) -> bool:
    """Whether `part` is of TFP's class `kind` itself, such as `tfb.Chain`, and not of a subclass.

    TFP makes an instance of the base class of `kind` where a component is not a composite tensor.
    """
    return type(part) in (kind, kind.__bases__[0])


def is_injective(bijector: tfb.Bijector) -> bool:
    """Whether each value of `bijector` has one inverse. `tfb.AbsoluteValue`, for one, has two."""
    return bool(bijector._is_injective)


def is_increasing(bijector: tfb.Bijector, **kwargs: Any) -> bool | tf.Tensor:
    """Whether a bijector of events of one feature increases; a NotImplementedError if it cannot say so."""
    return bijector._internal_is_increasing(**kwargs)


def split_kwargs(distribution: tfd.TransformedDistribution, kwargs: dict[str, Any]) -> Any:
    """(keyword arguments for the base distribution, those for the bijector) of a method."""
    return distribution._kwargs_split_fn(kwargs)


def broadcast_base(distribution: tfd.TransformedDistribution) -> tfd.Distribution:
    """The base distribution, with the batch shape of the whole."""
    return distribution._maybe_broadcast_distribution_batch_shape()


class ForgottenSamples(tfd.TransformedDistribution):
    """A transformed distribution whose samples leave nothing in TFP's cache."""

    def _call_sample_n(self, sample_shape: Any, seed: Any, **kwargs: Any) -> tf.Tensor:
        with forgotten_by_tfp():
            return super()._call_sample_n(sample_shape, seed, **kwargs)


class Unbatched:
    """For a bijector that stays as it is where a chain around it is sliced along its batch."""

    def _broadcast_parameters_with_batch_shape(self, batch_shape: Any, x_event_ndims: Any = None) -> Any:
        return self
