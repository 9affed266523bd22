"""The steps of `fit` and `evaluate`, one after another or many as one XLA program."""

import contextlib
import functools
import itertools
import logging
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any

import keras
import numpy as np
import tensorflow as tf

__all__ = ["Step", "Steps", "is_faithful", "is_slow", "operations"]

MAX_STEPS = 32  # of one program
MAX_BYTES = 1 << 26  # of the batches of one program
MAX_PROGRAMS = 4  # Each size of batches needs a program of its own.

# XLA drops these operations, or draws other random numbers, so that results would differ in silence.
_CHECKS = {"Assert", "CheckNumerics", "CheckNumericsV2", "DebugNumericSummaryV2", "Print", "PrintV2"}
_RANDOM = {"RandomUniform", "RandomStandardNormal", "TruncatedNormal", "Multinomial", "RandomShuffle"} | {
    f"Stateless{name}{version}"
    for name in ("RandomUniform", "RandomNormal", "TruncatedNormal", "RandomGammaV", "Multinomial")
    for version in ("", "V2", "V3")
}
# On a processor, XLA needs twenty times as long for convolutions as TensorFlow.
_CONVOLUTIONS = {"Conv2D", "Conv3D", "DepthwiseConv2dNative"}

Shape = tuple[int | None, ...]

_log = logging.getLogger(__name__)


class Step:
    """Calls a function of a batch, traced once for batches of any number of rows.

    Args:
        function: function of a batch, such as `train_step` of a Keras model.
        run_eagerly: whether to call it without tracing it.
        jit_compile: whether XLA compiles it.
        any_rows: False to trace the function again for each number of rows.
        context_shape: shape of one context in the batches, with None for any length, or None.
        waiting: function that returns a context manager for the first call, which takes long.
    """

    def __init__(
        self,
        function: Callable[[Any], Any],
        *,
        run_eagerly: bool,
        jit_compile: bool,
        any_rows: bool = True,
        context_shape: Shape | None = None,
        waiting: Callable[[], AbstractContextManager[object]] = contextlib.nullcontext,
    ):
        self.function = tf.autograph.experimental.do_not_convert(function)
        self.waiting = waiting
        self._run_eagerly, self._jit_compile, self._any_rows = run_eagerly, jit_compile, any_rows
        self._context_shape = context_shape
        self._traced: dict[str, Any] = {}  # by the specs of a batch

    def __call__(self, batch: Any) -> Any:
        batch = tf.nest.map_structure(_as_tensor, batch)
        if self._run_eagerly or tf.config.functions_run_eagerly():
            return self.function(batch)
        with contextlib.nullcontext() if self._traced else self.waiting():
            return self.traced(batch)(batch)

    def traced(self, batch: Any) -> Any:
        """The function, traced for `batch`, for any number of rows if that is possible."""
        if self._any_rows:
            try:
                return self._traced_for(batch, any_rows=True)
            except Exception as error:
                # An error of the user is raised here, with all shapes.
                traced = self._traced_for(batch, any_rows=False)
                _log.debug("a step is traced for each number of rows: %s", error)
                self._any_rows = False
                return traced
        return self._traced_for(batch, any_rows=False)

    def _traced_for(self, batch: Any, any_rows: bool) -> Any:
        specs = tf.nest.map_structure(functools.partial(_spec_of, any_rows=any_rows), batch)
        if any_rows and self._context_shape and None in self._context_shape:
            specs = _of_any_length(specs, self._context_shape)
        key = repr(specs)  # the structure too
        if key not in self._traced:
            self._traced[key] = _traced(self.function, specs, jit_compile=self._jit_compile)
        return self._traced[key]


class Steps:
    """Runs steps of training or of evaluation on the batches of an iterator.

    Args:
        step: does one step.
        forced: whether to compile programs also if they are slow.
    """

    def __init__(self, step: Step, *, forced: bool):
        self._step, self._forced = step, forced
        self._programs: dict[str, Any] = {}  # traced programs, or None if single steps must run

    def run(self, iterator: Iterator[Any], number: int, as_programs: bool) -> tuple[dict[str, Any] | None, int]:
        """Runs a step on each of the next `number` batches, or on fewer if the iterator ends.

        Returns:
            The logs after the last step, or None without a step; and the number of steps.
        """
        logs: dict[str, Any] | None = None
        done = 0
        for batches in _groups(itertools.islice(iterator, number), as_programs):
            program_logs = self._as_program(batches) if as_programs else None
            logs = [self._step(batch) for batch in batches][-1] if program_logs is None else program_logs
            done += len(batches)
        return logs, done

    def _as_program(self, batches: list[Any]) -> dict[str, Any] | None:
        """Runs the steps as one program. Returns None, and does nothing, if that is not possible."""
        if _dtypes_and_shapes(batches[0]) is None:
            return None
        spec = repr(keras.tree.map_structure(lambda part: (part.dtype, *part.shape), batches[0]))
        is_new = spec not in self._programs
        pays = len(batches) > 1 and len(self._programs) < MAX_PROGRAMS if is_new else self._programs[spec] is not None
        if not pays:
            return None
        padded = batches + batches[:1] * (_program_size(batches[0]) - len(batches))
        stacks = tf.nest.map_structure(_stack, *padded)
        try:
            with self._step.waiting() if is_new else contextlib.nullcontext():
                if is_new:
                    self._programs[spec] = self._program(stacks, batches[0])
                program = self._programs[spec]
                return None if program is None else program(tf.constant(len(batches)), stacks)
        except Exception as error:  # No variable has changed yet. If single steps fail too, the user gets their error.
            _log.debug("XLA cannot compile many steps as one program, so single steps run: %s", error)
            self._programs[spec] = None
            return None

    def _program(self, stacks: Any, batch: Any) -> Any:
        """The program for stacks `[size, N, ...]` of batches, or None if XLA would change its results."""
        step = self._step.traced(tf.nest.map_structure(_as_tensor, batch))
        if not self._forced and is_slow(operations(step)):
            return None
        logs = step.structured_outputs

        def program(number: tf.Tensor, stacks: Any) -> dict[str, Any]:
            def body(index: tf.Tensor, _: Any) -> tuple[tf.Tensor, Any]:
                return index + 1, self._step.function(tf.nest.map_structure(lambda stack: stack[index], stacks))

            start = tf.constant(0), tf.nest.map_structure(lambda log: tf.zeros(log.shape, log.dtype), logs)
            last: dict[str, Any] = tf.while_loop(lambda index, _: index < number, body, start)[1]
            return last

        specs = tf.nest.map_structure(lambda stack: tf.TensorSpec(stack.shape, stack.dtype), stacks)
        traced = _traced(program, tf.TensorSpec([], tf.int32), specs, jit_compile=True)
        return traced if is_faithful(operations(traced)) else None


