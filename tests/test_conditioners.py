"""Conditioners: identity start, bounded log-scale, shapes, configuration."""

import keras
import numpy as np
import pytest

import tfp_realnvp as nvp
from registry import random_tensor


def test_starts_at_the_identity():
    shift, log_scale = nvp.MLP(3, (8, 8))(random_tensor((5, 2), "float32", seed=0))
    np.testing.assert_array_equal(shift, np.zeros((5, 3)))
    np.testing.assert_array_equal(log_scale, np.zeros((5, 3)))


def test_log_scale_is_bounded_and_shift_is_not():
    mlp = nvp.MLP(3, (8,), log_scale_bound=2.0)
    kept = random_tensor((50, 2), "float32", seed=0)
    mlp(kept)
    for variable in mlp.trainable_variables:
        variable.assign(random_tensor(variable.shape, "float32", seed=1, stddev=50.0))
    shift, log_scale = mlp(kept)
    assert np.max(np.abs(log_scale)) <= 2.0 < np.max(np.abs(shift))
    assert np.max(np.abs(log_scale)) > 1.99


@pytest.mark.parametrize(("kept_size", "context_size"), [(2, None), (2, 3), (0, 3)])
@pytest.mark.parametrize("hidden_units", [(), (8,), (8, 4)])
def test_shapes(kept_size, context_size, hidden_units):
    mlp = nvp.MLP(4, hidden_units)
    context = () if context_size is None else (np.ones((5, context_size), "float32"),)
    shift, log_scale = mlp(np.ones((5, kept_size), "float32"), *context)
    assert shift.shape == log_scale.shape == (5, 4)
    assert len(mlp.trainable_variables) == 2 * (len(hidden_units) + 1)
    assert mlp.trainable_variables[0].shape[0] == kept_size + (context_size or 0)


def test_no_input_is_an_error_not_a_crash():
    with pytest.raises(ValueError, match=r"kept must have a feature where there is no context, got shape \[5, 0\]"):
        nvp.MLP(2)(np.ones((5, 0), "float32"))


def test_one_that_does_not_train():
    mlp = nvp.MLP(2, (8,), trainable=False)
    mlp.build((None, 3))
    assert not mlp.trainable_variables and len(mlp.non_trainable_variables) == 4
    assert not any(variable.trainable for variable in mlp.variables)


def test_config_round_trip():
    mlp = nvp.MLP(4, (8,), activation="tanh", log_scale_bound=1.5, seed=3, dtype="float64", name="net")
    other = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(mlp))
    assert other.get_config() == mlp.get_config()
    kept = random_tensor((5, 2), "float64", seed=0)
    mlp(kept), other(kept)
    for one, same in zip(mlp.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(one, same)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"output_size": 0}, "output_size .* got 0"),
        ({"hidden_units": (4, 0)}, r"hidden_units\[1\] .* got 0"),
        ({"hidden_units": (4.5,)}, r"hidden_units\[0\] .* got 4.5"),
        ({"hidden_units": 4}, "hidden_units must be a sequence of integers, got 4"),
        ({"log_scale_bound": 0.0}, "log_scale_bound .* got 0.0"),
        ({"log_scale_bound": np.inf}, "log_scale_bound .* got inf"),
        ({"log_scale_bound": "a"}, "log_scale_bound .* got 'a'"),
        ({"seed": "a"}, "seed must be an integer or None, got 'a'"),
        ({"activation": "no such"}, "no such"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        nvp.MLP(**{"output_size": 2} | options)
