"""Transformed distributions that evaluate each network once a density."""

from typing import Any

import tensorflow as tf
from tensorflow_probability import bijectors as tfb
from tensorflow_probability import distributions as tfd

from tfp_realnvp.bijectors.one_pass import OnePassChain, forward_and_log_det, has_parts, inverse_and_log_det

__all__ = ["OnePassTransformedDistribution", "one_pass"]


class OnePassTransformedDistribution(tfd.TransformedDistribution):
    """A `tfd.TransformedDistribution` that takes value and log-determinant from one pass over its bijector.

        log p(y) = log p_base(x) + log|det dx/dy|,        x = bijector.inverse(y).

    Constructor, shapes and units (nats) are those of `tfd.TransformedDistribution`.

    >>> d = OnePassTransformedDistribution(tfd.Normal(0.0, 1.0), tfb.Exp())
    >>> round(float(d.log_prob(1.0)), 4)
    -0.9189
    """

    def _log_prob(self, y, **kwargs):
        if not self.bijector._is_injective:  # TFP adds up what each of the inverses contributes.
            return super()._log_prob(y, **kwargs)
        distribution_kwargs, bijector_kwargs = self._kwargs_split_fn(kwargs)
        x, log_det = inverse_and_log_det(self.bijector, y, self.event_shape.rank, **bijector_kwargs)
        log_prob = self.distribution.log_prob(x, **distribution_kwargs)
        return log_prob + tf.cast(log_det, log_prob.dtype)

    def _sample_and_log_prob(self, sample_shape, seed, **kwargs):
        distribution_kwargs, bijector_kwargs = self._kwargs_split_fn(kwargs)
        base = self._maybe_broadcast_distribution_batch_shape()
        x, log_prob = base.experimental_sample_and_log_prob(sample_shape, seed, **distribution_kwargs)
        y, log_det = forward_and_log_det(self.bijector, x, base.event_shape.rank, **bijector_kwargs)
        return y, log_prob - tf.cast(log_det, log_prob.dtype)


def one_pass(distribution: tfd.Distribution) -> tfd.Distribution:
    """The same distribution, each `tfd.TransformedDistribution` and `tfb.Chain` in it replaced by its one-pass form.

    Those within others, such as the components of a mixture, are replaced too. Bijectors, networks and variables are
    the same objects. A bijector with several inverses, such as `tfb.AbsoluteValue`, stays with TFP.
    """
    parts = {name: _one_pass_parts(value) for name, value in distribution.parameters.items()}
    replaced = {name: part for name, part in parts.items() if part is not distribution.parameters[name]}
    if replaced:
        distribution = distribution.copy(**replaced)
    if type(distribution).__name__ not in ("TransformedDistribution", "_TransformedDistribution"):
        return distribution
    if not distribution.bijector._is_injective:
        return distribution
    parameters = distribution.parameters | {"bijector": OnePassChain(_flat_bijectors(distribution.bijector))}
    parameters.pop("parameters", None)
    return OnePassTransformedDistribution(**parameters)


def _one_pass_parts(value: Any) -> Any:
    if isinstance(value, tfd.Distribution):
        return one_pass(value)
    if isinstance(value, list | tuple) and any(isinstance(item, tfd.Distribution) for item in value):
        items = [_one_pass_parts(item) for item in value]
        unchanged = all(one is other for one, other in zip(items, value, strict=True))
        return value if unchanged else items
    return value


def _flat_bijectors(bijector: tfb.Bijector) -> list[tfb.Bijector]:
    """The bijectors of nested chains in one list; a chain that splits its events into parts stays whole."""
    if isinstance(bijector, tfb.Invert):
        return [tfb.Invert(part) for part in reversed(_flat_bijectors(bijector.bijector))]
    is_chain = type(bijector).__name__ in ("Chain", "_Chain", "OnePassChain")
    if not is_chain or any(has_parts(part) for part in bijector.bijectors):
        return [bijector]
    return [flat for part in bijector.bijectors for flat in _flat_bijectors(part)]
