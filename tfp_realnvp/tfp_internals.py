"""The one file that uses private names of TensorFlow Probability, apart from methods that TFP's subclasses override.

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

# TFP's caches of bijectors


class ForgetfulCache(cache_util.BijectorCacheWithGreedyAttrs):
    """TFP's cache, emptied at each call, so that no result is ever reused."""

    def __get__(self, bijector: Any, bijector_class: type | None = None) -> Any:
        bound = super().__get__(bijector, bijector_class)
        bound.storage = self._memory()
        return bound

    def _memory(self) -> cache_util.EphemeralDict:
        return cache_util.EphemeralDict()


class GraphCache(ForgetfulCache):
    """TFP's cache with separate entries for each graph; in eager mode nothing is cached.

    In eager mode a cached result would outlive the call. After an update of the weights TFP would return the old value,
    and in a `tf.GradientTape` opened later the result would have no gradient. In graph mode the cache is an attribute
    of the graph, so that both are freed together. A branch or a loop has a graph of its own, and so its own entries.
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
    """Mixin for a bijector: in a graph, caches the results of `_augmented_forward` and `_augmented_inverse`."""

    _cache = GraphCache(**_METHODS)


class NeverCached:
    """Mixin for a chain: caches nothing, and computes log-determinants by its own methods, not by its bijectors."""

    _cache = ForgetfulCache(**_METHODS)
    _call_forward_log_det_jacobian = tfb.Bijector._call_forward_log_det_jacobian
    _call_inverse_log_det_jacobian = tfb.Bijector._call_inverse_log_det_jacobian


@contextlib.contextmanager
def forgotten_by_tfp() -> Iterator[None]:
    """Context manager: removes from TFP's cache what TFP's bijectors add to it while a graph is traced.

    TFP has one cache for the whole process. A cached log-determinant keeps its graph alive, and the graph keeps the
    cache entry alive, so neither would ever be freed.
    """
    if tf.executing_eagerly():  # In eager mode, TFP frees an entry together with its tensor.
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


# Properties of bijectors and distributions


def is_stock(part: Any, kind: type) -> bool:
    """Whether the class of `part` is TFP's class `kind` itself, such as `tfb.Chain`, and not a subclass.

    If a component is not a composite tensor, TFP creates an instance of the base class of `kind` instead.
    """
    return type(part) in (kind, kind.__bases__[0])


def is_injective(bijector: tfb.Bijector) -> bool:
    """Whether each value of `bijector` has one inverse. For example, `tfb.AbsoluteValue` has two."""
    return bool(bijector._is_injective)


def is_increasing(bijector: tfb.Bijector, **kwargs: Any) -> bool | tf.Tensor:
    """Whether a bijector of one feature is increasing. Raises a NotImplementedError if the bijector does not know."""
    return bijector._internal_is_increasing(**kwargs)


def split_kwargs(distribution: tfd.TransformedDistribution, kwargs: dict[str, Any]) -> Any:
    """Splits the keyword arguments of a method into those for the base distribution and those for the bijector."""
    return distribution._kwargs_split_fn(kwargs)


def broadcast_base(distribution: tfd.TransformedDistribution) -> tfd.Distribution:
    """The base distribution, broadcast to the batch shape of `distribution`."""
    return distribution._maybe_broadcast_distribution_batch_shape()


class ForgottenSamples(tfd.TransformedDistribution):
    """A transformed distribution that leaves no entry in TFP's cache when it samples."""

    def _call_sample_n(self, sample_shape: Any, seed: Any, **kwargs: Any) -> tf.Tensor:
        with forgotten_by_tfp():
            return super()._call_sample_n(sample_shape, seed, **kwargs)


class Unbatched:
    """Mixin for a bijector that does not change when the batch of a chain around it is sliced."""

    def _broadcast_parameters_with_batch_shape(self, batch_shape: Any, x_event_ndims: Any = None) -> Any:
        return self
