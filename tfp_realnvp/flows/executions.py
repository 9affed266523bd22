"""How many training steps Keras runs in one execution, before it calls the callbacks."""

import contextlib
import functools
import logging
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import tensorflow as tf

from tfp_realnvp.flows.callbacks import needs_every_batch
from tfp_realnvp.flows.saving import SavingModel

__all__ = ["ExecutionsModel"]

MAX_STEPS_PER_EXECUTION = 32  # Keras needs as much time for an execution as for several small steps.


def _by_steps(name: str) -> property:
    """A property that keeps one of Keras's compiled functions for each number of steps per execution."""

    def get(model: "ExecutionsModel") -> Any:
        return model._functions.get((name, model.steps_per_execution))

    def keep(model: "ExecutionsModel", function: Any) -> None:
        model._functions[name, model.steps_per_execution] = function

    return property(get, keep)


class ExecutionsModel(SavingModel):
    """A model that chooses the number of steps per execution for each call of `fit`, `evaluate` and `predict`.

    The choice is stored for the current thread, since a callback, another thread or a generator of data may call
    `evaluate` or `predict` while `fit` runs.
    """

    def __init__(self, **kwargs: Any):
        self._asked_steps: int | None = 1  # the argument steps_per_execution of `compile`; 1, as in Keras, before it
        self._functions: dict[tuple[str, int], Any] = {}  # Keras's functions by name and steps per execution
        self._running = threading.local()  # the state of `_executing` in this thread
        super().__init__(**kwargs)

    def compile(
        self, optimizer: Any = "rmsprop", loss: None = None, *, steps_per_execution: int | None = None, **kwargs: Any
    ) -> None:
        """Like `keras.Model.compile`. With steps_per_execution=None, each call chooses the number of steps."""
        self._functions = {}
        super().compile(optimizer, loss, steps_per_execution=steps_per_execution or 1, **kwargs)
        self._asked_steps = steps_per_execution

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

    predict_function: Any  # set by Keras
    train_function = _by_steps("train_function")
    test_function = _by_steps("test_function")

    def make_predict_function(self, force: bool = False) -> None:
        if self.predict_function is None or force:
            super().make_predict_function(force)
            if not self.run_eagerly:
                # TensorFlow warns of a function that is traced often, and counts Keras's function in all models
                # together. A `partial` is counted by itself.
                self.predict_function = tf.function(functools.partial(self.predict_function), reduce_retracing=True)

    def _steps(self, counts: Sequence[int | None], callbacks: Any, *modes: str) -> int:
        """The number of steps per execution: the user's choice, or the largest number up to 32 that divides each count.

        The number must divide counts such as steps_per_epoch, because Keras rounds them up to whole executions.
        """
        # On several replicas, Keras fails with several steps per execution (InvalidArgumentError, Keras 3.15). Older
        # Keras, which has no attribute `unrolled_steps_per_execution`, drops a final incomplete execution.
        if self.distribute_strategy.num_replicas_in_sync > 1 or not hasattr(self, "unrolled_steps_per_execution"):
            return 1
        if self._asked_steps is not None:
            return self._asked_steps
        if needs_every_batch(callbacks, modes):
            return 1
        # Validation inside `fit` uses the number of steps of `fit`, which divides the counts of both.
        outer: int = getattr(self._running, "steps", None) or MAX_STEPS_PER_EXECUTION
        steps = outer, *range(MAX_STEPS_PER_EXECUTION, 0, -1)
        divide_all: Iterator[int] = (step for step in steps if all(count % step == 0 for count in counts if count))
        return next(divide_all)

    @contextlib.contextmanager
    def _executing(self, steps: int, checked: Any = None) -> Iterator[None]:
        """Context manager: Keras runs `steps` steps per execution in this thread.

        Args:
            steps: number of steps.
            checked: x of the validation data that `fit` has checked. `evaluate` then does not check it in each epoch.
        """
        outer = vars(self._running).copy()
        vars(self._running).update(steps=steps, checked=checked)
        try:
            with _without_retracing_warnings():
                yield
        finally:
            vars(self._running).clear()
            vars(self._running).update(outer)

    @property
    def _checked(self) -> Any:
        """The argument `checked` of `_executing` in this thread."""
        return getattr(self._running, "checked", None)


@contextlib.contextmanager
def _without_retracing_warnings() -> Iterator[None]:
    """Context manager: suppresses TensorFlow's warnings that Keras's functions are retraced.

    TensorFlow counts the calls of all models together, and warns if 5 of 10 calls traced. Since one call runs up to 32
    steps, short trainings of a few different flows would cause the warning.
    """

    def keep(record: logging.LogRecord) -> bool:
        message = record.getMessage()
        return "triggered tf.function retracing" not in message or "multi_step_on_iterator" not in message

    logger = tf.get_logger()
    logger.addFilter(keep)
    try:
        yield
    finally:
        logger.removeFilter(keep)
