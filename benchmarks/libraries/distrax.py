"""distrax, with haiku networks and optax Adam."""

from collections.abc import Callable

import distrax
import haiku as hk
import jax
import jax.numpy as jnp
import optax

from libraries import BATCHES, Size
from libraries.jax_tasks import jax_tasks


def tasks(size: Size) -> dict[str, Callable[[int], None]]:
    moved = size.features - size.kept

    def elementwise(parameters):
        shift, log_scale = jnp.split(parameters, 2, axis=-1)
        return distrax.Block(distrax.ScalarAffine(shift=shift, log_scale=log_scale), 1)

    def coupling():
        hidden = hk.nets.MLP([size.hidden, size.hidden], activate_final=True)
        output = hk.Linear(2 * moved, w_init=jnp.zeros, b_init=jnp.zeros)
        network = hk.Sequential([hidden, output])
        return distrax.SplitCoupling(size.kept, event_ndims=1, conditioner=network, bijector=elementwise)

    def distribution():
        layers = [layer for _ in range(size.couplings) for layer in (coupling(), _Reverse())][:-1]
        base = distrax.MultivariateNormalDiag(jnp.zeros(size.features), jnp.ones(size.features))
        return distrax.Transformed(base, distrax.Chain(layers))

    scored = hk.without_apply_rng(hk.transform(lambda x: distribution().log_prob(x)))
    sampled = hk.transform(lambda: distribution().sample(seed=hk.next_rng_key(), sample_shape=(size.batch,)))
    batches = [jnp.asarray(batch) for batch in size.data(BATCHES).reshape(BATCHES, size.batch, size.features)]
    parameters = scored.init(jax.random.key(0), batches[0])
    optimizer = optax.adam(1e-3)

    @jax.jit
    def step(state, x):
        parameters, moments = state
        gradients = jax.grad(lambda parameters: -jnp.mean(scored.apply(parameters, x)))(parameters)
        updates, moments = optimizer.update(gradients, moments)
        return optax.apply_updates(parameters, updates), moments

    state = parameters, optimizer.init(parameters)
    return jax_tasks(step, state, jax.jit(scored.apply), jax.jit(sampled.apply), parameters, batches)


class _Reverse(distrax.Bijector):
    """Reverses the features, because distrax has no permutation."""

    def __init__(self):
        super().__init__(event_ndims_in=1, is_constant_jacobian=True, is_constant_log_det=True)

    def forward_and_log_det(self, x):
        return x[..., ::-1], jnp.zeros(x.shape[:-1])

    inverse_and_log_det = forward_and_log_det
