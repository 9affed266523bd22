"""The batches of `predict`, compiled by XLA if that pays."""

import contextlib
import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import tensorflow as tf

from tfp_realnvp.flows.steps import Step, is_faithful, is_slow, operations

__all__ = ["Predictions"]

Shape = tuple[int | None, ...]

_log = logging.getLogger(__name__)


class Predictions:
    """Calls a function of batches whose outputs have a row for each row of a batch, and joins the outputs.

    Args:
        function: function of a batch, such as `predict_step` of a Keras model.
        run_eagerly, jit_compile, context_shape, waiting: as in `Step`.
        forced: as in `Steps`.
    """

    def __init__(
        self,
        function: Callable[[Any], Any],
        *,
        run_eagerly: bool,
        jit_compile: bool,
        context_shape: Shape | None,
        waiting: Callable[[], AbstractContextManager[object]],
        forced: bool,
    ):
        self._forced = forced
        self._single = Step(
            function,
            run_eagerly=run_eagerly,
            jit_compile=jit_compile,
            context_shape=context_shape,
            waiting=waiting,
        )
        # With a known number of rows, the function needs no checks at run time, which XLA would skip.
        self._compiled = Step(function, run_eagerly=False, jit_compile=True, any_rows=False, waiting=waiting)
        self._suits: bool | None = None  # whether `_compiled` can be used, or None if this is not known yet

    def run(self, batches: Sequence[Any], compiled_rows: int | None) -> Any:
        """The outputs of all batches. XLA compiles the function for `compiled_rows` rows, unless it is None."""
        outputs = [self._output(batch, compiled_rows) for batch in batches]
        return outputs[0] if len(outputs) == 1 else tf.nest.map_structure(lambda *each: tf.concat(each, 0), *outputs)

    def _output(self, batch: Any, compiled_rows: int | None) -> Any:
        if compiled_rows is None or self._suits is False:
            return self._single(batch)
        rows = len(tf.nest.flatten(batch)[0])
        # XLA would compile the function again for a short last batch.
        batch = tf.nest.map_structure(lambda part: tf.constant(_padded(part, compiled_rows)), batch)
        try:
            with self._compiled.waiting() if self._suits is None else contextlib.nullcontext():
                if self._suits is None:
                    found = operations(self._compiled.traced(batch))
                    self._suits = is_faithful(found) and (self._forced or not is_slow(found))
                output = self._compiled(batch) if self._suits else None
        except Exception as error:  # If the single step fails too, the user gets its error.
            _log.debug("XLA cannot compile this step: %s", error)
            output, self._suits = None, False
        return tf.nest.map_structure(lambda each: each[:rows], self._single(batch) if output is None else output)


def _padded(part: np.ndarray, rows: int) -> np.ndarray:
    """A part of a batch with copies of its first row at the end, so that it has at least `rows` rows."""
    if len(part) >= rows:
        return part
    return np.concatenate([part, np.repeat(part[:1], rows - len(part), axis=0)])
