"""What a process knows of the others of its command."""

import pytest

from qra.runs.ranks import is_first_node, lost_rank


@pytest.mark.parametrize(
    ("environment", "first"), [({}, True), ({"NODE_RANK": "0"}, True), ({"NODE_RANK": "1"}, False),
                               ({"GROUP_RANK": "1"}, False), ({"GROUP_RANK": "0", "RANK": "1"}, True)]
)  # fmt: skip
def test_the_first_machine_is_known_by_the_environment(monkeypatch, environment, first):
    for name in ("NODE_RANK", "GROUP_RANK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert is_first_node() is first


def test_what_libraries_say_of_a_process_that_is_gone_is_known():
    gone = "[../third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:3456"
    assert lost_rank(RuntimeError(gone))
    assert not lost_rank(RuntimeError("shape '[2, 3]' is invalid for input of size 5"))
    assert not lost_rank(ValueError(gone))
