"""Training stays on the GPU. Tests that run without a GPU check that TensorFlow has GPU kernels for it."""

import functools
import time

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.framework import kernels

import tfp_realnvp as nvp

GPUS = tf.config.list_physical_devices("GPU")
gpu = [pytest.mark.gpu, pytest.mark.skipif(not GPUS, reason="TensorFlow sees no GPU")]

ROWS, CONTEXT = np.random.default_rng(0).normal(size=(2, 64, 3)).astype("float32")
IMAGES = np.random.default_rng(0).integers(0, 256, (64, 4, 4, 1), dtype=np.uint8)


def affine(**options):
    return nvp.RealNVP(3, num_couplings=2, hidden_units=(8,), normalization="actnorm", dropout=0.1, seed=0, **options)


def spline(**options):
    kinds = {"coupling": "spline", "permutation": "lu", "conditioner": "resnet", "normalization": "batchnorm"}
    kinds |= {"context_shape": 3, "base_distribution": "student_t"}
    return nvp.RealNVP(3, num_couplings=2, hidden_units=(8, 8), **kinds, seed=0, **options)


def image(**options):
    return nvp.ImageRealNVP((4, 4, 1), num_scales=1, num_blocks=1, num_channels=4, seed=0, **options)


FLOWS = {"affine": (affine, ROWS), "spline": (spline, {"x": ROWS, "context": CONTEXT}), "image": (image, IMAGES)}


def log_densities(flow, data):
    return flow.predict(data + 0.5 if data is IMAGES else data, verbose=0)


def operations_without_gpu_kernel(function: tf.types.experimental.ConcreteFunction) -> set[str]:
    """Operations (with their types) of a graph and the functions it calls, which TensorFlow would run on the host."""
    graph = function.graph.as_graph_def()
    called = {each.signature.name for each in graph.library.function}
    nodes = [*graph.node, *(node for each in graph.library.function for node in each.node_def)]
    return {
        f"{node.op}({', '.join(sorted(tf.as_dtype(attr.type).name for attr in node.attr.values() if attr.type))})"
        for node in nodes
        if node.op not in called and not any(_supports_types(kernel, node) for kernel in _kernels(node.op))
    }


@functools.cache
def _kernels(operation):
    found = kernels.get_registered_kernels_for_op(operation).kernel
    return [kernel for kernel in found if kernel.device_type in ("GPU", "DEFAULT")]  # "DEFAULT" is any device.


def _supports_types(kernel, node):
    return all(node.attr[each.name].type in each.allowed_values.list.type for each in kernel.constraint)


@pytest.mark.parametrize("name", FLOWS)
def test_every_operation_of_a_training_step_has_a_gpu_kernel(name):
    make, data = FLOWS[name]
    flow = make()
    flow.compile(keras.optimizers.Adam(1e-3, global_clipnorm=1.0))
    flow.optimizer.build(flow.trainable_variables)
    step = tf.function(flow.train_step).get_concrete_function(tf.nest.map_structure(tf.constant, data))
    assert len(step.graph.get_operations()) > 100
    # Placeholders only stand for the arguments and variables of the graph.
    assert operations_without_gpu_kernel(step) <= {
        "Placeholder(float32)",
        "Placeholder(uint8)",
        "Placeholder(resource)",
    }


def test_operation_without_gpu_kernel_is_found():
    @tf.function
    def function(x):
        return tf.strings.length(tf.strings.as_string(x))

    found = operations_without_gpu_kernel(function.get_concrete_function(tf.zeros([3])))
    assert "AsString(float32)" in found


@pytest.mark.parametrize(
    ("name", "policies"), [("affine", ["mixed_bfloat16", "mixed_float16"]), ("image", ["mixed_float16"])]
)
def test_mixed_precision_trains_as_well_as_float32(name, policies):
    """mixed_float16 scales the loss. Weights and densities stay in float32."""
    make, data = FLOWS[name]
    losses = []
    for dtype in ("float32", *policies):
        flow = make(dtype=dtype)
        flow.compile(keras.optimizers.Adam(1e-3))
        assert isinstance(flow.optimizer, keras.optimizers.LossScaleOptimizer) == (dtype == "mixed_float16")
        losses.append(flow.fit(data, epochs=3, batch_size=32, shuffle=False, verbose=0).history["loss"][-1])
        assert {weight.dtype for weight in flow.trainable_weights} == {"float32"}
        assert flow(tf.nest.map_structure(lambda array: (array + 0.5).astype("float32"), data)).dtype == tf.float32
    assert losses[1:] == pytest.approx(len(policies) * losses[:1], rel=0.02)


@pytest.mark.parametrize("name", FLOWS)
@pytest.mark.parametrize("policy", ["float32", "mixed_float16"])
@pytest.mark.parametrize("jit_compile", [False, True])
class TestOnAGpu:
    pytestmark = gpu

    def test_losses_and_densities_on_gpu_and_cpu_agree(self, name, policy, jit_compile):
        make, data = FLOWS[name]
        results = []
        for device in ("CPU:0", "GPU:0"):
            with tf.device(device):
                flow = make(dtype=policy)
                flow.compile(keras.optimizers.Adam(1e-3), jit_compile=jit_compile)
                before = log_densities(flow, data)
                losses = flow.fit(data, epochs=2, batch_size=32, shuffle=False, verbose=0).history["loss"]
            results.append((before, losses))
        assert all("GPU" in weight.value.device for weight in flow.weights)
        tolerance = 1e-3 if policy == "float32" else 0.05
        np.testing.assert_allclose(results[1][0], results[0][0], rtol=tolerance)
        np.testing.assert_allclose(results[1][1], results[0][1], rtol=tolerance)


@pytest.mark.gpu
@pytest.mark.skipif(not GPUS, reason="TensorFlow sees no GPU")
def test_throughput(record_property):
    """Records the rows per second for the test report; there is no threshold."""
    x = np.random.default_rng(0).normal(size=(200_000, 64)).astype("float32")
    flow = nvp.RealNVP(64, hidden_units=(256, 256))
    flow.compile("adam")
    flow.fit(x[:8192], batch_size=4096, verbose=0)
    start = time.monotonic()
    flow.fit(x, batch_size=4096, verbose=0)
    record_property("rows_per_second", len(x) / (time.monotonic() - start))
    assert all("GPU" in weight.value.device for weight in flow.weights)
