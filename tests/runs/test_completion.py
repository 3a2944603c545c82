"""Whether a training is finished is a fact on the disk."""

import os

import pytest

from qra.runs import completion
from qra.runs.completion import Training


def test_what_is_written_is_read(tmp_path):
    for training in (Training(True, 40, 40), Training(False, 3, None, validated=False)):
        completion.write(tmp_path, training)
        assert completion.read(tmp_path) == training


def test_where_nothing_says_so_nothing_is_known(tmp_path):
    assert completion.read(tmp_path) is None
    assert completion.read(tmp_path / "nowhere") is None


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "[" * 100_000, "{}", '{"finished": 1, "epochs": 4}', '{"finished": true, "epochs": "4"}', "\xff"],
    ids=lambda content: content[:30],
)
def test_what_cannot_be_read_is_not_finished(tmp_path, content):
    (tmp_path / completion.FILE).write_text(content, encoding="latin-1")
    assert completion.read(tmp_path) == Training(False, 0)


def test_a_pipe_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / completion.FILE)
    assert completion.read(tmp_path) == Training(False, 0)
