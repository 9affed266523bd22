"""The base class of coupling bijectors: the kept part of an event determines how the rest moves."""

import contextlib
import copy
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp
from tensorflow_probability import bijectors as tfb

from tfp_realnvp.bijectors.base import (
    OnePassBijector,
    ValueAndLogDet,
    all_finite,
    check_one_feature,
    log_det_dtype,
    nan_unless,
    with_dimensions,
)
from tfp_realnvp.bijectors.conditioning import condition
from tfp_realnvp.bijectors.context import as_context, broadcast_batches
from tfp_realnvp.bijectors.rebuild import rebuild
from tfp_realnvp.bijectors.split import split_by
from tfp_realnvp.checks import check_floating, check_shape
from tfp_realnvp.keras_internals import untracked
from tfp_realnvp.variables import all_variables, check_values, keras_layers, tf_keras_layers, with_values

__all__ = ["Coupling", "Transformer", "with_context"]


class Transformer(Protocol):
    """An increasing map of each moved feature. The conditioner computes the parameters of the map."""

    @property
    def output_shapes(self) -> Sequence[tuple[int, ...]]:
        """The shape of each output of the conditioner for one moved feature, such as `()` for a shift."""

    @property
    def outputs_in_words(self) -> str:
        """Description of the outputs for errors, with the placeholder `{shape}` for their shape."""

    def forward(self, x: tf.Tensor, *outputs: tf.Tensor) -> ValueAndLogDet:
        """Latent to data: (y, log dy/dx), both with the shape of x."""

    def inverse(self, y: tf.Tensor, *outputs: tf.Tensor) -> ValueAndLogDet:
        """Data to latent: (x, log dx/dy), both with the shape of y."""


