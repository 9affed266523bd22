"""Compiled functions of a flow, such as its log-density, for calls and for export."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tensorflow_probability import distributions as tfd

from tfp_realnvp.bijectors.base import ValueAndLogDet
from tfp_realnvp.bijectors.context import as_rows, broadcast_batch_shape, broadcast_batches
from tfp_realnvp.flows.inputs import reshaped_to_same_rows
from tfp_realnvp.keras_internals import inference_mode, raw_variable

__all__ = ["CompiledDensity"]


class CompiledDensity:
    """`log_prob`, `sample`, `sample_and_log_prob`, `forward` and `inverse`, each traced once for any number of rows.

    x is `[N, *event_shape]`, z `[N, *latent_shape]`, context `[N, *context_shape]`. Log-densities and log-determinants
    are `[N]`, in nats.

    Args:
        distribution: function from a context, or None, to the distribution.
        event_shape: shape of one event.
        latent_shape: shape of one latent; None if the distribution has no bijector, so no `forward` and `inverse`.
        context_shape: shape of one context, or None.
        has_context_network: whether the distribution has a network of the context alone. It runs once a context, for
            any number of events.
        dtype: dtype of events and contexts.
        as_sample: function applied to samples from `sample`, but not from `sample_and_log_prob`.
    """

    def __init__(
        self,
        distribution: Callable[[Any], tfd.TransformedDistribution],
        event_shape: tuple[int, ...],
        latent_shape: tuple[int, ...] | None,
        context_shape: tuple[int | None, ...] | None,
        has_context_network: bool,
        dtype: str,
        as_sample: Callable[[tf.Tensor], tf.Tensor],
    ):
        self._event_shape, self._context_ndims = event_shape, len(context_shape or ())
        self._once_per_context = has_context_network or event_shape == (1,)

        def log_prob(x: tf.Tensor, context: Any = None) -> tf.Tensor:
            return distribution(context).log_prob(x)

        def sample(num_samples: tf.Tensor, seed: tf.Tensor, context: Any = None) -> tf.Tensor:
            return as_sample(distribution(context).sample(num_samples, seed=seed))

        def sample_and_log_prob(num_samples: tf.Tensor, seed: tf.Tensor, context: Any = None) -> ValueAndLogDet:
            x, log_prob = distribution(context).experimental_sample_and_log_prob(num_samples, seed=seed)
            return x, log_prob

        def forward(z: tf.Tensor, context: Any = None) -> ValueAndLogDet:
            x, log_det = distribution(context).bijector._forward_and_log_det(z, z.shape.rank - 1)
            return x, tf.broadcast_to(log_det, tf.shape(z)[:1])

        def inverse(x: tf.Tensor, context: Any = None) -> ValueAndLogDet:
            z, log_det = distribution(context).bijector._inverse_and_log_det(x, len(event_shape))
            return z, tf.broadcast_to(log_det, tf.shape(x)[:1])

        def compiled(function: Callable[..., Any], **specs: tf.TensorSpec) -> Any:
            if context_shape is not None:
                specs["context"] = tf.TensorSpec([None, *context_shape], dtype)
            signature = [tf.TensorSpec(spec.shape, spec.dtype, name) for name, spec in specs.items()]

            @functools.wraps(function)
            def traced(*args: tf.Tensor) -> Any:
                # The trace is used for all later calls, so it must not depend on a Keras layer in training mode.
                with inference_mode():
                    return function(*args)

            # TensorFlow warns of a plain function that is traced often, and each flow traces it once. A `partial` is
            # counted by itself.
            return tf.function(functools.partial(traced), input_signature=signature, autograph=False)

        rows = tf.TensorSpec([None, *event_shape], dtype)
        number_and_seed = {"num_samples": tf.TensorSpec([], tf.int32), "seed": tf.TensorSpec([2], tf.int32)}
        self.log_prob = compiled(log_prob, x=rows)
        self.log_prob_of_samples = compiled(log_prob, x=tf.TensorSpec([None, None, *event_shape], dtype))
        self.sample = compiled(sample, **number_and_seed)
        self.sample_and_log_prob = compiled(sample_and_log_prob, **number_and_seed)
        self.forward = self.inverse = None
        if latent_shape is not None:
            self.forward = compiled(forward, z=tf.TensorSpec([None, *latent_shape], dtype))
            self.inverse = compiled(inverse, x=rows)

    def log_prob_of_any(self, x: tf.Tensor, context: tf.Tensor | None) -> tf.Tensor:
        """Log-densities `[...]` of events `[..., *event_shape]` given contexts `[..., *context_shape]`.

        Batch shapes broadcast.
        """
        event_ndims = len(self._event_shape)
        if context is None and x.shape.rank == 1 + event_ndims:  # x has rows already. This saves 0.5 ms in eager mode.
            return self.log_prob(x)
        if context is not None:
            if self._once_per_context and context.shape.num_elements() and x.shape.num_elements():
                return self._log_prob_of_grid(x, context)
            x, context = broadcast_batches(x, event_ndims, context, self._context_ndims)
            context = as_rows(context, self._context_ndims)
        batch_shape = tf.shape(x)[: x.shape.rank - event_ndims]
        log_prob = self.log_prob(tf.reshape(x, [-1, *self._event_shape]), context)
        return tf.reshape(log_prob, batch_shape)

    def _log_prob_of_grid(self, x: tf.Tensor, context: tf.Tensor) -> tf.Tensor:
        """`log_prob_of_any`, where networks that see the context alone run once a context.

        For example, x `[300, D]` and context `[1000, 1, K]` become x `[300, 1000, D]` and context `[1000, K]`.
        """
        event_ndims = len(self._event_shape)
        broadcast_batch_shape(x, event_ndims, context, self._context_ndims)  # or an error that names both shapes
        event_dims, context_dims = list(x.shape[:-event_ndims]), list(context.shape[: -self._context_ndims])
        rank = max(len(event_dims), len(context_dims))
        context_dims = [1] * (rank - len(context_dims)) + context_dims
        batch_dims = tf.broadcast_static_shape(*map(tf.TensorShape, (event_dims, context_dims))).as_list()
        of_events = [axis for axis in range(rank) if context_dims[axis] != batch_dims[axis]]
        of_contexts = [axis for axis in range(rank) if context_dims[axis] == batch_dims[axis]]
        order = [*of_events, *of_contexts]
        of_event = range(rank, rank + event_ndims)
        x = tf.transpose(tf.broadcast_to(x, [*batch_dims, *self._event_shape]), [*order, *of_event])
        x = tf.reshape(x, [-1, math.prod(batch_dims[axis] for axis in of_contexts), *self._event_shape])
        log_prob = self.log_prob_of_samples(x, as_rows(context, self._context_ndims))
        log_prob = tf.reshape(log_prob, [batch_dims[axis] for axis in order])
        return tf.transpose(log_prob, np.argsort(order))

    def samples(
        self, function: Callable[..., Any], shape: Any, context: tf.Tensor | None, seed: tf.Tensor
    ) -> tuple[tf.Tensor, ...]:
        """Calls `sample` or `sample_and_log_prob` for a sample shape `[S...]` and contexts `[B..., *context_shape]`.

        Samples are `[S..., B..., *event_shape]`, log-densities `[S..., B...]`.
        """
        number = tf.reduce_prod(shape) if tf.is_tensor(shape) else np.prod(shape, dtype=np.int32)
        if context is not None:
            shape = tf.concat([shape, tf.shape(context)[: -self._context_ndims]], axis=0)
            context = as_rows(context, self._context_ndims)
        results = tf.nest.flatten(function(number, seed, context))
        if context is None and tuple(shape.shape) == (1,):  # The results have this shape already.
            return tuple(results)
        return tuple(
            tf.reshape(result, tf.concat([shape, tf.constant(event_shape, tf.int32)], axis=0))
            for result, event_shape in zip(results, (self._event_shape, ()), strict=False)
        )

    def check_variables(self, variables: Sequence[keras.Variable]) -> None:
        """Raises a ValueError if the density reads a variable missing in `variables`, the variables of the model."""
        held = [raw_variable(variable) for variable in variables]
        # A distributed variable stands for one variable in each replica.
        known = {id(part) for variable in held for part in (variable, *getattr(variable, "values", ()))}
        used = self.log_prob.get_concrete_function().variables
        hidden = [variable.name for variable in used if id(variable) not in known]
        if hidden:
            raise ValueError(
                f"distribution depends on variables that the model cannot see, so they would never train: {hidden}. "
                "They are used inside a plain function or object. Pass the Keras layer itself as the conditioner, or "
                "wrap the function in a tf.Module that has the variables as attributes"
            )

    def export(self, directory: str, variables: Sequence[tf.Variable]) -> tuple[str, ...]:
        """Writes a SavedModel whose signatures return dictionaries, and returns the names of the signatures.

        `variables` are the variables that the functions read.
        """

        def signature(function: Any, *names: str) -> Any:
            def named(*args: tf.Tensor) -> dict[str, tf.Tensor]:
                results = function(*_checked(args, function.input_signature))
                return dict(zip(names, tf.nest.flatten(results), strict=True))

            # A concrete function, since TensorFlow would trace `function` again while it saves.
            return tf.function(named, input_signature=function.input_signature, autograph=False).get_concrete_function()

        module = tf.Module()
        module.exported_variables = list(variables)
        signatures = {
            "serving_default": signature(self.log_prob, "log_prob"),
            "sample": signature(self.sample, "x"),
        }
        if self.forward is not None:
            signatures["forward"] = signature(self.forward, "x", "log_det")
            signatures["inverse"] = signature(self.inverse, "z", "log_det")
        tf.saved_model.save(module, directory, signatures=signatures)
        return tuple(signatures)


def _checked(args: Sequence[tf.Tensor], specs: Sequence[tf.TensorSpec]) -> list[tf.Tensor]:
    """Adds checks of shapes to the inputs `args` of a signature. The checks run in each call of the signature.

    Without them, a loaded signature accepts inputs of any shape.
    """
    checked: list[tf.Tensor] = []
    first: tuple[str, tf.Tensor] | None = None  # name and shape of the first input with rows
    for tensor, spec in zip(args, specs, strict=True):
        # TensorFlow removes a check if the declared shape of the input fulfils it. This operation declares no shape.
        tensor = tf.raw_ops.PlaceholderWithDefault(input=tensor, shape=None, name=f"input/{spec.name}")
        tensor = tf.ensure_shape(tensor, spec.shape)
        if spec.shape.rank and spec.shape[0] is None:
            if first is None:
                first = spec.name, tf.shape(tensor)
            else:
                message = f"{first[0]} and {spec.name} must have the same number of rows"
                name = f"{spec.name}_with_the_rows_of_{first[0]}"
                tensor = reshaped_to_same_rows(tensor, first[1], message, name)
        checked.append(tensor)
    return checked
