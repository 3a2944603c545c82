import pytest
from hypothesis import given
from hypothesis import strategies as st

from qra.types import Pixels, format_pixels, parse_pixels


@pytest.mark.parametrize(("text", "value"), [("8/255", 8 / 255), ("0.5/255", 0.5 / 255), ("0.031", 0.031), (0, 0.0)])
def test_pixels_are_numbers_or_fractions(text, value):
    assert Pixels(text) == value


@pytest.mark.parametrize("text", ["eight", "8/0", "8/255/2", "", "__import__('os')"])
def test_anything_else_is_refused_with_the_remedy(text):
    with pytest.raises(ValueError, match="such as 8/255"):
        parse_pixels(text)


@given(st.floats(0, 1) | st.integers(0, 510).map(lambda k: k / 2 / 255))
def test_formatting_loses_nothing(value):
    assert parse_pixels(format_pixels(value)) == value


def test_whole_levels_are_written_as_fractions():
    assert [format_pixels(v) for v in (8 / 255, 0.5 / 255, 0.031, 0.0)] == ["8/255", "0.5/255", "0.031", "0/255"]
