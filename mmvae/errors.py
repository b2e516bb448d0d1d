"""Errors that the user can fix, each with the exit status of the command."""


class InputError(ValueError):
    """Input that is refused: one line that says what was found, what was expected and what to do.

    Args:
        message: The line. It names fields, never the flags of a command.
        field: The argument that was refused, if there is one; the command line puts its flag in front of the message.

    >>> error = InputError("folds are 2; expected 3 or more", "folds")
    >>> error.field, error.exit_status
    ('folds', 1)
    """

    exit_status = 1

    def __init__(self, message: str, field: str | None = None):
        super().__init__(message)
        self.field = field


class NoCases(InputError):
    """A source in which no case was found."""

    exit_status = 3


class EmptyQuery(InputError):
    """A query in which nothing can be used."""

    exit_status = 5
