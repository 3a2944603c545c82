"""What to use for a budget: ties are called ties."""

import pytest
from made_up import by_size, cell, read

from qra.report import pareto
from qra.report.contents import KIB, advice
from qra.report.pareto import front, offers, recommended
from qra.report.tables import Table


def study(directory, *networks, **more):
    """A study of networks, each with its bits and its robust accuracy, and sometimes a verdict on its gradients."""
    for bits, robust, *masking in networks:
        name = f"w{bits}-{robust}"
        about = {"masking": masking[0]} if masking else {}
        cell(directory, name, {"clean": 0.8, "pgd20_8": robust}, quantizer="pact", bits=(bits, bits), init=name,
             training="adversarial", noise=0.3, seed=int(1000 * robust), **about, **more)  # fmt: skip
    return read(directory)


def chosen(results):
    return [
        (each.use.pipeline.cells[0].name, [tie.pipeline.cells[0].name for tie in each.ties])
        for each in by_size(results)
    ]


def test_a_larger_network_is_named_only_if_it_is_better_beyond_chance(tmp_path):
    results = study(tmp_path, (2, 0.2), (4, 0.4), (8, 0.405), n=1000)
    assert chosen(results) == [("w2-0.2", []), ("w4-0.4", ["w8-0.405"])]


def test_more_examples_break_a_tie(tmp_path):
    few, many = (study(tmp_path / str(n), (4, 0.30), (8, 0.38), n=n) for n in (50, 3000))
    assert chosen(few) == [("w4-0.3", ["w8-0.38"])]
    assert chosen(many) == [("w4-0.3", []), ("w8-0.38", [])]


def test_a_front_compares_each_network_once(tmp_path, monkeypatch):
    results = study(tmp_path, (2, 0.2), (3, 0.201), (4, 0.4), (5, 0.401), (8, 0.402), n=200)
    compared, paired_at = [], pareto.paired_at
    monkeypatch.setattr(pareto, "paired_at", lambda *given: compared.append(given) or paired_at(*given))
    used = front(results, offers(results, "size_in_bits", KIB))
    assert len(compared) == 4
    assert used == [choice.use for choice in by_size(results)]


def test_what_is_suspect_or_has_nothing_left_is_never_named(tmp_path):
    results = study(tmp_path, (2, 0.9, "suspect"), (3, 0.01), (4, 0.4))
    assert chosen(results) == [("w4-0.4", [])]


def test_what_is_not_judged_is_named_with_that_word(tmp_path):
    results = study(tmp_path, (4, 0.4, "not judged"))
    table: Table = advice(results, by_size(results))
    (row,) = table.rows
    assert row[-1] == "not judged"
    assert row[-2] == "nothing else"


def test_the_recommendation_is_the_best_that_fits(tmp_path):
    results = study(tmp_path, (2, 0.2), (4, 0.4))
    found = by_size(results)
    sizes = [choice.use.cost for choice in found]
    assert recommended(found, sizes[1]).use.robust == pytest.approx(0.4)
    assert recommended(found, sizes[1] - 1).use.robust == pytest.approx(0.2)
    assert recommended(found, sizes[0] - 1) is None


def test_without_single_examples_intervals_that_overlap_are_a_tie(tmp_path):
    study(tmp_path, (4, 0.30), (8, 0.36), n=100)
    for examples in tmp_path.glob("*/correct.npz"):
        examples.unlink()
    assert chosen(read(tmp_path)) == [("w4-0.3", ["w8-0.36"])]
