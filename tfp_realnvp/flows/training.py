"""Training by maximum likelihood: `compile`, `fit`, `evaluate` and `predict` of Keras, adapted to flows."""

import warnings
from typing import Any, Literal

import keras
import numpy as np
import tensorflow as tf

from tfp_realnvp.flows.arguments import check_compile_options, check_counts, check_fit_options
from tfp_realnvp.flows.auto import auto_callbacks, auto_optimizer
from tfp_realnvp.flows.batches import split_rows
from tfp_realnvp.flows.callbacks import with_callbacks, with_progress_bar
from tfp_realnvp.flows.columns import LearnColumns
from tfp_realnvp.flows.executions import Call
from tfp_realnvp.flows.inputs import check_ends, check_no_context_argument, check_rows, check_weights
from tfp_realnvp.flows.likelihood import NO_TARGETS, LikelihoodModel
from tfp_realnvp.flows.non_finite import StopOnNonFiniteLoss
from tfp_realnvp.flows.optimizers import as_optimizer, prepare_optimizer
from tfp_realnvp.flows.resume import CountEpochs

__all__ = ["TrainingModel"]

_EMPTY = "x must have at least one batch, got an empty dataset"

Data = tuple[Any, Any]  # (x, sample_weight) from a user


class TrainingModel(LikelihoodModel):
    """A Keras model that is trained by maximum likelihood.

    Subclasses define `call`, `_check_variables` and `_check_range`.
    """

    def __init__(
        self,
        event_shape: tuple[int, ...],
        context_shape: tuple[int | None, ...] | None,
        missing_context: bool,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self._event_shape, self._context_shape, self._missing_context = event_shape, context_shape, missing_context
        self._is_auto = False  # the argument optimizer of `compile`

    @property
    def event_shape(self) -> tuple[int, ...]:
        """Shape of one event."""
        return self._event_shape

    @property
    def context_shape(self) -> tuple[int | None, ...] | None:
        """Shape of one context, such as `(K,)`, or None. With a context network, it may have None for any length."""
        return self._context_shape

    @property
    def missing_context(self) -> bool:
        """Whether NaN in a context means that the value was not observed."""
        return self._missing_context

    def compile(
        self,
        optimizer: Any = "auto",
        loss: None = None,
        *,
        steps_per_execution: int | None = None,
        jit_compile: bool | Literal["auto"] = "auto",
        **kwargs: Any,
    ) -> None:
        """Sets the optimizer. Arguments as in `keras.Model.compile`, without losses and metrics.

        Args:
            optimizer: name or instance of a Keras optimizer, or "auto": Adam with gradients clipped to a norm of 5, and
                a rate that falls from 0.003 to zero over the epochs of each `fit`; the first `fit` has weight decay.
                With "auto" and validation data, `fit` ends with the weights of the least "val_loss".
            loss: must be None, since the loss is the negative log-likelihood.
            steps_per_execution: number of steps between two calls of callbacks. With None, `fit` and `evaluate` use 32,
                or the largest smaller number that divides steps_per_epoch, validation_steps or steps, if given. They
                use 1 if a callback looks at each batch. On several replicas, the number is always 1.
            jit_compile: whether XLA compiles. With True, an execution of several steps is one compiled program. "auto"
                does so in trainings of at least 2000 steps and in `predict` of at least 65,536 rows, where the time to
                compile pays. On a GPU, "auto" also compiles single steps, as in Keras. Results differ by rounding only.
                Where XLA cannot compile a program, would skip a check or, on a CPU, has convolutions, single steps run.
            **kwargs: `run_eagerly`, `auto_scale_loss`.

        Raises:
            ValueError: if a loss or metrics are given, if steps_per_execution is not an integer of at least 1, or if
                another argument has an unknown value.
        """
        check_compile_options(steps_per_execution, jit_compile, {"loss": loss, **kwargs})
        self._is_auto = isinstance(optimizer, str) and optimizer == "auto"
        optimizer = auto_optimizer() if self._is_auto else as_optimizer(optimizer)
        super().compile(optimizer, loss, steps_per_execution=steps_per_execution, jit_compile=jit_compile, **kwargs)
        if self.optimizer is not None:
            prepare_optimizer(self.optimizer, self.distribute_strategy.num_replicas_in_sync)

    def get_compile_config(self) -> dict[str, Any] | None:
        config = super().get_compile_config()
        return config and config | ({"optimizer": "auto"} if self._is_auto else {})

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
        shuffle: bool | str = True,
        **kwargs: Any,
    ) -> keras.callbacks.History:
        """Trains by maximum likelihood. Arguments as in `keras.Model.fit`, without targets.

        Args:
            x: `x [N, *event_shape]`, `{"x": x, "context": context [N, K]}`, or a `tf.data.Dataset` of such batches, or
                of batches `(x, x, sample_weight)`.
            validation_data: like x, or `(x, None, sample_weight)`.
            **kwargs: `sample_weight [N]`, `initial_epoch`, `steps_per_epoch`, ...

        Returns:
            The history. "loss" is the mean negative log-likelihood in nats plus the regularisation losses; "val_loss"
            is without them. If the loss is not finite, training stops and restores earlier weights: by default, of at
            most 128 batches ago. A RuntimeWarning names the epoch and the batch, and the "val_loss" of this epoch
            belongs to the restored weights. With 0 epochs, nothing is trained and the history is empty.

        Raises:
            ValueError: if arrays have a wrong shape, a NaN or infinity in the dtype of the model, or rows outside the
                range of the distribution, such as 2 for `tfb.Sigmoid()` (the message names the rows); if a dataset is
                empty, or infinite without steps_per_epoch or validation_steps; if targets are given; if a number of
                epochs is not an integer of at least 0, or another number not an integer of at least 1; if the
                distribution has variables that the model cannot see, or no trainable variables.
        """
        check_no_context_argument(kwargs.pop("context", None))
        check_fit_options(batch_size, epochs, validation_split, kwargs)
        num_steps, num_validation_steps = kwargs.get("steps_per_epoch"), kwargs.get("validation_steps")
        x, weights = self._checked_data(x, y, kwargs.pop("sample_weight", None), "x", "steps_per_epoch", num_steps)
        data, validation = (x, weights), None
        if validation_data is not None:
            validation = self._checked_validation(validation_data, num_validation_steps)
            self.columns.check_alike(x, validation[0], "validation_data")
        elif validation_split:
            data, validation = split_rows(x, weights, validation_split)
        self._prepare_fit(data[0])
        initial_epoch = kwargs.get("initial_epoch", 0)
        inputs, train = self._batches("train", data, batch_size, num_steps, epochs - initial_epoch, shuffle)
        validation_batches, calls = None, {"train": train}
        if validation is not None:
            size = kwargs.get("validation_batch_size") or batch_size
            validation_batches, calls["test"] = self._batches("test", validation, size, num_validation_steps, epochs)
        steps = self._steps(callbacks, **calls)
        stop, is_first = StopOnNonFiniteLoss(self._finite_steps), self.num_epochs_done <= initial_epoch
        auto = auto_callbacks(callbacks, epochs, train.known, is_first) if self._is_auto else []
        own = [stop, CountEpochs(initial_epoch), LearnColumns(x), *auto]
        with self._executing(steps, calls, checked=validation_batches, verbose=verbose), self._dequantization.errors():
            history = super().fit(
                inputs,
                batch_size=batch_size,
                epochs=epochs,
                verbose=verbose,
                callbacks=with_callbacks(own, with_progress_bar(callbacks, verbose), self),
                validation_data=validation_batches,
                shuffle=shuffle and not isinstance(inputs, tf.data.Dataset),  # Keras would warn.
                **kwargs,
            )
        if stop.message is not None:  # With the model's name, since Python shows equal warnings once.
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
        """Mean negative log-likelihood in nats. Arguments as in `keras.Model.evaluate`, without targets.

        Raises:
            ValueError: as in `fit`.
        """
        check_no_context_argument(kwargs.pop("context", None))
        num_steps = kwargs.get("steps")
        calls: dict[str, Call] = {}  # `fit` has checked, counted and announced its validation.
        if x is None or x is not self._checked:
            check_counts(batch_size=batch_size, steps=num_steps)
            x, sample_weight = self._checked_data(x, y, sample_weight, "x", "steps", num_steps)
            x, calls["test"] = self._batches("test", (x, sample_weight), batch_size, num_steps)
        steps = self._steps(kwargs.get("callbacks"), **calls)
        kwargs["callbacks"] = with_progress_bar(kwargs.get("callbacks"), verbose)
        with self._executing(steps, calls, verbose=verbose if calls else None), self._dequantization.errors():
            results = super().evaluate(x, None, batch_size, verbose, **kwargs)
        if isinstance(results, list | dict) and not results:
            raise ValueError(_EMPTY)
        return results

    def predict(self, x: Any, batch_size: int | None = None, verbose: Any = "auto", **kwargs: Any) -> np.ndarray:
        """Log-densities `[N]` in nats, computed in batches. Arguments as in `keras.Model.predict`.

        With batch_size=None, a batch of arrays has as many rows as is fast: up to 32,768, fewer for large events.

        Raises:
            ValueError: if a shape is wrong; if the context is missing or unexpected; if a dataset is empty, or infinite
                without steps; in an `ImageRealNVP`, if x holds integers, or pixels out of range.
        """
        check_no_context_argument(kwargs.pop("context", None))
        steps = kwargs.get("steps")
        check_counts(batch_size=batch_size, steps=steps)
        self._dequantization.check_continuous(x)
        x = self.columns.checked(x, "x")
        check_rows(x, self.event_shape, self.context_shape, "x")
        check_ends(x, "x", "steps", steps)
        x, state = self._prediction_batches(x, batch_size, steps)
        with self._executing(**state, verbose=verbose), self._dequantization.errors():
            try:
                return np.asarray(super().predict(x, None, verbose, **kwargs))
            except UnboundLocalError as error:  # Keras raises it if there was no batch.
                raise ValueError(_EMPTY) from error

    def _checked_data(
        self, x: Any, y: Any, sample_weight: Any, argument: str, steps_argument: str, steps: int | None
    ) -> Data:
        """Returns (x, sample_weight), checked. Raises a ValueError if the flow cannot use them."""
        if y is not None and y is not x:
            raise ValueError(f"y must be None, got {type(y)} with {argument}: {NO_TARGETS}")
        x = self.columns.checked(x, argument)
        check_rows(x, self.event_shape, self.context_shape, argument, self.variable_dtype, self._missing_context)
        weights_argument = "sample_weight" if argument == "x" else f"{argument}: sample_weight"
        check_weights(sample_weight, x, weights_argument, self.variable_dtype)
        self._check_range(x, argument)
        checked = self._dequantization.checked(x, argument)
        check_ends(x, argument, steps_argument, steps)
        return checked, sample_weight

    def _checked_validation(self, validation_data: Any, validation_steps: int | None) -> Data:
        if isinstance(validation_data, list):  # Keras would use its first item as x.
            check_rows(validation_data, self.event_shape, self.context_shape, "validation_data")
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(validation_data)
        return self._checked_data(x, y, sample_weight, "validation_data", "validation_steps", validation_steps)

    def _check_range(self, x: Any, argument: str) -> None:
        """Raises a ValueError if the distribution can have no density at some rows of an array."""

    def _check_variables(self) -> None:
        """Raises a ValueError if training would miss some variables, or if there are no trainable variables."""

    def _prepare_fit(self, x: Any) -> None:
        """Checks the model and builds layers and optimizer, so that Keras traces its step once."""
        self._check_variables()
        if self.compiled and self.optimizer is None:
            raise ValueError("optimizer must be given to compile() before fit(), got None")
        self._warn_unless_standardized(x)
        if self.compiled and not self.optimizer.built:
            with self.distribute_strategy.scope():
                self._build_layers()
                self.optimizer.build(self.trainable_variables)

    def _warn_unless_standardized(self, x: Any) -> None:
        """Warns if the model expects other data in `fit`."""

    def _build_layers(self) -> None:
        if not all(layer.built for layer in self.layers):
            x = tf.zeros([1, *self.event_shape], self.variable_dtype)
            # The network of a context of any length may need several steps, for example for convolutions.
            shape = self.context_shape and [1, *(size or 16 for size in self.context_shape)]
            context = None if shape is None else tf.zeros(shape, self.variable_dtype)
            self(x if context is None else {"x": x, "context": context})
