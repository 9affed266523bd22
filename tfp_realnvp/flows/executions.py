"""How many steps Keras runs in one execution, before it and its callbacks have a look."""

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

MAX_STEPS_PER_EXECUTION = 32  # Keras's own work for an execution is that of several small steps.


def _by_steps(name: str) -> property:
    """A function that Keras makes for one number of steps in an execution, kept for each number of steps."""

    def get(model: "ExecutionsModel") -> Any:
        return model._functions.get((name, model.steps_per_execution))

    def keep(model: "ExecutionsModel", function: Any) -> None:
        model._functions[name, model.steps_per_execution] = function

    return property(get, keep)


class ExecutionsModel(SavingModel):
    """A model that chooses a number of steps in one execution for each `fit`, `evaluate` and `predict`.

    The choice holds for the thread that makes the call. A callback may call `evaluate` or `predict` while `fit` runs,
    and so may another thread or a generator of data.
    """

    def __init__(self, **kwargs: Any):
        self._asked_steps: int | None = 1  # of compile's steps_per_execution; Keras's own, until compiled
        self._functions: dict[tuple[str, int], Any] = {}  # Keras's own, by name and steps in one execution
        self._running = threading.local()  # what `_executing` says of the call that runs in this thread
        super().__init__(**kwargs)

    def compile(
        self, optimizer: Any = "rmsprop", loss: None = None, *, steps_per_execution: int | None = None, **kwargs: Any
    ) -> None:
        """As `keras.Model.compile`; None chooses the number of steps."""
        self._functions = {}
        super().compile(optimizer, loss, steps_per_execution=steps_per_execution or 1, **kwargs)
        self._asked_steps = steps_per_execution

    def get_compile_config(self) -> dict[str, Any] | None:
        config: dict[str, Any] | None = super().get_compile_config()
        return config and config | {"steps_per_execution": self._asked_steps}

    @property
    def steps_per_execution(self) -> int:
        """Number of steps of one execution: of the call that runs in this thread, or else as compiled."""
        running: int | None = getattr(self._running, "steps", None)
        return running or self._asked_steps or 1

    @steps_per_execution.setter
    def steps_per_execution(self, steps: int) -> None:
        self._asked_steps = steps

    predict_function: Any  # Keras's own
    train_function = _by_steps("train_function")
    test_function = _by_steps("test_function")

    def make_predict_function(self, force: bool = False) -> None:
        if self.predict_function is None or force:
            super().make_predict_function(force)
            if not self.run_eagerly:
                # TensorFlow warns of a function that is traced often, and counts Keras's of all models together. A
                # `partial` it counts by itself.
                self.predict_function = tf.function(functools.partial(self.predict_function), reduce_retracing=True)

    def _steps(self, counts: Sequence[int | None], callbacks: Any, *modes: str) -> int:
        """How many steps to run in one execution: what the user has asked for, or as many as divide each count.

        Keras rounds a given number of steps up to whole executions. It sees the end of the data by itself.
        """
        # Keras's loop over several steps fails on several replicas, with any model (InvalidArgumentError, Keras 3.15).
        # Older Keras, which has no such attribute, drops a final incomplete execution.
        if self.distribute_strategy.num_replicas_in_sync > 1 or not hasattr(self, "unrolled_steps_per_execution"):
            return 1
        if self._asked_steps is not None:
            return self._asked_steps
        if needs_every_batch(callbacks, modes):
            return 1
        # The validation of a `fit` has to run as many steps as the `fit`, which has looked at both counts.
        outer: int = getattr(self._running, "steps", None) or MAX_STEPS_PER_EXECUTION
        steps = outer, *range(MAX_STEPS_PER_EXECUTION, 0, -1)
        divide_all: Iterator[int] = (step for step in steps if all(count % step == 0 for count in counts if count))
        return next(divide_all)

    @contextlib.contextmanager
    def _executing(self, steps: int, checked: Any = None) -> Iterator[None]:
        """Has Keras run `steps` steps in one execution, in this thread alone.

        Args:
            steps: number of steps.
            checked: x of the validation data that `fit` has checked, so that `evaluate` need not check it each epoch.
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
        """What `_executing` of the call in this thread says is checked."""
        return getattr(self._running, "checked", None)


@contextlib.contextmanager
def _without_retracing_warnings() -> Iterator[None]:
    """TensorFlow does not warn in here of Keras's functions for executions.

    It counts the calls of all models together, and warns where 5 of 10 traced. Since a call runs up to 32 steps, a few
    short trainings of different flows look like that.
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
