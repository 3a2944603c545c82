import pytest

from qra.report.labels import LONGEST, shortened


@pytest.mark.parametrize(
    ("labels", "found"),
    [
        (["a", "b"], ["a", "b"]),
        (["x" * 100, "b"], ["x" * 89 + "…", "b"]),
        (["x" * 100 + "1", "x" * 100 + "2"], ["x" * 45 + "…" + "x" * 43 + "1", "x" * 45 + "…" + "x" * 43 + "2"]),
        (["a", "a", "b"], ["a (1)", "a (2)", "b"]),
    ],
)
def test_labels_are_cut_where_they_still_differ_and_numbered_where_they_do_not(labels, found):
    assert shortened(labels) == found


def test_labels_that_differ_where_they_are_cut_fit_and_differ():
    labels = shortened([f"{'x' * 60}{number}{'y' * 60}" for number in range(12)])
    assert len(set(labels)) == 12
    assert max(map(len, labels)) <= LONGEST