class Coupling(OnePassBijector):
    """Base class of couplings: splits an event, calls the conditioner once, transforms the moved part, and merges.

    The constructor of a subclass passes `parameters=dict(locals())`.
    """

    def __init__(
        self,
        conditioner: Callable[..., Any],
        mask: np.ndarray,
        context: Any,
        transformer: Transformer,
        *,
        conditioner_variables: Sequence[tf.Variable] | None,
        validate_args: bool,
        parameters: dict[str, Any],
        name: str,
    ):
        with tf.name_scope(name) as name:
            if not callable(conditioner):
                raise ValueError(f"conditioner must be callable, got {conditioner!r}")
            self._conditioner, self._transformer = conditioner, transformer
            self._mask = untracked(self, _checked_mask(mask))
            # `parameters` holds a copy of the mask, because TFP rebuilds from it and the caller may change the mask.
            parameters = parameters | {"mask": self._mask}
            self._context: Any = None if context is None else as_context(context)
            self._values: tuple[tf.Tensor | tf.Variable, ...] | None = None  # of the network's variables, if given
            self._split = split_by(self._mask)
            self._event_ndims = len(self._split.event_shape)
            if any(not layer.built for layer in (*keras_layers(conditioner), *tf_keras_layers(conditioner))):
                self._build_conditioner()
            # TFP finds the variables of a composite tensor only in its constructor arguments. So the variables are an
            # argument, and every chain and distribution around this bijector sees them. TFP may rebuild the bijector
            # with other tensors as this argument, and the network then computes with these tensors.
            if conditioner_variables is not None:
                check_values(conditioner, conditioner_variables, "conditioner_variables")
                self._values = tuple(conditioner_variables)
            self._conditioner_variables = all_variables(conditioner) if self._values is None else self._values
            super().__init__(
                forward_min_event_ndims=self._event_ndims, validate_args=validate_args, parameters=parameters, name=name
            )

    def _build_conditioner(self) -> None:
        *sizes, kept_size = self._split.kept_shape
        if kept_size is None:  # The networks of this package have an `output_size`. For others we assume one channel.
            kept_size = getattr(self._conditioner, "output_size", 1)
        with tf.init_scope():
            kept = tf.zeros([1, *(size or 1 for size in sizes), kept_size])
            self._condition(kept, None if self._context is None else tf.zeros([1, self._context.shape[-1]]))

    @classmethod
    def _parameter_properties(cls, dtype: Any) -> dict[str, Any]:
        return {"context": tfp.util.ParameterProperties(event_ndims=1)}

    def _is_increasing(self) -> bool:
        check_one_feature(self._mask.size, self.name)
        return True

    def __deepcopy__(self, memo: dict[int, Any]) -> "Coupling":
        # If attributes were copied one by one, the copied variables would not be the variables of the copied network.
        parameters = {name: copy.deepcopy(value, memo) for name, value in self.parameters.items()}
        parameters["conditioner_variables"] = copy.deepcopy(self._values, memo)
        memo[id(self)] = copied = type(self)(**parameters)
        return copied

    @property
    def conditioner(self) -> Callable[..., Any]:
        return self._conditioner

    @property
    def mask(self) -> np.ndarray:
        mask: np.ndarray = self._mask
        return mask

    @property
    def context(self) -> Any:
        """The context: a tensor `[B..., K]`, a `tf.Variable`, a `tfp.util.DeferredTensor`, or None."""
        return self._context

    def _forward_and_log_det(self, x: tf.Tensor) -> ValueAndLogDet:
        return self._apply(x, self._transformer.forward)

    def _inverse_and_log_det(self, y: tf.Tensor) -> ValueAndLogDet:
        return self._apply(y, self._transformer.inverse)

    def _apply(self, event: tf.Tensor, transform: Callable[..., ValueAndLogDet]) -> ValueAndLogDet:
        event, ndims = self._checked_event(event), self._event_ndims
        given = context = None if self._context is None else tf.cast(tf.convert_to_tensor(self._context), event.dtype)
        if context is not None:
            event, context = broadcast_batches(event, ndims, context)
        if event.shape.rank is not None:
            # If no part is kept, the network sees the context alone, and runs once for each context.
            return self._couple(event, context if self._mask.any() else given, transform)
        # A graph may not know the rank of the event, for example when it samples with an unknown sample shape.
        shape = tf.shape(event)
        rows = tf.reshape(event, tf.concat([[-1], shape[-ndims:]], axis=0))
        rows = tf.ensure_shape(rows, [None, *self._split.event_shape])
        context = None if context is None else tf.reshape(context, [-1, self._context.shape[-1]])
        value, log_det = self._couple(rows, context, transform)
        return tf.reshape(value, shape), tf.reshape(log_det, shape[:-ndims])

    def _couple(
        self, event: tf.Tensor, context: tf.Tensor | None, transform: Callable[..., ValueAndLogDet]
    ) -> ValueAndLogDet:
        """`context` has the batch shape of `event`. If no part is kept, it may have one that broadcasts to it."""
        kept, moved = self._split.split(event)
        if context is None or self._mask.any():
            outputs = self._condition(kept, context)
        else:
            outputs = self._condition(context[..., :0], context)
            batch_shape, rank = tf.shape(kept)[:-1], context.shape.rank - 1
            outputs = [tf.broadcast_to(each, tf.concat([batch_shape, each.shape[rank:]], axis=0)) for each in outputs]
        moved, log_derivatives = transform(moved, *outputs)
        log_det = self._sum(log_derivatives)
        if context is not None:  # A context that is not finite gives NaN, even if the network's output is finite.
            valid = all_finite(context, 1)
            moved, log_det = nan_unless(with_dimensions(valid, self._event_ndims), moved), nan_unless(valid, log_det)
        return self._split.merge(kept, moved), log_det

    def _condition(self, kept: tf.Tensor, context: tf.Tensor | None) -> list[tf.Tensor]:
        """The outputs of the conditioner, `[*kept.shape[:-1], moved size, ...]`, with zeros at kept pixels."""
        moved_size = self._split.moved_size(kept)
        shapes = [[moved_size, *shape] for shape in self._transformer.output_shapes]
        positions = "N, H, W" if self._event_ndims == 3 else "N"
        shape_in_words = f"[{positions}, {', '.join(map(str, shapes[0]))}]"
        expected = self._transformer.outputs_in_words.format(shape=shape_in_words)
        with contextlib.nullcontext() if self._values is None else with_values(self._conditioner, self._values):
            outputs = condition(self._conditioner, kept, context, self._event_ndims, shapes, expected)
        return [self._split.only_moved(output, output.shape.rank - kept.shape.rank) for output in outputs]

    def _sum(self, log_derivatives: tf.Tensor) -> tf.Tensor:
        """Sums over the moved features of each event."""
        log_derivatives = tf.cast(self._split.only_moved(log_derivatives), log_det_dtype(log_derivatives.dtype))
        return tf.reduce_sum(log_derivatives, axis=list(range(-self._event_ndims, 0)))

    def _with_nan(self, valid: tf.Tensor, value: tf.Tensor, log_det: tf.Tensor, event_ndims: int) -> ValueAndLogDet:
        # Kept components do not change, bit for bit.
        return nan_unless(with_dimensions(valid, event_ndims) | self._mask, value), nan_unless(valid, log_det)

    def _checked_event(self, event: tf.Tensor) -> tf.Tensor:
        check_shape(f"event of {self.name}", event, self._split.event_shape)
        check_floating(f"event of {self.name}", event)
        return event


def with_context(bijector: tfb.Bijector, context: tf.Tensor) -> tfb.Bijector:
    """Returns a copy of `bijector` in which each coupling with a context has the new `context`."""

    def replace(part: Any) -> Any:
        return part.copy(context=context) if isinstance(part, Coupling) and part.context is not None else part

    return rebuild(bijector, replace)


def _checked_mask(mask: Any) -> np.ndarray:
    expected = "mask must be a boolean vector [D], or [1, 1, C] or [H, W, 1] for images"
    try:
        mask = np.array(mask)
    except ValueError as error:
        raise ValueError(f"{expected}, got {mask!r:.100}") from error
    if mask.dtype != bool or mask.ndim not in (1, 3):
        raise ValueError(f"{expected}, got dtype {mask.dtype} and shape {list(mask.shape)}")
    is_one_moved_feature = mask.shape == (1,) and not mask[0]
    if (mask.all() or not mask.any()) and not is_one_moved_feature:
        raise ValueError(f"mask must keep a part of the event and move the rest, got {mask.tolist()!s:.100}")
    return np.asarray(mask)
