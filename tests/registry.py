"""Every bijector, by name. The property tests run for each entry, so a new bijector needs one entry here."""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import tensorflow as tf
from tensorflow_probability import bijectors as tfb

import tfp_realnvp as nvp
from tfp_realnvp.bijectors import OnePassChain, Standardization


@dataclass(frozen=True)
class Case:
    make: Callable[[str], tfb.Bijector]  # takes the name of a dtype
    latent_shape: tuple[int, ...]  # of an event that `forward` takes
    batch_shape: tuple[int, ...] = ()
    data_shape: tuple[int, ...] | None = None  # of an event that `forward` returns; None for `latent_shape`
    constant_log_det: bool = False
    trainable: bool = True
    is_affine: bool = False
    xla: bool = True  # False if another entry compiles the same classes with XLA, which takes seconds

    @property
    def latent_ndims(self) -> int:
        return len(self.latent_shape)

    @property
    def data_ndims(self) -> int:
        return len(self.data_shape or self.latent_shape)


def conv_net(size, hidden_units, activation, **options):
    return nvp.ConvResNet(size, num_blocks=1, num_channels=4, **options)


def coupling(mask, context_shape=None, kind=nvp.AffineCoupling, network=nvp.MLP, hidden_units=(8,), **options):
    mask = np.asarray(mask, bool)

    def make(dtype):
        context = None if context_shape is None else random_tensor(context_shape, dtype, seed=7)
        is_checkerboard = mask.ndim == 3 and mask.shape[:2] != (1, 1)
        size = mask.shape[-1] if is_checkerboard else int((~mask).sum())
        parameters = None if issubclass(kind, nvp.AffineCoupling) else 3 * options.get("num_bins", 8) - 1
        conditioner = network(size, hidden_units, num_parameters=parameters, activation="tanh", dtype=dtype)
        return kind(conditioner, mask, context, **options)

    return make


def spline(mask, context_shape=None, **options):
    return coupling(mask, context_shape, nvp.SplineCoupling, **options)


def with_size(kind, size, *arguments, **options):
    return lambda dtype: kind(size, *arguments, dtype=dtype, **options)


def chain(chain_type, context_shape=None):
    def make(dtype):
        first, second = nvp.masks.half(3), nvp.masks.alternating(3, flip=True)
        scale = tf.Variable(np.array([2.0, 0.5, 1.5], dtype))
        parts = [
            tfb.Scale(scale),
            coupling(first, context_shape)(dtype),
            tfb.Permute([2, 0, 1]),
            tfb.Invert(coupling(second)(dtype)),
        ]
        if chain_type is OnePassChain:
            parts += [nvp.LULinear(3, [1, 2, 0], dtype=dtype), spline(first, num_bins=4)(dtype)]
            parts += [nvp.BatchNorm(3, dtype=dtype), nvp.ActNorm(3, dtype=dtype)]
        return chain_type(parts)

    return make


def blockwise(dtype):
    warp = tfb.SinhArcsinh(np.array(0.3, dtype))
    blocks = [coupling(nvp.masks.half(2))(dtype), warp, spline(nvp.masks.half(3))(dtype)]
    return OnePassChain([tfb.Blockwise(blocks, [2, 1, 3]), nvp.LULinear(6, [5, 2, 3, 4, 1, 0], dtype=dtype)])


def multiscale(context_shape=None):
    """Two scales. The inner chain is a `tfb.Chain`, the outer one a `OnePassChain`."""

    def make(dtype):
        last = [coupling(nvp.masks.channelwise(2), context_shape, network=conv_net)(dtype), tfb.Reshape([2, 2, 2])]
        parts = [
            coupling(nvp.masks.checkerboard(4, 4), network=conv_net)(dtype),
            tfb.Invert(nvp.Squeeze(order="checkerboard")),
            nvp.FactorOut([2, 2, 4], tfb.Chain(last)),
        ]
        return OnePassChain(parts)

    return make


def standardization(dtype):
    loc, scale = np.array([[1.0, -2.0, 0.5], [3.0, 1.5, 2.0]], dtype)
    return Standardization(tf.Variable(loc), tf.Variable(scale))


