"""Held-out log-likelihoods of flows on data sets, and a table that compares them with published results.

    python benchmarks/density.py train spline patches.npz --minutes 40 --work work/ --out results.jsonl
    python benchmarks/density.py train affine uci.npz:red_wine --fold all --set dropout=0.2 --set hidden_units=(64,64)
    python benchmarks/density.py train defaults table.csv --seeds 0 1 2
    python benchmarks/density.py table results.jsonl

`train` appends one JSON line for each seed and fold. It contains the mean log-likelihood of the held-out rows in nats
(higher is better), its standard error, the median, the mean under a Gaussian with the mean and covariance of the
training rows, the number of parameters, the seconds, and all options. With `--work`, the same command continues a run
that was stopped or killed. `density_data.py` describes the data sets.

Configurations: `for_data` is `RealNVP.for_data`, `compile()` and `fit`, with nothing else. `plain` is the same with
`RealNVP(D)`. `defaults` is `RealNVP(D)` with a constant rate and early stopping. `affine` and `spline` have LU maps,
residual networks and a learning rate that falls to zero. `few_rows` is `spline` with narrow networks, dropout, noise
and a Student-t base.
"""

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import density_table
from density_configurations import CONFIGURATIONS, get_configuration
from density_data import FOLDS, Data, load


def run(arguments: argparse.Namespace) -> None:
    try:
        options, training = get_configuration(arguments.config, arguments.set)
        runs = list(_data_sets(arguments))
    except ValueError as error:
        sys.exit(f"density.py: {error}")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import density_training  # imported late, so that `--help` and errors do not wait for TensorFlow

    for fold, data in runs:
        for seed in arguments.seeds:
            changes = "".join(f"-{change}" for change in sorted(arguments.set)).replace("/", "_")
            name = f"{data.name}-{fold}-{arguments.config}{changes}-{arguments.minutes:g}min-{seed}"
            folder = arguments.work and arguments.work / name
            if folder and (folder / "result.json").is_file():
                print(f"{name} is already finished", flush=True)
                append(arguments.out, (folder / "result.json").read_text())
                continue
            print(f"{name}: {len(data.train)} training rows, {len(data.held_out)} held-out rows", flush=True)
            line = {"config": arguments.config, "set": arguments.set}
            line |= {"data": data.name, "fold": data.fold, "seed": seed}
            if training.schedule == "auto":
                for_data = arguments.config == "for_data"
                line |= density_training.fit_alone(data, options, training, seed, arguments.minutes, folder, for_data)
            else:
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
            raise ValueError(f"--fold all needs data with folds, but {data.name} has none")
        yield fold, data


def append(path: Path, line: str) -> None:
    """Appends a line of results, unless the file already contains it."""
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
    command.add_argument("data", help="a .npy or .csv file, or a .npz file with a colon and the name of a part")
    changes = "option of RealNVP, or of Training in density_configurations.py; may be repeated"
    command.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help=changes)
    command.add_argument("--observation", type=int, default=1, help="number of the posterior, from 1 (default: 1)")
    command.add_argument("--fold", type=fold_or_all, default=0, help=f"0 to {FOLDS - 1}, or all (default: 0)")
    command.add_argument("--seeds", type=int, nargs="+", default=[0], help="one training for each seed (default: 0)")
    command.add_argument("--minutes", type=positive, default=60.0, help="time limit of each training (default: 60)")
    command.add_argument("--work", type=Path, help="folder for checkpoints (default: no checkpoints)")
    command.add_argument(
        "--out", type=Path, default=Path("density.jsonl"), help="file to append to (default: density.jsonl)"
    )
    command = commands.add_parser("table", help="print results and published results")
    command.add_argument("results", type=Path, nargs="+", help="files written by `train`")
    return parser.parse_args(command_line)


if __name__ == "__main__":
    arguments = parse()
    if arguments.command == "table":
        print(density_table.table(arguments.results))
    else:
        run(arguments)
