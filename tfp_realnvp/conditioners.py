"""Keras layers that compute the shift and log-scale of a coupling from the part it keeps."""

import numbers
import sys
from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import ops

from tfp_realnvp.checks import check_size, check_sizes, floating_policy, is_integer

__all__ = ["MLP", "activation_config"]


@keras.saving.register_keras_serializable(package="tfp_realnvp")
class MLP(keras.layers.Layer):
    """Multilayer perceptron `(kept[, context]) -> (shift, log_scale)`.

    With h the last hidden layer and B = `log_scale_bound`,

        shift = W_t h + b_t,        log_scale = B * tanh((W_s h + b_s) / B).

    These W and b start at zero, so that a coupling starts as the identity; the hidden layers start at Glorot's values.
    `|log_scale| < B` keeps each coupling invertible in floating point. A context is concatenated to the kept features.

    Source: Dinh, Sohl-Dickstein & Bengio, "Density estimation using Real NVP", 2017, arXiv 1605.08803.

    Args:
        output_size: number of moved features, `D - d`; at least 1.
        hidden_units: width of each hidden layer, each at least 1; may be empty.
        activation: name of a Keras activation, or a callable, for the hidden layers.
        log_scale_bound: B, the largest absolute value that `log_scale` approaches; above 0, finite.
        seed: integer that fixes the initial weights, or None.
        **kwargs: `name`, `dtype`, `trainable` of `keras.layers.Layer`.

    Call arguments:
        kept: floating-point tensor `[N, d]`; d may be 0 where there is a context.
        context: floating-point tensor `[N, K]`, or None.

    Returns (of a call):
        The pair (shift, log_scale), each `[N, output_size]`.

    Raises:
        ValueError: if a size is below 1, the bound not above 0 and finite, or the seed no integer; in a call, if
            there is neither a kept feature nor a context.

    >>> shift, log_scale = MLP(2, hidden_units=(16,))(keras.ops.ones((5, 3)))
    >>> shift.shape, log_scale.shape
    (TensorShape([5, 2]), TensorShape([5, 2]))
    """

    def __init__(
        self,
        output_size: int,
        hidden_units: Sequence[int] = (128, 128),
        *,
        activation: str | Callable = "relu",
        log_scale_bound: float = 3.0,
        seed: int | None = None,
        **kwargs: Any,
    ):
        if kwargs.get("dtype") is not None:
            floating_policy(kwargs["dtype"])
        super().__init__(**kwargs)
        check_size("output_size", output_size)
        check_sizes("hidden_units", hidden_units)
        is_number = isinstance(log_scale_bound, numbers.Real) and not isinstance(log_scale_bound, bool)
        if not is_number or not 0 < log_scale_bound <= sys.float_info.max:
            raise ValueError(f"log_scale_bound must be above 0 and finite, got {log_scale_bound!r:.100}")
        if seed is not None and not is_integer(seed):
            raise ValueError(f"seed must be an integer or None, got {seed!r}")
        if not -(2**63) <= (seed or 0) < 2**63 - len(hidden_units):  # as many layers count on from it
            raise ValueError(f"seed must fit into 64 bits, got {seed!r}")
        self.output_size = int(output_size)
        self.hidden_units = tuple(int(units) for units in hidden_units)
        self.activation = _as_activation(activation)
        self.log_scale_bound = float(log_scale_bound)
        self.seed = None if seed is None else int(seed)
        self.hidden_layers = [
            keras.layers.Dense(
                units,
                self.activation,
                kernel_initializer=keras.initializers.GlorotUniform(None if seed is None else seed + depth),
                dtype=self.dtype_policy,
            )
            for depth, units in enumerate(self.hidden_units)
        ]
        # One product for both outputs: half the kernel launches of two layers.
        self.output_layer = keras.layers.Dense(
            2 * self.output_size, kernel_initializer="zeros", dtype=self.dtype_policy
        )

    def build(self, kept_shape: tuple, context_shape: tuple | None = None) -> None:
        for argument, shape in (("kept", kept_shape), ("context", context_shape)):
            if shape is not None and len(shape) != 2:
                raise ValueError(f"{argument} must be of shape [N, size], got shape {list(shape)}")
        size = kept_shape[-1] + (0 if context_shape is None else context_shape[-1])
        if size == 0:  # TensorFlow aborts the process on some processors, in the product with an empty kernel.
            raise ValueError(f"kept must have a feature where there is no context, got shape {list(kept_shape)}")
        for layer in [*self.hidden_layers, self.output_layer]:
            layer.build((None, size))
            layer.trainable = self.trainable  # Reaches the variables, which is where an outer model looks.
            size = layer.units
        self.built = True

    def call(self, kept: Any, context: Any = None) -> tuple[Any, Any]:
        hidden = kept
        if context is not None:
            if None not in (kept.shape[0], context.shape[0]) and kept.shape[0] != context.shape[0]:
                raise ValueError(f"kept and context must have as many rows, got {kept.shape} and {context.shape}")
            hidden = ops.concatenate([kept, context], axis=-1)
        for layer in self.hidden_layers:
            hidden = layer(hidden)
        shift, log_scale = ops.split(self.output_layer(hidden), 2, axis=-1)
        return shift, self.log_scale_bound * ops.tanh(log_scale / self.log_scale_bound)

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {
            "output_size": self.output_size,
            "hidden_units": self.hidden_units,
            "activation": activation_config(self.activation),
            "log_scale_bound": self.log_scale_bound,
            "seed": self.seed,
        }


def activation_config(activation: str | Callable) -> Any:
    """How Keras writes an activation to a file; a ValueError for one that it could not read again."""
    if getattr(activation, "__name__", None) == "<lambda>":
        raise ValueError("activation cannot be saved: a lambda has no name; register a function with Keras instead")
    return keras.activations.serialize(_as_activation(activation))


def _as_activation(activation: str | Callable) -> Callable:
    if isinstance(activation, type):
        raise ValueError(f"activation must be a name or a function, got the class {activation!r}")
    return keras.activations.get(activation)
