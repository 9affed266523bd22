"""The one file that uses private names of Keras, tf_keras and TensorFlow.

`tests/test_private_names.py` lists each of them and checks that it does what this file needs.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf
from keras.src.backend.common import global_state

__all__ = [
    "BuiltModel",
    "IteratedDataset",
    "adam_moments",
    "inference_mode",
    "is_training",
    "layers_within",
    "parts_within",
    "random_states",
    "raw_variable",
    "replace_clipping",
    "tf_keras_training_mode",
    "untracked",
    "wrap_variable",
]


def raw_variable(variable: keras.Variable) -> tf.Variable:
    """The `tf.Variable` inside a Keras 3 variable. `tf.Module`s, tapes and checkpoints work with the `tf.Variable`."""
    # `variable.value` would be a cast tensor inside a Keras call under a mixed precision policy.
    return variable._value


def wrap_variable(variable: tf.Variable, trainable: bool, name: str) -> keras.Variable:
    """A Keras 3 variable around `variable` itself."""
    wrapper = keras.Variable(variable, dtype=variable.dtype.name, trainable=trainable, name=name)
    wrapper._value = variable  # The first releases of Keras 3 store a copy here.
    return wrapper


def parts_within(module: tf.Module, kind: type) -> tuple[Any, ...]:
    """The objects of class `kind` in the attributes of a `tf.Module` and of the modules inside it."""
    return tuple(module._flatten(predicate=lambda part: isinstance(part, kind)))


def untracked(module: tf.Module, value: Any) -> Any:
    """Marks `value` so that `module` stores it as an attribute unchanged. TensorFlow would wrap a list or tuple."""
    return module._no_dependency(value)


def layers_within(layer: keras.layers.Layer) -> list[keras.layers.Layer]:
    """A Keras layer and all layers inside it. Outer layers come before inner layers."""
    return list(layer._flatten_layers())


def random_states(model: keras.Model) -> list[keras.Variable]:
    """The states of the random generators for noise and dropout in the model. Keras does not save them."""
    return [generator.state for layer in layers_within(model) for generator in layer._seed_generators]


# Training mode and inference mode


def is_training() -> bool:
    """Whether a Keras 3 layer is being called in training mode. Layers inside it then run in training mode too."""
    call = global_state.get_global_attribute("current_call_ctx")
    return bool(getattr(call, "training", None))


@contextlib.contextmanager
def inference_mode() -> Iterator[None]:
    """Context manager: Keras 3 layers run in inference mode, even inside a layer that is called in training mode."""
    outer = global_state.get_global_attribute("current_call_ctx")
    global_state.set_global_attribute("current_call_ctx", None)
    try:
        yield
    finally:
        global_state.set_global_attribute("current_call_ctx", outer)


@contextlib.contextmanager
def tf_keras_training_mode(layers: Sequence[Any]) -> Iterator[None]:
    """Context manager: tf_keras layers run in training mode. Keras 3 sets the mode of its own layers only."""
    if not layers:
        yield
        return
    from tf_keras.src import backend  # The public name in tf_keras gives a deprecation warning.

    with backend.deprecated_internal_learning_phase_scope(1):
        yield


# Optimizers and models


def adam_moments(optimizer: keras.optimizers.Adam, variable: Any) -> tuple[tf.Variable, tf.Variable]:
    """The first and second moments of the gradients of `variable`, as Keras's Adam stores them."""
    index = optimizer._get_variable_index(variable)
    return raw_variable(optimizer._momentums[index]), raw_variable(optimizer._velocities[index])


def replace_clipping(optimizer: keras.optimizers.Optimizer, clip: Callable[..., Sequence[tf.Tensor]]) -> None:
    """Makes `optimizer` clip gradients by `clip(clip_of_keras, gradients)`, where `clip_of_keras` is Keras's method."""
    # Only the instance changes. Its class and its configuration stay the same, and so do saved files.
    optimizer._clip_gradients = functools.partial(clip, functools.partial(type(optimizer)._clip_gradients, optimizer))


class BuiltModel(keras.Model):
    """A Keras model whose constructor builds all its layers."""

    def _maybe_symbolic_build(self, *args: Any, **kwargs: Any) -> None:
        """Does nothing. Keras's method fails when replicas get different numbers of rows."""

    def _clear_previous_trainer_metrics(self) -> None:
        """Does nothing. Keras 3.6 would remove the metrics of the models inside this model."""


class IteratedDataset(tf.data.Dataset):
    """A dataset whose subclass defines `element_spec` and `__iter__`. TensorFlow itself knows only its length."""

    def __init__(self, length: int):
        super().__init__(tf.data.experimental.to_variant(tf.data.Dataset.range(length)))

    def _inputs(self) -> list[tf.data.Dataset]:
        """The datasets that this dataset is made of. TensorFlow wants every subclass to define this."""
        return []
