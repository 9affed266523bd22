"""RealNVP: couplings, permutations, densities, samples and argument checks."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_probability import bijectors as tfb
from tensorflow_probability import distributions as tfd

import tfp_realnvp as nvp
from registry import perturbed, random_tensor

pytestmark = pytest.mark.optimized


@pytest.mark.parametrize("size", [2, 3, 4, 5, 8])
@pytest.mark.parametrize(
    ("permutation", "coupling", "seeds"), [("reverse", "affine", 1), ("random", "affine", 3), ("lu", "spline", 1)]
)
def test_two_couplings_move_every_feature_and_four_mix_all(size, permutation, coupling, seeds):
    for seed in range(seeds):
        for num_couplings in (2, 4):
            flow = nvp.RealNVP(
                size,
                num_couplings=num_couplings,
                hidden_units=(8,),
                permutation=permutation,
                coupling=coupling,
                bound=30.0,  # wide: in the tails, splines are the identity
                seed=seed,
                dtype="float64",
            )
            for mlp in flow.conditioners:
                mlp.activation = keras.activations.tanh
                for layer in mlp.hidden_layers:
                    layer.activation = keras.activations.tanh
            for network in flow.conditioners:  # not the linear maps, which alone would mix all features
                perturbed(network)
            z = random_tensor((1, size), "float64", seed=seed)
            with tf.GradientTape(persistent=True) as tape:
                tape.watch(z)
                x = flow.bijector().forward(z)
            jacobian = tape.batch_jacobian(x, z, experimental_use_pfor=False).numpy()[0]  # faster than tracing
            if num_couplings == 4:
                assert np.all(jacobian != 0.0)
            # A row with a single 1 and zeros elsewhere means that the feature is only permuted.
            moved = [not (np.sum(row != 0.0) == 1 and np.any(row == 1.0)) for row in jacobian]
            assert all(moved)


def test_untrained_flow_is_a_permutation_of_the_base():
    flow = nvp.RealNVP(4, num_couplings=3, seed=0)
    x = random_tensor((5, 4), "float32", seed=0)
    np.testing.assert_allclose(np.sort(flow.bijector().inverse(x)), np.sort(x), atol=1e-6)
    np.testing.assert_allclose(flow.log_prob(x), tfd.MultivariateNormalDiag(tf.zeros(4)).log_prob(x), atol=1e-4)


def test_permutations_are_tfp_bijectors_and_depend_on_the_seed():
    def permutations(**options):
        flow = nvp.RealNVP(9, num_couplings=5, hidden_units=(4,), **options)
        return [np.asarray(b.permutation) for b in flow.bijector().bijectors if isinstance(b, tfb.Permute)]

    assert all(np.array_equal(p, np.arange(9)[::-1]) for p in permutations(permutation="reverse"))
    one, same, other = (permutations(permutation="random", seed=seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(one, same)
    assert len(one) == 4 and not np.array_equal(one, other)
    assert all(np.array_equal(np.sort(p), np.arange(9)) for p in one)


def test_seed_fixes_the_weights():
    one, same, other = (nvp.RealNVP(3, num_couplings=2, hidden_units=(4,), seed=seed) for seed in (1, 1, 2))
    for a, b in zip(one.trainable_variables, same.trainable_variables, strict=True):
        np.testing.assert_array_equal(a, b)
    assert any(np.any(a != b) for a, b in zip(one.trainable_variables, other.trainable_variables, strict=True))
    kernels = [variable.numpy() for variable in one.trainable_variables if variable.name == "kernel"]
    assert not np.array_equal(kernels[0], kernels[2])


def test_event_shape_may_be_an_integer_or_a_tuple_of_one():
    for shape in (3, (3,), [3], np.int64(3), np.array([3]), tf.TensorShape([3])):
        assert nvp.RealNVP(shape, num_couplings=1, hidden_units=()).event_shape == (3,)


def test_shapes_of_densities_and_samples(flow, data):
    for leading in itertools.chain([()], [(4,), (2, 3), (1, 2, 3), (0,)]):
        x = np.broadcast_to(data[0], (*leading, 2))
        assert flow.log_prob(x).shape == leading
        assert flow.sample(leading).shape == (*leading, 2)
        x, log_prob = flow.sample_and_log_prob(leading)
        assert x.shape == (*leading, 2) and log_prob.shape == leading
    assert flow.sample(4).shape == (4, 2)
    assert flow.sample().shape == (2,)


def test_all_methods_give_the_same_density(flow, data):
    x = data[:50].astype("float32")
    expected = flow.log_prob(x)
    distribution = flow.distribution()
    assert isinstance(distribution, tfd.TransformedDistribution)
    assert isinstance(flow.bijector(), tfb.Chain)
    z = flow.bijector().inverse(x)
    by_hand = distribution.distribution.log_prob(z) + flow.bijector().inverse_log_det_jacobian(x, event_ndims=1)
    for other in (flow(x), flow.predict(x, verbose=0), distribution.log_prob(x), by_hand):
        np.testing.assert_allclose(other, expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(flow.bijector().forward(tf.identity(z)), x, rtol=1e-4, atol=1e-4)
    sample, log_prob = flow.sample_and_log_prob(100, seed=1)
    np.testing.assert_allclose(flow.log_prob(sample), log_prob, rtol=1e-3, atol=1e-3)


def test_density_integrates_to_one(flow, data):
    axes = [np.linspace(column.mean() - 8 * column.std(), column.mean() + 8 * column.std(), 400) for column in data.T]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
    area = (axes[0][1] - axes[0][0]) * (axes[1][1] - axes[1][0])
    assert np.sum(np.exp(flow.log_prob(grid))) * area == pytest.approx(1.0, abs=2e-3)


def test_seed_fixes_samples_and_invalid_seeds_are_refused(flow):
    for seed in (5, 2**40 + 5, -5, [1, 2], np.array([1, 2])):
        np.testing.assert_array_equal(flow.sample(3, seed=seed), flow.sample(3, seed=seed))
    assert np.all(flow.sample(3, seed=5) != flow.sample(3, seed=2**40 + 5))
    assert np.all(flow.sample(3) != flow.sample(3))
    np.testing.assert_array_equal(flow.sample(3, seed=5), tf.function(lambda: flow.sample(3, seed=5))())
    for bad in ("a seed", 1.5, [1, 2, 3], True, [2**40, 1], object(), [[1], [1, 2]]):
        with pytest.raises(ValueError, match="seed must be an integer or a pair of int32, got"):
            flow.sample(3, seed=bad)
    with pytest.raises(ValueError, match="seed must fit into 64 bits, got 18446744073709551616"):
        flow.sample(3, seed=2**64)


def test_importance_weights_of_samples_average_to_one(flow):
    sample, log_prob = flow.sample_and_log_prob(20_000, seed=1)
    target = tfd.MultivariateNormalDiag([10.0, -3.0], [0.7, 0.4])  # narrow: weights of low variance
    assert np.mean(np.exp(target.log_prob(sample) - log_prob)) == pytest.approx(1.0, abs=0.05)


def test_gradients_flow_through_densities_and_samples(flow, data):
    x = tf.constant(data[:10].astype("float32"))
    with tf.GradientTape() as tape:
        tape.watch(x)
        log_prob = flow.log_prob(x)
    assert np.all(np.isfinite(tape.gradient(log_prob, x)))
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(flow.sample(16, seed=1))
    gradients = tape.gradient(loss, [variable._value for variable in flow.trainable_variables])
    assert all(gradient is not None for gradient in gradients)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("context_shape", [None, 2])
def test_flow_of_one_feature_reaches_the_best_loss(dtype, context_shape):
    random = np.random.default_rng(0)
    context = random.normal(size=(4096, 2))
    x = 5.0 + 0.5 * random.normal(size=(4096, 1)) * np.exp(context[:, :1])
    inputs, extra = (x, ()) if context_shape is None else ({"x": x, "context": context}, (context,))
    flow = nvp.RealNVP(1, num_couplings=2, hidden_units=(16,), context_shape=context_shape, dtype=dtype)
    flow.adapt(inputs)
    flow.compile(keras.optimizers.Adam(1e-2))
    flow.fit(inputs, epochs=10, batch_size=256, verbose=0)
    assert flow.log_prob(x, *extra).shape == (4096,) and flow.log_prob(x, *extra).dtype == dtype
    assert flow.sample(3, *extra).shape == ((3, 1) if context_shape is None else (3, 4096, 1))
    # The best density is a Gaussian with the data's moments, or with a context, the true conditional density.
    scale = np.std(x) if context_shape is None else 0.5 * np.exp(context[:, 0])
    best = -np.mean(-0.5 * ((x[:, 0] - 5.0) / scale) ** 2 - np.log(scale) - 0.5 * np.log(2 * np.pi))
    assert flow.evaluate(inputs, verbose=0) == pytest.approx(best, abs=0.05)


def test_shapes_of_conditional_densities_and_samples(conditional_flow, conditional_data):
    context = conditional_data["context"]
    assert conditional_flow.distribution(context[:7]).batch_shape == (7,)
    assert conditional_flow.distribution(context[0]).batch_shape == ()
    assert conditional_flow.distribution(context[:6].reshape(2, 3, 2)).sample(5).shape == (5, 2, 3, 2)
    assert conditional_flow.sample(5, context=context[:7]).shape == (5, 7, 2)
    assert conditional_flow.sample((5, 4), context=context[0]).shape == (5, 4, 2)
    x, log_prob = conditional_flow.sample_and_log_prob(5, context=context[:7])
    assert x.shape == (5, 7, 2) and log_prob.shape == (5, 7)
    assert conditional_flow.log_prob(x, context[:7]).shape == (5, 7)
    assert conditional_flow.log_prob(x[0, 0], context[:7]).shape == (7,)
    assert conditional_flow.log_prob(x, context[0]).shape == (5, 7)


def test_conditional_densities_agree_and_depend_on_the_context(conditional_flow, conditional_data):
    x, context = conditional_data["x"][:40], conditional_data["context"][:40]
    expected = conditional_flow.log_prob(x, context)
    inputs = {"x": x, "context": context}
    for other in (
        conditional_flow(inputs),
        conditional_flow.predict(inputs, verbose=0),
        conditional_flow.distribution(context).log_prob(x),
        [conditional_flow.log_prob(*pair) for pair in zip(x, context, strict=True)],
    ):
        np.testing.assert_allclose(other, expected, atol=1e-10)
    assert np.all(np.abs(conditional_flow.log_prob(x, context[::-1]) - expected) > 1e-6)
    sample, log_prob = conditional_flow.sample_and_log_prob(6, context=context)
    np.testing.assert_allclose(conditional_flow.log_prob(sample, context), log_prob, atol=1e-8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"event_shape": 0}, "event_shape must be one integer of at least 1, or a tuple of one, got 0"),
        ({"event_shape": (2, 3)}, r"event_shape .* got \(2, 3\)"),
        ({"event_shape": 2.5}, "event_shape .* got 2.5"),
        ({"event_shape": None}, "event_shape .* got None"),
        ({"event_shape": True}, "event_shape .* got True"),
        ({"event_shape": (2, (3, 4))}, r"event_shape .* got \(2, \(3, 4\)\)"),
        ({"dtype": "xyz"}, "dtype must be a floating-point Keras policy.* got 'xyz'"),
        ({"dtype": "int32"}, "dtype must be a floating-point Keras policy.* got 'int32'"),
        ({"num_couplings": 0}, "num_couplings .* got 0"),
        ({"hidden_units": (8, 0)}, r"hidden_units\[1\] .* got 0"),
        ({"hidden_units": 8}, "hidden_units must be a sequence of integers, got 8"),
        ({"event_shape": 1, "hidden_units": 8}, "hidden_units must be a sequence"),
        ({"event_shape": 1, "activation": "sofa"}, "sofa"),
        ({"seed": -1}, "seed must be .* got -1"),
        ({"seed": "x"}, "seed must be .* got 'x'"),
        ({"context_shape": (0,)}, r"context_shape .* got \(0,\)"),
        ({"coupling": "cubic"}, "coupling must be one of 'affine', 'spline', got 'cubic'"),
        ({"permutation": "none"}, "permutation must be one of 'reverse', 'random', 'lu', got 'none'"),
        ({"conditioner": "cnn"}, "conditioner must be one of 'mlp', 'resnet', got 'cnn'"),
        ({"normalization": "layer"}, "normalization must be one of 'actnorm', 'batchnorm', got 'layer'"),
        ({"conditioner": "resnet", "hidden_units": (8, 4)}, r"hidden_units must be .* all equal, got \(8, 4\)"),
        ({"dropout": 1.5}, "dropout must be from 0 to below 1, got 1.5"),
        ({"num_bins": 1}, "num_bins must be an integer of at least 2, got 1"),
        ({"num_bins": "a"}, "num_bins must be an integer of at least 2, got 'a'"),
        ({"coupling": "spline", "bound": -1.0}, "bound must be above 0 and finite, got -1.0"),
        ({"log_scale_bound": 0.0}, "log_scale_bound must be above 0 and finite, got 0.0"),
        ({"base_distribution": "cauchy"}, "base_distribution must be one of 'student_t', got 'cauchy'"),
        ({"base_distribution": 1.0}, "base_distribution must be a tfd.Distribution, got 1.0"),
        ({"base_distribution": tfd.Normal(0.0, 1.0)}, r"event shape \[2\].* got \(\)"),
        ({"base_distribution": tfd.MultivariateNormalDiag(tf.zeros([3, 2]))}, r"batch shape \[\].* \(3,\)"),
        ({"base_distribution": tfd.MultivariateNormalDiag(tf.zeros(2, tf.float64))}, "dtype float32.*float64"),
    ],
)
def test_invalid_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        nvp.RealNVP(**{"event_shape": 2} | options)


def test_wrong_shapes_and_contexts_are_refused(flow, conditional_flow):
    x, context = np.zeros((4, 2)), np.zeros((4, 2))
    distribution, bijector = flow.distribution(), flow.bijector()
    tensor_methods = [distribution.log_prob, bijector.forward, bijector.inverse, bijector.inverse_log_det_jacobian]
    for call in (flow.log_prob, flow, flow.predict, flow.evaluate, flow.fit, flow.adapt, *tensor_methods):
        with pytest.raises(ValueError, match=r"must have shape \[(\.\.\.|N), 2\], got \[4, 3\]"):
            call(np.zeros((4, 3), "float32"))
    for call in (bijector.forward, bijector.forward_log_det_jacobian):  # the standardisation must not broadcast
        with pytest.raises(ValueError, match=r"must have shape \[\.\.\., 2\], got \[4, 1\]"):
            call(np.zeros((4, 1), "float32"))
    for call in (flow.log_prob, flow.distribution, flow.bijector, flow.sample, flow.sample_and_log_prob):
        arguments = (x,) if call == flow.log_prob else ()
        with pytest.raises(ValueError, match=r"unexpected context of shape \[4, 2\]"):
            call(*arguments, context=context)
    for call in (flow, flow.predict, flow.evaluate, flow.fit, flow.adapt):
        with pytest.raises(ValueError, match=r"unexpected context of shape \[4, 2\]"):
            call({"x": x, "context": context})
    flow = conditional_flow
    for call in (flow.log_prob, flow, flow.predict, flow.evaluate, flow.fit, flow.adapt):
        with pytest.raises(ValueError, match=r"context of shape \[\.\.\., 2\] is missing"):
            call(x)
    for call in (flow.sample, flow.sample_and_log_prob, flow.distribution, flow.bijector):
        with pytest.raises(ValueError, match=r"context of shape \[\.\.\., 2\] is missing"):
            call()
        with pytest.raises(ValueError, match=r"context must have shape \[\.\.\., 2\], got \[4, 3\]"):
            call(context=np.zeros((4, 3)))
    with pytest.raises(ValueError, match="the same number of rows, got 4 and 3"):
        flow.fit({"x": x, "context": context[:3]})
    with pytest.raises(ValueError, match=r"keys .*\['context', 'y'\]"):
        flow.fit({"y": x, "context": context})


def test_invalid_values_and_sample_shapes_are_refused(flow, conditional_flow):
    for value in (None, "text", [[1.0], [1.0, 2.0]]):
        with pytest.raises(ValueError, match="x must be an array of numbers, got"):
            flow.log_prob(value)
    compiled = tf.function(flow.log_prob, input_signature=[tf.TensorSpec([None, None])])
    assert compiled(np.zeros((4, 2), "float32")).shape == (4,)
    with pytest.raises(tf.errors.InvalidArgumentError, match="not compatible"):
        compiled(np.zeros((4, 3), "float32"))  # 12 values could be taken for 6 rows
    for sample_shape in (-1, 2.5, (3, -2), "three", [[2, 3], [1, 2]], tf.constant(-2), tf.constant(2.7)):
        with pytest.raises(ValueError, match="sample_shape must be an integer or a vector of integers of at least 0"):
            flow.sample(sample_shape)
    for sample_shape in (2**31, (2**16, 2**16)):
        with pytest.raises(ValueError, match=r"sample_shape must be of fewer than 2\*\*31 samples, got"):
            flow.sample(sample_shape)
    assert tf.function(lambda n: flow.sample(n))(tf.constant(3)).shape[1:] == (2,)
    with pytest.raises(ValueError, match=r"must broadcast, got \(5,\) and \(4,\)"):
        conditional_flow.log_prob(np.zeros((4, 2)), np.zeros((5, 2)))
    with pytest.raises(ValueError, match="inputs: x and context must have the same number of rows, got 4 and 5"):
        conditional_flow({"x": np.zeros((4, 2)), "context": np.zeros((5, 2))})


@pytest.mark.parametrize(("num_couplings", "bound"), [(2, 3.0), (4, 2.0), (8, 1.0), (16, 0.5)])
def test_deep_flows_scale_a_feature_no_more_than_shallow_flows(num_couplings, bound):
    flow = perturbed(nvp.RealNVP(3, num_couplings=num_couplings, hidden_units=(4,), seed=0), stddev=10.0)
    assert flow.get_config()["log_scale_bound"] == bound
    x = 100 * np.random.default_rng(0).normal(size=(50, 3)).astype("float32")
    log_det = flow.bijector().inverse_log_det_jacobian(x, event_ndims=1)
    assert 3 < np.max(np.abs(log_det)) <= 3 * bound * num_couplings / 2 + 1e-3
