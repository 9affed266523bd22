"""Converts TFP distributions and bijectors to dictionaries for JSON, by class name and parameters, and back.

Nothing is pickled.
"""

import contextlib
import inspect
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp
import tf_keras

import tfp_realnvp.bijectors
from tfp_realnvp.bijectors.permutation import UnbatchedPermute
from tfp_realnvp.bijectors.softplus import Softplus
from tfp_realnvp.distributions import OnePassTransformedDistribution
from tfp_realnvp.keras_internals import layers_within

__all__ = ["from_config", "reading", "to_config"]

_NAMESPACES = {
    "tfp.distributions": tfp.distributions,
    "tfp.bijectors": tfp.bijectors,
    "tfp_realnvp.bijectors": tfp_realnvp.bijectors,
    "tf_keras.constraints": tf_keras.constraints,
}
_NAMED_BY_CLASS = tfp.distributions.Distribution | tfp.bijectors.Bijector | tf_keras.constraints.Constraint

# Classes of this package that are saved under the name of the TFP class that they replace.
_WRITTEN_AS = {
    OnePassTransformedDistribution: tfp.distributions.TransformedDistribution,
    UnbatchedPermute: tfp.bijectors.Permute,
    Softplus: tfp.bijectors.Softplus,
}

# Classes of version 0.1, and the classes that replace them.
_RENAMED = {"ElementwiseAffine": "AffineCoupling", "ElementwiseSpline": "SplineCoupling"}

_REMEDY = "Use save_weights() and load_weights() with a flow that your own code builds, or use export()"


def to_config(value: Any, path: str) -> Any:
    """Converts a distribution, a bijector or one of their parameters to a dictionary for JSON.

    Args:
        value: a distribution or bijector of TFP or of this package. Its parameters may be numbers, strings, arrays,
            tensors, `tf.Variable`s, `tfp.util.TransformedVariable`s, serialisable Keras layers, and other distributions
            and bijectors.
        path: the name of `value` in errors, such as "distribution.bijector".

    Returns:
        The dictionary. It contains the current values of variables.

    Raises:
        ValueError: if a part cannot be converted. The message names the part by its path.

    >>> float(from_config(to_config(tfp.distributions.Normal(0.0, 2.0), "base"), "base").scale)
    2.0
    """
    return _Writer().write(value, path)


def from_config(config: Any, path: str) -> Any:
    """Converts a dictionary from `to_config` back to an object.

    Args:
        config: the dictionary.
        path: the name of the object in errors, such as "distribution.bijector".

    Raises:
        ValueError: if `config` or a part of it cannot be converted. The message names the part by its path.
    """
    return _Reader().read(config, path)


class _Writer:
    """Converts objects to dictionaries. A variable, layer or bijector that occurs again becomes a reference."""

    def __init__(self) -> None:
        self.written: list[Any] = []  # References are positions in this list.

    def write(self, value: Any, path: str) -> Any:
        if value is None or isinstance(value, bool | int | float | str):
            return value
        if isinstance(value, list | tuple):
            return {"list": [self.write(item, f"{path}[{index}]") for index, item in enumerate(value)]}
        if isinstance(value, tf.DType):
            return {"dtype": value.name}
        if isinstance(value, np.ndarray | np.generic | tf.Tensor):
            return self._array(value, path)
        for index, other in enumerate(self.written):
            if value is other:
                return {"same_as": index}
        config = self._object(value, path)
        self.written.append(value)  # After its parts, which is also the order of the reader.
        return config

    def _object(self, value: Any, path: str) -> dict[str, Any]:
        if isinstance(value, tf.Variable):
            return {
                "variable": self._array(value, path),
                "trainable": value.trainable,
                "name": value.name.split(":")[0],
                "constraint": self.write(value.constraint, f"{path}.constraint"),
            }
        if isinstance(value, keras.layers.Layer):
            self._check_shares_nothing(value, path)
            try:
                return {"keras": keras.saving.serialize_keras_object(value)}
            except NotImplementedError as error:
                reason = f"{type(value).__name__} has no get_config()"
                raise ValueError(f"{path} cannot be saved: {reason}. {_REMEDY}") from error
        if isinstance(value, keras.constraints.Constraint):
            return {"keras": keras.saving.serialize_keras_object(value)}
        if isinstance(value, tfp.util.DeferredTensor) and hasattr(value.transform_fn, "__self__"):
            return {
                "deferred": self.write(value.pretransformed_input, f"{path}.pretransformed_input"),
                "transform": self.write(value.transform_fn.__self__, f"{path}.transform_fn"),
            }
        if isinstance(value, _NAMED_BY_CLASS):
            return self._by_class(value, path)
        raise ValueError(
            f"{path} cannot be saved: {value!r:.100} is not a TFP distribution or bijector, an array, a Keras "
            f"constraint or a Keras 3 layer. {_REMEDY}"
        )

    def _check_shares_nothing(self, network: keras.layers.Layer, path: str) -> None:
        """Raises a ValueError if two networks share layers or variables, since rebuilt networks do not share them."""

        def parts(network: keras.layers.Layer) -> set[int]:
            return {id(part) for part in (*layers_within(network), *network.variables)}

        own = parts(network)
        for other in self.written:
            if isinstance(other, keras.layers.Layer) and not own.isdisjoint(parts(other)):
                raise ValueError(
                    f"{path} cannot be saved: {network.name} and {other.name} share layers or variables. {_REMEDY}"
                )

    def _by_class(self, value: Any, path: str) -> dict[str, Any]:
        kind = _WRITTEN_AS.get(type(value), type(value))
        for namespace, module in _NAMESPACES.items():
            # If a part is not a composite tensor, TFP makes a `_Chain` instead of a `Chain`, and likewise a
            # `_TransformedDistribution`.
            name = kind.__name__.lstrip("_")
            found = getattr(module, name, None)
            if inspect.isclass(found) and kind in (found, *found.__mro__):
                return self._parameters(value, path, found, f"{namespace}.{name}")
        raise ValueError(f"{path} cannot be saved: {type(value)} is not a class of {', '.join(_NAMESPACES)}. {_REMEDY}")

    def _parameters(self, value: Any, path: str, found: Any, name: str) -> dict[str, Any]:
        parameters = value.get_config() if isinstance(value, tf_keras.constraints.Constraint) else value.parameters
        defaults = {key: item.default for key, item in inspect.signature(found.__init__).parameters.items()}
        return {
            "class": name,
            "parameters": {
                key: self.write(item, f"{path}.{key}") for key, item in parameters.items() if item is not defaults[key]
            },
        }

    @staticmethod
    def _array(value: Any, path: str) -> dict[str, Any]:
        try:
            array = np.asarray(value)
        except (NotImplementedError, TypeError):
            raise ValueError(f"{path} cannot be saved: {value!r} has no value outside its graph") from None
        dtype = array.dtype.name
        if dtype not in ("bool", "float16", "float32", "float64", "int32", "int64"):
            raise ValueError(f"{path} cannot be saved: arrays of dtype {dtype} are not supported")
        return {"array": array.tolist(), "array_dtype": dtype, "tensor": tf.is_tensor(value)}


