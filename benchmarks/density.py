"""Held-out log-likelihood of a named configuration on a data set, and a table of results beside published ones.

    python benchmarks/density.py train spline patches.npz --minutes 40 --work work/ --out results.jsonl
    python benchmarks/density.py train affine uci.npz:red_wine --fold all --set dropout=0.2 --set hidden_units=(64,64)
    python benchmarks/density.py train defaults table.csv --seeds 0 1 2
    python benchmarks/density.py table results.jsonl

`train` appends one JSON line for each seed and fold: mean log-likelihood of rows that had no part in training, in
nats, higher is better, with its standard error, their median, the mean under a Gaussian of the training rows' mean and
covariance, parameters, seconds, and all options. With `--work`, a run that was stopped, by whatever signal, goes on
where it stood when the same command is given again. Data sets: see `density_data.py`.

Configurations: `defaults` is `RealNVP(D)` with early stopping; `affine` and `spline` have LU maps, residual networks
and a learning rate that falls to zero; `few_rows` is `spline` with narrow networks, dropout, noise, a Student-t base.
"""

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import density_table
from density_configurations import CONFIGURATIONS, configured
from density_data import FOLDS, Data, load


def run(arguments: argparse.Namespace) -> None:
    try:
        options, training = configured(arguments.config, arguments.set)
        runs = list(_data_sets(arguments))
    except ValueError as error:
        sys.exit(f"density.py: {error}")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import density_training  # TensorFlow takes seconds to import: not for `--help`, nor for a mistyped name

    for fold, data in runs:
        for seed in arguments.seeds:
            changes = "".join(f"-{change}" for change in sorted(arguments.set)).replace("/", "_")
            name = f"{data.name}-{fold}-{arguments.config}{changes}-{arguments.minutes:g}min-{seed}"
            folder = arguments.work and arguments.work / name
            if folder and (folder / "result.json").is_file():
                print(f"{name} has been finished already", flush=True)
                append(arguments.out, (folder / "result.json").read_text())
                continue
            print(f"{name}: {len(data.train)} rows to train, {len(data.held_out)} to score", flush=True)
            line = {"config": arguments.config, "set": arguments.set}
            line |= {"data": data.name, "fold": data.fold, "seed": seed}
            line |= density_training.train(data, options, training, seed, arguments.minutes, folder)
            line |= {"options": options, "training": dataclasses.asdict(training), "minutes": arguments.minutes}
            print(f"held out {line['held_out']:.4f} +- {line['standard_error']:.4f} nats", flush=True)
            if line["ended_by"] == "interruption":
                append(arguments.out, json.dumps(line))
                return
            if folder:
                (folder / "result.new").write_text(json.dumps(line))
                os.replace(folder / "result.new", folder / "result.json")
            append(arguments.out, json.dumps(line))


def _data_sets(arguments: argparse.Namespace) -> Iterator[tuple[int, Data]]:
    for fold in range(FOLDS) if arguments.fold == "all" else [arguments.fold]:
        data = load(arguments.data, arguments.observation, fold)
        if arguments.fold == "all" and data.fold is None:
            raise ValueError(f"--fold all: {data.name} is not scored by cross-validation")
        yield fold, data


def append(path: Path, line: str) -> None:
    """Adds a line of results, unless it is there already."""
    print(line, flush=True)
    if not path.is_file() or line not in path.read_text(encoding="utf-8").splitlines():
        with path.open("a", encoding="utf-8") as lines:
            lines.write(line + "\n")


def fold_or_all(text: str) -> int | str:
    return text if text == "all" else int(text)


def positive(text: str) -> float:
    if not float(text) > 0:
        raise ValueError
    return float(text)


def parse(command_line: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("train", help="train a configuration and append a line of results")
    command.add_argument("config", choices=CONFIGURATIONS)
    command.add_argument("data", help="a .npy or .csv file, or a .npz with a colon and the name of a part")
    changes = "another option of RealNVP, or of Training in density_configurations.py; may be given again"
    command.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help=changes)
    command.add_argument("--observation", type=int, default=1, help="which posterior, from 1")
    command.add_argument("--fold", type=fold_or_all, default=0, help=f"0 to {FOLDS - 1}, or all")
    command.add_argument("--seeds", type=int, nargs="+", default=[0], help="a training for each; 0 if not given")
    command.add_argument("--minutes", type=positive, default=60.0, help="time limit of each training; 60 if not given")
    command.add_argument("--work", type=Path, help="folder of checkpoints; none are written without it")
    command.add_argument(
        "--out", type=Path, default=Path("density.jsonl"), help="file to append to; density.jsonl if not given"
    )
    command = commands.add_parser("table", help="print results beside published ones")
    command.add_argument("results", type=Path, nargs="+", help="files that `train` wrote")
    return parser.parse_args(command_line)


if __name__ == "__main__":
    arguments = parse()
    if arguments.command == "table":
        print(density_table.table(arguments.results))
    else:
        run(arguments)
