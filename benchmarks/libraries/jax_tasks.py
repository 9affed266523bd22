"""The tasks of a JAX library, given its compiled functions."""

from collections.abc import Callable, Sequence
from typing import Any

import jax


def jax_tasks(
    step: Callable[[Any, jax.Array], Any],
    state: Any,
    log_prob: Callable[[Any, jax.Array], jax.Array],
    sample: Callable[[Any, jax.Array], jax.Array],
    flow: Any,
    batches: Sequence[jax.Array],
) -> dict[str, Callable[[int], None]]:
    """`step(state, x)` returns the state after a training step; `flow` is passed to `log_prob` and `sample`."""
    trained = [state]

    def train(repeats):
        for index in range(repeats):
            trained[0] = step(trained[0], batches[index % len(batches)])
        jax.block_until_ready(jax.tree_util.tree_leaves(trained[0]))

    def score(repeats):
        jax.block_until_ready([log_prob(flow, batches[index % len(batches)]) for index in range(repeats)])

    def draw(repeats):
        jax.block_until_ready([sample(flow, jax.random.key(index)) for index in range(repeats)])

    return {"train": train, "log_prob": score, "sample": draw}
