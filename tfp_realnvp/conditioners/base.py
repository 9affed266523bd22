"""The base class of conditioners, and functions that conditioners share."""

import abc
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf
from keras import ops

from tfp_realnvp.checks import check_positive, check_seed, check_size, floating_policy
from tfp_realnvp.keras_internals import layers_within

__all__ = [
    "Conditioner",
    "Constant",
    "Shape",
    "activation_config",
    "as_activation",
    "batch_normalization",
    "dropout_layer",
    "freeze_parts_of_frozen",
    "unfused",
]


Shape = tuple[int | None, ...]


class Conditioner(keras.layers.Layer, abc.ABC):
    """Base class of conditioners for vectors: checks arguments, and has an output layer that starts at zero.

    Subclasses build the layers before the output layer in `_build_hidden`, and call them in `_call_hidden`.
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
        check_positive("log_scale_bound", log_scale_bound)
        check_seed(seed)
        self.output_size = int(output_size)
        self.num_parameters = None if num_parameters is None else int(num_parameters)
        self.log_scale_bound = float(log_scale_bound)
        self.seed = None if seed is None else int(seed)
        self._sizes: tuple[int, int] | None = None  # sizes of kept and context, once built
        # One layer computes shift and log-scale, since two layers would launch twice as many kernels.
        self.output_layer = self.dense((self.num_parameters or 2) * self.output_size, kernel_initializer="zeros")

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
            raise ValueError(f"kept must have a feature where there is no context, got shape {list(kept_shape)}")
        self.output_layer.build((None, self._build_hidden(size, context_size)))
        self._sizes = kept_size, context_size
        freeze_parts_of_frozen(self)
        self.built = True

    def compute_output_shape(self, kept_shape: Shape, context_shape: Shape | None = None) -> Any:
        """Shapes of the outputs of a call, from the shapes of its arguments."""
        self._check_shapes(kept_shape, context_shape)
        shape = kept_shape[0], self.output_size
        return (shape, shape) if self.num_parameters is None else (*shape, self.num_parameters)

    def _check_shapes(self, kept_shape: Shape, context_shape: Shape | None) -> None:
        """Raises a ValueError unless the shapes are `[N, size]` with the sizes that the layer was built for."""
        for argument, shape in (("kept", kept_shape), ("context", context_shape)):
            if shape is not None and len(shape) != 2:
                raise ValueError(f"{argument} must be of shape [N, size], got shape {list(shape)}")
        if context_shape is not None and _differ(kept_shape[0], context_shape[0]):
            raise ValueError(
                f"kept and context must have the same number of rows, got {kept_shape} and {context_shape}"
            )
        sizes = kept_shape[-1], 0 if context_shape is None else context_shape[-1]
        if self._sizes is not None and any(map(_differ, sizes, self._sizes)):
            raise ValueError(
                "kept and context must have {} and {} features, as at first, got {} and {}".format(*self._sizes, *sizes)
            )

    def call(self, kept: Any, context: Any = None, training: bool | None = None) -> Any:
        self._check_shapes(kept.shape, None if context is None else context.shape)
        inputs = kept if context is None else ops.concatenate([kept, context], axis=-1)
        outputs = self.output_layer(self._call_hidden(inputs, context, training))
        if self.num_parameters is not None:
            return ops.reshape(outputs, [-1, self.output_size, self.num_parameters])
        shift, log_scale = ops.split(outputs, 2, axis=-1)
        return shift, self.log_scale_bound * ops.tanh(log_scale / self.log_scale_bound)

    def get_config(self) -> dict[str, Any]:
        config: dict[str, Any] = super().get_config()
        return config | {
            "output_size": self.output_size,
            "num_parameters": self.num_parameters,
            "log_scale_bound": self.log_scale_bound,
            "seed": self.seed,
        }


def freeze_parts_of_frozen(network: keras.layers.Layer) -> None:
    """Freezes the layers inside a frozen network, since layers created after it was frozen are still trainable."""
    if not network.trainable:
        for layer in layers_within(network):
            layer.trainable = False  # Reaches the variables, which is where an outer model looks.


def _differ(size: int | None, other: int | None) -> bool:
    return None not in (size, other) and size != other


@keras.saving.register_keras_serializable(package="tfp_realnvp")
class Constant(Conditioner):  # Weight files contain this name: Keras derives the names of layers from it.
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


def activation_config(activation: str | Callable[..., Any]) -> Any:
    """The Keras config of an activation. Raises a ValueError for a lambda, which Keras could not load again."""
    if getattr(activation, "__name__", None) == "<lambda>":
        raise ValueError("activation cannot be saved: a lambda has no name; register a function with Keras instead")
    return keras.activations.serialize(as_activation(activation))


def as_activation(activation: str | Callable[..., Any]) -> Callable[..., Any]:
    if isinstance(activation, type):
        raise ValueError(f"activation must be a name or a function, got the class {activation!r}")
    found: Callable[..., Any] = keras.activations.get(activation)
    return found


def unfused(tensor: Any) -> Any:
    """`tensor`, which TensorFlow does not fuse with what comes next.

    On a processor, it fuses a dense layer with the rectifier after it, and the fused kernel of oneDNN turns NaN into 0.
    """
    return tf.ensure_shape(tensor, tensor.shape)


def batch_normalization(dtype: keras.DTypePolicy, **options: Any) -> keras.layers.BatchNormalization:
    """Keras's batch normalisation. In the scope of a strategy with several replicas, it uses all their rows."""
    # `synchronized=True` is not used for one replica: it computes variances differently, from the mean of squares.
    synchronized = tf.distribute.get_strategy().num_replicas_in_sync > 1
    return keras.layers.BatchNormalization(synchronized=synchronized, dtype=dtype, **options)


def dropout_layer(rate: float, seed: int | None, dtype: keras.DTypePolicy) -> keras.layers.Dropout | None:
    """A dropout layer, or None at rate 0: a layer would add a random state to every file."""
    return keras.layers.Dropout(rate, seed=seed, dtype=dtype) if rate else None
