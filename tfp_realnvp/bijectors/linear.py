"""Learned invertible linear maps."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfp_realnvp.bijectors.base import OnePassBijector, ValueAndLogDet, check_one_feature, log_det_dtype
from tfp_realnvp.bijectors.permutation import permute
from tfp_realnvp.checks import check_shape, check_size, floating_dtype
from tfp_realnvp.keras_internals import untracked

__all__ = ["LULinear"]


class LULinear(OnePassBijector):
    """Learned invertible linear map with a shift, in LU form.

    P is a fixed permutation. L (lower triangular with ones on the diagonal), U (upper triangular with the positive
    diagonal e^d) and the vector b are learned:

        x = L U P y + b        log|det dx/dy| = sum(d)         (`inverse`, data to latent)
        y = P^T U^-1 L^-1 (x - b)                              (`forward`, by triangular solves)

    Before training, the map is the permutation: L = U = I, b = 0.

    Sources: Kingma & Dhariwal, "Glow: generative flow with invertible 1x1 convolutions", 2018, arXiv 1807.03039;
    Durkan, Bekasov, Murray & Papamakarios, "Neural spline flows", 2019, arXiv 1906.04032.

    Args:
        size: number of features D.
        permutation: integers `[D]` with P y = `y[permutation]`, or None for the identity. Saved with the weights.
        dtype: dtype of the variables.
        own_variables: used by TFP, which rebuilds the bijector from other tensors; do not pass it.
        validate_args, name: as in every `tfb.Bijector`.

    Events are `[..., D]`. Log-determinants are scalars in nats, at least in float32.

    Raises:
        ValueError: if size is below 1, or permutation does not hold each of 0, 1, ..., D - 1 once.

    >>> LULinear(3, [2, 0, 1]).inverse([1.0, 2.0, 3.0]).numpy()
    array([3., 1., 2.], dtype=float32)
    """

    def __init__(
        self,
        size: int,
        permutation: Sequence[int] | np.ndarray | None = None,
        *,
        dtype: Any = tf.float32,
        own_variables: Sequence[tf.Variable] | None = None,
        validate_args: bool = False,
        name: str = "lu_linear",
    ):
        with tf.name_scope(name) as name:
            check_size("size", size)
            floating_dtype(dtype)
            permutation = np.arange(size) if permutation is None else _checked_permutation(permutation, size)
            if own_variables is None:
                own_variables = [
                    tf.Variable(tf.zeros([size, size], dtype), name="lower_upper"),
                    tf.Variable(tf.zeros([size], dtype), name="log_diagonal"),
                    tf.Variable(tf.zeros([size], dtype), name="shift"),
                    tf.Variable(permutation.astype(np.int32), trainable=False, name="permutation"),
                ]
            # The attributes have the names of the arguments, because TFP rebuilds a composite tensor from them.
            self._size, self._permutation, self._own_variables = size, untracked(self, permutation), own_variables
            self._lower_upper, self._log_diagonal, self._shift, self._order = own_variables
            super().__init__(
                forward_min_event_ndims=1,
                validate_args=validate_args,
                dtype=self._shift.dtype,
                parameters=dict(locals()),
                name=name,
            )

    def values(self) -> list[np.ndarray]:
        """The values of L and U, d and b."""
        return [variable.numpy() for variable in (self._lower_upper, self._log_diagonal, self._shift)]

    def whiten(self, covariance: np.ndarray) -> None:
        """Sets L, U and b so that events of this covariance `[D, D]` and mean 0 become uncorrelated in `inverse`.

        With the Cholesky factor G of P covariance P^T, L U = G^-1 and b = 0.
        """
        order = np.asarray(self._order)
        inverse = np.linalg.inv(np.linalg.cholesky(np.asarray(covariance, np.float64)[np.ix_(order, order)]))
        diagonal = np.diag(inverse)
        self._lower_upper.assign(np.tril(inverse / diagonal, -1))
        self._log_diagonal.assign(np.log(diagonal))
        self._shift.assign(np.zeros(self._size))

    def _is_increasing(self) -> bool:
        check_one_feature(self._size, self.name)
        return True

    def _forward_and_log_det(self, x: tf.Tensor) -> ValueAndLogDet:
        check_shape(f"event of {self.name}", x, self._shift.shape)
        lower, upper, log_det = self._factors()
        columns = tf.transpose(tf.reshape(x - self._shift, [-1, self._shift.shape[0]]))
        # TensorFlow has no kernel for triangular solves in half precision.
        lower, upper, columns = (tf.cast(matrix, log_det.dtype) for matrix in (lower, upper, columns))
        columns = tf.linalg.triangular_solve(upper, tf.linalg.triangular_solve(lower, columns), lower=False)
        permutation, inverse = self._permutation_and_inverse()
        y = permute(tf.cast(tf.transpose(columns), x.dtype), inverse, permutation)
        return tf.reshape(y, tf.shape(x)), -log_det

    def _inverse_and_log_det(self, y: tf.Tensor) -> ValueAndLogDet:
        check_shape(f"event of {self.name}", y, self._shift.shape)
        lower, upper, log_det = self._factors()
        permutation, inverse = self._permutation_and_inverse()
        upper = permute(upper, inverse, permutation)  # U P, since U is usually smaller than a batch of events
        rows = tf.reshape(y, [-1, self._shift.shape[0]])
        x = tf.matmul(tf.matmul(rows, upper, transpose_b=True), lower, transpose_b=True)
        return tf.reshape(x, tf.shape(y)) + self._shift, log_det

    def _permutation_and_inverse(self) -> tuple[tf.Tensor, tf.Tensor]:
        permutation = tf.convert_to_tensor(self._order)
        return permutation, tf.math.invert_permutation(permutation)

    def _factors(self) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """(L, U, log|det L U|)."""
        lower_upper, log_diagonal = tf.convert_to_tensor(self._lower_upper), tf.convert_to_tensor(self._log_diagonal)
        lower = tf.linalg.set_diag(tf.linalg.band_part(lower_upper, -1, 0), tf.ones_like(log_diagonal))
        upper = tf.linalg.set_diag(tf.linalg.band_part(lower_upper, 0, -1), tf.exp(log_diagonal))
        return lower, upper, tf.reduce_sum(tf.cast(log_diagonal, log_det_dtype(log_diagonal.dtype)))


def _checked_permutation(permutation: Any, size: int) -> np.ndarray:
    try:
        order = np.asarray(permutation)
    except ValueError:  # lists of unequal lengths
        order = np.array(None)
    if order.ndim != 1 or order.dtype.kind not in "iu" or not np.array_equal(np.sort(order), np.arange(size)):
        raise ValueError(f"permutation must hold each of 0 to {size - 1} once, got {permutation!r:.100}")
    return order
