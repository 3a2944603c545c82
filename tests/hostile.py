"""What is to be refused: files that would run code, and the one line that says no."""

import os

import pytest


class Payload:
    """Pickles as a call that leaves a trace, a directory."""

    def __init__(self, trace):
        self.trace = str(trace)

    def __reduce__(self):
        return os.mkdir, (self.trace,)


def refusal(action):
    """The one line by which an action is refused."""
    with pytest.raises(ValueError) as caught:  # noqa: PT011  the tests look at the text
        action()
    text = str(caught.value)
    assert "\n" not in text
    return text
