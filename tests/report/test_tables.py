import csv
import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_up import by_size, cell, read

from qra.durations import duration
from qra.evaluation.measured import Accuracy
from qra.evaluation.statistics import wilson_interval
from qra.report.contents import accuracies, advice, costs, gradients, outcomes, tables
from qra.report.tables import Number, Table, Time, percent
from qra.writing import write_arrays, write_json

HOSTILE = "a|b <script>alert(1)</script> \\end{document} % & $x_1$ #~^ `c` [d](e)\n\x1b[31mred"


def read_markdown(text):
    rows = [re.split(r"(?<!\\)\|", line.strip())[1:-1] for line in text.strip().splitlines()]
    return [[re.sub(r"\\(.)", r"\1", entry.strip()) for entry in row] for row in rows]


@pytest.fixture
def results(tmp_path):
    study = tmp_path / "made-up"
    for seed in (0, 1):
        robust = 0.4 + 0.1 * seed
        cell(study, f"at-{seed}", {"clean": 0.8, "pgd20_2": 0.7, "pgd20_8": robust}, training="adversarial", seed=seed)
    quantized = {"clean": 0.75, "pgd20_2": 0.6, "pgd20_8": 0.35, "pgd20_8_hard": 0.7, "square_8": 0.36}
    cell(study, "pact", quantized, quantizer="pact", training="adversarial", init="robust", bits=(4, 4), seconds=7300)
    cell(study, "plain", quantized, quantizer="pact", training="plain", init="robust", bits=(4, 4), seconds=730)
    cell(study, "weak", {"clean": 0.9, "pgd20_2": 0.3, "pgd20_8": 0.9}, quantizer="pwlq", training="none",
         init="plain", bits=(2, 2), masking="suspect")  # fmt: skip
    return read(study)


def test_csv_gives_the_numbers_back_to_the_last_digit():
    accuracy = Accuracy(1 / 3, 300, (0.25, 5 / 12))
    table = Table("t", "T", ("name", "robust", "size"), (("x", accuracy, Number(1.23456789)), ("y", "-", Number(None))))
    first, second = csv.DictReader(io.StringIO(table.csv()))
    low, high = wilson_interval(100, 300)
    assert [float(first[f"robust{part}"]) for part in ("", " low", " high")] == [100 * (1 / 3), 100 * low, 100 * high]
    assert (first["robust n"], float(first["robust worst seed"]), float(first["size"])) == ("300", 25, 1.23456789)
    assert (second["robust"], second["size"]) == ("", "")


def test_markdown_shows_percent_interval_and_n():
    rows = ((Accuracy(0.8364, 10_000), Accuracy(0.5, 100)), (Accuracy(0.5, 10_000), Accuracy(0.5, 200)))
    titles, _, first, second = read_markdown(Table("t", "T", ("same n", "other n"), rows).markdown())
    assert titles == ["same n (n=10000)", "other n"]
    assert first == ["83.64 [82.9, 84.4]", "50.00 [40.4, 59.6], n=100"]
    assert second[1].endswith("n=200")


@pytest.mark.parametrize("text", [HOSTILE, "=cmd()", "&nbsp;", "a\\b"])
def test_texts_of_files_stay_texts(text):
    table = Table("t", "T", ("name", "value"), ((text, "1"),))
    assert len(read_markdown(table.markdown())[2]) == 2
    assert "<script" not in table.markdown().replace("\\<", "")
    ((entry, _),) = list(csv.reader(io.StringIO(table.csv())))[1:]
    assert not entry.startswith(("=", "+", "@"))
    parser = TagCollector()
    parser.feed(table.html())
    assert parser.tags <= {"div", "table", "thead", "tbody", "tr", "th", "td"}
    assert "\x1b" not in table.markdown() + table.csv() + table.latex() + table.html()
    row = table.latex().splitlines()[table.latex().splitlines().index(r"\midrule") + 1]
    assert not re.search(r"(?<!\\)[%$#_~^]", row)
    assert len(re.findall(r"(?<!\\)&", row)) == 1


class TagCollector(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags = set()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)


@given(st.text(max_size=20), st.text(max_size=20))
def test_csv_has_a_row_for_each_row_whatever_the_text(first, second):
    table = Table("t", "T", ("a", "b"), ((first, "1"), (second, "2")))
    assert [row[1] for row in csv.reader(io.StringIO(table.csv()))] == ["b", "1", "2"]


def test_latex_is_a_booktabs_table():
    text = Table("t", "A title", ("a_b", "n"), (("50 %", Number(1.5)),), "A note.").latex()
    assert r"\caption{A title. A note.}" in text
    assert r"\begin{tabular}{lr}" in text
    assert "a\\_b & n \\\\" in text
    assert "50 \\% & 1.5 \\\\" in text
    for rule in ("toprule", "midrule", "bottomrule"):
        assert f"\\{rule}" in text