class UnreadableError(ValueError):
    """A ValueError whose message names the object or file that could not be read."""


@contextlib.contextmanager
def reading(what: str) -> Iterator[None]:
    """Context manager: turns any error into a ValueError "<what> cannot be read: ...".

    If contexts are nested, the innermost one makes the message. Errors of opening a file do not change.
    """
    try:
        yield
    except (UnreadableError, FileNotFoundError, IsADirectoryError, PermissionError):
        raise
    except Exception as error:  # A damaged or foreign file can cause any error.
        reason = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        raise UnreadableError(f"{what} cannot be read: {reason}") from error


class _Reader:
    def __init__(self) -> None:
        self.read_objects: list[Any] = []

    def read(self, config: Any, path: str) -> Any:
        with reading(path):
            return self._read(config, path)

    def _read(self, config: Any, path: str) -> Any:
        if config is None or isinstance(config, bool | int | float | str):
            return config
        if not isinstance(config, dict):
            raise ValueError(f"{config!r:.100} describes no object")
        if "list" in config:
            return [self.read(item, f"{path}[{index}]") for index, item in enumerate(config["list"])]
        if "dtype" in config:
            return tf.as_dtype(config["dtype"])
        if "array" in config:
            array = np.array(config["array"], config["array_dtype"])
            return tf.constant(array) if config["tensor"] else array[()]  # `[()]` makes shape [] a scalar
        if "same_as" in config:
            index, number = config["same_as"], len(self.read_objects)
            if not (isinstance(index, int) and 0 <= index < number):
                raise ValueError(f"it refers to object {index!r} of the {number} objects before it")
            return self.read_objects[index]
        value = self._object(config, path)
        self.read_objects.append(value)
        return value

    def _object(self, config: dict[str, Any], path: str) -> Any:
        if "variable" in config:
            value = self.read(config["variable"], path)
            constraint = self.read(config.get("constraint"), f"{path}.constraint")
            return tf.Variable(value, trainable=config["trainable"], name=config["name"], constraint=constraint)
        if "keras" in config:
            value = keras.saving.deserialize_keras_object(config["keras"])
            if not isinstance(value, keras.layers.Layer | keras.constraints.Constraint):
                raise ValueError(f"{value!r:.100} is not a Keras layer or constraint")
            return value
        if "deferred" in config:
            pretransformed = self.read(config["deferred"], f"{path}.pretransformed_input")
            transform = self.read(config["transform"], f"{path}.transform_fn")
            if not isinstance(transform, tfp.bijectors.Bijector):
                raise ValueError(f"its transform_fn is not a bijector: {transform!r:.100}")
            return tfp.util.DeferredTensor(pretransformed, transform)
        namespace, _, name = str(config.get("class")).rpartition(".")
        found = getattr(_NAMESPACES.get(namespace), _RENAMED.get(name, name), None)
        if not (inspect.isclass(found) and issubclass(found, _NAMED_BY_CLASS)):
            raise ValueError(f"unknown class {config.get('class')!r:.100}")
        parameters = config.get("parameters")
        if not isinstance(parameters, dict):
            raise ValueError(f"its parameters must be a dictionary, got {parameters!r:.100}")
        return found(**{key: self.read(item, f"{path}.{key}") for key, item in parameters.items()})
