"""Errors that a user can mend: one line that names the value given and the way out."""


class UserError(Exception):
    """A mistake in the input, not in the program; printed as one line, without a traceback."""


class TrainingError(Exception):
    """A training that cannot go on (NaN, divergence); names step, term and last good checkpoint."""


def first_line(error: BaseException, longest: int = 200) -> str:
    """The first line of another library's error, or its type where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:longest]
