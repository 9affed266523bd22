"""Writes files and folders completely or not at all."""

import contextlib
import math
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

import tensorflow as tf

__all__ = ["as_path", "atomic_file", "atomic_folder", "confirm_overwrite"]

TENSORFLOW_FILE_ERRORS = (
    tf.errors.FailedPreconditionError,
    tf.errors.NotFoundError,
    tf.errors.OutOfRangeError,
    tf.errors.PermissionDeniedError,
    tf.errors.ResourceExhaustedError,
)


def as_path(filepath: Any) -> str:
    """Converts `filepath` to a string. Raises a ValueError unless it is a string or an `os.PathLike` of a string."""
    path = os.fspath(filepath) if isinstance(filepath, str | os.PathLike) else None
    if not isinstance(path, str):
        raise ValueError(f"filepath must be a string or an os.PathLike, got {filepath!r}")
    return path


def confirm_overwrite(path: str, overwrite: bool) -> bool:
    """Whether to write a file: True if `path` does not exist, if `overwrite` is true, or if the user says yes."""
    if overwrite or not os.path.exists(path):
        return True
    answer = ""
    while answer not in ("y", "n"):
        answer = input(f"{path} exists already. Overwrite it? [y/n] ").strip().lower()
    return answer == "y"


@contextlib.contextmanager
def atomic_file(path: str, variables: Sequence[Any] = ()) -> Iterator[str]:
    """Context manager: yields a path for a new file, which replaces `path` at the end.

    The new path has the same folder and file extension as `path`. If writing fails, the older file does not change. The
    new file gets the permissions of the older file. Raises an OSError that names `path`, before anything is written if
    the disk has no space for `variables`.
    """
    if "://" in path:  # Not a local folder, so Keras writes to the path directly.
        yield path
        return
    target = os.path.realpath(path)  # the file that a link points to
    folder, name = os.path.split(target)
    with _named(path), tempfile.TemporaryDirectory(prefix=f".{name[:24]}-", dir=folder) as temporary:
        if os.path.exists(target):
            open(target, "ab").close()  # Raises an error if the file is write-protected.
        new = os.path.join(temporary, name)
        _reserve(new, variables)
        yield new
        if os.path.exists(target):
            shutil.copymode(target, new)
        os.replace(new, target)


@contextlib.contextmanager
def atomic_folder(path: str) -> Iterator[str]:
    """Like `atomic_file`, for the folder of a SavedModel. Other files in the folder do not change."""
    if "://" in path:
        yield path
        return
    with _named(path):
        os.makedirs(path, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".new-", dir=path) as temporary:
            new, old = (os.path.join(temporary, name) for name in ("new", "old"))
            os.mkdir(old)
            yield new
            # A folder without this file is not a SavedModel, so the old file moves first and the new one last.
            names = sorted(os.listdir(new), key="saved_model.pb".__eq__)
            there = [name for name in reversed(names) if os.path.exists(os.path.join(path, name))]
            moves = [(os.path.join(path, name), os.path.join(old, name)) for name in there]
            moves += [(os.path.join(new, name), os.path.join(path, name)) for name in names]
            _move(moves)


def _move(moves: Sequence[tuple[str, str]]) -> None:
    """Moves each source to its target. If one move fails, undoes the others."""
    done: list[tuple[str, str]] = []
    try:
        for source, target in moves:
            os.replace(source, target)
            done.append((source, target))
    except OSError:
        for source, target in reversed(done):
            os.replace(target, source)
        raise


def _reserve(path: str, variables: Sequence[Any]) -> None:
    """Raises an OSError if the disk has no space for a file of these variables, where HDF5 would abort the process."""
    size = sum(math.prod(variable.shape) * tf.as_dtype(variable.dtype).size + 4096 for variable in variables)
    if size and hasattr(os, "posix_fallocate"):
        with open(path, "wb") as file:
            os.posix_fallocate(file.fileno(), 0, size)
        os.remove(path)


@contextlib.contextmanager
def _named(path: str) -> Iterator[None]:
    try:
        yield
    except (OSError, *TENSORFLOW_FILE_ERRORS) as error:
        raise OSError(getattr(error, "errno", None), f"filepath {path!r} could not be written: {error}") from error
