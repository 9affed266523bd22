"""Maximum likelihood through plain Keras `fit`, `evaluate` and `predict`."""

import abc
import numbers
import os
import warnings
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfp_realnvp.checks import check_size
from tfp_realnvp.flows.arguments import as_path
from tfp_realnvp.flows.batches import are_arrays, array_batches, split_rows
from tfp_realnvp.flows.data import check_ends, check_no_context_argument, check_rows, check_weights
from tfp_realnvp.flows.executions import ExecutionsModel, each_callback
from tfp_realnvp.flows.files import CountEpochs, may_write, mend_backup, random_states, replaced
from tfp_realnvp.flows.fused_adam import fuse
from tfp_realnvp.flows.non_finite import FiniteSteps, StopOnNonFiniteLoss
from tfp_realnvp.flows.standardization import warn_unless_standardized
from tfp_realnvp.replicas import mend_for_replicas, share_of_mean
from tfp_realnvp.serialization import reading

__all__ = ["LikelihoodModel"]

_NO_TARGETS = (
    'a flow has no targets y; pass a context as {"x": x, "context": context}, and weights as the argument '
    "sample_weight or, in a dataset, as (x, x, sample_weight)"
)
_EMPTY = "x must have at least one batch, got an empty dataset"
_COUNTS_OF_FIT = ("steps_per_epoch", "validation_steps", "validation_batch_size")


