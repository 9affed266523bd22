"""Weight-normalised convolution."""

from typing import Any

import keras
import tensorflow as tf
from keras import ops

__all__ = ["WeightNormConv"]


@keras.saving.register_keras_serializable(package="tfp_realnvp")
class WeightNormConv(keras.layers.Layer):
    """Convolution with the kernel g v / |v|, where each filter has a learned scale g and a learned direction v.

    Source: Salimans & Kingma, "Weight normalization", 2016, arXiv 1602.07868.

    Args:
        filters: number of filters F.
        kernel_size: height and width of the kernel. The output has the height and width of the input.
        scale_penalty: weight of the L2 penalty on g.
        starts_at_zero: whether g starts at 0 instead of |v|.
        use_bias: whether to add a bias to each channel. A bias has no effect before batch normalisation.
        seed: integer that fixes the initial v, or None.

    >>> WeightNormConv(4)(keras.ops.ones((5, 6, 6, 3))).shape
    TensorShape([5, 6, 6, 4])
    """

    def __init__(
        self,
        filters: int,
        kernel_size: int = 3,
        *,
        scale_penalty: float = 0.0,
        starts_at_zero: bool = False,
        use_bias: bool = False,
        seed: int | None = None,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.filters, self.kernel_size = filters, kernel_size
        self.scale_penalty, self.seed = scale_penalty, seed
        self.starts_at_zero, self.use_bias = starts_at_zero, use_bias

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        self.direction = self.add_weight(
            shape=(self.kernel_size, self.kernel_size, input_shape[-1], self.filters),
            initializer=keras.initializers.GlorotUniform(self.seed),
            name="direction",
        )
        self.scale = self.add_weight(
            shape=(self.filters,),
            initializer="zeros",
            regularizer=_L2(self.scale_penalty) if self.scale_penalty else None,
            name="scale",
        )
        if not self.starts_at_zero:
            self.scale.assign(1 / self._inverse_norm())
        if self.use_bias:
            self.bias = self.add_weight(shape=(self.filters,), initializer="zeros", name="bias")
        self.built = True

    def _inverse_norm(self) -> Any:
        return ops.rsqrt(ops.sum(ops.square(self.direction), axis=(0, 1, 2)))

    def call(self, inputs: Any) -> Any:
        kernel = self.direction * (self.scale * self._inverse_norm())
        may_be_empty = not inputs.shape[0] and self.filters != inputs.shape[-1]
        if may_be_empty:  # For 0 images, TensorFlow returns the wrong number of channels: add an image.
            rows = tf.shape(inputs)[0]
            inputs = tf.pad(inputs, [[tf.cast(rows == 0, tf.int32), 0], [0, 0], [0, 0], [0, 0]])
        outputs = ops.conv(inputs, kernel, padding="same", data_format="channels_last")
        if may_be_empty:
            outputs = outputs[:rows]
        return outputs + self.bias if self.use_bias else outputs

    def get_config(self) -> dict[str, Any]:
        names = ("filters", "kernel_size", "scale_penalty", "starts_at_zero", "use_bias", "seed")
        config: dict[str, Any] = super().get_config()
        return config | {name: getattr(self, name) for name in names}


class _L2(keras.regularizers.L2):
    """Keras's L2 penalty, by one operation in place of four."""

    def __call__(self, scale: Any) -> tf.Tensor:
        return 2 * float(self.l2) * tf.nn.l2_loss(tf.convert_to_tensor(scale))
