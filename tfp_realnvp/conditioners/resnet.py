"""The residual network."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import keras

from tfp_realnvp.checks import check_flag, check_fraction, check_option, check_sizes
from tfp_realnvp.conditioners.dense import DenseConditioner
from tfp_realnvp.conditioners.layers import (
    activation_config,
    as_activation,
    batch_normalization,
    dropout_layer,
    unfused,
)

__all__ = ["ResNet"]

_NORMALIZATIONS = {"batch": batch_normalization, "layer": keras.layers.LayerNormalization}


@keras.saving.register_keras_serializable(package="tfp_realnvp")
class ResNet(DenseConditioner):
    """Residual network `(kept[, context]) -> (shift, log_scale)` of pre-activation blocks.

    With activation a, optional normalisation n, and context c,

        h_0 = W [asinh(kept), c],        h_{i+1} = h_i + sigmoid(V_i c) * W_i2 dropout(a(n(W_i1 a(n(h_i)))))

    where biases are left out. Without a context there is no sigmoid factor. The output layer is the same as in `MLP`.
    Each W_i2 and the output layer start at zero, so that every block and every coupling starts as the identity.

    Sources: He, Zhang, Ren & Sun, "Identity mappings in deep residual networks", 2016, arXiv 1603.05027; in couplings
    as in Durkan, Bekasov, Murray & Papamakarios, "Neural spline flows", 2019, arXiv 1906.04032.

    Args:
        output_size: number of moved features, `D - d`; at least 1.
        hidden_units: width of each residual block, all equal; at least one block. A block has two layers.
        normalization: None, "batch" for `keras.layers.BatchNormalization` or "layer" for
            `keras.layers.LayerNormalization` before each activation.
        gate_context: whether a context gates each block. A context is concatenated to the kept features in any case.
        num_parameters, activation, dropout, log_scale_bound, input_transform, seed, **kwargs: as in `MLP`.

    Call arguments and returns are the same as in `MLP`.

    Raises:
        ValueError: as in `MLP`, or if hidden_units is empty or not all equal, or normalization is unknown.

    >>> ResNet(2, hidden_units=(16, 16), num_parameters=23)(keras.ops.ones((5, 3))).shape
    TensorShape([5, 2, 23])
    """

    def __init__(
        self,
        output_size: int,
        hidden_units: Sequence[int] = (128, 128),
        *,
        num_parameters: int | None = None,
        activation: str | Callable[..., Any] = "relu",
        dropout: float = 0.0,
        normalization: Literal["batch", "layer"] | None = None,
        gate_context: bool = True,
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
        if len(set(hidden_units)) != 1:
            raise ValueError(
                f"hidden_units must be the width of one or more residual blocks, all equal, got {hidden_units!r}"
            )
        if normalization is not None:
            check_option("normalization", normalization, tuple(_NORMALIZATIONS), "; None is allowed too")
        check_flag("gate_context", gate_context)
        self.hidden_units = tuple(int(units) for units in hidden_units)
        check_fraction("dropout", dropout)
        self.activation, self.dropout = as_activation(activation), float(dropout)
        self.normalization, self.gate_context = normalization, bool(gate_context)
        self.input_layer = self.dense(self.hidden_units[0])
        self.blocks = [ResidualBlock(self, depth) for depth in range(1, len(self.hidden_units) + 1)]

    def _build_hidden(self, size: int, context_size: int) -> int:
        self.input_layer.build((None, size))
        for block in self.blocks:
            block.build(context_size if self.gate_context else 0)
        return int(self.input_layer.units)

    def _call_hidden(self, inputs: Any, context: Any, training: bool | None) -> Any:
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


class ResidualBlock(keras.layers.Layer):  # without "_": Keras makes a scope of the name, which must not start with "_"
    """h + sigmoid(V c) * W_2 dropout(a(n(W_1 a(n(h)))))."""

    def __init__(self, network: ResNet, depth: int):
        super().__init__(dtype=network.dtype_policy)
        width, seed = network.hidden_units[0], network.seed
        normalization = _NORMALIZATIONS[network.normalization] if network.normalization else None
        self.activation = network.activation
        self.normalizations = [normalization(dtype=self.dtype_policy) for _ in range(2)] if normalization else []
        self.dense_layers = [network.dense(width, depth), network.dense(width, kernel_initializer="zeros")]
        self.dropout_layer = dropout_layer(network.dropout, None if seed is None else seed + depth, self.dtype_policy)
        self.gate = network.dense(width, depth + len(network.hidden_units), activation="sigmoid")

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
            change = self.activation(unfused(change))
            if index == 1 and self.dropout_layer is not None:
                change = self.dropout_layer(change, training=training)
            change = layer(change)
        if self.gate.built:
            return hidden + self.gate(context) * change
        # TensorFlow would try to fuse this sum with the product before it, fail (TF 2.21), and log a page of errors.
        return hidden + unfused(change)
