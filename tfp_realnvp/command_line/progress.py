"""The progress of a training in one line."""

import sys
import time
from typing import Any

import keras

__all__ = ["ProgressLine"]


class ProgressLine(keras.callbacks.Callback):
    """Draws one line and updates it after epochs. If stdout is not a terminal, prints only the final state."""

    width = 24
    interval = 0.1  # minimal seconds between two updates

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        self._start = self._drawn = time.monotonic()
        self._epoch, self._line, self._best = 0, "", float("inf")

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        logs = logs or {}
        self._epoch = epoch + 1
        total = self.params["epochs"]
        filled = self.width * self._epoch // total
        losses = f"loss {logs['loss']:.3f}" + (f", validation {logs['val_loss']:.3f}" if "val_loss" in logs else "")
        self._line = f"[{'#' * filled}{'.' * (self.width - filled)}] epoch {self._epoch}/{total}  {losses} nats"
        self._best = min(self._best, logs.get("val_loss", self._best))
        now = time.monotonic()
        if sys.stdout.isatty() and now - self._drawn >= self.interval:
            self._drawn = now
            print(f"\r{self._line}\x1b[K", end="", flush=True)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        stopped = f", stopped early; best {self._best:.3f}" if self._epoch < self.params["epochs"] else ""
        redraw = "\r" if sys.stdout.isatty() else ""
        print(f"{redraw}{self._line}{stopped} ({time.monotonic() - self._start:.0f} s)", flush=True)
