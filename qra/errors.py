"""The one line that a user needs of an error."""

from __future__ import annotations


def innermost_reason(error: BaseException) -> str:
    """The message of the exception at the bottom of a chain, as one line.

    Parsing nests the reason of a wrong value in the dumps of everything around it; the reason itself is the cause that
    was raised first, or the first failure listed that speaks of the value and not of a type that it is not.
    """
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    return " ".join(str(error).split())
