"""Code that all commands share: adding a command, parsing its arguments, showing progress."""

import argparse
from collections.abc import Callable
from typing import Any


class Commands:
    """The subcommands of `mmvae`; the `dest` of each argument is the library's name of the same field."""

    def __init__(self, parser: argparse.ArgumentParser):
        self._subparsers = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def add(self, name: str, run: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        """Adds a command that calls `run` with its arguments and exits with the status that `run` returns."""
        parser = self._subparsers.add_parser(name, help=text, description=text)
        parser.set_defaults(run=run, command=parser)
        return parser

    def list_only(self, name: str, text: str) -> None:
        """Adds a command to --help that is run elsewhere."""
        self._subparsers.add_parser(name, help=text, add_help=False)


class _Trust(argparse.Action):
    """Lets files name classes of the module that the user names."""

    def __call__(self, parser, namespace, values, option_string=None) -> None:
        from mmvae.plain import trust

        trust(str(values))


def add_trust(command: argparse.ArgumentParser) -> None:
    """Adds `--trust MODULE`, which may be repeated."""
    text = "let files name classes of this module too, beyond mmvae and installed plugins"
    command.add_argument("--trust", action=_Trust, metavar="MODULE", help=text)


def flag_of(command: argparse.ArgumentParser, field: str | None) -> str:
    """A command's name for a field of the library: its long flag, or its positional's name; "" if it has none."""
    for action in command._actions:
        if action.dest == field:
            return action.option_strings[-1] if action.option_strings else action.dest.upper()
    return ""


def bar(title: str) -> Callable[..., Any]:
    """A function that wraps an iterator of known length in a progress bar on standard error."""

    def wrap(items: Any, total: int | None = None) -> Any:
        from rich.console import Console
        from rich.progress import track

        console = Console(stderr=True)
        return track(items, description=title, total=total, console=console, disable=not console.is_terminal)

    return wrap


def numbers(text: str) -> tuple[int, ...]:
    """Whole numbers separated by commas."""
    return tuple(int(part) for part in text.split(","))


def triple(text: str) -> tuple[float, float, float]:
    """Three numbers separated by commas."""
    x, y, z = (float(part) for part in text.split(","))
    return x, y, z


def printable(text: str) -> str:
    """Text that a terminal shows and does not obey: control characters of a file's own words stand as escapes.

    >>> printable("cyst\\x1b[2J")
    'cyst\\\\x1b[2J'
    """
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)
