"""The walk through the code in docs/architecture.md names what there is."""

import re
from pathlib import Path
from pkgutil import resolve_name

import pytest

TEXT = (Path(__file__).parents[1] / "docs/architecture.md").read_text()
NAMES = sorted(set(re.findall(r"`(qra(?:\.\w+)+)`", TEXT)))


def test_there_is_a_walk_down_and_up():
    walk = TEXT.partition("## One test batch, down and up")[2].partition("\n## ")[0]
    assert [len(re.findall(r"^\d\. ", part, re.MULTILINE)) > 5 for part in walk.split("Up, from")] == [True, True]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_in_the_text_is_one_in_the_code(name):
    assert resolve_name(name)
