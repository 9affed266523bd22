"""Transformed distributions that run each network once for a density."""

from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow_probability import bijectors as tfb
from tensorflow_probability import distributions as tfd

from tfp_realnvp.bijectors.base import all_finite, nan_unless
from tfp_realnvp.bijectors.chain import (
    OnePassChain,
    as_chain,
    flat_bijectors,
    forward_and_log_det,
    inverse_and_log_det,
    is_multipart,
    is_outside,
)
from tfp_realnvp.bijectors.rebuild import rebuild
from tfp_realnvp.tfp_internals import (
    ForgottenSamples,
    broadcast_base,
    forgotten_by_tfp,
    is_increasing,
    is_injective,
    is_stock,
    split_kwargs,
)

__all__ = ["OnePassTransformedDistribution", "base_and_bijectors", "one_pass", "with_inference"]


class OnePassTransformedDistribution(ForgottenSamples):
    """A `tfd.TransformedDistribution` that computes value and log-determinant in one pass over its bijector.

        log p(y) = log p_base(x) + log|det dx/dy|,        x = bijector.inverse(y),

    The log-density is -inf, with gradient 0, where y lies outside the range of a TFP bijector without variables. For
    example, -1 lies outside the range of `tfb.Exp`. Events of one component have `cdf`, `quantile` and
    `survival_function`, if the base distribution has them.

    The constructor, the shapes and the unit (nats) are the same as in `tfd.TransformedDistribution`.

    >>> from tensorflow_probability import bijectors as tfb
    >>> d = OnePassTransformedDistribution(tfd.Normal(0.0, 1.0), tfb.Exp())
    >>> d.log_prob([1.0, -1.0]).numpy().round(4)
    array([-0.9189,    -inf], dtype=float32)
    """

    def _log_prob(self, y: tf.Tensor, **kwargs: Any) -> tf.Tensor:
        if not is_injective(self.bijector):  # TFP sums over the inverses.
            return super()._log_prob(y, **kwargs)
        distribution_kwargs, bijector_kwargs = split_kwargs(self, kwargs)
        x, log_det = inverse_and_log_det(self.bijector, y, self.event_shape.rank, **bijector_kwargs)
        with forgotten_by_tfp():  # A multivariate normal, for example, contains TFP bijectors.
            log_prob = self.distribution.log_prob(x, **distribution_kwargs)
        log_det = tf.cast(log_det, log_prob.dtype)
        log_prob = tf.where(is_outside(log_det), tf.stop_gradient(log_det), log_prob + log_det)
        # Some bases, such as a beta distribution, return a number as the density of NaN.
        latent_axes = list(range(-self.distribution.event_shape.rank, 0))
        return nan_unless(~tf.reduce_any(tf.math.is_nan(x), axis=latent_axes), log_prob)

    def _sample_and_log_prob(self, sample_shape: Any, seed: Any, **kwargs: Any) -> tuple[tf.Tensor, tf.Tensor]:
        distribution_kwargs, bijector_kwargs = split_kwargs(self, kwargs)
        base = broadcast_base(self)
        with forgotten_by_tfp():
            x, log_prob = base.experimental_sample_and_log_prob(sample_shape, seed, **distribution_kwargs)
        y, log_det = forward_and_log_det(self.bijector, x, base.event_shape.rank, **bijector_kwargs)
        return y, nan_unless(all_finite(y, self.event_shape.rank), log_prob - tf.cast(log_det, log_prob.dtype))

    # TFP defines `cdf` and the like for events of shape [] only. Here they also work for events of shape [1].

    def _cdf(self, y: tf.Tensor, **kwargs: Any) -> tf.Tensor:
        return self._cumulative("cdf", "survival_function", (0.0, 1.0), y, kwargs)

    def _log_cdf(self, y: tf.Tensor, **kwargs: Any) -> tf.Tensor:
        return self._cumulative("log_cdf", "log_survival_function", (-np.inf, 0.0), y, kwargs)

    def _survival_function(self, y: tf.Tensor, **kwargs: Any) -> tf.Tensor:
        return self._cumulative("survival_function", "cdf", (1.0, 0.0), y, kwargs)

    def _log_survival_function(self, y: tf.Tensor, **kwargs: Any) -> tf.Tensor:
        return self._cumulative("log_survival_function", "log_cdf", (0.0, -np.inf), y, kwargs)

    def _cumulative(
        self, name: str, name_if_decreasing: str, limits: tuple[float, float], y: tf.Tensor, kwargs: dict[str, Any]
    ) -> tf.Tensor:
        """The function `name` at y. Below and above the range of the bijector, it has the values `limits`."""
        base = self._scalar_base()
        if base is None:
            return getattr(super(), f"_{name}")(y, **kwargs)
        distribution_kwargs, bijector_kwargs = split_kwargs(self, kwargs)
        with forgotten_by_tfp():
            x_within = self.distribution.sample(seed=tf.constant([0, 0]), **distribution_kwargs)
        y_within = self.bijector.forward(x_within, **bijector_kwargs)
        x = self.bijector.inverse(y, **bijector_kwargs)  # NaN outside the range
        is_within = ~tf.math.is_nan(x)
        x = tf.where(is_within, x, x_within)
        functions = (getattr(base, each)(x, **distribution_kwargs) for each in (name, name_if_decreasing))
        values = tf.where(is_increasing(self.bijector, **bijector_kwargs), *functions)
        below, above = (tf.constant(limit, values.dtype) for limit in limits)
        values = tf.where(is_within, values, tf.where(y < y_within, below, above))
        values = nan_unless(~(tf.math.is_nan(y) | tf.math.is_nan(y_within)), values)
        return values if self.event_shape == [] else values[..., 0]

    def _quantile(self, value: tf.Tensor, **kwargs: Any) -> tf.Tensor:
        base = self._scalar_base()
        if base is None:
            return super()._quantile(value, **kwargs)
        distribution_kwargs, bijector_kwargs = split_kwargs(self, kwargs)
        part = tf.where(is_increasing(self.bijector, **bijector_kwargs), value, 1 - value)
        part = part if self.event_shape == [] else part[..., tf.newaxis]
        x = base.quantile(part, **distribution_kwargs)
        for probability, end in ((0, -np.inf), (1, np.inf)):  # TFP's Student-t distribution gives NaN.
            x = tf.where(tf.math.is_nan(x) & (part == probability), tf.constant(end, x.dtype), x)
        # Not `forward`, which gives NaN for infinite x.
        options = {"backward": False, "to_latent": False, "checked": False}
        return as_chain(self.bijector).walk(x, self.event_shape.rank, **options, **bijector_kwargs)[0]

    def _scalar_base(self) -> tfd.Distribution | None:
        """The distribution of the latent where events have one component, None where they have several."""
        base = self.distribution
        if self.event_shape == [] and is_injective(self.bijector):
            return base
        is_one = self.event_shape == [1] and is_stock(base, tfd.Independent) and base.distribution.event_shape == []
        return base.distribution if is_one else None


