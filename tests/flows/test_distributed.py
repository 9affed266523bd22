"""The same data and seed give the same flow on one device, on two replicas and in two processes."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from keras.src.losses import loss

from helpers.processes import HANGS_AFTER

SCRIPT = Path(__file__).parents[1] / "helpers" / "replicas.py"


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("replicas")
    cluster = {"worker": [f"127.0.0.1:{port}" for port in free_ports(2)]}
    tasks = [{"TF_CONFIG": json.dumps({"cluster": cluster, "task": {"type": "worker", "index": i}})} for i in (0, 1)]
    processes = [start(folder / "one.npz", ["single", "mirrored"], {})]
    processes += [start(folder / f"worker{index}.npz", ["workers"], task) for index, task in enumerate(tasks)]
    try:
        for process in processes:
            _, errors = process.communicate(timeout=HANGS_AFTER)
            assert process.returncode == 0, errors[-5000:]
    finally:
        for process in processes:
            process.kill()
    return {path.stem: dict(np.load(path)) for path in folder.glob("*.npz")}


def free_ports(number):
    sockets = [socket.socket() for _ in range(number)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def start(out, strategies, environment):
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), str(out), *strategies],
        env=os.environ | environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize(
    ("process", "strategy", "flow"),
    [("one", "mirrored", flow) for flow in ("conditional", "assembled", "images", "scaled")]
    + [(f"worker{index}", "workers", flow) for index in (0, 1) for flow in ("conditional", "images")],
)
def test_replicas_and_workers_give_the_same_losses_and_weights(results, process, strategy, flow):
    expected = {name.split(" ", 1)[1]: value for name, value in results["one"].items() if name.startswith("single")}
    names = [name for name in expected if name.startswith(flow)]
    assert len(names) > 5
    for name in names:
        if name.endswith("losses") and not hasattr(loss, "unscale_loss_for_distribution"):
            continue  # Older Keras reports the loss divided by the number of replicas.
        # With loss scaling in float16, the first step with finite gradients may differ.
        tolerance = 1e-3 if flow == "scaled" else 1e-5
        np.testing.assert_allclose(
            results[process][f"{strategy} {name}"], expected[name], rtol=tolerance, atol=tolerance
        )
