"""Repeats TensorFlow functions."""

from collections.abc import Callable, Sequence
from typing import Any


def repeated(function: Callable[[Any], Any], arguments: Sequence[Any]) -> Callable[[int], None]:
    """Returns a function that calls `function` on the arguments in turn, and waits for the last result."""

    def run(repeats: int) -> None:
        for index in range(repeats):
            result = function(arguments[index % len(arguments)])
        result.numpy()

    return run
