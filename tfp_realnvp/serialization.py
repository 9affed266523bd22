"""TFP distributions and bijectors to and from JSON-able dictionaries, by class name and parameters. No pickle."""

import inspect
from typing import Any

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

import tfp_realnvp.bijectors
from tfp_realnvp.bijectors.permutation import UnbatchedPermute
from tfp_realnvp.distributions import OnePassTransformedDistribution

__all__ = ["from_config", "to_config"]

_NAMESPACES = {
    "tfp.distributions": tfp.distributions,
    "tfp.bijectors": tfp.bijectors,
    "tfp_realnvp.bijectors": tfp_realnvp.bijectors,
}

# What a flow hands out of itself, and what a user would have written.
_WRITTEN_AS = {
    OnePassTransformedDistribution: tfp.distributions.TransformedDistribution,
    UnbatchedPermute: tfp.bijectors.Permute,
}

_REMEDY = "Use save_weights(), and load_weights() in a flow built anew by your own code; or export()"


def to_config(value: Any, path: str) -> Any:
    """A JSON-able description of a distribution, a bijector or one of their parameters.

    Args:
        value: a TFP distribution or bijector (or one of this package) whose parameters are numbers, strings, arrays,
            tensors, `tf.Variable`s, `tfp.util.TransformedVariable`s, serialisable Keras layers, or again such objects.
        path: how to call `value` in an error.

    Returns:
        The description. Variables are described by their present values.

    Raises:
        ValueError: if a part cannot be described; it names the part by its path.

    >>> float(from_config(to_config(tfp.distributions.Normal(0.0, 2.0), "base")).scale)
    2.0
    """
    return _Writer().write(value, path)


def from_config(config: Any) -> Any:
    """The object that `to_config` described in `config`."""
    return _Reader().read(config)


class _Writer:
    """Objects with an identity of their own (variables, layers, bijectors) are written once, then referred to."""

    def __init__(self):
        self.written: list[Any] = []  # by position; keeps them alive, so that identities stay unique

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
        self.written.append(value)  # After its parts, in the order in which the reader finishes them.
        return config

    def _object(self, value: Any, path: str) -> dict[str, Any]:
        if isinstance(value, tf.Variable):
            name = value.name.split(":")[0]
            return {"variable": self._array(value, path), "trainable": value.trainable, "name": name}
        if isinstance(value, keras.layers.Layer):
            self._check_shares_nothing(value, path)
            try:
                return {"keras": keras.saving.serialize_keras_object(value)}
            except NotImplementedError as error:
                reason = f"{type(value).__name__} has no get_config()"
                raise ValueError(f"{path} cannot be saved: {reason}. {_REMEDY}") from error
        if isinstance(value, tfp.util.DeferredTensor) and hasattr(value.transform_fn, "__self__"):
            return {
                "deferred": self.write(value.pretransformed_input, f"{path}.pretransformed_input"),
                "transform": self.write(value.transform_fn.__self__, f"{path}.transform_fn"),
            }
        if isinstance(value, tfp.distributions.Distribution | tfp.bijectors.Bijector):
            return self._tfp_object(value, path)
        raise ValueError(
            f"{path} cannot be saved: {value!r:.100} is no TFP distribution or bijector, no array and no Keras 3 "
            f"layer. {_REMEDY}"
        )

    def _check_shares_nothing(self, layer: keras.layers.Layer, path: str) -> None:
        """Layers are rebuilt one by one, so that what two of them share would come back as two."""
        for other in self.written:
            if not isinstance(other, keras.layers.Layer):
                continue
            shared = {id(variable) for variable in other.variables} & {id(variable) for variable in layer.variables}
            if shared:
                raise ValueError(f"{path} cannot be saved: {layer.name} and {other.name} share variables. {_REMEDY}")

    def _tfp_object(self, value: Any, path: str) -> dict[str, Any]:
        kind = _WRITTEN_AS.get(type(value), type(value))
        for namespace, module in _NAMESPACES.items():
            # TFP makes a _Chain of a Chain whose parts are no composite tensors; likewise _TransformedDistribution.
            name = kind.__name__.lstrip("_")
            found = getattr(module, name, None)
            if inspect.isclass(found) and kind in (found, *found.__mro__):
                return self._tfp_parameters(value, path, found, f"{namespace}.{name}")
        raise ValueError(f"{path} cannot be saved: {type(value)} is no class of {', '.join(_NAMESPACES)}. {_REMEDY}")

    def _tfp_parameters(self, value: Any, path: str, found: type, name: str) -> dict[str, Any]:
        defaults = {key: item.default for key, item in inspect.signature(found.__init__).parameters.items()}
        return {
            "class": name,
            "parameters": {
                key: self.write(item, f"{path}.{key}")
                for key, item in value.parameters.items()
                if item is not defaults[key]
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


class _Reader:
    def __init__(self):
        self.read_objects: list[Any] = []

    def read(self, config: Any) -> Any:
        if not isinstance(config, dict):
            return config
        if "list" in config:
            return [self.read(item) for item in config["list"]]
        if "dtype" in config:
            return tf.as_dtype(config["dtype"])
        if "array" in config:
            array = np.array(config["array"], config["array_dtype"])
            return tf.constant(array) if config["tensor"] else array[()]  # a scalar, where it is one
        if "same_as" in config:
            return self.read_objects[config["same_as"]]
        value = self._object(config)
        self.read_objects.append(value)
        return value

    def _object(self, config: dict[str, Any]) -> Any:
        if "variable" in config:
            value = self.read(config["variable"])
            return tf.Variable(value, trainable=config["trainable"], name=config["name"])
        if "keras" in config:
            return keras.saving.deserialize_keras_object(config["keras"])
        if "deferred" in config:
            pretransformed = self.read(config["deferred"])
            return tfp.util.DeferredTensor(pretransformed, self.read(config["transform"]))
        namespace, name = config["class"].rsplit(".", 1)
        found = getattr(_NAMESPACES.get(namespace), name, None)
        if not (inspect.isclass(found) and issubclass(found, tfp.distributions.Distribution | tfp.bijectors.Bijector)):
            raise ValueError(f"unknown distribution or bijector {config['class']!r}")
        return found(**{key: self.read(item) for key, item in config["parameters"].items()})
