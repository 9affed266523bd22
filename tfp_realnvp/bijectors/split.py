"""How a mask divides an event into what a coupling keeps and what it moves."""

import numpy as np
import tensorflow as tf

from tfp_realnvp.bijectors.permutation import permute

__all__ = ["FeatureSplit", "PixelSplit", "split_by"]


class FeatureSplit:
    """Parts of the last dimension, by a mask `[D]`: of a vector `[D]`, or of an image `[H, W, D]` its channels.

    Attributes:
        event_shape: shape of an event; None where any size will do.
        kept_shape: shape of its kept part, likewise.
    """

    def __init__(self, mask: np.ndarray, event_ndims: int):
        self._kept_size, self._moved_size = int(mask.sum()), int((~mask).sum())
        positions = (None,) * (event_ndims - 1)
        self.event_shape: tuple[int | None, ...] = (*positions, mask.size)
        self.kept_shape: tuple[int | None, ...] = (*positions, self._kept_size)
        # Two contiguous parts are slices of the event; another mask costs one gather each way.
        self._kept_first, self._order = bool(mask[0]), None
        if np.count_nonzero(np.diff(mask)) > 1:
            self._kept_first, self._order = True, np.argsort(~mask, kind="stable")
            self._inverse_order = np.argsort(self._order)

    def split(self, event: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """(kept `[..., d]`, moved `[..., D - d]`) of `event [..., D]`."""
        if self._order is not None:
            event = permute(event, self._order, self._inverse_order)
        sizes = [self._kept_size, self._moved_size]
        if self._kept_first:
            kept, moved = tf.split(event, sizes, axis=-1)
        else:
            moved, kept = tf.split(event, sizes[::-1], axis=-1)
        return kept, moved

    def merge(self, kept: tf.Tensor, moved: tf.Tensor) -> tf.Tensor:
        """The event of these parts."""
        event = tf.concat([kept, moved] if self._kept_first else [moved, kept], axis=-1)
        return event if self._order is None else permute(event, self._inverse_order, self._order)

    def moved_size(self, kept: tf.Tensor) -> int:
        """Number of features in the moved part that belongs to `kept`."""
        return self._moved_size

    def only_moved(self, values: tf.Tensor, extra_ndims: int = 0) -> tf.Tensor:
        """`values`, one or several for each moved feature."""
        return values


class PixelSplit:
    """Parts of an image `[H, W, C]` by a mask `[H, W, 1]` or `[H, W, C]`: both are whole images.

    In the kept image, moved pixels are zero. In the moved image, the values of kept pixels have no meaning.

    Attributes:
        event_shape: shape of an event; None where any size will do.
        kept_shape: the same.
    """

    def __init__(self, mask: np.ndarray):
        self._mask = mask
        self.event_shape: tuple[int | None, ...] = (*mask.shape[:-1], None if mask.shape[-1] == 1 else mask.shape[-1])
        self.kept_shape = self.event_shape

    def split(self, event: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """(kept, moved), both `[..., H, W, C]` like `event`."""
        return tf.where(self._mask, event, tf.zeros([], event.dtype)), event

    def merge(self, kept: tf.Tensor, moved: tf.Tensor) -> tf.Tensor:
        """The event of these parts."""
        return tf.where(self._mask, kept, moved)

    def moved_size(self, kept: tf.Tensor) -> int:
        """Number of channels of the moved part that belongs to `kept`."""
        return int(kept.shape[-1])

    def only_moved(self, values: tf.Tensor, extra_ndims: int = 0) -> tf.Tensor:
        """`values [..., H, W, C]` with `extra_ndims` further dimensions, and zeros at the kept pixels."""
        mask = self._mask.reshape(self._mask.shape + (1,) * extra_ndims)
        return tf.where(mask, tf.zeros([], values.dtype), values)


def split_by(mask: np.ndarray) -> FeatureSplit | PixelSplit:
    """The split of events by a mask `[D]`, `[1, 1, C]`, `[H, W, 1]` or `[H, W, C]`."""
    if mask.ndim == 1 or mask.shape[:2] == (1, 1):
        return FeatureSplit(mask.reshape(-1), mask.ndim)
    return PixelSplit(mask)
