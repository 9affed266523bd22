"""Coupling bijectors: the kept part of an event conditions how the rest is moved."""

import abc
import contextlib
import copy
import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp
from tensorflow_probability import bijectors as tfb

from tfp_realnvp.bijectors.base import OnePassBijector, all_finite, log_det_dtype, nan_unless, with_dimensions
from tfp_realnvp.bijectors.parts import Features, Pixels
from tfp_realnvp.bijectors.rebuild import rebuild
from tfp_realnvp.checks import check_shape
from tfp_realnvp.variables import all_variables, check_values, keras_layers, tf_keras_layers, with_values

__all__ = ["Coupling", "broadcast_batch_shape", "broadcast_batches", "with_context"]


class Coupling(OnePassBijector):
    """What all couplings share: the split of an event, and one call of the conditioner a pass.

    A subclass says what the conditioner returns, in `_expected_outputs` and `_output_shapes`, and how the moved part
    changes given that, in `_move` and `_move_back`. Its constructor passes `dict(locals())` on as `parameters`.
    """

    _keeps_part = True  # False for what moves every feature by functions of the context alone

    def __init__(
        self,
        conditioner: Callable,
        mask: np.ndarray,
        context: Any,
        *,
        conditioner_variables: Sequence[tf.Variable] | None,
        validate_args: bool,
        parameters: dict[str, Any],
        name: str,
    ):
        with tf.name_scope(name) as name:
            if not callable(conditioner):
                raise ValueError(f"conditioner must be callable, got {conditioner!r}")
            self._conditioner = conditioner
            self._mask = self._no_dependency(self._checked_mask(mask))
            parameters = parameters | {
                "mask": self._mask
            }  # The caller's array may change; copies are rebuilt of these.
            self._context = None if context is None else _checked_context(context)
            self._values: tuple[tf.Tensor | tf.Variable, ...] | None = None  # of the network's variables, if given

            self._parts = _parts(self._mask)
            self._event_ndims = len(self._parts.event_shape)

            if any(not layer.built for layer in (*keras_layers(conditioner), *tf_keras_layers(conditioner))):
                kept_size = self._parts.kept_size
                if kept_size is None:  # Networks of ours know for how many channels they are.
                    kept_size = getattr(conditioner, "output_size", 1)
                with tf.init_scope():
                    self._call_conditioner(
                        tf.zeros([1, *(size or 1 for size in self._parts.event_shape[:-1]), kept_size]),
                        None if self._context is None else tf.zeros([1, self._context.shape[-1]]),
                    )
            # A composite tensor shows its owners what its constructor arguments hold, and no more: as one of them,
            # the variables are seen by every chain and distribution around this bijector. TFP may rebuild it from
            # other tensors in their place, which the network then computes with.
            if conditioner_variables is not None:
                check_values(conditioner, conditioner_variables, "conditioner_variables")
                self._values = tuple(conditioner_variables)
            self._conditioner_variables = all_variables(conditioner) if self._values is None else self._values
            super().__init__(
                forward_min_event_ndims=self._event_ndims, validate_args=validate_args, parameters=parameters, name=name
            )

    def _checked_mask(self, mask: Any) -> np.ndarray:
        expected = "mask must be a boolean vector [D], or [1, 1, C] or [H, W, 1] for images"
        try:
            mask = np.array(mask)
        except ValueError as error:
            raise ValueError(f"{expected}, got {mask!r:.100}") from error
        if mask.dtype != bool or mask.ndim not in (1, 3):
            raise ValueError(f"{expected}, got dtype {mask.dtype} and shape {list(mask.shape)}")
        if self._keeps_part and (mask.all() or not mask.any()):
            raise ValueError(f"mask must keep a part of the event and move a part, got {mask.tolist()!s:.100}")
        if not self._keeps_part and (mask.any() or not mask.size):
            raise ValueError(f"mask must keep nothing of an event in {type(self).__name__}, got {mask.tolist()!s:.100}")
        return mask

    @classmethod
    def _parameter_properties(cls, dtype):
        return {"context": tfp.util.ParameterProperties(event_ndims=1)}

    @classmethod
    def _is_increasing(cls):
        raise NotImplementedError(
            "cdf, quantile and the like are of events of one feature; a coupling is of several, so it is not increasing"
        )

    def __deepcopy__(self, memo: dict) -> "Coupling":
        # Built anew: copied one by one, the network and the tuple of its variables would no longer be the same.
        parameters = {name: copy.deepcopy(value, memo) for name, value in self.parameters.items()}
        parameters["conditioner_variables"] = copy.deepcopy(self._values, memo)
        memo[id(self)] = copied = type(self)(**parameters)
        return copied

    @property
    def conditioner(self) -> Callable:
        return self._conditioner

    @property
    def mask(self) -> np.ndarray:
        return self._mask

    @property
    def context(self) -> Any:
        """Tensor `[B..., K]`, the `tf.Variable` or `tfp.util.DeferredTensor` that was given, or None."""
        return self._context

    @abc.abstractmethod
    def _expected_outputs(self, positions: str, moved_size: int) -> str:
        """What the conditioner must return, in words, for `moved_size` features at the positions "N" or "N, H, W"."""

    @abc.abstractmethod
    def _output_shapes(self, moved_size: int) -> list[list[int]]:
        """The shape of each output of the conditioner for one row or position; flattened ones will do."""

    @abc.abstractmethod
    def _move(self, moved: tf.Tensor, *outputs: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Latent to data: (new values, log-derivatives), both `[..., D - d]`."""

    @abc.abstractmethod
    def _move_back(self, moved: tf.Tensor, *outputs: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Data to latent: (new values, log-derivatives), both `[..., D - d]`."""

    def _forward_and_log_det(self, x):
        return self._transform(x, self._move)

    def _inverse_and_log_det(self, y):
        return self._transform(y, self._move_back)

    def _transform(self, event: tf.Tensor, move: Callable) -> tuple[tf.Tensor, tf.Tensor]:
        event, ndims = self._checked_event(event), self._event_ndims
        context = None if self._context is None else tf.cast(tf.convert_to_tensor(self._context), event.dtype)
        if context is not None:
            event, context = broadcast_batches(event, ndims, context)
        if event.shape.rank is not None:
            return self._couple(event, context, move)
        # In a graph that does not know how many dimensions there are, such as that of a sample of any shape.
        shape = tf.shape(event)
        rows = tf.reshape(event, tf.concat([[-1], shape[-ndims:]], axis=0))
        rows = tf.ensure_shape(rows, [None, *self._parts.event_shape])
        context = None if context is None else tf.reshape(context, [-1, self._context.shape[-1]])
        value, log_det = self._couple(rows, context, move)
        return tf.reshape(value, shape), tf.reshape(log_det, shape[:-ndims])

    def _couple(self, event: tf.Tensor, context: tf.Tensor | None, move: Callable) -> tuple[tf.Tensor, tf.Tensor]:
        kept, moved = self._parts.split(event)
        moved, log_derivatives = move(moved, *self._condition(kept, context))
        log_derivatives = tf.cast(self._parts.only_moved(log_derivatives), log_det_dtype(event.dtype))
        if context is not None:  # A context that is not finite gives NaN, whatever a network makes of it.
            valid = with_dimensions(all_finite(context, 1), self._event_ndims)
            moved, log_derivatives = nan_unless(valid, moved), nan_unless(valid, log_derivatives)
        log_det = tf.reduce_sum(log_derivatives, axis=list(range(-self._event_ndims, 0)))
        return self._parts.merge(kept, moved), log_det

    def _marked(self, valid, value, log_det, event_ndims):
        # What is kept comes through bit for bit.
        return nan_unless(with_dimensions(valid, event_ndims) | self._mask, value), nan_unless(valid, log_det)

    def _checked_event(self, event: tf.Tensor) -> tf.Tensor:
        check_shape(f"event of {self.name}", event, self._parts.event_shape)
        if not event.dtype.is_floating:
            raise ValueError(f"event of {self.name} must be of a floating-point dtype, got {event.dtype.name}")
        return event

    def _condition(self, kept: tf.Tensor, context: tf.Tensor | None) -> list[tf.Tensor]:
        """What the conditioner says of each event, `[..., D - d]` or more dimensions."""
        ndims = self._event_ndims
        # Keras's functional models take one dimension of rows only.
        context_rows = None if context is None else _as_rows(context, 1)
        outputs = self._call_conditioner(_as_rows(kept, ndims), context_rows)
        if kept.shape.rank != 1 + ndims:
            outputs = [_with_rows(output, kept, ndims) for output in outputs]
        outputs = [tf.cast(output, kept.dtype) for output in outputs]
        return [self._parts.only_moved(output, output.shape.rank - kept.shape.rank) for output in outputs]

    def _call_conditioner(self, kept: tf.Tensor, context: tf.Tensor | None) -> tuple[tf.Tensor, ...]:
        with contextlib.nullcontext() if self._values is None else with_values(self._conditioner, self._values):
            if context is None:
                outputs = self._conditioner(kept)
            elif len(getattr(self._conditioner, "inputs", None) or ()) == 2:
                outputs = self._conditioner([kept, context])  # as functional models of Keras want it
            else:
                outputs = self._conditioner(kept, context)
        moved_size = self._parts.moved_size(kept)
        positions = "N, H, W" if self._event_ndims == 3 else "N"
        expected = f"conditioner must return {self._expected_outputs(positions, moved_size)}"
        shapes = self._output_shapes(moved_size)
        returned = outputs
        outputs = tuple(returned) if isinstance(returned, tuple | list) else (returned,)
        if len(outputs) != len(shapes):
            raise ValueError(f"{expected}, got {returned!r:.100}")
        try:
            outputs = [tf.convert_to_tensor(output) for output in outputs]
        except (TypeError, ValueError) as error:
            raise ValueError(f"{expected}, got {outputs!r:.100}") from error
        if any(not (output.dtype.is_floating or output.dtype.is_integer) for output in outputs):
            raise ValueError(f"{expected}, got dtypes {' and '.join(output.dtype.name for output in outputs)}")
        rows = kept.shape[:-1]
        for index, (output, shape) in enumerate(zip(outputs, shapes, strict=True)):
            if len(shape) > 1 and output.shape.rank == kept.shape.rank and output.shape[-1] == math.prod(shape):
                outputs[index] = tf.reshape(output, tf.concat([tf.shape(output)[:-1], shape], axis=0))
            elif not output.shape.is_compatible_with(rows + shape):
                got = " and ".join(str(output.shape) for output in outputs)
                raise ValueError(f"{expected}, got shapes {got} for kept of shape {kept.shape}")
            elif output.shape.rank is None:  # of a py_function, say
                outputs[index] = tf.ensure_shape(output, rows + shape)
        return tuple(outputs)


def with_context(bijector: tfb.Bijector, context: tf.Tensor) -> tfb.Bijector:
    """The same bijector with `context` in place of the context of each coupling in it that has one."""

    def replace(part):
        return part.copy(context=context) if isinstance(part, Coupling) and part.context is not None else part

    return rebuild(bijector, replace)


def broadcast_batches(event: tf.Tensor, event_ndims: int, context: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Events `[..., *event]` and contexts `[..., K]`, both with their common batch shape."""
    batch_shape = broadcast_batch_shape(event, event_ndims, context)
    event = tf.broadcast_to(event, tf.concat([batch_shape, tf.shape(event)[-event_ndims:]], axis=0))
    return event, tf.broadcast_to(context, tf.concat([batch_shape, tf.shape(context)[-1:]], axis=0))


def broadcast_batch_shape(event: tf.Tensor, event_ndims: int, context: tf.Tensor) -> tf.Tensor:
    """The common batch shape of events and contexts `[..., K]`; a ValueError if they are known not to broadcast."""
    static = event.shape[: -event_ndims or None], context.shape[:-1]
    try:
        tf.broadcast_static_shape(*static)
    except ValueError:
        raise ValueError(
            f"the batch shapes of context and events must broadcast, got {static[1]} and {static[0]}"
        ) from None
    return tf.broadcast_dynamic_shape(tf.shape(event)[: -event_ndims or None], tf.shape(context)[:-1])


def _checked_context(context: Any) -> Any:
    """`context` as a tensor; a `tf.Variable` or `tfp.util.DeferredTensor` stays a reference, which trains."""
    if isinstance(context, keras.Variable):
        raise ValueError("context must be no keras.Variable, which TFP takes for a constant: make it a tf.Variable")
    if not isinstance(context, tf.Variable | tfp.util.DeferredTensor):
        try:
            context = tf.convert_to_tensor(context)
        except (TypeError, ValueError) as error:
            raise ValueError(f"context must be numbers of shape [..., K], got {context!r:.100}") from error
    if context.shape.rank == 0 or not (context.dtype.is_floating or context.dtype.is_integer):
        raise ValueError(
            f"context must be numbers of shape [..., K], got {context.dtype.name} of shape {context.shape}"
        )
    return context


def _parts(mask: np.ndarray) -> Features | Pixels:
    if mask.ndim == 1 or mask.shape[:2] == (1, 1):
        return Features(mask.reshape(-1), mask.ndim)
    return Pixels(mask)


def _as_rows(tensor: tf.Tensor, event_ndims: int) -> tf.Tensor:
    """`tensor [..., *event]` as `[N, *event]`."""
    # An empty last dimension leaves reshape's -1 undefined, so the number of rows is computed.
    if tensor.shape.rank == 1 + event_ndims:
        return tensor
    shape = tf.shape(tensor)
    rows = tf.reshape(tensor, tf.concat([[tf.reduce_prod(shape[:-event_ndims])], shape[-event_ndims:]], axis=0))
    return tf.ensure_shape(rows, [None, *tensor.shape[-event_ndims:]])


def _with_rows(output: tf.Tensor, kept: tf.Tensor, event_ndims: int) -> tf.Tensor:
    """`output [N, ...]` as `[*batch, ...]`, with the batch shape of `kept`."""
    shape = tf.concat([tf.shape(kept)[:-event_ndims], tf.shape(output)[1:]], axis=0)
    return tf.ensure_shape(tf.reshape(output, shape), kept.shape[:-event_ndims] + output.shape[1:])
