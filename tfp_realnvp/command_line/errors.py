"""Errors of the command line, each with the file that they are about."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

__all__ = ["CommandError", "errors_of"]


class CommandError(Exception):
    """An error that the user can correct. Its text is one line."""


@contextlib.contextmanager
def errors_of(path: Path) -> Iterator[None]:
    """Context manager: errors in files and values become a `CommandError` that names the file."""
    try:
        yield
    except (EOFError, ImportError, KeyError, OSError, ValueError) as error:
        text = str(error).strip().partition("\n")[0]
        raise CommandError(f"{path}: {text or type(error).__name__}") from error