def squeeze(bijector, image_shape, squeezed_shape):
    return Case(lambda dtype: bijector, image_shape, (), squeezed_shape, constant_log_det=True, trainable=False)


REGISTRY = {
    "half": Case(coupling(nvp.masks.half(5)), (5,)),
    "half_flipped": Case(coupling(nvp.masks.half(5, flip=True)), (5,), xla=False),
    "alternating": Case(coupling(nvp.masks.alternating(4)), (4,), xla=False),
    "middle_block": Case(coupling([0, 1, 1, 0, 0]), (5,), xla=False),
    "two_features": Case(coupling([1, 0]), (2,), xla=False),
    "context_vector": Case(coupling(nvp.masks.half(3), (2,)), (3,)),
    "context_batch": Case(coupling(nvp.masks.alternating(4), (6, 2)), (4,), (6,)),
    "elementwise": Case(coupling([0], (3,)), (1,), constant_log_det=True, xla=False),
    "elementwise_context": Case(coupling([0], (6, 3)), (1,), (6,)),
    "resnet": Case(coupling(nvp.masks.half(3), (6, 2), network=nvp.ResNet, hidden_units=(6, 6)), (3,), (6,)),
    "spline": Case(spline(nvp.masks.half(5)), (5,), xla=False),
    "spline_context": Case(spline(nvp.masks.alternating(3, flip=True), (6, 2), num_bins=5, bound=2.0), (3,), (6,)),
    "spline_tails": Case(spline([1, 0, 0, 1], num_bins=2, bound=1.0), (4,)),
    "elementwise_spline": Case(spline([0], (6, 3), num_bins=4), (1,), (6,)),
    "lu_linear": Case(with_size(nvp.LULinear, 4, [2, 0, 3, 1]), (4,), constant_log_det=True),
    "lu_linear_without_permutation": Case(with_size(nvp.LULinear, 3), (3,), constant_log_det=True),
    "act_norm": Case(with_size(nvp.ActNorm, 3), (3,), constant_log_det=True),
    "standardization": Case(standardization, (3,), constant_log_det=True, is_affine=True),
    "batch_norm": Case(with_size(nvp.BatchNorm, 3), (3,), constant_log_det=True, trainable=False),
    "one_pass_chain": Case(chain(OnePassChain), (3,), xla=False),
    "one_pass_chain_context": Case(chain(OnePassChain, (6, 2)), (3,), (6,)),
    "one_pass_chain_blockwise": Case(blockwise, (6,)),
    "tfb_chain": Case(chain(tfb.Chain), (3,)),
    "checkerboard": Case(coupling(nvp.masks.checkerboard(2, 4), network=conv_net), (2, 4, 1), xla=False),
    "checkerboard_channels": Case(
        coupling(np.repeat(nvp.masks.checkerboard(3, 2, flip=True), 2, axis=2), (6, 2), network=conv_net),
        (3, 2, 2),
        (6,),
    ),
    "channelwise": Case(coupling(nvp.masks.channelwise(3), (2,), network=conv_net), (2, 2, 3)),
    "spline_channelwise": Case(spline(nvp.masks.channelwise(2, flip=True), network=conv_net), (2, 2, 2)),
    "spline_checkerboard": Case(spline(nvp.masks.checkerboard(2, 2), network=conv_net, num_bins=4), (2, 2, 1)),
    "squeeze": squeeze(nvp.Squeeze(), (2, 4, 2), (1, 2, 8)),
    "squeeze_by_three": squeeze(nvp.Squeeze(3, order="checkerboard"), (6, 3, 1), (2, 1, 9)),
    "factor_out": Case(multiscale(), (16,), (), (4, 4, 1), xla=False),
    "factor_out_context": Case(multiscale((6, 2)), (16,), (6,), (4, 4, 1)),
    "bounds": Case(
        lambda dtype: nvp.Bounds([-6.0, -np.inf, -9.0, -np.inf], [np.inf, 6.0, 5.0, np.inf], dtype=dtype),
        (4,),
        trainable=False,
    ),
    "pixels": Case(with_size(nvp.Pixels, 256), (2, 2, 1), trainable=False),
    "batch_norm_images": Case(
        with_size(nvp.BatchNorm, 2, event_ndims=3), (2, 3, 2), constant_log_det=True, trainable=False
    ),
    "act_norm_images": Case(with_size(nvp.ActNorm, 2, event_ndims=3), (2, 3, 2), constant_log_det=True),
}


