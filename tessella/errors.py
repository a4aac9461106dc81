"""Errors: what a person gave that cannot be used, said in one line."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Something given by the user is unusable: the message says what, where, and what instead.

    The command line prints it without a traceback and exits with code 2; any other exception is a bug of ours.
    """


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A tail for an error message: the nearest known name, else the list of all of them."""
    known = sorted(known)
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    if near:
        return f"; did you mean '{near[0]}'?"
    return f"; known: {', '.join(known)}" if known else ""