def is_faithful(operations: set[str]) -> bool:
    """Whether a function with these operations gives the same results with XLA as without."""
    unlike = operations & (_CHECKS | _RANDOM)
    if unlike:
        _log.debug("single steps run, since XLA would drop checks or draw other random numbers: %s", sorted(unlike))
    return not unlike


def is_slow(operations: set[str]) -> bool:
    """Whether a function with these operations is slow with XLA."""
    slow = bool(operations & _CONVOLUTIONS) and not tf.config.list_physical_devices("GPU")
    if slow:
        _log.debug("single steps run, since XLA is slow at convolutions on a processor")
    return slow


def operations(traced: Any) -> set[str]:
    """Types of the operations in a traced function, and in the loops inside it."""
    graph = traced.graph.as_graph_def()
    nested = (node for inner in graph.library.function for node in inner.node_def)
    return {node.op for node in itertools.chain(graph.node, nested)}


def _traced(function: Callable[..., Any], *specs: Any, jit_compile: bool) -> Any:
    @functools.partial(tf.function, jit_compile=jit_compile, autograph=False)
    def traced(*args: Any) -> Any:
        return function(*args)  # It may have more arguments, with default values.

    return traced.get_concrete_function(*specs)


def _groups(batches: Iterator[Any], as_programs: bool) -> Iterator[list[Any]]:
    """Yields lists of successive batches with equal dtypes and shapes for a program, or single batches."""
    group: list[Any] = []
    spec: Any = None
    for batch in batches:
        new_spec = _dtypes_and_shapes(batch) if as_programs else None
        if group and (new_spec is None or new_spec != spec or len(group) == _program_size(batch)):
            yield group
            group = []
        group, spec = [*group, batch], new_spec
    if group:
        yield group


def _dtypes_and_shapes(batch: Any) -> list[Any] | None:
    """Dtypes and shapes of the tensors in a batch; None if the batch does not consist of tensors."""
    parts = keras.tree.flatten(batch)
    are_tensors = all(isinstance(part, tf.Tensor | np.ndarray) for part in parts)
    return [(part.dtype, part.shape) for part in parts] if are_tensors else None


def _program_size(batch: Any) -> int:
    """Number of batches that one program takes."""
    size = sum(int(math.prod(part.shape)) * int(tf.as_dtype(part.dtype).size) for part in keras.tree.flatten(batch))
    return max(1, min(MAX_STEPS, MAX_BYTES // max(1, size)))


def _stack(*parts: Any) -> tf.Tensor:
    # TensorFlow would convert each array to a tensor first, which takes as long as several small steps.
    return tf.constant(np.stack(parts)) if isinstance(parts[0], np.ndarray) else tf.stack(parts)


def _as_tensor(part: Any) -> Any:
    if isinstance(part, tf.experimental.Optional):  # Keras's generators yield it for None.
        return None
    return part if part is None or tf.is_tensor(part) else tf.convert_to_tensor(part)


def _of_any_length(specs: Any, context_shape: Shape) -> Any:
    """The specs of a batch `(x, ...)` or x, in which contexts of all lengths need one trace."""
    x, *rest = specs if isinstance(specs, tuple) else (specs,)
    context, shape = x.get("context") if isinstance(x, Mapping) else None, [None, *context_shape]
    if isinstance(context, tf.TensorSpec) and context.shape.is_compatible_with(shape):
        x = {**x, "context": tf.TensorSpec(shape, context.dtype)}
    return (x, *rest) if isinstance(specs, tuple) else x


def _spec_of(part: Any, any_rows: bool) -> Any:
    """The spec of a part of a batch. With `any_rows`, the short last batch needs no other trace."""
    if not isinstance(part, tf.Tensor):
        return None if part is None else tf.type_spec_from_value(part)
    return tf.TensorSpec([None, *part.shape[1:]] if any_rows and part.shape.rank else part.shape, part.dtype)