def random_tensor(shape, dtype, seed, stddev=1.0):
    return tf.constant(np.random.default_rng(seed).normal(0.0, stddev, shape), dtype)


def make(name: str, dtype: str = "float64") -> tfb.Bijector:
    """The bijector with random changes to its weights. Without them it is the identity, which passes most tests."""
    bijector = REGISTRY[name].make(dtype)
    for index, variable in enumerate(bijector.variables):
        noise = random_tensor(variable.shape, dtype, seed=100 + index, stddev=0.3)
        if variable.trainable:
            variable.assign_add(noise)
        elif variable.name.split("/")[-1] in ("mean:0", "variance:0"):  # values as after training
            variable.assign(tf.exp(4 * noise))
    return bijector


@functools.cache
def shared(name: str, dtype: str = "float64") -> tfb.Bijector:
    """The bijector of `make`, made once in a process. Tests must not change its variables."""
    return make(name, dtype)


def latent_events(name: str, dtype: str = "float64", leading=(6,), seed: int = 0) -> tf.Tensor:
    return random_tensor((*leading, *REGISTRY[name].latent_shape), dtype, seed)


def data_events(name: str, dtype: str = "float64", leading=(6,), seed: int = 1) -> tf.Tensor:
    return random_tensor((*leading, *(REGISTRY[name].data_shape or REGISTRY[name].latent_shape)), dtype, seed)


def perturbed(module, stddev: float = 0.3, seed: int = 0):
    """The same module, after random changes to its trainable weights. Without them it is the identity."""
    for index, variable in enumerate(module.trainable_variables):
        dtype = tf.as_dtype(variable.dtype).name
        variable.assign_add(random_tensor(variable.shape, dtype, seed=seed + index, stddev=stddev))
    return module


def value_and_jacobian(transform: Callable, x: tf.Tensor, event_ndims: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """y `[..., *event]` and the Jacobians dy/dx `[..., n, m]` of events x `[..., *event]`.

    One call transforms a copy of each event for each component of y. Each copy gives one row of the Jacobian.
    """
    y = transform(x)
    leading, event_shape = x.shape[: x.shape.rank - event_ndims], y.shape[x.shape.rank - event_ndims :]
    size = event_shape.num_elements()
    copies = tf.broadcast_to(x, [size, *x.shape])
    with tf.GradientTape() as tape:
        tape.watch(copies)
        values = transform(copies)
    components = tf.reshape(tf.eye(size, dtype=y.dtype), [size, *(1 for _ in leading), *event_shape])
    rows = tape.gradient(values, copies, tf.broadcast_to(components, values.shape))
    return y.numpy(), np.moveaxis(np.reshape(rows, [size, *leading, x.shape[len(leading) :].num_elements()]), 0, -2)


def worst_errors(name: str, dtype: str) -> tuple[float, float]:
    """The largest absolute errors of the round trip, and of the log-determinant compared with autodiff."""
    bijector, x = make(name, dtype), latent_events(name, dtype)
    y, jacobians = value_and_jacobian(bijector.forward, x, REGISTRY[name].latent_ndims)
    round_trip = np.max(np.abs(bijector.inverse(tf.constant(y)) - x))
    expected = np.linalg.slogdet(jacobians)[1]
    log_det = np.max(
        np.abs(bijector.forward_log_det_jacobian(tf.identity(x), event_ndims=REGISTRY[name].latent_ndims) - expected)
    )
    return float(round_trip), float(log_det)


if __name__ == "__main__":
    print(f"{'':24}{'float32':^22}{'float64':^22}\n{'':24}" + 2 * f"{'round trip':>11}{'log-det':>11}")
    for name in REGISTRY:
        errors = [error for dtype in ("float32", "float64") for error in worst_errors(name, dtype)]
        print(f"{name:24}" + "".join(f"{error:11.1e}" for error in errors))
