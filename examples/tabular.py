"""The density of a table with the command line: 30 measurements of 569 breast tumours.

    python examples/tabular.py --out demo/tabular

Writes scikit-learn's table as a CSV file and runs `python -m tfp_realnvp fit` on it. The command trains a Real NVP,
compares it with a Gaussian and a Gaussian mixture, scores each row, explains the most unusual rows, and draws a
picture. Run the same command on a table of your own.
"""

import argparse
from pathlib import Path

from sklearn.datasets import load_breast_cancer

import common  # noqa: F401    It hides the messages of TensorFlow's start.
from tfp_realnvp.__main__ import main as run_command


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=100, help="number of epochs (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("demo", "tabular"), help="folder (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of split, weights and samples (default: %(default)s)")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / "tumours.csv"
    load_breast_cancer(as_frame=True).data.to_csv(file, index=False)
    values = {"--out": options.out, "--epochs": options.epochs, "--seed": options.seed}
    command = ["fit", str(file), *(str(part) for pair in values.items() for part in pair)]
    print("$ python -m tfp_realnvp", *command)
    run_command(command)


if __name__ == "__main__":
    main()
