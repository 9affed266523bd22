"""Learned linear maps: which matrix they apply, and how they invert it."""

import numpy as np
import pytest
import tensorflow as tf

import tfp_realnvp as nvp
from registry import make, random_tensor

PERMUTATION = [2, 0, 3, 1]  # as in the registry


def test_linear_map_is_the_product_of_its_factors():
    bijector = make("lu_linear")
    values = {variable.name.split("/")[-1]: variable.numpy() for variable in bijector.trainable_variables}
    lower_upper, log_diagonal, shift = (values[f"{name}:0"] for name in ("lower_upper", "log_diagonal", "shift"))
    lower = np.tril(lower_upper, -1) + np.eye(4)
    upper = np.triu(lower_upper, 1) + np.diag(np.exp(log_diagonal))
    matrix = lower @ upper @ np.eye(4)[PERMUTATION]
    y = random_tensor((3, 5, 4), "float64", seed=0)
    np.testing.assert_allclose(bijector.inverse(y), y @ matrix.T + shift, atol=1e-12)
    np.testing.assert_allclose(bijector.forward(y), (y - shift) @ np.linalg.inv(matrix).T, atol=1e-12)
    log_det = bijector.inverse_log_det_jacobian(y, event_ndims=1)
    np.testing.assert_allclose(log_det, np.log(np.abs(np.linalg.det(matrix))), atol=1e-12)
    assert np.sum(log_diagonal) == pytest.approx(float(log_det))


def test_density_multiplies_by_the_matrix_and_sampling_solves():
    bijector = make("lu_linear")
    kinds = {}
    for way in ("forward", "inverse"):
        graph = tf.function(getattr(bijector, way)).get_concrete_function(tf.TensorSpec([None, 4], tf.float64)).graph
        kinds[way] = [operation.type for operation in graph.get_operations()]
        assert "MatrixInverse" not in kinds[way]
    assert kinds["forward"].count("MatrixTriangularSolve") == 2 and "MatMul" not in kinds["forward"]
    assert kinds["inverse"].count("MatMul") == 2 and "MatrixTriangularSolve" not in kinds["inverse"]


def test_without_a_permutation_it_starts_as_the_identity():
    x = random_tensor((5, 3), "float32", seed=0)
    np.testing.assert_array_equal(nvp.LULinear(3).forward(x), x)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_events_give_float32_log_determinants(dtype):
    """TensorFlow has no kernel for triangular solves in half precision."""
    bijector, precise = make("lu_linear", dtype), make("lu_linear")
    x = random_tensor((5, 4), "float64", seed=0)
    for way in ("forward", "inverse"):
        y = getattr(bijector, way)(tf.cast(x, dtype))
        log_det = getattr(bijector, f"{way}_log_det_jacobian")(tf.cast(x, dtype), event_ndims=1)
        assert y.dtype == dtype and log_det.dtype == "float32"
        np.testing.assert_allclose(tf.cast(y, "float64"), getattr(precise, way)(x), atol=0.2)


def test_slices_of_a_conditional_flow():
    flow = nvp.RealNVP(
        3, num_couplings=2, hidden_units=(4,), context_shape=2, permutation="lu", normalization="actnorm", seed=0
    )
    for index, variable in enumerate(flow.trainable_variables):
        variable.assign_add(random_tensor(variable.shape, "float32", seed=index, stddev=0.3))
    context, x = random_tensor((5, 2), "float32", seed=1), random_tensor((5, 3), "float32", seed=2)
    log_prob = flow.log_prob(x, context)
    batch = flow.distribution(context)
    np.testing.assert_allclose(batch[2].log_prob(x[2]), log_prob[2], atol=1e-5)
    np.testing.assert_allclose(batch[1:4].log_prob(x[1:4]), log_prob[1:4], rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: nvp.LULinear(0), "size must be an integer of at least 1, got 0"),
        (lambda: nvp.LULinear(3, [0, 1]), r"permutation must hold each of 0 to 2 once, got \[0, 1\]"),
        (lambda: nvp.LULinear(2, [1, 1]), r"permutation must hold each of 0 to 1 once, got \[1, 1\]"),
        (lambda: nvp.LULinear(2, "ab"), "permutation must hold each of 0 to 1 once, got 'ab'"),
        (lambda: nvp.LULinear(2).forward(tf.ones([4, 3])), r"event of lu_linear must have shape .* got \[4, 3\]"),
    ],
)
def test_wrong_arguments_are_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()
