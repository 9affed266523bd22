"""The multilayer perceptron."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import keras

from tfp_realnvp.checks import check_fraction, check_sizes
from tfp_realnvp.conditioners.dense import DenseConditioner
from tfp_realnvp.conditioners.layers import activation_config, as_activation, dropout_layer, unfused

__all__ = ["MLP"]


@keras.saving.register_keras_serializable(package="tfp_realnvp")
class MLP(DenseConditioner):
    """Multilayer perceptron `(kept[, context]) -> (shift, log_scale)`.

    With the last hidden layer h and B = `log_scale_bound`,

        shift = W_t h + b_t,        log_scale = B * tanh((W_s h + b_s) / B),

    or, for splines, parameters = W h + b, without a bound. W and b start at zero, so that a coupling starts as the
    identity. The hidden layers have Glorot initialisation. `|log_scale| < B` keeps each coupling invertible in floating
    point. The first layer gets asinh(kept), which is close to kept near 0 and grows like a logarithm, so that a row far
    beyond the training rows gets similar outputs. A context is concatenated unchanged.

    Source: Dinh, Sohl-Dickstein & Bengio, "Density estimation using Real NVP", 2017, arXiv 1605.08803.

    Args:
        output_size: number of moved features, `D - d`; at least 1.
        hidden_units: width of each hidden layer, each at least 1; may be empty.
        num_parameters: None for the pair (shift, log_scale) of an affine coupling. Otherwise the number P of parameters
            of each moved feature, such as `3 * num_bins - 1` for a `SplineCoupling`.
        activation: name of a Keras activation, or a callable, for the hidden layers.
        dropout: fraction of the units that each hidden layer drops in training, at least 0 and below 1.
        log_scale_bound: B, the bound of the absolute value of `log_scale`; above 0, finite.
        input_transform: "asinh", or None to give the kept features to the first layer unchanged.
        seed: integer that fixes the initial weights and the dropout, or None.
        **kwargs: `name`, `dtype`, `trainable` of `keras.layers.Layer`.

    Call arguments:
        kept: floating-point tensor `[N, d]`; d may be 0 if there is a context.
        context: floating-point tensor `[N, K]`, or None.
        training: whether to drop units, as in every Keras layer.

    Returns (of a call):
        The pair (shift, log_scale), each `[N, output_size]`; or one tensor `[N, output_size, P]`.

    Raises:
        ValueError: if a size is below 1, log_scale_bound is not above 0 and finite, dropout is out of range, or seed is
            not an integer. In a call, if there is neither a kept feature nor a context.

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
        activation: str | Callable[..., Any] = "relu",
        dropout: float = 0.0,
        log_scale_bound: float = 3.0,
        input_transform: Literal["asinh"] | None = "asinh",
        seed: int | None = None,
        **kwargs: Any,
    ):
        super().__init__(
            output_size,
            num_parameters=num_parameters,
            log_scale_bound=log_scale_bound,
            input_transform=input_transform,
            seed=seed,
            **kwargs,
        )
        check_sizes("hidden_units", hidden_units)
        self.hidden_units = tuple(int(units) for units in hidden_units)
        check_fraction("dropout", dropout)
        self.activation, self.dropout = as_activation(activation), float(dropout)
        self.hidden_layers = [self.dense(units, depth) for depth, units in enumerate(self.hidden_units)]
        self.dropout_layer = dropout_layer(self.dropout, self.seed, self.dtype_policy)

    def _build_hidden(self, size: int, context_size: int) -> int:
        for layer in self.hidden_layers:
            layer.build((None, size))
            size = layer.units
        return size

    def _call_hidden(self, inputs: Any, context: Any, training: bool | None) -> Any:
        hidden = inputs
        for layer in self.hidden_layers:
            hidden = self.activation(unfused(layer(hidden)))
            if self.dropout_layer is not None:
                hidden = self.dropout_layer(hidden, training=training)
        return hidden

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {
            "hidden_units": self.hidden_units,
            "activation": activation_config(self.activation),
            "dropout": self.dropout,
        }
