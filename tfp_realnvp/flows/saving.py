"""Saving, loading and exporting of flows."""

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from tfp_realnvp.checks import check_flag, check_option
from tfp_realnvp.flows.columns import NamedColumnsModel
from tfp_realnvp.flows.files import as_path, atomic_file, atomic_folder, confirm_overwrite
from tfp_realnvp.flows.serialization import from_config, reading
from tfp_realnvp.flows.snapshots import Snapshots
from tfp_realnvp.keras_internals import layers_within, random_states, raw_variable

__all__ = ["SavingModel"]


class SavingModel(NamedColumnsModel):
    """A Keras model that writes files completely or not at all, and also saves random states, which Keras does not.

    Subclasses define `_constructor_config`, and `_compiled` with the functions for `export`.
    """

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        self.num_epochs_done = 0  # in the current or last `fit`

    # The model

    def save(self, filepath: str | os.PathLike[str], overwrite: bool = True, **kwargs: Any) -> None:
        """Writes architecture, weights and optimizer to one file. Other arguments as in `keras.Model.save`.

        Args:
            filepath: a path that ends in ".keras".
            overwrite: whether to replace an existing file. If False, the user is asked.

        Raises:
            ValueError: if the path does not end in ".keras", or if a part of the distribution cannot be saved. The
                message names the part.
            OSError: if the file cannot be written. An older file then does not change.
        """
        path = as_path(filepath)
        if not path.endswith(".keras"):
            raise ValueError(f"filepath must end in .keras, got {path!r}")
        if confirm_overwrite(path, overwrite):
            with atomic_file(path) as new_path:
                super().save(new_path, **kwargs)

    def get_config(self) -> dict[str, Any]:
        flags = {name: [part.trainable for part in parts] for name, parts in self._with_flags().items()}
        config: dict[str, Any] = super().get_config()
        names = {"feature_names": self.feature_names, "context_names": self.context_names}
        return config | flags | names | self._constructor_config()

    def _constructor_config(self) -> dict[str, Any]:
        """The constructor's arguments, without the arguments of `keras.Model`."""
        raise NotImplementedError

    def _with_flags(self) -> dict[str, list[Any]]:
        """Layers and variables whose flags `trainable` are saved, by the key of the flags in the configuration.

        Outer layers come before inner layers, because setting the flag of a layer also sets the flags inside it.
        """
        return {"layers_train": layers_within(self), "variables_train": self.variables}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "SavingModel":
        config = dict(config)
        with reading(f"the config of {cls.__name__}"):
            flags = {name: config.pop(name, None) for name in ("layers_train", "variables_train")}
            names = {"x": config.pop("feature_names", None), "context": config.pop("context_names", None)}
            for name in ("distribution", "base_distribution", "context_network"):
                if name in config:
                    config[name] = from_config(config[name], name)
            flow = cls(**config)
            flow.columns.names = names
            flow._build_layers()
            for name, parts in flow._with_flags().items():
                if flags[name] is None and name == "layers_train":  # a file of version 0.1
                    continue
                if not isinstance(flags[name], list) or len(flags[name]) != len(parts):
                    raise ValueError(f"{name} must be a list of {len(parts)} flags, got {flags[name]!r:.100}")
                for part, trainable in zip(parts, flags[name], strict=True):
                    part.trainable = trainable
        return flow

    def compile_from_config(self, config: dict[str, Any]) -> None:
        with reading("compile_config"):
            self.compile(**keras.saving.deserialize_keras_object(config))
        if self.optimizer is not None:
            self.optimizer.build(self.trainable_variables)

    def _build_layers(self) -> None:
        """Builds the layers of a subclass that would otherwise be built by their first call."""

    # Weights

    def save_weights(self, filepath: str | os.PathLike[str], overwrite: bool = True, **kwargs: Any) -> None:
        """Writes weights, optimizer and random states. Arguments as in `keras.Model.save_weights`.

        Raises:
            ValueError: if the path does not end in ".weights.h5".
            OSError: if the file cannot be written. An older file then does not change.
        """
        path = as_path(filepath)
        if kwargs.get("max_shard_size") is not None:  # Keras writes several files.
            super().save_weights(path, overwrite, **kwargs)
            return
        if not path.endswith(".weights.h5"):
            raise ValueError(f"filepath must end in .weights.h5, got {path!r}")
        if confirm_overwrite(path, overwrite):
            with atomic_file(path, self._saved_variables()) as new_path:
                super().save_weights(new_path, **kwargs)

    def load_weights(self, filepath: str | os.PathLike[str], skip_mismatch: bool = False, **kwargs: Any) -> None:
        """Reads a file from `save_weights` or `save`. Arguments as in `keras.Model.load_weights`.

        Raises:
            ValueError: if the file is damaged or belongs to another model. The flow then does not change.
            OSError: if the file does not exist or cannot be opened.
        """
        path = as_path(filepath)
        with self._unchanged_by_errors(), reading(f"filepath {path!r}"):
            super().load_weights(path, skip_mismatch, **kwargs)

    @contextlib.contextmanager
    def _unchanged_by_errors(self) -> Iterator[None]:
        """Context manager: if there is an error, variables and names of columns get their former values."""
        variables = Snapshots(self._saved_variables())
        former, names, num_epochs_done = variables.take(), dict(self.columns.names), self.num_epochs_done
        try:
            yield
        except BaseException:
            self.columns.names, self.num_epochs_done = names, num_epochs_done
            variables.restore(former)
            raise

    def _saved_variables(self) -> list[keras.Variable]:
        optimizer = getattr(self, "optimizer", None)
        return [*self.variables, *(optimizer.variables if optimizer else ())]

    def save_own_variables(self, store: Any) -> None:
        # Keras does not save random states. Without them, training that continues would repeat the first noise.
        super().save_own_variables(store)
        store["num_weights"] = np.array(len(self.weights))
        store["num_epochs_done"] = np.array(self.num_epochs_done)
        store["columns"] = self.columns.to_array()
        for index, state in enumerate(random_states(self)):
            store[f"random_state_{index}"] = np.asarray(state)

    def load_own_variables(self, store: Any) -> None:
        found = {name: store[name] for name in store.keys()}  # noqa: SIM118
        # Keras ignores extra weights in a file, for example of additional couplings, so we check their number.
        num_weights = int(np.asarray(found.pop("num_weights", len(self.weights))))
        if num_weights != len(self.weights):
            raise ValueError(f"the file has {num_weights} weights, but {self.name} has {len(self.weights)}")
        self.num_epochs_done = int(np.asarray(found.pop("num_epochs_done", 0)))
        if "columns" in found:  # not in files of version 0.1
            self.columns.read(found.pop("columns"))
        for index, state in enumerate(random_states(self)):
            state.assign(found.pop(f"random_state_{index}", state))
        super().load_own_variables(found)

    # SavedModels

    def export(
        self,
        filepath: str | os.PathLike[str],
        format: str = "tf_saved_model",
        verbose: bool | None = None,
        input_signature: None = None,
        **kwargs: Any,
    ) -> None:
        """Writes a SavedModel that loads where only TensorFlow is installed.

        Rows x are `[N, *event_shape]`, in the dtype of the model. In a conditional flow, all signatures also take
        `context [N, *context_shape]`. The signatures are:

            serving_default: x -> {"log_prob": [N]}
            sample: num_samples (int32 scalar), seed (int32 [2]) -> {"x": [num_samples[, N], *event_shape]}
            forward: z -> {"x", "log_det": [N]}
            inverse: x -> {"z", "log_det": [N]}

        An `Ensemble` has neither forward nor inverse.

        If an input has another shape, TensorFlow raises an error that names the input and both shapes.

        Args:
            filepath: the folder to write.
            format: must be "tf_saved_model".
            verbose: whether to print the names of the signatures; None means False.
            input_signature: must be None, since the flow defines the signatures.
            **kwargs: other arguments of `keras.Model.export`, which must be None.

        Raises:
            ValueError: if the path is empty or is a file, or if another argument has a wrong value.
            OSError: if the folder cannot be written to. An older SavedModel in the folder does not change.
        """
        check_option("format", format, ("tf_saved_model",))
        if verbose is not None:
            check_flag("verbose", verbose)
        for name, value in {"input_signature": input_signature, **kwargs}.items():
            if value is not None:
                raise ValueError(f"{name} must be None, got {value!r:.100}: the flow defines its signatures")
        path = as_path(filepath)
        if not path or os.path.isfile(path):
            raise ValueError(f"filepath must be the path of a new or existing folder, got {path!r}")
        with atomic_folder(path) as new_path:
            signatures = self._compiled.export(new_path, [raw_variable(variable) for variable in self.variables])
        if verbose:
            print(f"{path} has the signatures {', '.join(signatures)}")
