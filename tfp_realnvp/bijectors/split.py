"""How a mask divides an event into the part that a coupling keeps and the part that it moves."""

import numpy as np
import tensorflow as tf

from tfp_realnvp.bijectors.permutation import permute

__all__ = ["FeatureSplit", "PixelSplit", "split_by"]


class FeatureSplit:
    """Splits the last dimension by a mask `[D]`: the features of a vector `[D]`, or the channels of `[H, W, D]`.

    Attributes:
        event_shape: shape of an event, with None for dimensions of any size.
        kept_shape: shape of the kept part, in the same form.
    """

    def __init__(self, mask: np.ndarray, event_ndims: int):
        self._kept_size, self._moved_size = int(mask.sum()), int((~mask).sum())
        positions = (None,) * (event_ndims - 1)
        self.event_shape: tuple[int | None, ...] = (*positions, mask.size)
        self.kept_shape: tuple[int | None, ...] = (*positions, self._kept_size)
        # If both parts are contiguous, slices are enough. Other masks need one gather for a split and one for a merge.
        self._kept_first, self._order = bool(mask[0]), None
        if np.count_nonzero(np.diff(mask)) > 1:
            self._kept_first, self._order = True, np.argsort(~mask, kind="stable")
            self._inverse_order = np.argsort(self._order)

    def split(self, event: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Splits `event [..., D]` into kept `[..., d]` and moved `[..., D - d]`."""
        if self._order is not None:
            event = permute(event, self._order, self._inverse_order)
        sizes = [self._kept_size, self._moved_size]
        if self._kept_first:
            kept, moved = tf.split(event, sizes, axis=-1)
        else:
            moved, kept = tf.split(event, sizes[::-1], axis=-1)
        return kept, moved

    def merge(self, kept: tf.Tensor, moved: tf.Tensor) -> tf.Tensor:
        """Merges kept and moved parts into an event."""
        event = tf.concat([kept, moved] if self._kept_first else [moved, kept], axis=-1)
        return event if self._order is None else permute(event, self._inverse_order, self._order)

    def moved_size(self, kept: tf.Tensor) -> int:
        """Number of features in the moved part."""
        return self._moved_size

    def only_moved(self, values: tf.Tensor, extra_ndims: int = 0) -> tf.Tensor:
        """Returns `values`, since all of them belong to moved features."""
        return values


class PixelSplit:
    """Splits an image `[H, W, C]` by a mask `[H, W, 1]` or `[H, W, C]` into two images of the same shape.

    In the kept image, moved pixels are zero. In the moved image, the values of kept pixels have no meaning.

    Attributes:
        event_shape: shape of an event, with None for dimensions of any size.
        kept_shape: the same as event_shape.
    """

    def __init__(self, mask: np.ndarray):
        self._mask = mask
        self.event_shape: tuple[int | None, ...] = (*mask.shape[:-1], None if mask.shape[-1] == 1 else mask.shape[-1])
        self.kept_shape = self.event_shape

    def split(self, event: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Splits `event [..., H, W, C]` into kept and moved, both `[..., H, W, C]`."""
        return tf.where(self._mask, event, tf.zeros([], event.dtype)), event

    def merge(self, kept: tf.Tensor, moved: tf.Tensor) -> tf.Tensor:
        """Merges kept and moved parts into an event."""
        return tf.where(self._mask, kept, moved)

    def moved_size(self, kept: tf.Tensor) -> int:
        """Number of channels in the moved part, which has the channels of `kept`."""
        return int(kept.shape[-1])

    def only_moved(self, values: tf.Tensor, extra_ndims: int = 0) -> tf.Tensor:
        """Sets `values [..., H, W, C]`, with `extra_ndims` further dimensions at the end, to zero at kept pixels."""
        mask = self._mask.reshape(self._mask.shape + (1,) * extra_ndims)
        return tf.where(mask, tf.zeros([], values.dtype), values)


def split_by(mask: np.ndarray) -> FeatureSplit | PixelSplit:
    """The split for a mask `[D]`, `[1, 1, C]`, `[H, W, 1]` or `[H, W, C]`."""
    if mask.ndim == 1 or mask.shape[:2] == (1, 1):
        return FeatureSplit(mask.reshape(-1), mask.ndim)
    return PixelSplit(mask)
