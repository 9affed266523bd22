"""The base class of conditioners for vectors, whose layers are dense."""

import abc
from typing import Any, Literal

import keras
import tensorflow as tf
from keras import ops

from tfp_realnvp.checks import check_option, check_positive
from tfp_realnvp.conditioners.base import Conditioner, Shape
from tfp_realnvp.conditioners.layers import asinh, freeze_parts_of_frozen

__all__ = ["DenseConditioner"]


class DenseConditioner(Conditioner, abc.ABC):
    """Base class of conditioners for vectors, with an output layer that starts at zero.

    Subclasses build the layers before the output layer in `_build_hidden`, and call them in `_call_hidden`.
    """

    def __init__(
        self,
        output_size: int,
        *,
        num_parameters: int | None = None,
        log_scale_bound: float = 3.0,
        input_transform: Literal["asinh"] | None = "asinh",
        seed: int | None = None,
        **kwargs: Any,
    ):
        super().__init__(output_size, num_parameters=num_parameters, seed=seed, **kwargs)
        check_positive("log_scale_bound", log_scale_bound)
        if input_transform is not None:
            check_option("input_transform", input_transform, ("asinh",), "; None is allowed too")
        self.input_transform = input_transform
        self.log_scale_bound = float(log_scale_bound)
        self._sizes: tuple[int, int] | None = None  # sizes of kept and context, once built
        self.output_layer = self.dense(self._num_outputs, kernel_initializer="zeros")

    def dense(self, units: int, depth: int = 0, **kwargs: Any) -> keras.layers.Dense:
        glorot = keras.initializers.GlorotUniform(None if self.seed is None else self.seed + depth)
        return keras.layers.Dense(units, dtype=self.dtype_policy, **{"kernel_initializer": glorot} | kwargs)

    @abc.abstractmethod
    def _build_hidden(self, size: int, context_size: int) -> int:
        """Builds the hidden layers for inputs `[N, size]`, kept features and contexts; returns their output size."""

    @abc.abstractmethod
    def _call_hidden(self, inputs: Any, context: Any, training: bool | None) -> Any:
        """Calls the hidden layers on `inputs [N, size]`, the kept features and contexts side by side."""

    def build(self, kept_shape: Shape, context_shape: Shape | None = None) -> None:
        self._check_shapes(kept_shape, context_shape)
        kept_size, context_size = kept_shape[-1] or 0, (0 if context_shape is None else context_shape[-1]) or 0
        size = kept_size + context_size
        if size == 0:  # On some processors, TensorFlow would abort in a matrix product of size 0.
            raise ValueError(f"without a context, kept must have at least one feature, got shape {list(kept_shape)}")
        self.output_layer.build((None, self._build_hidden(size, context_size)))
        self._sizes = kept_size, context_size
        freeze_parts_of_frozen(self)
        self.built = True

    def _check_shapes(self, kept_shape: Shape, context_shape: Shape | None) -> None:
        """Raises a ValueError unless the shapes are `[N, size]` with the sizes that the layer was built for."""
        for argument, shape in (("kept", kept_shape), ("context", context_shape)):
            if shape is not None and len(shape) != 2:
                raise ValueError(f"{argument} must have shape [N, size], got shape {list(shape)}")
        if context_shape is not None and _differ(kept_shape[0], context_shape[0]):
            raise ValueError(
                f"kept and context must have the same number of rows, got {kept_shape} and {context_shape}"
            )
        sizes = kept_shape[-1], 0 if context_shape is None else context_shape[-1]
        if self._sizes is not None and any(map(_differ, sizes, self._sizes)):
            raise ValueError(
                "kept and context must have {} and {} features, as in the first call, got {} and {}".format(
                    *self._sizes, *sizes
                )
            )

    def call(self, kept: Any, context: Any = None, training: bool | None = None) -> Any:
        self._check_shapes(kept.shape, None if context is None else context.shape)
        if self.input_transform is not None:
            # A row beyond the training rows gets parameters like theirs. With kept itself, the network would
            # extrapolate, and each coupling could move the row further: a held-out row at 17 had a latent at 900.
            kept = asinh(tf.convert_to_tensor(kept))
        inputs = kept if context is None else ops.concatenate([kept, context], axis=-1)
        return self._as_outputs(self.output_layer(self._call_hidden(inputs, context, training)))

    def _bounded_log_scale(self, log_scale: Any) -> Any:
        return self.log_scale_bound * ops.tanh(log_scale / self.log_scale_bound)

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {
            "log_scale_bound": self.log_scale_bound,
            "input_transform": self.input_transform,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "DenseConditioner":
        return cls(**{"input_transform": None} | config)  # Files of version 0.1 have no transform.


def _differ(size: int | None, other: int | None) -> bool:
    return None not in (size, other) and size != other
