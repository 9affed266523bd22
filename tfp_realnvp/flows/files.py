"""Files and folders that are written whole or not at all."""

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
    """`filepath` as a string; a ValueError unless it is one, or an `os.PathLike` of one."""
    path = os.fspath(filepath) if isinstance(filepath, str | os.PathLike) else None
    if not isinstance(path, str):
        raise ValueError(f"filepath must be a path, got {filepath!r}")
    return path


def confirm_overwrite(path: str, overwrite: bool) -> bool:
    """Whether a file may be written: nothing is at `path` yet, `overwrite` is true, or the user says yes."""
    if overwrite or not os.path.exists(path):
        return True
    answer = ""
    while answer not in ("y", "n"):
        answer = input(f"{path} exists already. Overwrite it? [y/n] ").strip().lower()
    return answer == "y"


@contextlib.contextmanager
def atomic_file(path: str, variables: Sequence[Any] = ()) -> Iterator[str]:
    """A path to write a new file to, in the folder of `path` and with the same endings. It then replaces `path`.

    Until then, and if writing fails, the older file stays as it was. The new file gets the permissions of the older
    one. An OSError names `path`. If there is no room for `variables`, it is raised before anything is written.
    """
    if "://" in path:  # No folder of this machine, and what is there now is replaced at once by Keras.
        yield path
        return
    target = os.path.realpath(path)  # of what a link points to
    folder, name = os.path.split(target)
    with _named(path), tempfile.TemporaryDirectory(prefix=f".{name[:24]}-", dir=folder) as temporary:
        if os.path.exists(target):
            open(target, "ab").close()  # An error, where it is write-protected.
        new = os.path.join(temporary, name)
        _reserve(new, variables)
        yield new
        if os.path.exists(target):
            shutil.copymode(target, new)
        os.replace(new, target)


@contextlib.contextmanager
def atomic_folder(path: str) -> Iterator[str]:
    """As `atomic_file`, for the folder of a SavedModel. Other files in it stay there."""
    if "://" in path:
        yield path
        return
    with _named(path):
        os.makedirs(path, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".new-", dir=path) as temporary:
            new, old = (os.path.join(temporary, name) for name in ("new", "old"))
            os.mkdir(old)
            yield new
            # Without this file no folder is a SavedModel, so it goes first and comes last.
            names = sorted(os.listdir(new), key="saved_model.pb".__eq__)
            there = [name for name in reversed(names) if os.path.exists(os.path.join(path, name))]
            moves = [(os.path.join(path, name), os.path.join(old, name)) for name in there]
            moves += [(os.path.join(new, name), os.path.join(path, name)) for name in names]
            _move(moves)


def _move(moves: Sequence[tuple[str, str]]) -> None:
    """Moves each source to its target, or none of them."""
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
    """Raises an OSError where a file of these variables has no room: HDF5 would take the whole process down."""
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
