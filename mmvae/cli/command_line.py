"""The entry point of `mmvae …`. Each command imports only what it needs, so that `mmvae --help` stays under a second."""

import argparse
import errno
import sqlite3
import sys
from collections.abc import Sequence

from mmvae import __version__
from mmvae.cli import archives, cohorts, models, plugins
from mmvae.cli.commands import Commands, flag_of, printable
from mmvae.errors import InputError

# Not permitted, file too large, no space left, read-only file system, quota exceeded.
NO_ROOM = (errno.EACCES, errno.EFBIG, errno.ENOSPC, errno.EROFS, errno.EDQUOT)
LIGHTNING = {
    "fit": "train (LightningCLI: -c YAML, --print_config, --help)",
    "validate": "validate a checkpoint",
    "test": "test a checkpoint",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status (see FORMATS.md)."""
    argv = list(sys.argv[1:] if argv is None else argv)
    command = None
    try:
        if argv and argv[0] in LIGHTNING:
            from mmvae.cli.fit import run

            run(argv)
            return 0
        arguments = _parser().parse_args(argv)
        command = arguments.command
        return arguments.run(arguments) or 0
    except KeyboardInterrupt:
        print("interrupted; no partly written file is left", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 0
    except Exception as error:
        refused = _refused(error)
        if refused is None and not _no_room(error):
            raise  # a bug of ours: show the traceback
        flag = flag_of(command, refused.field) if command and refused else ""
        message = " ".join(str(error).split())
        print(f"mmvae: {flag + ': ' if flag else ''}{printable(message)}", file=sys.stderr)
        return refused.exit_status if refused else 1


def _refused(error: BaseException) -> InputError | None:
    """The InputError that an error is or was raised from, if any."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, InputError):
        cause = cause.__cause__
    return cause


def _no_room(error: BaseException) -> bool:
    """Whether the error comes from the disk or its permissions, which the user can fix."""
    if isinstance(error, sqlite3.OperationalError):
        return error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR)
    return isinstance(error, OSError) and error.errno in NO_ROOM


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mmvae",
        description="Find the archive's cases most like this one. Research software, not a medical device.",
    )
    parser.add_argument("--version", action="version", version=f"mmvae {__version__}")
    commands = Commands(parser)
    cohorts.add_to(commands)
    for name, text in LIGHTNING.items():
        commands.list_only(name, text)
    for group in (archives, models, plugins):
        group.add_to(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
