"""Is a density calibrated? Ranks, coverage and importance weights. NumPy arrays in, NumPy arrays out.

`flow` is a flow of vectors, a `tfd.Distribution`, or anything else with their methods `sample(sample_shape, seed=seed)`
and `log_prob(x)` and, if contexts are given, with their argument `context`. Every function draws in batches, and shows
a progress bar if it takes longer than 5 seconds.
"""

from tfp_realnvp.diagnostics.calibration import coverage, pit, sbc_ranks, tarp
from tfp_realnvp.diagnostics.importance import ImportanceWeights, importance_weights
from tfp_realnvp.diagnostics.uniformity import uniformity_test

__all__ = [
    "ImportanceWeights",
    "coverage",
    "importance_weights",
    "pit",
    "sbc_ranks",
    "tarp",
    "uniformity_test",
]


def __dir__() -> list[str]:
    return list(__all__)
