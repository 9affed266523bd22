"""Cost of computations, counted in matrix products, operations and traces."""

import collections
import gc

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_probability import bijectors as tfb
from tensorflow_probability import distributions as tfd

import tfp_realnvp as nvp
from registry import random_tensor

pytestmark = pytest.mark.default_steps

LAYERS = 3  # of each coupling's network: two hidden layers and the output layer


def small_flow(num_couplings=4, **options):
    flow = nvp.RealNVP(4, num_couplings=num_couplings, hidden_units=(8, 8), seed=0, **options)
    flow.compile("adam")
    return flow


def operations(function, *arguments):
    """Number of operations of each type in the traced function."""
    graph = function.get_concrete_function(*arguments).graph
    return collections.Counter(operation.type for operation in graph.get_operations())


@pytest.mark.parametrize("name", ["log_prob", "sample", "sample_and_log_prob", "forward", "inverse"])
def test_one_matrix_product_per_layer(name):
    flow = small_flow()
    assert operations(getattr(flow._compiled, name))["MatMul"] == 4 * LAYERS


@pytest.mark.parametrize("permutation", ["reverse", "random"])
def test_training_step_has_three_matrix_products_per_layer_and_no_scatter(permutation):
    flow = small_flow(permutation=permutation)
    flow.optimizer.build(flow.trainable_variables)
    step = tf.function(lambda x: flow.train_step((x,)))
    counts = operations(step, tf.TensorSpec([None, 4]))
    assert counts["MatMul"] == 3 * 4 * LAYERS - 1  # the gradient of the first network's input is not needed
    assert counts["ResourceApplyAdam"] == len(flow.trainable_variables)
    assert not [kind for kind in counts if "Scatter" in kind or "Segment" in kind]


def test_spline_runs_its_resnet_once_and_uses_dropout_only_in_training():
    options = {"coupling": "spline", "conditioner": "resnet", "dropout": 0.1, "permutation": "lu"}
    flow = small_flow(**options)
    networks, splines, linear_maps = 4 * (1 + 2 * 2 + 1), 4, 5
    for name, products in (
        ("log_prob", networks + splines + 2 * linear_maps),
        ("sample_and_log_prob", networks + splines),  # linear maps are solved, without a matrix product
    ):
        counts = operations(getattr(flow._compiled, name))
        assert counts["MatMul"] == products
    assert not [kind for kind in operations(flow._compiled.log_prob) if "Random" in kind]
    flow.optimizer.build(flow.trainable_variables)
    counts = operations(tf.function(lambda x: flow.train_step((x,))), tf.TensorSpec([None, 4]))
    assert [kind for kind in counts if "Random" in kind]
    assert not [kind for kind in counts if "Scatter" in kind or "Segment" in kind]


def test_each_block_of_a_blockwise_bijector_runs_once():
    def network():
        return nvp.MLP(1, hidden_units=(8, 8), dropout=0.1)

    blocks = [nvp.AffineCoupling(network(), nvp.masks.half(2)), nvp.BatchNorm(1)]
    blocks.append(tfb.Chain([nvp.AffineCoupling(network(), nvp.masks.half(2)), nvp.ActNorm(2)]))
    base = tfd.MultivariateNormalDiag(tf.zeros(5))
    flow = nvp.Flow(tfd.TransformedDistribution(base, tfb.Blockwise(blocks, [2, 1, 2])))
    flow.compile("adam")
    assert operations(flow._compiled.log_prob)["MatMul"] == 2 * LAYERS
    flow.optimizer.build(flow.trainable_variables)
    counts = operations(tf.function(lambda x: flow.train_step((x,))), tf.TensorSpec([None, 5]))
    # Value and log-determinant share one dropout mask.
    assert counts["StatelessRandomUniformFullIntV2"] == 2 * (LAYERS - 1)
    assert counts["MatMul"] == 3 * 2 * LAYERS - 2  # the gradients of their inputs are not needed


def test_number_of_operations_grows_linearly_with_couplings():
    counts = [sum(operations(small_flow(number)._compiled.log_prob).values()) for number in (4, 8, 16)]
    assert counts[2] - counts[1] <= 2.01 * (counts[1] - counts[0])


