"""`adapt` warns of data that the dtype of the flow rounds."""

import warnings

import numpy as np
import pandas as pd
import pytest

import tfp_realnvp as nvp


def test_numbers_far_from_zero_lose_digits():
    times = pd.DataFrame({"time": 1.7e9 + np.arange(1000.0), "value": np.random.default_rng(0).normal(size=1000)})
    message = r"data varies little .* in the columns 'time': float32 rounds the values to steps of up to 1\.3e\+02, so"
    with pytest.warns(UserWarning, match=message) as record:
        nvp.RealNVP(2, num_couplings=2, hidden_units=(4,)).adapt(times)
    assert record[0].filename == __file__


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_numbers_with_enough_digits_are_no_concern(dtype):
    scale, offset = (1.0, 1e4) if dtype == "float32" else (1e-3, 1.7e9)
    x = np.random.default_rng(0).normal(offset, scale, (200, 2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        nvp.RealNVP(2, num_couplings=2, hidden_units=(4,), dtype=dtype).adapt(x)
