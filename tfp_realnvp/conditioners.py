"""Keras layers that compute the parameters of a coupling from the part it keeps."""

import abc
import numbers
import sys
from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import ops

from tfp_realnvp.checks import check_flag, check_option, check_size, check_sizes, floating_policy, is_integer

__all__ = ["MLP", "Constant", "ResNet", "activation_config"]


class _Conditioner(keras.layers.Layer, abc.ABC):
    """What all conditioners share: checked arguments, and an output layer that starts at zero.

    Subclasses build what comes before the output layer in `_build_hidden`, and call it in `_call_hidden`.
    """

    def __init__(
        self,
        output_size: int,
        *,
        num_parameters: int | None = None,
        log_scale_bound: float = 3.0,
        seed: int | None = None,
        **kwargs: Any,
    ):
        if kwargs.get("dtype") is not None:
            floating_policy(kwargs["dtype"])
        super().__init__(**kwargs)
        check_size("output_size", output_size)
        if num_parameters is not None:
            check_size("num_parameters", num_parameters)
        is_number = isinstance(log_scale_bound, numbers.Real) and not isinstance(log_scale_bound, bool)
        if not is_number or not 0 < log_scale_bound <= sys.float_info.max:
            raise ValueError(f"log_scale_bound must be above 0 and finite, got {log_scale_bound!r:.100}")
        if seed is not None and not is_integer(seed):
            raise ValueError(f"seed must be an integer or None, got {seed!r}")
        if not -(2**63) <= (seed or 0) < 2**63 - 2**32:  # layers count on from it
            raise ValueError(f"seed must fit into 64 bits, got {seed!r}")
        self.output_size = int(output_size)
        self.num_parameters = None if num_parameters is None else int(num_parameters)
        self.log_scale_bound = float(log_scale_bound)
        self.seed = None if seed is None else int(seed)
        # One product for both outputs of an affine coupling: half the kernel launches of two layers.
        self.output_layer = self._dense((self.num_parameters or 2) * self.output_size, kernel_initializer="zeros")

    def _dense(self, units: int, depth: int = 0, **kwargs: Any) -> keras.layers.Dense:
        glorot = keras.initializers.GlorotUniform(None if self.seed is None else self.seed + depth)
        return keras.layers.Dense(units, dtype=self.dtype_policy, **{"kernel_initializer": glorot} | kwargs)

    @abc.abstractmethod
    def _build_hidden(self, size: int, context_size: int) -> int:
        """Builds the hidden layers for kept features and contexts `[N, size]`; returns the size of what they give."""

    @abc.abstractmethod
    def _call_hidden(self, inputs: Any, context: Any, training: bool | None) -> Any:
        """What the output layer takes, of kept features and contexts `[N, size]` side by side."""

    def build(self, kept_shape: tuple, context_shape: tuple | None = None) -> None:
        for argument, shape in (("kept", kept_shape), ("context", context_shape)):
            if shape is not None and len(shape) != 2:
                raise ValueError(f"{argument} must be of shape [N, size], got shape {list(shape)}")
        context_size = 0 if context_shape is None else context_shape[-1]
        size = kept_shape[-1] + context_size
        if size == 0:  # TensorFlow aborts the process on some processors, in the product with an empty kernel.
            raise ValueError(f"kept must have a feature where there is no context, got shape {list(kept_shape)}")
        self.output_layer.build((None, self._build_hidden(size, context_size)))
        for layer in self._flatten_layers(include_self=False):
            layer.trainable = self.trainable  # Reaches the variables, which is where an outer model looks.
        self.built = True

    def call(self, kept: Any, context: Any = None, training: bool | None = None) -> Any:
        inputs = kept
        if context is not None:
            if None not in (kept.shape[0], context.shape[0]) and kept.shape[0] != context.shape[0]:
                raise ValueError(f"kept and context must have as many rows, got {kept.shape} and {context.shape}")
            inputs = ops.concatenate([kept, context], axis=-1)
        outputs = self.output_layer(self._call_hidden(inputs, context, training))
        if self.num_parameters is not None:
            return ops.reshape(outputs, [-1, self.output_size, self.num_parameters])
        shift, log_scale = ops.split(outputs, 2, axis=-1)
        return shift, self.log_scale_bound * ops.tanh(log_scale / self.log_scale_bound)

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {
            "output_size": self.output_size,
            "num_parameters": self.num_parameters,
            "log_scale_bound": self.log_scale_bound,
            "seed": self.seed,
        }


