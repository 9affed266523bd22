"""The shifts and scales that `adapt` sets."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow_probability import bijectors as tfb

from tfp_realnvp.bijectors import Standardization
from tfp_realnvp.flows.contexts import ContextEncoder
from tfp_realnvp.flows.moments import context_moments, standardization_moments
from tfp_realnvp.flows.support import bounds_of

__all__ = ["Standardizer"]

Shape = tuple[int, ...]


class Standardizer:
    """The shift and scale of the events of a flow, and of its context. Both are the identity until `adapt` is called.

    Args:
        bijectors: the bijectors of the flow, from data to latent. If the first is `Bounds`, events are standardised
            within these.
        event_shape: shape of one event.
        contexts: holds the shift and scale of contexts.
        dtype: dtype of events.
    """

    def __init__(self, bijectors: Sequence[tfb.Bijector], event_shape: Shape, contexts: ContextEncoder, dtype: str):
        self._event_shape, self._contexts, self._dtype = event_shape, contexts, dtype
        self.bounds = bounds_of(bijectors, dtype)
        self._of_x = [
            tf.Variable(tf.zeros(event_shape, dtype), trainable=False, name="standardization_shift"),
            tf.Variable(tf.ones(event_shape, dtype), trainable=False, name="standardization_scale"),
        ]

    def inserted(self, bijectors: Sequence[tfb.Bijector]) -> list[tfb.Bijector]:
        """The bijectors, with the map from standardised events to data, or to the unbounded numbers of bounded data."""
        first = 0 if self.bounds is None else 1
        return [*bijectors[:first], Standardization(*self._of_x), *bijectors[first:]]

    def moments(self) -> tuple[np.ndarray, np.ndarray]:
        """The shift and scale of unbounded events: after `adapt`, their location and scale."""
        shift, scale = (np.asarray(variable, np.float64) for variable in self._of_x)
        return shift, scale

    def is_adapted(self) -> bool:
        """Whether `adapt` was called, on this flow or on the flow whose weights were loaded."""
        with tf.init_scope():  # `repr` may run in a graph.
            values = [variable.numpy() for variable in (*self._of_x, *self._contexts.variables)]
        return any(
            np.any(shift != 0) or np.any(scale != 1) for shift, scale in zip(values[::2], values[1::2], strict=True)
        )

    def adapt(self, data: Any, log_prob: Callable[[tf.Tensor], tf.Tensor], robust: bool) -> None:
        """Sets shift and scale to the mean and standard deviation of `data`, or to their robust counterparts.

        Raises the errors of `Flow.adapt`. `log_prob` gives log-densities at the mean context. If the flow loses its
        density at the mean, or one standard deviation from the mean, the distribution has bounds, and a ValueError is
        raised.
        """
        of_x, of_context = standardization_moments(
            data, self._event_shape, self._contexts, self._dtype, self.bounds, robust
        )
        location, scale = of_x
        points = location + np.array([-1.0, 0.0, 1.0]).reshape([3] + [1] * location.ndim) * scale
        points = tf.cast(points, self._dtype)
        points = points if self.bounds is None else self.bounds.forward(points)
        had_density = np.isfinite(log_prob(points))
        _assign(self._of_x, of_x)
        if of_context is not None:
            self._assign_context(of_context)
        if np.any(had_density & ~np.isfinite(log_prob(points))):
            raise ValueError(
                "data: the distribution has bounds, and adapt would move them away from the data. Use nvp.Bounds, "
                "within which adapt standardises, or call adapt(bounds.inverse(data)) of the flow inside the bounds"
            )

    def adapt_context(self, data: Any, robust: bool) -> None:
        """Like `adapt`, for the context in `data` only."""
        self._assign_context(context_moments(data, self._event_shape, self._contexts, self._dtype, robust))

    def _assign_context(self, moments: tuple[np.ndarray, np.ndarray]) -> None:
        if self._contexts.is_standardized:
            _assign(self._contexts.variables, moments)


def _assign(variables: list[tf.Variable], values: Any) -> None:
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)
