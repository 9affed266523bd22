"""flowjax, with equinox and optax Adam."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from flowjax.bijections import Affine
from flowjax.distributions import Normal
from flowjax.flows import coupling_flow

from libraries import BATCHES, Size
from libraries.jax_tasks import jax_tasks


def tasks(size: Size) -> dict[str, Callable[[int], None]]:
    flow = coupling_flow(
        jax.random.key(0),
        base_dist=Normal(jnp.zeros(size.features)),
        transformer=Affine(),
        flow_layers=size.couplings,
        nn_width=size.hidden,
        nn_depth=2,
    )
    batches = [jnp.asarray(batch) for batch in size.data(BATCHES).reshape(BATCHES, size.batch, size.features)]
    optimizer = optax.adam(1e-3)
    parameters, static = eqx.partition(flow, eqx.is_inexact_array)

    @jax.jit
    def step(state, x):
        parameters, moments = state
        gradients = jax.grad(lambda parameters: -jnp.mean(log_prob(parameters, x)))(parameters)
        updates, moments = optimizer.update(gradients, moments)
        return optax.apply_updates(parameters, updates), moments

    @jax.jit
    def log_prob(parameters, x):
        return eqx.combine(parameters, static).log_prob(x)

    @jax.jit
    def sample(parameters, key):
        return eqx.combine(parameters, static).sample(key, (size.batch,))

    return jax_tasks(step, (parameters, optimizer.init(parameters)), log_prob, sample, parameters, batches)