@pytest.mark.parametrize(("seconds", "text"), [(None, "-"), (3.21, "3.2 s"), (59.99, "1 min 00 s"), (112, "1 min 52 s"),
                                               (725, "12 min"),
                                               (3599, "1 h 00 min"), (7500, "2 h 05 min")])  # fmt: skip
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_percent_tells_each_seed():
    assert percent(Accuracy(0.5, 100, (0.4, 0.6))) == "50.00 [40.4, 59.6], seeds 40.00 / 60.00, n=100"


def test_the_accuracy_table_has_means_worst_seeds_costs_and_verdicts(results):
    table = accuracies(results)
    rows = {row[0]: row for row in table.rows}
    at = dict(zip(table.columns, rows["float, adversarial"], strict=True))
    expected = Accuracy(pytest.approx(0.45), 1000, (0.4, 0.5))
    assert at["robust, eps 8/255"] == expected
    assert at["seeds"] == "2"
    pact = dict(zip(table.columns, rows["PACT W4A4, robust start, adversarial"], strict=True))
    assert pact["KiB"].value == pytest.approx(269_722 * 4 / 8192)
    assert pact["GBitOPs"].value == pytest.approx(40_551_040 * 16 / 1e9)
    assert pact["fit time"] == Time(7300.0)
    assert rows["PWLQ W2A2, plain start, post-training"][-5] == "suspect"


def test_a_mean_over_seeds_says_of_which_it_lacks(tmp_path):
    study = tmp_path / "made-up"
    for seed in range(4):
        cell(study, f"at-{seed}", {"clean": 0.8, "pgd20_8": 0.4, "square_8": 0.3}, training="adversarial", seed=seed)
    rewritten(study / "at-1" / "cell.json", state="failed")
    lost = np.load(study / "at-2" / "correct.npz")
    write_arrays(study / "at-2" / "correct.npz", {key: lost[key] for key in lost if not key.startswith("square_8")})
    table = accuracies(read(study))
    at = dict(zip(table.columns, table.rows[0], strict=True))
    assert at["seeds"] == "3 of 4"
    assert percent(at["clean"]).endswith("seeds 80.00 / 80.00 / 80.00, 1 seed missing, n=1000")
    assert percent(at["robust, eps 8/255"]).endswith("seeds 30.00 / 30.00, 2 seeds missing, n=1000")


def test_a_mean_over_seeds_is_as_certain_as_that_of_the_fewest_examples(tmp_path):
    for seed, n in enumerate((1000, 200)):
        cell(tmp_path / "made-up", f"at-{seed}", {"clean": 0.8}, training="adversarial", seed=seed, n=n)
    (pipeline,) = read(tmp_path / "made-up").pipelines
    assert pipeline.clean.n == 200
    assert pipeline.clean.interval == wilson_interval(160, 200)


def rewritten(path, **changes):
    write_json(path, {**json.loads(path.read_text()), **changes})


def test_the_outcome_table_holds_every_number(results):
    rows = list(csv.DictReader(io.StringIO(outcomes(results).csv())))
    worst = ["worst_8"] * 2  # of the two that were attacked in more than one way
    assert [row["outcome"] for row in rows if row["role"] == "worst"] == worst
    assert len(rows) == sum(len(cell.outcomes) for cell in results.cells) + len(worst)
    found = {(row["cell"], row["outcome"]): row for row in rows}
    assert float(found["pact", "pgd20_8_hard"]["accuracy"]) == 70
    assert found["at-1", "clean"]["seed"] == "1"
    assert found["weak", "pgd20_8"]["gradients"] == "suspect"


def test_the_gradient_table_sets_hard_beside_ste(results):
    table = gradients(results)
    row = dict(zip(table.columns, next(row for row in table.rows if row[1] == "8/255"), strict=True))
    assert row["PGD-20"].value == row["worst case"].value == 0.35
    assert row["PGD-20, hard"].value == 0.7
    assert row["Square"].value == 0.36


def test_the_cost_table_compares_with_plain_training_of_the_same_quantizer(results):
    table = costs(results)
    rows = {row[0]: dict(zip(table.columns, row, strict=True)) for row in table.rows}
    assert rows["PACT, adversarial"]["times plain training"].value == pytest.approx(10)
    assert rows["float, adversarial"]["times plain training"].value is None


def test_times_are_medians_over_the_networks_of_a_strategy(tmp_path):
    for bits, seconds in ((2, 900), (4, 300), (8, 100)):
        cell(tmp_path, f"w{bits}", {"clean": 0.5}, quantizer="pact", bits=(bits, bits), seconds=seconds)
    (row,) = costs(read(tmp_path)).rows
    assert row[2] == Time(300)


def test_the_advice_recommends_no_suspect_pipeline(results):
    used = [row[1] for row in advice(results, by_size(results)).rows]
    assert used == ["PACT W4A4, robust start, adversarial", "float, adversarial"]


def test_empty_tables_are_left_out(tmp_path):
    cell(tmp_path, "a", {"clean": 0.5})
    found = {table.name for table in tables(read(tmp_path), ())}
    assert "gradients" not in found
    assert "advice" not in found
