"""The layers and variables that a TFP object depends on: from Keras 3, tf_keras or TensorFlow."""

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from tfp_realnvp.keras_internals import parts_within, raw_variable, wrap_variable

__all__ = [
    "all_variables",
    "check_values",
    "frozen_variables",
    "keras_layers",
    "keras_variable",
    "tf_keras_layers",
    "with_values",
]


class _ConstraintOfTensors(keras.constraints.Constraint):
    """The constraint of a `tf.Variable`, for Keras. Keras passes a variable where TensorFlow passes a tensor."""

    def __init__(self, constraint: Callable[[tf.Tensor], tf.Tensor]):
        self._constraint = constraint

    def __call__(self, held: Any) -> tf.Tensor:
        return self._constraint(tf.convert_to_tensor(held))


def keras_variable(variable: tf.Variable, trainable: bool) -> keras.Variable:
    """Wraps `variable` itself in a Keras 3 variable, so that a Keras model can train and save it."""
    wrapper = wrap_variable(variable, trainable, name=variable.name.split(":")[0].replace("/", "_"))
    if variable.constraint is not None:  # Keras optimizers apply the constraint after each step.
        wrapper.constraint = _ConstraintOfTensors(variable.constraint)
    return wrapper


def keras_layers(module: object) -> tuple[keras.layers.Layer, ...]:
    """The outermost Keras 3 layers in `module`, which is a layer itself or a `tf.Module` such as a bijector."""
    return _layers(module, keras.layers.Layer)


def tf_keras_layers(module: object) -> tuple[Any, ...]:
    """The outermost tf_keras layers in `module`; an empty tuple if tf_keras has not been imported."""
    tf_keras = sys.modules.get("tf_keras")
    return () if tf_keras is None else _layers(module, tf_keras.layers.Layer)


def all_variables(module: object) -> tuple[tf.Variable, ...]:
    """Every `tf.Variable` of the `tf.Module`s and Keras 3 layers in `module`, each listed once."""
    variables = [raw_variable(variable) for layer in keras_layers(module) for variable in layer.variables]
    if isinstance(module, tf.Module):
        try:
            variables.extend(module.variables)
        except ValueError:  # TFP fails at lists in which only some bijectors are composite tensors.
            layers = tf_keras_layers(module)
            inner = {id(part) for layer in layers for part in (layer, *layer.submodules)}
            for each in (module, *module.submodules):
                if id(each) not in inner:  # Layers have counters too, which are not among their variables.
                    variables.extend(leaf for leaf in _leaves(vars(each)) if isinstance(leaf, tf.Variable))
            variables.extend(variable for layer in layers for variable in layer.variables)
    return tuple({id(variable): variable for variable in variables}.values())


def _leaves(value: Any) -> Iterator[Any]:
    """What is in nested dictionaries, lists and tuples."""
    if isinstance(value, Mapping | list | tuple):
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from _leaves(part)
    else:
        yield value


@contextlib.contextmanager
def with_values(module: object, values: Sequence[tf.Variable | tf.Tensor]) -> Iterator[None]:
    """Context manager: Keras 3 layers in `module` compute with `values`, one for each of `all_variables(module)`."""
    of_keras = {id(raw_variable(own)): own for layer in keras_layers(module) for own in layer.variables}
    pairs = [
        (of_keras[id(own)], tf.convert_to_tensor(value))
        for own, value in zip(all_variables(module), values, strict=True)
        if own is not value and id(own) in of_keras
    ]
    with keras.StatelessScope(pairs) if pairs else contextlib.nullcontext():
        yield


def check_values(module: object, values: Sequence[tf.Variable | tf.Tensor], argument: str) -> None:
    """Raises a ValueError unless `module` can compute with `values` in place of `all_variables(module)`."""
    own = all_variables(module)
    if [value.shape for value in values] != [variable.shape for variable in own]:
        raise ValueError(
            f"{argument} must have one value for each variable of {module!r:.60}, of shapes "
            f"{[tuple(variable.shape) for variable in own]}, got {[tuple(value.shape) for value in values]}"
        )
    of_keras = {id(raw_variable(variable)) for layer in keras_layers(module) for variable in layer.variables}
    for variable, value in zip(own, values, strict=True):
        # In a `tf.function` that takes the object as an argument, a symbolic variable takes the place of each variable.
        is_same = value is variable or (isinstance(value, tf.Variable) and tf.is_symbolic_tensor(value.handle))
        if id(variable) not in of_keras and not is_same:
            raise ValueError(
                f"{argument} cannot replace {variable.name}: it is not a variable of a Keras 3 layer, and only Keras 3 "
                "layers can compute with values other than their variables"
            )


def frozen_variables(layers: Sequence[Any]) -> tuple[tf.Variable, ...]:
    """The variables that tf_keras layers do not train. In a frozen layer, variables still report trainable=True."""
    return tuple(variable for layer in layers for variable in layer.non_trainable_variables)


def _layers(module: object, layer_type: type) -> tuple[Any, ...]:
    if isinstance(module, layer_type):
        return (module,)
    if not isinstance(module, tf.Module):
        return ()
    layers = parts_within(module, layer_type)
    # tf_keras layers are modules themselves, so `layers` also includes the layers inside them.
    inner = {id(part) for layer in layers if isinstance(layer, tf.Module) for part in layer.submodules}
    return tuple(layer for layer in layers if id(layer) not in inner)