def one_pass(distribution: tfd.Distribution) -> tfd.Distribution:
    """Replaces each `tfd.TransformedDistribution` and `tfb.Chain` in a distribution by its one-pass form.

    Nested distributions, such as the components of a mixture, are replaced too. Bijectors, networks and variables stay
    the same objects. TFP still handles a bijector that has several inverses, such as `tfb.AbsoluteValue`, or whose
    events are several tensors, such as `tfb.Split`.
    """

    def replace(part: Any) -> Any:
        is_transformed = is_stock(part, tfd.TransformedDistribution)
        if not is_transformed or not is_injective(part.bijector) or is_multipart(part.bijector):
            return part
        parameters = part.parameters | {"bijector": OnePassChain(flat_bijectors(part.bijector))}
        parameters.pop("parameters", None)
        return OnePassTransformedDistribution(**parameters)

    return rebuild(distribution, replace)


def base_and_bijectors(distribution: tfd.Distribution) -> tuple[tfd.Distribution, list[tfb.Bijector]]:
    """The innermost base distribution, and the bijectors in the order from data to latent, all in inference mode."""
    bijectors: list[tfb.Bijector] = []
    base = with_inference(one_pass(distribution), True)
    while isinstance(base, OnePassTransformedDistribution):
        base, bijectors = base.distribution, [*bijectors, *base.bijector.bijectors]
    return base, bijectors


def with_inference(distribution: tfd.Distribution, inference: bool) -> tfd.Distribution:
    """Returns a copy whose one-pass chains always run in inference mode, or else follow the mode of Keras."""

    def replace(part: Any) -> Any:
        is_other = isinstance(part, OnePassChain) and part.inference != inference
        return part.copy(inference=inference) if is_other else part

    return rebuild(distribution, replace)
