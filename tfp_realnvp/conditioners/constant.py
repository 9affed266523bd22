"""Outputs that depend on nothing."""

from typing import Any

import keras
from keras import ops

from tfp_realnvp.conditioners.base import Shape
from tfp_realnvp.conditioners.dense import DenseConditioner
from tfp_realnvp.conditioners.layers import freeze_parts_of_frozen

__all__ = ["Constant"]


@keras.saving.register_keras_serializable(package="tfp_realnvp")
class Constant(DenseConditioner):  # Weight files contain this name: Keras derives the names of layers from it.
    """Learned outputs that are the same for every row. They serve events of one feature without a context.

    Arguments, shapes and errors are as in `MLP`, without hidden layers.

    >>> Constant(1, num_parameters=11)(keras.ops.ones((5, 0))).shape
    TensorShape([5, 1, 11])
    """

    def build(self, kept_shape: Shape, context_shape: Shape | None = None) -> None:
        self.output_layer.build((None, 1))
        freeze_parts_of_frozen(self)
        self.built = True

    def _build_hidden(self, size: int, context_size: int) -> int:
        raise NotImplementedError("a Constant has no hidden layers")

    def _call_hidden(self, inputs: Any, context: Any, training: bool | None) -> Any:
        return ops.ones([ops.shape(inputs)[0], 1], self.compute_dtype)
