"""The callbacks of a call: finds those that look at each batch, and adds the callbacks of this package."""

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from tfp_realnvp.flows.resume import repair_backup

__all__ = ["backups", "each_callback", "needs_every_batch", "with_callbacks", "with_progress_bar"]


def each_callback(callbacks: Any) -> list[keras.callbacks.Callback]:
    """Flattens the argument `callbacks`: None, one callback, a nested list, or a `keras.callbacks.CallbackList`."""
    return list(tf.nest.flatten(getattr(callbacks, "callbacks", callbacks) or []))


def backups(callbacks: Any) -> list[keras.callbacks.BackupAndRestore]:
    return [found for found in each_callback(callbacks) if isinstance(found, keras.callbacks.BackupAndRestore)]


def needs_every_batch(callbacks: Any, modes: Sequence[str]) -> bool:
    """Whether a callback looks at each batch in one of the modes ("train", "test", "predict").

    A callback from Keras does so if its `save_freq` or `update_freq` counts batches. Any other callback does so if it
    defines a method for batches, such as `on_train_batch_end`.
    """
    methods = [f"on_{mode}_batch_{when}" for mode in modes for when in ("begin", "end")]
    if "train" in modes:
        methods += ["on_batch_begin", "on_batch_end"]

    def looks(callback: keras.callbacks.Callback, method: str) -> bool:
        module = getattr(callback, method).__module__ or ""
        does_nothing = module == keras.callbacks.Callback.__module__
        if does_nothing or isinstance(callback, ProgressBar):
            return False
        if module.startswith("keras."):
            return any(getattr(callback, name, "epoch") != "epoch" for name in ("save_freq", "update_freq"))
        return True

    return any(looks(callback, method) for callback in each_callback(callbacks) for method in methods)


class ProgressBar(keras.callbacks.ProgbarLogger):
    """Keras's progress bar, which does not count beyond the last batch.

    The last execution may have fewer steps than the others, but Keras counts the same number for each. Of 110 batches
    in executions of 32, the bar would show 128/110.
    """

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        super().on_train_batch_end(self._limited(batch), logs)

    def on_test_batch_end(self, batch: int, logs: Any = None) -> None:
        super().on_test_batch_end(self._limited(batch), logs)

    def _limited(self, batch: int) -> int:
        return batch if self.target is None else min(batch, self.target - 1)


def with_progress_bar(callbacks: Any, verbose: Any) -> Any:
    """Adds a progress bar if `verbose` asks for one. A `keras.callbacks.CallbackList` stays as it is, as in Keras."""
    given = each_callback(callbacks)
    has_bar = any(isinstance(callback, keras.callbacks.ProgbarLogger) for callback in given)
    if isinstance(callbacks, keras.callbacks.CallbackList) or has_bar or not verbose:
        return callbacks
    return [*given, ProgressBar()]


def with_callbacks(own: Sequence[keras.callbacks.Callback], callbacks: Any, model: keras.Model) -> Any:
    """Returns our own callbacks followed by the user's callbacks, and repairs the files of `BackupAndRestore`."""
    for backup in backups(callbacks):
        repair_backup(backup)
    if isinstance(callbacks, keras.callbacks.CallbackList):
        return keras.callbacks.CallbackList([*own, *callbacks.callbacks], model=model, **(callbacks.params or {}))
    return [*own, *tf.nest.flatten(callbacks or [])]