def test_new_batch_size_does_not_retrace(tmp_path):
    steps, predictions = [], []

    class CountingFlow(nvp.RealNVP):
        def train_step(self, data):
            steps.append(data)
            return super().train_step(data)

        def predict_step(self, data):
            predictions.append(data)
            return super().predict_step(data)

    flow = CountingFlow(4, num_couplings=2, hidden_units=(8,), seed=0)
    flow.compile("adam")
    x = np.random.default_rng(0).normal(size=(150, 4))
    for rows in (150, 70, 33):  # each has a short last batch
        flow.fit(x[:rows], validation_data=x[:50], epochs=2, verbose=0)
        flow.log_prob(x[:rows])
        flow(x[:rows])
        flow.predict(x[:rows], verbose=0)
        flow.evaluate(x[:rows], verbose=0)
        flow.sample(rows)
        flow.sample((rows, 2), seed=1)
        flow.sample_and_log_prob(rows)
    flow.export(tmp_path / "export")
    assert len(steps) == len(predictions) == 1
    for function in (flow._compiled.log_prob, flow._compiled.sample, flow._compiled.sample_and_log_prob):
        assert function.experimental_get_tracing_count() == 1


def test_second_derivatives_and_forward_mode_of_a_permutation():
    """The permutation has a custom gradient, which must support second derivatives and forward mode."""
    flow = small_flow(num_couplings=3, permutation="random", dtype="float64")
    for index, variable in enumerate(flow.trainable_variables):
        variable.assign_add(random_tensor(variable.shape, "float64", seed=index, stddev=0.3))
    for mlp in flow.conditioners:
        mlp.activation = keras.activations.tanh
    bijector, x = flow.bijector(), random_tensor((1, 4), "float64", seed=1)
    direction = random_tensor((1, 4), "float64", seed=2)

    def slope(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            value = tf.reduce_sum(tf.square(bijector.inverse(x)))
        return tape.gradient(value, x)

    with tf.GradientTape() as tape:
        tape.watch(x)
        gradient = slope(x)
    second = tf.linalg.matvec(tape.batch_jacobian(gradient, x), direction)
    step = 1e-5
    numeric = (slope(x + step * direction) - slope(x - step * direction)) / (2 * step)
    np.testing.assert_allclose(second, numeric, rtol=1e-4, atol=1e-6)
    with tf.autodiff.ForwardAccumulator(x, direction) as accumulator:
        y = bijector.inverse(x)
    numeric = (bijector.inverse(x + step * direction) - bijector.inverse(x - step * direction)) / (2 * step)
    np.testing.assert_allclose(accumulator.jvp(y), numeric, rtol=1e-5, atol=1e-8)


def test_deleted_flows_free_their_graphs():
    """TFP's cache would keep every graph that used a TFP bijector."""

    def use_and_delete_flows():
        tfp_chain = tfb.Chain([tfb.Exp(), tfb.Shift(tf.Variable([1.0, 1.0])), nvp.ActNorm(2)])
        base = tfd.MultivariateNormalDiag(tf.Variable([0.0, 0.0]))
        for flow in (
            nvp.Flow(tfd.TransformedDistribution(base, tfp_chain)),
            nvp.RealNVP(2, num_couplings=2, hidden_units=(4,), permutation="random"),
            nvp.RealNVP(2, num_couplings=2, hidden_units=(4,), permutation="lu", coupling="spline"),
        ):
            tf.function(lambda x, flow=flow: flow(x, training=True))(np.ones((4, 2)))
            flow.log_prob(np.ones((3, 2)))
            flow.sample(3)
        # It draws no samples, because TFP's random numbers keep a graph through their custom gradient.
        nvp.RealNVP(2, num_couplings=2, hidden_units=(4,), base_distribution="student_t").log_prob(np.ones((3, 2)))

    def number_of_graphs():
        gc.collect()
        return sum(isinstance(each, tf.Graph) for each in gc.get_objects())

    use_and_delete_flows()
    before = number_of_graphs()
    for _ in range(2):
        use_and_delete_flows()
    assert number_of_graphs() <= before
