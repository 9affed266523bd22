"""Types of the arguments of commands, for argparse."""

import argparse

__all__ = ["Bounds", "Values", "at_least_one", "seed"]


def at_least_one(text: str) -> int:
    """Argument type for argparse: an integer of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be an integer of at least 1, got {text!r}")
    return int(text)


def seed(text: str) -> int:
    """Argument type for argparse: a seed."""
    if not text.isdecimal() or int(text) >= 2**31:
        raise argparse.ArgumentTypeError(f"must be an integer from 0 to {2**31 - 1}, got {text!r}")
    return int(text)


class Values(argparse.Action):
    """Collects `COLUMN=VALUE` in a dictionary."""

    def __call__(self, parser, namespace, values, option_string=None):  # type: ignore[no-untyped-def]
        found = dict(getattr(namespace, self.dest))
        for entry in values:
            name, equals, text = entry.rpartition("=")
            try:
                if not equals or name in found:
                    raise ValueError
                found[name] = self.value(text)
            except ValueError:
                parser.error(f"{option_string}: expected {self.metavar}, once for a column, got {entry!r}")
        setattr(namespace, self.dest, found)

    @staticmethod
    def value(text: str) -> object:
        return float(text) if text else float("nan")


class Bounds(Values):
    """Collects `COLUMN=LOW:HIGH` in a dictionary of pairs, with None for no bound."""

    @staticmethod
    def value(text: str) -> object:
        lower, colon, upper = text.partition(":")
        if not colon:
            raise ValueError
        return tuple(float(bound) if bound else None for bound in (lower, upper))