class LikelihoodModel(ExecutionsModel):
    """A Keras model whose call returns log-densities, and whose loss is their negative mean.

    Subclasses give `call`, `event_shape`, `context_shape` and `_check_variables`.
    """

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        self._finite_steps = FiniteSteps()
        self.num_epochs_done = 0  # of the fit that runs, or ran last

    @property
    @abc.abstractmethod
    def event_shape(self) -> tuple[int, ...]:
        """Shape of one event."""

    @property
    @abc.abstractmethod
    def context_shape(self) -> tuple[int, ...] | None:
        """Shape of one context, or None."""

    @abc.abstractmethod
    def _check_variables(self) -> None:
        """Raises a ValueError if training would miss variables, or has none."""

    def compile(
        self,
        optimizer: Any = "rmsprop",
        loss: None = None,
        *,
        steps_per_execution: int | None = None,
        jit_compile: bool | str = "auto",
        **kwargs: Any,
    ) -> None:
        """Sets the optimizer; arguments are those of `keras.Model.compile`, without losses and metrics.

        Args:
            optimizer: name or instance of a Keras optimizer; Adam and AdamW update by one operation a variable.
            loss: None, since the loss is the negative log-likelihood.
            steps_per_execution: number of steps that run before Keras and callbacks have a look. None for 32 in `fit`
                and `evaluate`, or the largest number up to 32 that divides steps_per_epoch, validation_steps or steps
                if given; for 1 where a callback looks at each batch; for 1 in `predict`. On several replicas, and with
                the first releases of Keras 3, it is always 1.
            jit_compile: whether to compile steps with XLA; "auto" does on a GPU, as in Keras.
            **kwargs: `run_eagerly`, `auto_scale_loss`.

        Raises:
            ValueError: if a loss or metrics are given: without targets there is nothing to compare with; if
                steps_per_execution is no integer of at least 1, or another argument has an unknown value.
        """
        for name, value in {"loss": loss, **kwargs}.items():
            if value is not None and value != [] and name in ("loss", "loss_weights", "metrics", "weighted_metrics"):
                raise ValueError(f"{name} must be None, got {value!r}: a flow has its negative log-likelihood alone")
        if steps_per_execution is not None:
            check_size("steps_per_execution", steps_per_execution)
        if jit_compile not in (True, False, "auto"):
            raise ValueError(f'jit_compile must be True, False or "auto", got {jit_compile!r}')
        try:
            optimizer = keras.optimizers.get(optimizer)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"optimizer must be a Keras optimizer or the name of one, got {optimizer!r}") from error
        super().compile(optimizer, steps_per_execution=steps_per_execution, jit_compile=jit_compile, **kwargs)
        if self.optimizer is not None:
            fuse(getattr(self.optimizer, "inner_optimizer", self.optimizer))
            if self.distribute_strategy.num_replicas_in_sync > 1:
                mend_for_replicas(self.optimizer)

    def compile_from_config(self, config: dict[str, Any]) -> None:
        with reading("compile_config"):
            self.compile(**keras.saving.deserialize_keras_object(config))
        if self.optimizer is not None:
            self.optimizer.build(self.trainable_variables)

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> tf.Tensor:
        """Mean negative log-likelihood in nats, each row times its weight; in training, plus the layers' losses."""
        if y is not None and sample_weight is None:
            raise ValueError(_NO_TARGETS)
        nll = -y_pred
        if sample_weight is not None:
            nll *= tf.cast(tf.reshape(sample_weight, [-1]), nll.dtype)
        regularization = self.losses if training else ()
        extra = [tf.cast(loss, nll.dtype) for loss in regularization]
        if tf.distribute.get_strategy().num_replicas_in_sync > 1:
            return share_of_mean(nll, extra)
        loss = tf.add_n([tf.reduce_mean(nll), *extra])
        if training:
            self._finite_steps.add(loss)
        return loss

    def train_step(self, data: Any) -> dict[str, Any]:
        return self._as_logs(super().train_step(data))

    def test_step(self, data: Any) -> dict[str, Any]:
        return self._as_logs(super().test_step(data))

    def _as_logs(self, logs: dict[str, Any]) -> dict[str, Any]:
        if isinstance(self.distribute_strategy, tf.distribute.MultiWorkerMirroredStrategy):
            # Keras averages those of several workers over a first dimension, which scalars lack.
            return {name: tf.reshape(value, [1]) for name, value in logs.items()}
        return logs

    def fit(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        epochs: int = 1,
        verbose: Any = "auto",
        callbacks: Any = None,
        validation_split: float = 0.0,
        validation_data: Any = None,
        **kwargs: Any,
    ) -> keras.callbacks.History:
        """Trains by maximum likelihood; arguments are those of `keras.Model.fit`, without targets.

        Args:
            x: `x [N, *event_shape]`, `{"x": x, "context": context [N, K]}`, or a `tf.data.Dataset` of batches of
                either (`(x, x, sample_weight)` to have weights).
            validation_data: like x, or `(x, None, sample_weight)`.
            **kwargs: `sample_weight [N]`, `shuffle`, `initial_epoch`, `steps_per_epoch`, ...

        Returns:
            The history; "loss" is the mean negative log-likelihood in nats plus the regularisation losses of the
            layers, "val_loss" is without them. At a loss that is NaN or infinite, training stops with the last weights
            that gave a finite one, of at most 64 batches before (the "val_loss" of that epoch is theirs), and a
            RuntimeWarning names the epoch and the batch.

        Raises:
            ValueError: if arrays have a wrong shape, a NaN or infinity in the dtype of the model, or rows outside the
                range of the distribution, such as 2 for `tfb.Sigmoid()` (the rows are named); if a dataset is empty, or
                infinite without steps_per_epoch (validation_steps); if targets are given; if `epochs` or
                `initial_epoch` is no integer of at least 0, or another number no integer of at least 1; if the
                distribution has variables that the model cannot see, or none to train. With 0 epochs nothing is
                trained, and the history is empty.
        """
        check_no_context_argument(kwargs.pop("context", None))
        _check_counts(batch_size=batch_size, **{name: kwargs.get(name) for name in _COUNTS_OF_FIT})
        initial_epoch = kwargs.get("initial_epoch", 0)
        for name, count in {"epochs": epochs, "initial_epoch": initial_epoch}.items():
            check_size(name, count, least=0)
        if not isinstance(validation_split, numbers.Real) or not 0 <= validation_split < 1:
            raise ValueError(f"validation_split must be from 0 to below 1, got {validation_split!r}")
        if kwargs.get("class_weight") is not None:
            raise ValueError("a flow has no classes, so class_weight must be None; see sample_weight")
        sample_weight, shuffle = kwargs.pop("sample_weight", None), kwargs.pop("shuffle", True)
        x, sample_weight = self._checked_data(x, y, sample_weight, "x")
        check_ends(x, "x", "steps_per_epoch", kwargs.get("steps_per_epoch"))
        validation = None
        if validation_data is not None:
            if isinstance(validation_data, list):  # of which Keras would take the first for x
                check_rows(validation_data, self.event_shape, self.context_shape, "validation_data")
            x_val, y_val, weight_val = keras.utils.unpack_x_y_sample_weight(validation_data)
            validation = self._checked_data(x_val, y_val, weight_val, "validation_data")
            check_ends(x_val, "validation_data", "validation_steps", kwargs.get("validation_steps"))
        elif validation_split:
            (x, sample_weight), validation = split_rows(x, sample_weight, validation_split)
        self._check_variables()
        if self.compiled and self.optimizer is None:
            raise ValueError("optimizer must be given to compile() before fit(), got None")
        if self._wants_adapt():
            warn_unless_standardized(x, self.name)
        if self.compiled and not self.optimizer.built:
            # Variables made while Keras traces its step would have it traced twice.
            with self.distribute_strategy.scope():
                self._build_layers()
                self.optimizer.build(self.trainable_variables)
        steps_per_epoch, validation_steps = kwargs.get("steps_per_epoch"), kwargs.get("validation_steps")
        inputs, targets, weights = self._for_keras(x, sample_weight, batch_size, steps_per_epoch, shuffle)
        if validation is None:
            steps = self._steps([steps_per_epoch], callbacks, "train")
        else:
            validation_batch_size = kwargs.get("validation_batch_size") or batch_size
            validation = self._for_keras(*validation, validation_batch_size, validation_steps)
            steps = self._steps([steps_per_epoch, validation_steps], callbacks, "train", "test")
        stop = StopOnNonFiniteLoss(self._finite_steps)
        own = stop, CountEpochs(initial_epoch)
        for callback in each_callback(callbacks):
            if isinstance(callback, keras.callbacks.BackupAndRestore):
                mend_backup(callback)
        if isinstance(callbacks, keras.callbacks.CallbackList):
            params = callbacks.params or {}
            callbacks = keras.callbacks.CallbackList([*own, *callbacks.callbacks], model=self, **params)
        else:
            callbacks = [*own, *tf.nest.flatten(callbacks or [])]
        with self._executing(steps, checked=validation and validation[0]):
            history = super().fit(
                inputs,
                targets,
                batch_size=batch_size,
                epochs=epochs,
                verbose=verbose,
                callbacks=callbacks,
                validation_data=validation and keras.utils.pack_x_y_sample_weight(*validation),
                shuffle=shuffle and not isinstance(inputs, tf.data.Dataset),  # of which Keras would warn
                sample_weight=weights,
                **kwargs,
            )
        if stop.message is not None:  # Of this model by name: Python shows one and the same warning once only.
            warnings.warn(f"{self.name}: {stop.message}", RuntimeWarning, stacklevel=2)
        if history.epoch and "loss" not in history.history:
            raise ValueError(_EMPTY)
        return history

    def evaluate(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        verbose: Any = "auto",
        sample_weight: Any = None,
        **kwargs: Any,
    ) -> Any:
        """Mean negative log-likelihood in nats; arguments are those of `keras.Model.evaluate`, without targets.

        Raises:
            ValueError: as `fit`.
        """
        check_no_context_argument(kwargs.pop("context", None))
        if x is None or x is not self._checked:
            _check_counts(batch_size=batch_size, steps=kwargs.get("steps"))
            x, sample_weight = self._checked_data(x, y, sample_weight, "x")
            check_ends(x, "x", "steps", kwargs.get("steps"))
        x, y, sample_weight = self._for_keras(x, sample_weight, batch_size, kwargs.get("steps"))
        with self._executing(self._steps([kwargs.get("steps")], kwargs.get("callbacks"), "test")):
            results = super().evaluate(x, y, batch_size, verbose, sample_weight, **kwargs)
        if isinstance(results, list | dict) and not results:
            raise ValueError(_EMPTY)
        return results

    def predict(self, x: Any, batch_size: int | None = None, verbose: Any = "auto", **kwargs: Any) -> np.ndarray:
        """Log-densities `[N]` in nats, batch by batch; arguments are those of `keras.Model.predict`.

        Raises:
            ValueError: if a shape is wrong, the context missing or unexpected, or a dataset empty, or infinite without
                steps.
        """
        check_no_context_argument(kwargs.pop("context", None))
        _check_counts(batch_size=batch_size, steps=kwargs.get("steps"))
        check_rows(x, self.event_shape, self.context_shape, "x")
        check_ends(x, "x", "steps", kwargs.get("steps"))
        x, *_ = self._for_keras(x, None, batch_size, kwargs.get("steps"))
        # With more steps, Keras would trace `predict` anew for each number of batches.
        with self._executing(self._steps([], None) if self._asked_steps else 1):
            try:
                return super().predict(x, batch_size, verbose, **kwargs)
            except UnboundLocalError as error:  # Keras's own, of the outputs of no batch
                raise ValueError(_EMPTY) from error

    # Files

    def save_weights(self, filepath: str | os.PathLike, overwrite: bool = True, **kwargs: Any) -> None:
        """Writes weights, optimizer and random states; arguments are those of `keras.Model.save_weights`.

        Raises:
            ValueError: if the path does not end in ".weights.h5".
            OSError: if the file cannot be written; an older one is still whole, as it is until the new one is.
        """
        path = as_path(filepath)
        if kwargs.get("max_shard_size") is not None:  # Keras writes several files.
            super().save_weights(path, overwrite, **kwargs)
            return
        if not path.endswith(".weights.h5"):
            raise ValueError(f"filepath must end in .weights.h5, got {path!r}")
        if may_write(path, overwrite):
            optimizer = getattr(self, "optimizer", None)
            with replaced(path, [*self.variables, *(optimizer.variables if optimizer else ())]) as new_path:
                super().save_weights(new_path, **kwargs)

    def load_weights(self, filepath: str | os.PathLike, skip_mismatch: bool = False, **kwargs: Any) -> None:
        """Reads what `save_weights` or `save` wrote; arguments are those of `keras.Model.load_weights`.

        Raises:
            ValueError: if the file is damaged, or of another model; the flow then is as before.
            OSError: if there is no such file, or it cannot be opened.
        """
        path = as_path(filepath)
        optimizer = getattr(self, "optimizer", None)
        variables = [*self.variables, *(optimizer.variables if optimizer else ())]
        former, num_epochs_done = [keras.ops.convert_to_numpy(v) for v in variables], self.num_epochs_done
        try:
            with reading(f"filepath {path!r}"):
                super().load_weights(path, skip_mismatch, **kwargs)
        except Exception:
            self.num_epochs_done = num_epochs_done
            for variable, value in zip(variables, former, strict=True):
                variable.assign(value)
            raise

    def save_own_variables(self, store: Any) -> None:
        # Keras keeps no random states in files: training that goes on from one would see the first noise again.
        super().save_own_variables(store)
        store["num_weights"] = np.array(len(self.weights))
        store["num_epochs_done"] = np.array(self.num_epochs_done)
        for index, state in enumerate(random_states(self)):
            store[f"random_state_{index}"] = np.asarray(state)

    def load_own_variables(self, store: Any) -> None:
        found = {name: store[name] for name in store.keys()}  # noqa: SIM118
        # Keras passes over what a file has beyond the weights of the model, such as further couplings.
        num_weights = int(np.asarray(found.pop("num_weights", len(self.weights))))
        if num_weights != len(self.weights):
            raise ValueError(f"the file has {num_weights} weights, but {self.name} has {len(self.weights)}")
        self.num_epochs_done = int(np.asarray(found.pop("num_epochs_done", 0)))
        for index, state in enumerate(random_states(self)):
            state.assign(found.pop(f"random_state_{index}", state))
        super().load_own_variables(found)

    def _checked_data(self, x: Any, y: Any, sample_weight: Any, argument: str) -> tuple[Any, Any]:
        """(x, sample_weight), or a ValueError if arrays are not what the flow takes."""
        if y is not None and y is not x:
            raise ValueError(f"{argument}: {_NO_TARGETS}")
        check_rows(x, self.event_shape, self.context_shape, argument, self.variable_dtype)
        weights_argument = "sample_weight" if argument == "x" else f"{argument}: sample_weight"
        check_weights(sample_weight, x, weights_argument, self.variable_dtype)
        return x, sample_weight

    def _wants_adapt(self) -> bool:
        """Whether data that are not standardised want `adapt` before the fit that begins."""
        return False

    def _for_keras(
        self, x: Any, sample_weight: Any, batch_size: int | None, steps: int | None, shuffle: bool | str = False
    ) -> tuple[Any, Any, Any]:
        """(x, y, sample_weight) for Keras, which ignores sample weights when y is None, so we pass them as y too."""
        if not are_arrays(x) or keras.config.floatx() == self.variable_dtype:
            return x, sample_weight, sample_weight
        return array_batches(x, sample_weight, batch_size, steps, shuffle), None, None

    def _build_layers(self) -> None:
        """Calls a flow of a subclass that has layers which their first call builds."""
        if not all(layer.built for layer in self.layers):
            x = tf.zeros([1, *self.event_shape], self.variable_dtype)
            context = self.context_shape and tf.zeros([1, *self.context_shape], self.variable_dtype)
            self(x if context is None else {"x": x, "context": context})

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        """Does nothing: `fit` has built the flow, and Keras's own method fails where replicas differ in rows."""


def _check_counts(**counts: int | None) -> None:
    for name, count in counts.items():
        if count is not None:
            check_size(name, count)
