"""How a function of TensorFlow is repeated."""

from collections.abc import Callable, Sequence
from typing import Any


def repeated(function: Callable[[Any], Any], arguments: Sequence[Any]) -> Callable[[int], None]:
    """Calls `function` so many times, with its arguments in turn, and waits for the last result."""

    def run(repeats: int) -> None:
        for index in range(repeats):
            result = function(arguments[index % len(arguments)])
        result.numpy()

    return run
