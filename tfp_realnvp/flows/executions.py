"""How many training steps run in one execution, before Keras calls the callbacks, and whether XLA compiles them."""

import contextlib
import functools
import math
import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from tfp_realnvp.flows.batches import are_arrays, batches_of, num_batches
from tfp_realnvp.flows.callbacks import needs_every_batch
from tfp_realnvp.flows.predictions import Predictions
from tfp_realnvp.flows.saving import SavingModel
from tfp_realnvp.flows.steps import Step, Steps

__all__ = ["Call", "ExecutionsModel"]

MAX_STEPS_PER_EXECUTION = 32  # The callbacks after an execution need as much time as a few small steps.
STEPS_THAT_PAY = 2000  # XLA compiles a program in the time that it saves in 700 to 1600 steps.
ROWS_THAT_PAY = 1 << 16  # XLA compiles `predict` in about the time that it saves in a few calls of this number of rows.
SECONDS_OF_SILENCE = 5.0
# The largest batches of `predict`, without and with XLA: more rows are not faster.
MAX_ROWS, MAX_COMPILED_ROWS, MAX_NUMBERS = 1 << 13, 1 << 15, 1 << 19


class Call(NamedTuple):
    """The steps of training or of evaluation in a call of `fit` or `evaluate`.

    Attributes:
        asked: number of steps of an epoch that the user has asked for, or None.
        known: number of steps of an epoch, or None if it is not known.
        expected: number of steps at the end of the call, counted since `compile`, as far as it is known.
    """

    asked: int | None = None
    known: int | None = None
    expected: int = 0


