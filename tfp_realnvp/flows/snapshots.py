"""Copies of the values of variables, to restore them later."""

import functools
from collections.abc import Callable, Sequence

import keras
import numpy as np
import tensorflow as tf

from tfp_realnvp.keras_internals import raw_variable

__all__ = ["Snapshots", "are_finite"]


class Snapshots:
    """Copies and restores the values of variables.

    Args:
        variables: Keras variables, such as `model.weights`.
    """

    def __init__(self, variables: Sequence[keras.Variable]):
        self._variables = [raw_variable(variable) for variable in variables]
        self._readers = [_reader(variable) for variable in self._variables]

    def take(self) -> list[tf.Tensor]:
        """The values of the variables now."""
        return [read() for read in self._readers]

    def restore(self, values: Sequence[tf.Tensor | np.ndarray]) -> None:
        for variable, value in zip(self._variables, values, strict=True):
            variable.assign(value)


def are_finite(values: Sequence[tf.Tensor]) -> bool:
    return all(np.all(np.isfinite(value.numpy())) for value in values if value.dtype.is_floating)


def _reader(variable: tf.Variable) -> Callable[[], tf.Tensor]:
    """A function that reads the variable. Its own method needs ten times as long, or several steps for all weights."""
    reader: Callable[[], tf.Tensor] = variable.read_value
    if not isinstance(variable, tf.distribute.DistributedValues):
        reader = functools.partial(tf.raw_ops.ReadVariableOp, resource=variable.handle, dtype=variable.dtype)
    return reader
