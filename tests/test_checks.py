"""A setting out of its range is refused by its name."""

import pytest

from qra.checks import check_choice, check_count, check_in, pixel_length


@pytest.mark.parametrize(
    ("interval", "inside", "outside", "words"),
    [
        ("(0, 1]", [0.001, 1], [0, 1.001, float("nan")], "above 0 and at most 1"),
        ("[0, 1)", [0, 0.999], [-0.001, 1], "at least 0 and below 1"),
        ("[0, inf)", [0, 1e30], [-1, float("inf"), float("nan")], "at least 0 and finite"),
    ],
)
def test_an_interval_has_the_ends_that_it_names(interval, inside, outside, words):
    for value in inside:
        check_in("beta", value, interval)
    for value in outside:
        with pytest.raises(ValueError, match=f"^beta is {value}: it must be {words}$"):
            check_in("beta", value, interval)


def test_a_count_is_whole_and_large_enough():
    check_count("n", 1)
    check_count("steps", 0, 0)
    for value, least in ((0, 1), (3, 4)):
        with pytest.raises(ValueError, match=f"^n is {value}: it must be at least {least}$"):
            check_count("n", value, least)
    for value in (2.0, "2", None):
        with pytest.raises(ValueError, match=f"^n is {value!r}: it must be a whole number, at least 1$"):
            check_count("n", value)


def test_a_word_is_one_of_the_choices():
    check_choice("norm", "l2", ("linf", "l2"))
    with pytest.raises(ValueError, match=r"^norm is 'l1': choose one of linf, l2$"):
        check_choice("norm", "l1", ("linf", "l2"))


def test_a_length_in_pixels_is_read_and_fits_its_norm():
    assert pixel_length("eps", "8/255", "linf") == 8 / 255
    assert pixel_length("eps", 3, "l2") == 3
    with pytest.raises(ValueError, match=r"^eps is 8, but pixels are in .0, 1.: did you mean 8/255"):
        pixel_length("eps", 8, "linf")
    with pytest.raises(ValueError, match=r"^eps is -1.0: it must be at least 0 and finite$"):
        pixel_length("eps", -1, "l2")


@pytest.mark.parametrize(("value", "advice"), [(0.5 * 255, "did you mean 127.5/255"), (300 / 255, "choose at most 1")])
def test_only_what_may_be_a_number_of_grey_levels_is_taken_for_one(value, advice):
    with pytest.raises(ValueError, match=advice):
        pixel_length("eps", value, "linf")