@keras.saving.register_keras_serializable(package="tfp_realnvp")
class MLP(_Conditioner):
    """Multilayer perceptron `(kept[, context]) -> (shift, log_scale)`.

    With h the last hidden layer and B = `log_scale_bound`,

        shift = W_t h + b_t,        log_scale = B * tanh((W_s h + b_s) / B),

    or, for splines, parameters = W h + b, without a bound. These W and b start at zero, so that a coupling starts as
    the identity; the hidden layers start at Glorot's values. `|log_scale| < B` keeps each coupling invertible in
    floating point. A context is concatenated to the kept features.

    Source: Dinh, Sohl-Dickstein & Bengio, "Density estimation using Real NVP", 2017, arXiv 1605.08803.

    Args:
        output_size: number of moved features, `D - d`; at least 1.
        hidden_units: width of each hidden layer, each at least 1; may be empty.
        num_parameters: None for the pair (shift, log_scale) of an affine coupling; else the number P of parameters of
            each moved feature, such as `3 * num_bins - 1` for a `SplineCoupling`.
        activation: name of a Keras activation, or a callable, for the hidden layers.
        dropout: part of the units that each hidden layer drops in training, from 0 to below 1.
        log_scale_bound: B, the largest absolute value that `log_scale` approaches; above 0, finite.
        seed: integer that fixes the initial weights and what is dropped, or None.
        **kwargs: `name`, `dtype`, `trainable` of `keras.layers.Layer`.

    Call arguments:
        kept: floating-point tensor `[N, d]`; d may be 0 where there is a context.
        context: floating-point tensor `[N, K]`, or None.
        training: whether to drop units; as in every Keras layer.

    Returns (of a call):
        The pair (shift, log_scale), each `[N, output_size]`; or one tensor `[N, output_size, P]`.

    Raises:
        ValueError: if a size is below 1, the bound not above 0 and finite, dropout out of its range, or the seed no
            integer; in a call, if there is neither a kept feature nor a context.

    >>> shift, log_scale = MLP(2, hidden_units=(16,))(keras.ops.ones((5, 3)))
    >>> shift.shape, log_scale.shape
    (TensorShape([5, 2]), TensorShape([5, 2]))
    """

    def __init__(
        self,
        output_size: int,
        hidden_units: Sequence[int] = (128, 128),
        *,
        num_parameters: int | None = None,
        activation: str | Callable = "relu",
        dropout: float = 0.0,
        log_scale_bound: float = 3.0,
        seed: int | None = None,
        **kwargs: Any,
    ):
        super().__init__(
            output_size, num_parameters=num_parameters, log_scale_bound=log_scale_bound, seed=seed, **kwargs
        )
        check_sizes("hidden_units", hidden_units)
        self.hidden_units = tuple(int(units) for units in hidden_units)
        self.activation, self.dropout = _as_activation(activation), _as_rate("dropout", dropout)
        self.hidden_layers = [
            self._dense(units, depth, activation=self.activation) for depth, units in enumerate(self.hidden_units)
        ]
        self.dropout_layer = _dropout(self.dropout, self.seed, self.dtype_policy)

    def _build_hidden(self, size, context_size):
        for layer in self.hidden_layers:
            layer.build((None, size))
            size = layer.units
        return size

    def _call_hidden(self, inputs, context, training):
        hidden = inputs
        for layer in self.hidden_layers:
            hidden = layer(hidden)
            if self.dropout_layer is not None:
                hidden = self.dropout_layer(hidden, training=training)
        return hidden

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {
            "hidden_units": self.hidden_units,
            "activation": activation_config(self.activation),
            "dropout": self.dropout,
        }


@keras.saving.register_keras_serializable(package="tfp_realnvp")
class ResNet(_Conditioner):
    """Residual network `(kept[, context]) -> (shift, log_scale)` of pre-activation blocks.

    With activation a, optional normalisation n, and context c,

        h_0 = W [kept, c],        h_{i+1} = h_i + sigmoid(V_i c) * W_i2 dropout(a(n(W_i1 a(n(h_i)))))

    (biases left out; without a context, no factor sigmoid). The last h gives the outputs as in `MLP`. Each W_i2 and the
    output layer start at zero, so that every block, and a coupling, starts as the identity.

    Sources: He, Zhang, Ren & Sun, "Identity mappings in deep residual networks", 2016, arXiv 1603.05027; in couplings
    as in Durkan, Bekasov, Murray & Papamakarios, "Neural spline flows", 2019, arXiv 1906.04032.

    Args:
        output_size: number of moved features, `D - d`; at least 1.
        hidden_units: width of each residual block, of two layers each; all equal, at least one block.
        num_parameters: as in `MLP`.
        activation: name of a Keras activation, or a callable.
        dropout: part of the units that each block drops in training, from 0 to below 1.
        normalization: None, "batch" or "layer", before each activation, as in Keras's layers of these names.
        gate_context: whether a context, besides being concatenated to the kept features, gates each block.
        log_scale_bound: B, as in `MLP`.
        seed: integer that fixes the initial weights and what is dropped, or None.
        **kwargs: `name`, `dtype`, `trainable` of `keras.layers.Layer`.

    Call arguments, returns and errors are those of `MLP`; besides,

    Raises:
        ValueError: if hidden_units is empty or not all equal, or normalization unknown.

    >>> ResNet(2, hidden_units=(16, 16), num_parameters=23)(keras.ops.ones((5, 3))).shape
    TensorShape([5, 2, 23])
    """

    def __init__(
        self,
        output_size: int,
        hidden_units: Sequence[int] = (128, 128),
        *,
        num_parameters: int | None = None,
        activation: str | Callable = "relu",
        dropout: float = 0.0,
        normalization: str | None = None,
        gate_context: bool = True,
        log_scale_bound: float = 3.0,
        seed: int | None = None,
        **kwargs: Any,
    ):
        super().__init__(
            output_size, num_parameters=num_parameters, log_scale_bound=log_scale_bound, seed=seed, **kwargs
        )
        check_sizes("hidden_units", hidden_units)
        if len(set(hidden_units)) != 1:
            raise ValueError(f"hidden_units must be the width of each block, all equal, got {hidden_units!r}")
        if normalization is not None:
            check_option("normalization", normalization, tuple(_NORMALIZATIONS))
        check_flag("gate_context", gate_context)
        self.hidden_units = tuple(int(units) for units in hidden_units)
        self.activation, self.dropout = _as_activation(activation), _as_rate("dropout", dropout)
        self.normalization, self.gate_context = normalization, bool(gate_context)
        self.input_layer = self._dense(self.hidden_units[0])
        self.blocks = [_ResidualBlock(self, depth) for depth in range(1, len(self.hidden_units) + 1)]

    def _build_hidden(self, size, context_size):
        self.input_layer.build((None, size))
        for block in self.blocks:
            block.build(context_size if self.gate_context else 0)
        return self.input_layer.units

    def _call_hidden(self, inputs, context, training):
        hidden = self.input_layer(inputs)
        for block in self.blocks:
            hidden = block(hidden, context, training=training)
        return hidden

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {
            "hidden_units": self.hidden_units,
            "activation": activation_config(self.activation),
            "dropout": self.dropout,
            "normalization": self.normalization,
            "gate_context": self.gate_context,
        }


