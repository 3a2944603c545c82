import sys

import pytest

from qra.__main__ import main


def test_a_platform_without_locks_and_signals_is_refused_in_one_line(monkeypatch, capsys):
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    assert capsys.readouterr().err == "qra: error: qra runs on Linux and macOS, not on win32\n"