class ExecutionsModel(SavingModel):
    """A model that chooses the number of steps per execution for each call of `fit`, `evaluate` and `predict`.

    The choice is stored for the current thread, since a callback, another thread or a generator of data may call
    `evaluate` or `predict` while `fit` runs.
    """

    _context_shape: tuple[int | None, ...] | None = None  # of one context; None for any length

    def __init__(self, **kwargs: Any):
        self._asked_steps: int | None = 1  # the argument steps_per_execution of `compile`; 1, as in Keras, before it
        self._asked_xla: Any = "auto"  # the argument jit_compile of `compile`
        self._steps_done = {"train": 0, "test": 0}  # since `compile`
        self._running = threading.local()  # the state of `_executing` in this thread
        super().__init__(**kwargs)

    def compile(
        self,
        optimizer: Any = "rmsprop",
        loss: None = None,
        *,
        steps_per_execution: int | None = None,
        jit_compile: Any = "auto",
        **kwargs: Any,
    ) -> None:
        """Like `keras.Model.compile`. With steps_per_execution=None, each call chooses the number of steps."""
        super().compile(
            optimizer, loss, steps_per_execution=steps_per_execution or 1, jit_compile=jit_compile, **kwargs
        )
        self._asked_steps, self._asked_xla = steps_per_execution, jit_compile
        self._steps_done = {"train": 0, "test": 0}

    def get_compile_config(self) -> dict[str, Any] | None:
        config: dict[str, Any] | None = super().get_compile_config()
        return config and config | {"steps_per_execution": self._asked_steps}

    @property
    def steps_per_execution(self) -> int:
        """Number of steps per execution in the call that runs in this thread, or the argument of `compile`."""
        running: int | None = getattr(self._running, "steps", None)
        return running or self._asked_steps or 1

    @steps_per_execution.setter
    def steps_per_execution(self, steps: int) -> None:
        self._asked_steps = steps

    train_function: Any
    test_function: Any
    predict_function: Any

    # Keras's functions, which run one execution on the next batches of an iterator

    def make_train_function(self, force: bool = False) -> None:
        if self._has_strategy():
            super().make_train_function(force)
        elif self.train_function is None or force:
            self.train_function = self._execution("train", self.train_step)

    def make_test_function(self, force: bool = False) -> None:
        if self._has_strategy():
            super().make_test_function(force)
        elif self.test_function is None or force:
            self.test_function = self._execution("test", self.test_step)

    def make_predict_function(self, force: bool = False) -> None:
        if self._has_strategy():
            super().make_predict_function(force)
        elif self.predict_function is None or force:
            step = Predictions(self.predict_step, **self._step_options("predict"), forced=self._asked_xla is True)
            self.predict_function = lambda batches: step.run(batches, getattr(self._running, "compiled_rows", None))

    def _execution(self, mode: str, step: Callable[[Any], dict[str, Any]]) -> Callable[[Any], dict[str, Any]]:
        """The function that Keras calls to run one execution on the next batches of an iterator."""
        steps = Steps(Step(step, **self._step_options(mode)), forced=self._asked_xla is True)

        def execute(iterator: Iterator[Any]) -> dict[str, Any]:
            call = getattr(self._running, "calls", {}).get(mode) or Call()
            # XLA compiles a program for each length of contexts.
            pays = max(call.expected, self._steps_done[mode]) >= STEPS_THAT_PAY and None not in (
                self._context_shape or ()
            )
            logs, done = steps.run(iterator, self.steps_per_execution, self._compiles(pays))
            self._steps_done[mode] += done
            if logs is None:
                raise StopIteration
            return logs

        return execute

    def _step_options(self, mode: str) -> dict[str, Any]:
        """How to call the step of a mode ("train", "test", "predict"): arguments of `Step` and `Predictions`."""
        waiting = functools.partial(self._announcing, mode)
        options = {"run_eagerly": self.run_eagerly, "jit_compile": self.jit_compile, "waiting": waiting}
        return options | {"context_shape": self._context_shape}

    @contextlib.contextmanager
    def _announcing(self, mode: str) -> Iterator[None]:
        """Context manager: if the code inside takes long and the call is verbose, prints what the user waits for."""
        step = {"train": "training", "test": "evaluation", "predict": "prediction"}[mode]
        line = "\n" if mode == "test" else ""  # An evaluation inside `fit` follows a progress bar.
        text = f"{line}{self.name}: TensorFlow prepares the {step} step ..."
        timer = threading.Timer(SECONDS_OF_SILENCE, print, [text], {"flush": True})
        if getattr(self._running, "verbose", 0) and keras.config.is_interactive_logging_enabled():
            timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def _compiles(self, pays: bool) -> bool:
        """Whether XLA compiles something large: the user's choice, or whether it pays."""
        if self.run_eagerly or tf.config.functions_run_eagerly():
            return False
        return pays if self._asked_xla == "auto" else bool(self._asked_xla)

    def _has_strategy(self) -> bool:
        with self.distribute_strategy.scope():
            return bool(tf.distribute.has_strategy())

    def _batches(
        self,
        mode: str,
        data: tuple[Any, Any],
        batch_size: int | None,
        steps: int | None,
        epochs: int = 1,
        shuffle: bool | str = False,
    ) -> tuple[Any, Call]:
        """The batches for Keras of data (x, sample_weight), and the steps that a call will do on them."""
        in_pipeline = self._has_strategy()
        batches = batches_of(data, batch_size, steps, shuffle, lambda: self.num_epochs_done, in_pipeline=in_pipeline)
        number = steps or num_batches(batches)
        return batches, Call(steps, number, self._steps_done[mode] + epochs * (number or 0))

    def _prediction_batches(self, x: Any, batch_size: int | None, steps: int | None) -> tuple[Any, dict[str, Any]]:
        """The batches of `predict`, and the arguments of `_executing` for them."""
        compiled_rows = None
        if are_arrays(x):
            parts = tf.nest.flatten(x)
            rows, numbers = len(parts[0]), sum(math.prod(part.shape[1:]) for part in parts)
            compiles = not self._has_strategy() and self._compiles(rows >= ROWS_THAT_PAY)
            fast = max(32, min(MAX_COMPILED_ROWS if compiles else MAX_ROWS, MAX_NUMBERS // max(1, numbers)))
            number = steps or max(1, math.ceil(rows / fast))
            batch_size = batch_size or max(1, math.ceil(rows / number))
            compiled_rows = min(batch_size, rows) if compiles else None
        batches = batches_of((x, None), batch_size, steps, in_pipeline=self._has_strategy())
        return batches, {"steps": self._asked_steps or 1, "compiled_rows": compiled_rows}

    def _steps(self, callbacks: Any, **calls: Call) -> int:
        """The number of steps per execution: the user's choice, or the largest number up to 32 that fits the calls.

        The number must divide counts such as steps_per_epoch, because Keras rounds them up to whole executions.
        """
        # On several replicas, Keras fails with several steps per execution (InvalidArgumentError, Keras 3.15).
        if self.distribute_strategy.num_replicas_in_sync > 1:
            return 1
        if self._asked_steps is not None:
            return self._asked_steps
        if self._has_strategy() or needs_every_batch(callbacks, tuple(calls)):
            return 1
        most = MAX_STEPS_PER_EXECUTION
        most = max(min(call.known or most, most) for call in calls.values()) if calls else most
        # Validation inside `fit` uses the number of steps of `fit`, which divides the counts of both.
        outer: int = getattr(self._running, "steps", None) or most
        asked = [call.asked for call in calls.values() if call.asked]
        divide_all: Iterator[int] = (n for n in (outer, *range(most, 0, -1)) if not any(count % n for count in asked))
        return next(divide_all)

    @contextlib.contextmanager
    def _executing(
        self,
        steps: int,
        calls: dict[str, Call] | None = None,
        *,
        checked: Any = None,
        compiled_rows: int | None = None,
        verbose: Any = None,
    ) -> Iterator[None]:
        """Context manager: Keras runs `steps` steps per execution in this thread.

        Args:
            steps: number of steps.
            calls: the steps to come, by mode ("train", "test").
            checked: x of the validation data that `fit` has checked. `evaluate` then does not check it in each epoch.
            compiled_rows: number of rows for which XLA compiles `predict`, or None.
            verbose: whether to say what a user waits for, or None for what the call of `fit` around this call does.
        """
        outer = vars(self._running).copy()
        calls = {**outer.get("calls", {}), **(calls or {})}
        verbose = outer.get("verbose") if verbose is None else verbose
        new = {"steps": steps, "checked": checked, "compiled_rows": compiled_rows, "calls": calls, "verbose": verbose}
        vars(self._running).update(new)
        try:
            yield
        finally:
            vars(self._running).clear()
            vars(self._running).update(outer)

    @property
    def _checked(self) -> Any:
        """The argument `checked` of `_executing` in this thread."""
        return getattr(self._running, "checked", None)