class _ResidualBlock(keras.layers.Layer):
    """h + sigmoid(V c) * W_2 dropout(a(n(W_1 a(n(h)))))."""

    def __init__(self, network: ResNet, depth: int):
        super().__init__(dtype=network.dtype_policy)
        width, seed = network.hidden_units[0], network.seed
        normalization = _NORMALIZATIONS.get(network.normalization)
        self.activation = network.activation
        self.normalizations = [normalization(dtype=self.dtype_policy) for _ in range(2)] if normalization else []
        self.dense_layers = [network._dense(width, depth), network._dense(width, kernel_initializer="zeros")]
        self.dropout_layer = _dropout(network.dropout, None if seed is None else seed + depth, self.dtype_policy)
        self.gate = network._dense(width, depth + len(network.hidden_units), activation="sigmoid")

    def build(self, context_size: int) -> None:
        width = self.dense_layers[0].units
        for layer in (*self.normalizations, *self.dense_layers):
            layer.build((None, width))
        if context_size:
            self.gate.build((None, context_size))
        self.built = True

    def call(self, hidden: Any, context: Any = None, training: bool | None = None) -> Any:
        change = hidden
        for index, layer in enumerate(self.dense_layers):
            if self.normalizations:
                change = self.normalizations[index](change, training=training)
            change = self.activation(change)
            if index == 1 and self.dropout_layer is not None:
                change = self.dropout_layer(change, training=training)
            change = layer(change)
        return hidden + (self.gate(context) * change if self.gate.built else change)


@keras.saving.register_keras_serializable(package="tfp_realnvp")
class Constant(_Conditioner):
    """Outputs that are the same for every row, and learned: for events of one feature, where there is no context.

    Arguments, shapes and errors are those of `MLP`, without its hidden layers.

    >>> Constant(1, num_parameters=11)(keras.ops.ones((5, 0))).shape
    TensorShape([5, 1, 11])
    """

    def build(self, kept_shape: tuple, context_shape: tuple | None = None) -> None:
        self.output_layer.build((None, 1))
        self.output_layer.trainable = self.trainable
        self.built = True

    def _build_hidden(self, size, context_size):
        raise NotImplementedError("there is none")

    def _call_hidden(self, inputs, context, training):
        return ops.ones([ops.shape(inputs)[0], 1], self.compute_dtype)


def activation_config(activation: str | Callable) -> Any:
    """How Keras writes an activation to a file; a ValueError for one that it could not read again."""
    if getattr(activation, "__name__", None) == "<lambda>":
        raise ValueError("activation cannot be saved: a lambda has no name; register a function with Keras instead")
    return keras.activations.serialize(_as_activation(activation))


def _as_activation(activation: str | Callable) -> Callable:
    if isinstance(activation, type):
        raise ValueError(f"activation must be a name or a function, got the class {activation!r}")
    return keras.activations.get(activation)


def _as_rate(argument: str, rate: Any) -> float:
    if not isinstance(rate, numbers.Real) or isinstance(rate, bool) or not 0 <= rate < 1:
        raise ValueError(f"{argument} must be from 0 to below 1, got {rate!r:.100}")
    return float(rate)


def _dropout(rate: float, seed: int | None, dtype: keras.DTypePolicy) -> keras.layers.Dropout | None:
    """None at rate 0: a layer would bring a random state into every file."""
    return keras.layers.Dropout(rate, seed=seed, dtype=dtype) if rate else None


_NORMALIZATIONS = {"batch": keras.layers.BatchNormalization, "layer": keras.layers.LayerNormalization}
