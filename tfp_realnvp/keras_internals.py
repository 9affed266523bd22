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
    """The `tf.Variable` under a Keras 3 variable: `tf.Module`s, tapes and checkpoints know only that one."""
    # Not `variable.value`: inside a Keras call under a mixed precision policy, that is a cast tensor.
    return variable._value


def wrap_variable(variable: tf.Variable, trainable: bool, name: str) -> keras.Variable:
    """A Keras 3 variable around `variable` itself."""
    wrapper = keras.Variable(variable, dtype=variable.dtype.name, trainable=trainable, name=name)
    wrapper._value = variable  # The first releases of Keras 3 put a copy there.
    return wrapper


def parts_within(module: tf.Module, kind: type) -> tuple[Any, ...]:
    """The objects of class `kind` that a `tf.Module` holds in its attributes, and in those of modules within it."""
    return tuple(module._flatten(predicate=lambda part: isinstance(part, kind)))


def untracked(module: tf.Module, value: Any) -> Any:
    """`value` as an attribute that `module` keeps as it is, where TensorFlow would wrap a list or tuple."""
    return module._no_dependency(value)


def layers_within(layer: keras.layers.Layer) -> list[keras.layers.Layer]:
    """A Keras layer and all layers within it, outer ones before inner ones."""
    return list(layer._flatten_layers())


def random_states(model: keras.Model) -> list[keras.Variable]:
    """The state of each generator of noise and dropout in the model, which Keras leaves out of files."""
    return [generator.state for layer in layers_within(model) for generator in layer._seed_generators]


# Training mode and inference mode


def is_training() -> bool:
    """Whether a Keras 3 layer is being called in training mode. The layers within it then are, too."""
    call = global_state.get_global_attribute("current_call_ctx")
    return bool(getattr(call, "training", None))


@contextlib.contextmanager
def inference_mode() -> Iterator[None]:
    """Keras 3 layers called in here run in inference mode, even within a layer that is being trained."""
    outer = global_state.get_global_attribute("current_call_ctx")
    global_state.set_global_attribute("current_call_ctx", None)
    try:
        yield
    finally:
        global_state.set_global_attribute("current_call_ctx", outer)


@contextlib.contextmanager
def tf_keras_training_mode(layers: Sequence[Any]) -> Iterator[None]:
    """Training mode for tf_keras layers. Keras 3 tells only its own layers of it."""
    if not layers:
        yield
        return
    from tf_keras.src import backend  # tf_keras's public name for this warns of its removal.

    with backend.deprecated_internal_learning_phase_scope(1):
        yield


# Optimizers and models


def adam_moments(optimizer: keras.optimizers.Adam, variable: Any) -> tuple[tf.Variable, tf.Variable]:
    """The first and the second moments that Keras's Adam keeps of the gradients of `variable`."""
    index = optimizer._get_variable_index(variable)
    return raw_variable(optimizer._momentums[index]), raw_variable(optimizer._velocities[index])


def replace_clipping(optimizer: keras.optimizers.Optimizer, clip: Callable[..., Sequence[tf.Tensor]]) -> None:
    """From now on `optimizer` clips by `clip(clip of Keras, gradients)`."""
    # Of the instance alone: its class, its configuration and so its files stay Keras's own.
    optimizer._clip_gradients = functools.partial(clip, functools.partial(type(optimizer)._clip_gradients, optimizer))


class BuiltModel(keras.Model):
    """A Keras model that its constructor builds completely."""

    def _maybe_symbolic_build(self, *args: Any, **kwargs: Any) -> None:
        """Does nothing. Keras's own method fails on replicas that get different numbers of rows."""
