"""What is measured of a library on JAX, given its compiled functions."""

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
    """`step(state, x)` trains; `log_prob(flow, x)` and `sample(flow, key)` serve."""
    trained = [state]

    def train(repeats):
        for index in range(repeats):
            trained[0] = step(trained[0], batches[index % len(batches)])
        jax.block_until_ready(jax.tree_util.tree_leaves(trained[0]))

    def score(repeats):
        for index in range(repeats):
            result = log_prob(flow, batches[index % len(batches)])
        result.block_until_ready()

    def draw(repeats):
        for index in range(repeats):
            result = sample(flow, jax.random.key(index))
        result.block_until_ready()

    return {"train": train, "log_prob": score, "sample": draw}
