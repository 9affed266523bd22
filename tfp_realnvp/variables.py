"""Which variables a TFP object depends on, be they of Keras 3, tf_keras or TensorFlow."""

import keras
import tensorflow as tf

__all__ = ["all_variables", "keras_layers", "raw_variable"]


def raw_variable(variable: keras.Variable) -> tf.Variable:
    """The `tf.Variable` under a Keras 3 variable: `tf.Module`s, tapes and checkpoints know only that one."""
    # Not `variable.value`: inside a Keras call under a mixed precision policy, that is a cast tensor.
    return variable._value


def keras_layers(module: object) -> tuple[keras.layers.Layer, ...]:
    """The outermost Keras 3 layers in `module`: itself, or what a `tf.Module` such as a bijector holds."""
    if isinstance(module, keras.layers.Layer):
        return (module,)
    if not isinstance(module, tf.Module):
        return ()
    # `tf.Module` documents `_flatten` for collecting one's own kind of part.
    return tuple(module._flatten(predicate=lambda part: isinstance(part, keras.layers.Layer)))


def all_variables(module: object) -> tuple[tf.Variable, ...]:
    """Every `tf.Variable` in `module`, each once: those of `tf.Module`s, and those under Keras 3 layers."""
    variables = [raw_variable(variable) for layer in keras_layers(module) for variable in layer.variables]
    if isinstance(module, tf.Module):
        variables.extend(module.variables)
    return tuple({id(variable): variable for variable in variables}.values())
