"""The command line: fits a flow to a table, scores rows, and draws samples. `python -m tfp_realnvp --help`."""

import argparse
import os
import sys
import warnings
from pathlib import Path
from typing import Any

from tfp_realnvp.command_line.arguments import Bounds, Values, at_least_one, seed

DESCRIPTION = "Learns the density of a table: a CSV, Parquet or NPY file, one event per row and one feature per column."


def main(arguments: list[str] | None = None) -> None:
    """Runs one command. Ends with a message of one line if a file or an option is wrong."""
    options = _parser().parse_args(arguments)
    try:
        import matplotlib

        matplotlib.use("Agg")  # This backend only writes files, so no display is needed.
        from tfp_realnvp.command_line import errors, fit, saved_model
    except ImportError as error:
        sys.exit(f"{error}: the command line needs pip install 'tfp_realnvp[cli]'")
    try:
        {"fit": fit.fit, "score": saved_model.score, "sample": saved_model.sample}[options.command](options)
    except BrokenPipeError:  # For example from `| head`. Python would complain at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except errors.CommandError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit("stopped")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tfp_realnvp", description=DESCRIPTION)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    names: dict[str, Any] = {"nargs": "+", "default": [], "action": "extend", "metavar": "COLUMN"}

    fit = commands.add_parser("fit", help="train a flow on a table", description=DESCRIPTION)
    fit.add_argument("file", type=Path, help="CSV (with or without a header), .parquet or .npy")
    fit.add_argument("--out", type=Path, required=True, help="folder to write to")
    fit.add_argument("--context", **names, help="columns c of p(x | c); cells may be empty")
    fit.add_argument("--drop", **names, help="columns to leave out")
    bounds: dict[str, Any] = {"nargs": "+", "default": {}, "action": Bounds, "metavar": "COLUMN=LOW:HIGH"}
    fit.add_argument("--support", **bounds, help="bounds of columns, such as mass=0: or angle=-90:90")
    fit.add_argument("--integers", **names, help="columns of whole numbers")
    fit.add_argument("--epochs", type=at_least_one, default=100, help="number of epochs (default: %(default)s)")
    fit.add_argument("--seed", type=seed, default=0, help="seed of split, weights and samples (default: %(default)s)")

    score = commands.add_parser("score", help="write the log-density of each row of a table, in nats")
    score.add_argument("model", type=Path, help="the file model.keras of fit")
    score.add_argument("file", type=Path, help="CSV, .parquet or .npy with the columns of the training")
    score.add_argument("--out", type=Path, help="CSV file to write (default: standard output)")

    sample = commands.add_parser("sample", help="write samples")
    sample.add_argument("model", type=Path, help="the file model.keras of fit")
    sample.add_argument("-n", "--number", type=at_least_one, default=1000, help="number of rows (default: %(default)s)")
    values: dict[str, Any] = {"nargs": "+", "default": {}, "action": Values, "metavar": "COLUMN=VALUE"}
    sample.add_argument("--context", **values, help="values of the context")
    sample.add_argument("--seed", type=seed, help="seed, for samples that can be repeated")
    sample.add_argument("--out", type=Path, help="CSV file to write (default: standard output)")
    return parser


if __name__ == "__main__":
    warnings.formatwarning = lambda message, *_: f"Warning: {message}\n"
    main()
