"""Chains that compute value and log-determinant in one pass, and functions that do the same for any bijector."""

import contextlib
from collections.abc import Sequence
from typing import Any

import tensorflow as tf
from tensorflow_probability import bijectors as tfb

from tfp_realnvp.bijectors.base import (
    OnePass,
    OnePassBijector,
    ValueAndLogDet,
    all_finite,
    log_det_dtype,
    minus_infinity_where,
    nan_unless,
    sum_of_parts,
    with_dimensions,
)
from tfp_realnvp.bijectors.bounds import Bounds
from tfp_realnvp.bijectors.permutation import (
    is_permutation_of_features,
    permutation_and_inverse,
    permute,
    without_batch,
)
from tfp_realnvp.checks import check_floating, check_shape
from tfp_realnvp.keras_internals import inference_mode, untracked
from tfp_realnvp.tfp_internals import NeverCached, forgotten_by_tfp, is_stock
from tfp_realnvp.variables import all_variables

__all__ = [
    "OnePassChain",
    "as_chain",
    "flat_bijectors",
    "forward_and_log_det",
    "inverse_and_log_det",
    "is_multipart",
    "is_outside",
    "may_have_bounds",
]


class OnePassChain(NeverCached, OnePass, tfb.Chain):
    """A `tfb.Chain` that computes value and log-determinant in one pass over its bijectors, and caches no result.

        y = b_1(b_2(... b_n(x))),        log|det dy/dx| = sum of the log|det| of each b_i at its own input.

    An event with a NaN or infinity gives NaN. An event outside `Bounds`, or outside the range of a TFP bijector without
    variables, such as -1 for `tfb.Exp()`, has the inverse NaN and the log-determinant -inf.

    Args:
        bijectors: list of bijectors; the last one is applied first.
        event_shape: shape of an event y, on the data side, or None to allow any shape.
        inference: whether to run Keras networks in inference mode, even inside a Keras layer in training mode.
        validate_args, name: as in `tfb.Chain`.

    Raises:
        ValueError: if an event y does not have shape `event_shape`, or an event x the corresponding latent shape.

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
        self._event_shape = untracked(self, None if event_shape is None else tuple(event_shape))
        super().__init__(bijectors, validate_args=validate_args, parameters=parameters, name=name)

    @property
    def inference(self) -> bool:
        return bool(self._inference)

    def _forward_and_log_det(self, x: tf.Tensor, event_ndims: int | None = None, **kwargs: Any) -> ValueAndLogDet:
        event_ndims = self.forward_min_event_ndims if event_ndims is None else event_ndims
        y, log_det = self.walk(x, event_ndims, backward=False, to_latent=False, **kwargs)
        return y, nan_unless(all_finite(x, event_ndims), log_det)

    def _inverse_and_log_det(self, y: tf.Tensor, event_ndims: int | None = None, **kwargs: Any) -> ValueAndLogDet:
        event_ndims = self.inverse_min_event_ndims if event_ndims is None else event_ndims
        x, log_det = self.walk(y, event_ndims, backward=True, to_latent=True, **kwargs)
        inside = with_dimensions(~is_outside(log_det), self.inverse_event_ndims(event_ndims))
        return nan_unless(inside, x), nan_unless(all_finite(y, event_ndims), log_det)

    def walk(
        self,
        event: tf.Tensor,
        event_ndims: int,
        *,
        backward: bool,
        to_latent: bool,
        checked: bool = True,
        **kwargs: Any,
    ) -> ValueAndLogDet:
        """Value and log-determinant in one direction.

        `backward` and `to_latent` have the meaning of `_transform`. Unless `checked`, events may be infinite.
        """
        check_floating(f"event of {self.name}", event)
        if self._event_shape is not None:
            shape = self._event_shape if backward else self.inverse_event_shape(self._event_shape)
            event = _with_shape(event, shape, f"event of {self.name}")
            if event.shape.rank is None and self.experimental_batch_shape().rank == 0:
                return self._walk_rows(event, shape, backward=backward, to_latent=to_latent, checked=checked, **kwargs)
        log_det = tf.zeros([], log_det_dtype(event.dtype))
        if checked:
            event = nan_unless(with_dimensions(all_finite(event, event_ndims), event_ndims), event)
        with inference_mode() if self._inference else contextlib.nullcontext():
            for part in self.bijectors if backward else reversed(self.bijectors):
                event, term = _transform(
                    part, event, event_ndims, backward=backward, to_latent=to_latent, kwargs=kwargs.get(part.name, {})
                )
                event_ndims = (part.inverse_event_ndims if backward else part.forward_event_ndims)(event_ndims)
                log_det += tf.cast(term, log_det.dtype)
        return event, log_det

    def _walk_rows(self, event: tf.Tensor, event_shape: tf.TensorShape, **kwargs: Any) -> ValueAndLogDet:
        """`walk` in a graph that does not know the number of dimensions of `event [..., *event_shape]`."""
        batch_shape = tf.shape(event)[: -len(event_shape)]
        value, log_det = self.walk(tf.reshape(event, [-1, *event_shape]), len(event_shape), **kwargs)
        log_det = tf.broadcast_to(log_det, tf.shape(value)[:1])
        return tf.reshape(value, tf.concat([batch_shape, value.shape[1:]], axis=0)), tf.reshape(log_det, batch_shape)


def _with_shape(event: tf.Tensor, shape: Sequence[int], argument: str) -> tf.Tensor:
    """`event [..., *shape]`, checked now or, for what a graph does not know yet, when it runs."""
    check_shape(argument, event, shape)
    if event.shape.is_fully_defined() or len(shape) == 0:
        return event
    if event.shape.rank is not None:
        return tf.ensure_shape(event, [*event.shape[: -len(shape)], *shape])
    dynamic, ndims = tf.shape(event), len(shape)
    is_right = (tf.size(dynamic) >= ndims) & tf.reduce_all(dynamic[-ndims:] == list(shape))
    with tf.control_dependencies([tf.debugging.Assert(is_right, [f"{argument} has a wrong shape:", dynamic])]):
        return tf.reshape(event, tf.concat([dynamic[:-ndims], shape], axis=0))  # In XLA, which drops the assertion.


def as_chain(bijector: tfb.Bijector) -> OnePassChain:
    """`bijector`, or a chain of it alone."""
    return bijector if isinstance(bijector, OnePassChain) else OnePassChain([bijector])


def forward_and_log_det(bijector: tfb.Bijector, x: tf.Tensor, event_ndims: int, **kwargs: Any) -> ValueAndLogDet:
    """(y, log|det dy/dx|) of any bijector at `x`. The last `event_ndims` dimensions of `x` are the event."""
    return _transform(bijector, x, event_ndims, backward=False, to_latent=False, kwargs=kwargs)


def inverse_and_log_det(bijector: tfb.Bijector, y: tf.Tensor, event_ndims: int, **kwargs: Any) -> ValueAndLogDet:
    """(x, log|det dx/dy|) of any bijector at `y`. The last `event_ndims` dimensions of `y` are the event.

    If an event lies outside `Bounds`, or outside the range of a TFP bijector without variables, its log-determinant is
    -inf. Its x is then an arbitrary finite value, so that gradients stay finite; see `is_outside`.
    """
    return _transform(bijector, y, event_ndims, backward=True, to_latent=True, kwargs=kwargs)


def is_outside(log_det: tf.Tensor) -> tf.Tensor:
    """Whether an event lies outside a range, given its log-determinant from `inverse_and_log_det`."""
    return tf.math.is_inf(log_det) & (log_det < 0)


def is_multipart(bijector: tfb.Bijector) -> bool:
    """Whether the events of `bijector` consist of several tensors."""
    ndims = bijector.forward_min_event_ndims, bijector.inverse_min_event_ndims
    return any(tf.nest.is_nested(each) for each in ndims)


def may_have_bounds(bijector: tfb.Bijector) -> bool:
    """Whether an event may lie outside `Bounds`, or outside the range of a TFP bijector without variables.

    True for every TFP bijector that is not affine, even if its range is all numbers.
    """
    if isinstance(bijector, OnePassBijector):
        return isinstance(bijector, Bounds)
    if is_stock(bijector, tfb.Invert):
        return may_have_bounds(bijector.bijector)
    if is_stock(bijector, tfb.Blockwise) or isinstance(bijector, OnePassChain) or _is_plain_chain(bijector):
        return any(may_have_bounds(part) for part in bijector.bijectors)
    is_tfps_own = type(bijector).__module__.startswith("tensorflow_probability.")
    return is_tfps_own and not bool(bijector.is_constant_jacobian or is_multipart(bijector) or all_variables(bijector))


def flat_bijectors(bijector: tfb.Bijector) -> list[tfb.Bijector]:
    """The bijectors of nested chains in one list. A chain whose events are several tensors stays one entry."""
    if is_stock(bijector, tfb.Invert):
        return [tfb.Invert(part) for part in reversed(flat_bijectors(bijector.bijector))]
    if not (isinstance(bijector, OnePassChain) or _is_plain_chain(bijector)):
        return [bijector]
    return [flat for part in bijector.bijectors for flat in flat_bijectors(part)]


def _is_plain_chain(bijector: tfb.Bijector) -> bool:
    """Whether `bijector` is a `tfb.Chain` that `OnePassChain` can replace."""
    return is_stock(bijector, tfb.Chain) and not any(is_multipart(part) for part in bijector.bijectors)


def _transform(
    bijector: tfb.Bijector,
    event: tf.Tensor,
    event_ndims: int,
    *,
    backward: bool,
    to_latent: bool,
    kwargs: dict[str, Any],
) -> ValueAndLogDet:
    """The value and log-determinant of `bijector` or, if `backward`, of its inverse.

    `to_latent` means that the whole chain maps from data to latent. An event that a TFP bijector without variables
    cannot map then gets a log-determinant of -inf.
    """
    if _is_plain_chain(bijector):
        bijector = OnePassChain(bijector.bijectors, name=bijector.name)
    with tf.name_scope(bijector.name):
        if isinstance(bijector, OnePassChain):
            return bijector.walk(event, event_ndims, backward=backward, to_latent=to_latent, **kwargs)
        if isinstance(bijector, OnePassBijector):
            run = bijector._inverse_and_log_det if backward else bijector._forward_and_log_det
            if backward and not to_latent and isinstance(bijector, Bounds):
                run = bijector._inverse_alone  # NaN outside the bounds
            min_event_ndims = bijector.inverse_min_event_ndims if backward else bijector.forward_min_event_ndims
            value, log_det = run(event, **kwargs)
            return value, sum_of_parts(log_det, event, event_ndims, min_event_ndims)
        if is_stock(bijector, tfb.Invert):
            return _transform(
                bijector.bijector, event, event_ndims, backward=not backward, to_latent=to_latent, kwargs=kwargs
            )
        if is_permutation_of_features(bijector):
            permutation, inverse = permutation_and_inverse(bijector)
            indices = (inverse, permutation) if backward else (permutation, inverse)
            return permute(event, *indices), tf.zeros([], event.dtype)
        if is_stock(bijector, tfb.Blockwise):
            blocks = tf.split(event, bijector.inverse_block_sizes if backward else bijector.block_sizes, axis=-1)
            log_det = tf.zeros([], log_det_dtype(event.dtype))
            for index, part in enumerate(bijector.bijectors):
                options = {"backward": backward, "to_latent": to_latent, "kwargs": kwargs.get(part.name, {})}
                blocks[index], term = _transform(part, blocks[index], event_ndims, **options)
                log_det += tf.cast(term, log_det.dtype)
            return tf.concat(blocks, axis=-1), log_det
        return _through_tfp_methods(bijector, event, event_ndims, backward, to_latent, kwargs)


def _through_tfp_methods(
    bijector: tfb.Bijector, event: tf.Tensor, event_ndims: int, backward: bool, to_latent: bool, kwargs: dict[str, Any]
) -> ValueAndLogDet:
    """`_transform` for a bijector from TFP or from a user."""
    one_way = bijector.inverse if backward else bijector.forward
    other_way = bijector.forward if backward else bijector.inverse
    log_det_of = bijector.inverse_log_det_jacobian if backward else bijector.forward_log_det_jacobian

    def run(event: tf.Tensor) -> ValueAndLogDet:
        event = tf.identity(event)  # The cache of a TFP bijector has no entry for this new tensor.
        return one_way(event, **kwargs), log_det_of(event, event_ndims, **kwargs)

    with forgotten_by_tfp():
        if not (to_latent and may_have_bounds(bijector)):
            return run(event)
        value, log_det = run(tf.stop_gradient(event))
        value_ndims = (bijector.inverse_event_ndims if backward else bijector.forward_event_ndims)(event_ndims)
        try:
            inside = tf.stop_gradient(other_way(tf.fill(tf.shape(value), tf.constant(0.5, value.dtype)), **kwargs))
        except NotImplementedError:  # a `tfb.Inline` without the other direction
            return run(event)
        computed = all_finite(value, value_ndims) & ~tf.math.is_nan(log_det)
        # If the parameters of the bijector are NaN, `inside` is NaN too, and no event counts as outside.
        outside = all_finite(event, event_ndims) & ~computed & all_finite(inside, event_ndims)
        # An event inside the range replaces each event outside, so that no gradient is NaN here or further on.
        value, log_det = run(tf.where(with_dimensions(outside, event_ndims), inside, event))
        return value, minus_infinity_where(outside, log_det)
