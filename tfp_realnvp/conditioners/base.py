"""The base class of conditioners: the arguments and outputs that all of them have."""

from typing import Any

import keras
from keras import ops

from tfp_realnvp.checks import check_seed, check_size, floating_policy

__all__ = ["Conditioner", "Shape"]

Shape = tuple[int | None, ...]


class Conditioner(keras.layers.Layer):
    """Base class of conditioners `(kept[, context]) -> (shift, log_scale)`, or `-> parameters` of a spline.

    Subclasses check shapes in `_check_shapes`, and bound the log-scale in `_bounded_log_scale`.
    """

    def __init__(self, output_size: int, *, num_parameters: int | None, seed: int | None, **kwargs: Any):
        if kwargs.get("dtype") is not None:
            floating_policy(kwargs["dtype"])
        super().__init__(**kwargs)
        check_size("output_size", output_size)
        if num_parameters is not None:
            check_size("num_parameters", num_parameters)
        check_seed(seed)
        self.output_size = int(output_size)
        self.num_parameters = None if num_parameters is None else int(num_parameters)
        self.seed = None if seed is None else int(seed)

    @property
    def _num_outputs(self) -> int:
        """Number of outputs of the last layer, for one row or one position of an image."""
        # One layer computes shift and log-scale, since two layers would launch twice as many kernels.
        return (self.num_parameters or 2) * self.output_size

    def _check_shapes(self, kept_shape: Shape, context_shape: Shape | None) -> None:
        """Raises a ValueError unless the shapes of a call are right."""
        raise NotImplementedError

    def _bounded_log_scale(self, log_scale: Any) -> Any:
        """The log-scale, bounded so that a coupling is invertible in floating point."""
        raise NotImplementedError

    def compute_output_shape(self, kept_shape: Shape, context_shape: Shape | None = None) -> Any:
        """Shapes of the outputs of a call, from the shapes of its arguments."""
        self._check_shapes(kept_shape, context_shape)
        shape = *kept_shape[:-1], self.output_size
        return (shape, shape) if self.num_parameters is None else (*shape, self.num_parameters)

    def _as_outputs(self, outputs: Any) -> Any:
        """`outputs [..., n]` as (shift, log_scale) or, for splines, as parameters `[..., output_size, P]`."""
        if self.num_parameters is not None:
            return ops.reshape(outputs, (-1, *ops.shape(outputs)[1:-1], self.output_size, self.num_parameters))
        shift, log_scale = ops.split(outputs, 2, axis=-1)
        return shift, self._bounded_log_scale(log_scale)

    def get_config(self) -> dict[str, Any]:
        config: dict[str, Any] = super().get_config()
        return config | {
            "output_size": self.output_size,
            "num_parameters": self.num_parameters,
            "seed": self.seed,
        }
