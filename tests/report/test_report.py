"""The report as a user makes it."""

import contextlib
import csv
import io
import re
import shutil
from html.parser import HTMLParser

import pytest
from made_up import by_size, cell, edit, read

from qra.cli import main
from qra.report.cells import read_cells
from qra.report.charts import pareto_fronts
from qra.report.claims import CLAIMS
from qra.report.command import write_report
from qra.report.contents import doubts_of, tables
from qra.report.document import advise
from qra.report.tables import markdown_text

ROBUST = {"clean": 0.8, "pgd20_2": 0.7, "pgd20_8": 0.4}


def make(study):
    cell(study, "float-at", ROBUST, training="adversarial")
    pact = {"quantizer": "pact", "training": "adversarial", "init": "robust"}
    cell(study, "w4", {**ROBUST, "pgd20_8": 0.39}, bits=(4, 4), **pact)
    cell(study, "w2", {**ROBUST, "pgd20_8": 0.2}, bits=(2, 2), masking="suspect", **pact)
    return study


def report(study):
    main(["report", str(study)])
    return study / "report"


def contents(directory):
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def rows(file):
    return list(csv.DictReader(io.StringIO(file.read_text())))


@pytest.fixture
def study(tmp_path):
    return make(tmp_path / "made-up")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A report, and what was printed."""
    study = make(tmp_path_factory.mktemp("runs") / "made-up")
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        main(["report", str(study), "--budget-kib", "140"])
    return study / "report", output.getvalue()


def test_a_report_is_tables_figures_claims_and_a_page(made):
    directory, shown = made
    files = contents(directory)
    assert {"report.html", "report.md", "claims.md"} <= files.keys()
    for name in ("accuracy", "claims", "evidence", "outcomes", "cells", "runs", "commands", "advice", "cost"):
        assert {f"tables/{name}.{kind}" for kind in ("md", "csv", "tex")} <= files.keys()
    for name in ("curves-1", "clean-robust", "heat-map", "pareto-size", "pareto-bitops", "cost"):
        assert files[f"figures/{name}.png"].startswith(b"\x89PNG")
        assert b"<svg" in files[f"figures/{name}.svg"]
    assert "3 cells: 3 done; gradients: 2 sound, 1 suspect, 0 not judged." in shown
    assert f"written to {directory / 'report.html'}" in shown
    assert "For up to 140 KiB use PACT W4A4, robust start, adversarial (131.7 KiB)" in shown


@pytest.mark.slow
def test_the_same_cells_give_the_same_bytes(made, tmp_path):
    directory, _ = made
    main(["report", str(directory.parent), "--out", str(tmp_path), "--budget-kib", "140"])
    assert contents(tmp_path) == contents(directory)


class References(HTMLParser):
    """What a page would load, and what it could run."""

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attrs):
        if tag in ("script", "link", "iframe", "object"):
            self.found.append(tag)
        self.found += [value for key, value in attrs if key in ("src", "href", "srcset") and value[:1] != "#"]
        self.found += [key for key, _ in attrs if key.startswith("on")]


def test_the_page_needs_nothing_else(made):
    page = (made[0] / "report.html").read_text()
    parser = References()
    parser.feed(page)
    assert parser.found
    assert all(reference.startswith("data:image/svg+xml;base64,") for reference in parser.found)
    assert "url(" not in page


def test_the_page_gathers_everything(made):
    page = (made[0] / "report.html").read_text()
    for claim in CLAIMS:
        assert claim.statement.replace("<", "&lt;") in page  # those without cells too
    for text in (
        "w2: gradients are suspect: zero gradients",
        "qra fit --config w4.yaml",
        "a processor",
        "torch 2.15.0",
    ):
        assert text in page
    assert page.index("Claims</h2>") < page.index("Figures</h2>") < page.index("Tables</h2>")


def test_claims_name_the_cells_and_numbers_that_they_rest_on(made):
    directory, _ = made
    text = (directory / "claims.md").read_text()
    assert "## adversarial-keeps: undecided" in text
    assert "w2 / float-at" in text
    keeps = [row for row in rows(directory / "tables/evidence.csv") if row["claim"] == "adversarial-keeps"]
    (row,) = [row for row in keeps if row["cells"] == "w2 / float-at"]
    assert (row["lost"], row["gained"], row["n"], row["gradients"]) == ("200", "0", "1000", "first suspect")
    assert float(row["difference"]) == pytest.approx(-20)
    assert row["result"] == "fails"
    assert float(row["p"]) < 1e-50


def test_a_cell_without_a_result_is_named_with_its_reason(study, capsys):
    edit(study / "w2" / "cell.json", lambda content: content.update(state="failed", reason="out of memory"))
    (study / "w4" / "result.json").write_text('{"schema": 1,')
    (study / "empty").mkdir()
    (study / "empty" / "config.yaml").write_text("")
    directory = report(study)
    shown = capsys.readouterr().out
    for line in (
        "w2: failed, out of memory",
        "w4: unreadable, result.json is truncated or not JSON",
        "empty: unreadable, there is no cell.json",
    ):
        assert line in shown
        assert line in (directory / "report.html").read_text()
    states = {row["cell"]: row["state"] for row in rows(directory / "tables/cells.csv")}
    assert states == {"float-at": "done", "w2": "failed", "w4": "unreadable", "empty": "unreadable"}


def test_a_result_of_the_last_schema_is_shown_beside_new_ones_and_one_of_the_next_is_named(study, capsys):
    edit(study / "w2" / "result.json", lambda content: content.update(schema=3))
    old = {name: {"accuracy": accuracy, "n": 1000} for name, accuracy in {**ROBUST, "pgd20_8": 0.39}.items()}
    edit(study / "w4" / "result.json", lambda content: content.update(schema=1, outcomes=old))
    table = rows(report(study) / "tables/outcomes.csv")
    assert "w2: unreadable, result.json has schema 3" in capsys.readouterr().out
    found = {(row["cell"], row["outcome"]): float(row["accuracy"]) for row in table}
    assert (found["float-at", "pgd20_8"], found["w4", "pgd20_8"]) == (40, 39)
    assert not any(name == "w2" for name, _ in found)


def test_a_study_of_failures_alone_has_a_report(study, capsys):
    for name in ("float-at", "w2", "w4"):
        (study / name / "cell.json").write_text("")
    directory = report(study)
    assert "3 cells: 3 unreadable" in capsys.readouterr().out
    assert "Not drawn" in (directory / "report.html").read_text()


def test_figures_and_tables_that_are_no_longer_true_go(study):
    for name in ("float-at", "w2", "w4"):
        edit(study / name / "cell.json", lambda content: content.update(state="failed"))
    before = ("figures/heat-map.png", "figures/curves-12.svg", "tables/pareto.tex", "figures/mine.png", "notes.txt")
    for folder in ("figures", "tables"):
        (study / "report" / folder).mkdir(parents=True)
    for name in before:
        (study / "report" / name).write_text("of an earlier report, or of the user")
    left = contents(report(study))
    assert {name for name in before if name in left} == {"figures/mine.png", "notes.txt"}


def test_what_files_say_is_never_markup(study):
    attack = "<img src=x onerror=alert(1)>'\"|\x1b[31m"
    edit(
        study / "w2" / "result.json",
        lambda content: content.update(masking={"verdict": "suspect", "reasons": [attack]}),
    )
    edit(study / "w4" / "result.json", lambda content: content["outcomes"]["pgd20_8"].update(title=f"={attack}"))
    edit(study / "w2" / "cell.json", lambda content: content.update(stage=attack, commands=[attack, [attack]]))
    edit(study / "w4" / "cell.json", lambda content: content["coordinates"].update(training=attack, quantizer=attack))
    edit(study / "float-at" / "result.json", lambda content: content.update(device=attack, versions={attack: attack}))
    directory = report(study)
    parser = References()
    parser.feed((directory / "report.html").read_text())
    assert all(reference.startswith("data:image/svg+xml;base64,") for reference in parser.found)
    assert "\x1b" not in (directory / "report.md").read_text()
    assert not re.search(r"(?<!\\)<img", (directory / "report.md").read_text())
    for table in (directory / "tables").glob("*.csv"):
        entries = [entry for row in csv.reader(io.StringIO(table.read_text())) for entry in row]
        assert not any(entry[:1] == "=" or "\x1b" in entry for entry in entries)


def test_without_a_pipeline_that_fits_there_is_no_recommendation(study):
    assert advise(read(study), (), 10) == "No pipeline with known size and some robust accuracy fits into 10 KiB."


def test_a_label_without_end_leaves_figures_whole(study):
    edit(study / "w4" / "cell.json", lambda content: content["coordinates"].update(training="long " * 100))
    results = read(study)
    assert max(len(results.label(pipeline)) for pipeline in results.pipelines) == 90


@pytest.mark.parametrize(("content", "reason"), [(None, "no study here"), ({}, "no cells of a study")])
def test_a_directory_without_a_study_is_one_line(tmp_path, content, reason, capsys):
    if content is not None:
        (tmp_path / "study").mkdir()
    with pytest.raises(SystemExit) as end:
        report(tmp_path / "study")
    assert end.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert reason in line


def test_links_inside_a_study_are_not_followed(study, tmp_path):
    secret = tmp_path / "secret"
    shutil.copytree(study / "w2", secret)
    (study / "linked").symlink_to(secret)
    (study / "w4" / "result.json").unlink()
    (study / "w4" / "result.json").symlink_to(secret / "result.json")
    cells = {cell.name: cell for cell in read_cells(study)}
    assert cells["linked"].state == cells["w4"].state == "unreadable"
    assert "symbolic link" in cells["linked"].reason
    assert "result.json is a symbolic link" in cells["w4"].reason


def test_a_report_is_not_written_through_a_link(study, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (study / "report").mkdir()
    (study / "report" / "tables").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="tables: is a symbolic link"):
        write_report(study, study / "report")
    assert not list((tmp_path / "elsewhere").iterdir())


@pytest.mark.parametrize("kib", ["nan", "-5", "0", "inf"])
def test_a_budget_that_is_no_size_is_refused(study, kib, capsys):
    with pytest.raises(SystemExit) as end:
        main(["report", str(study), f"--budget-kib={kib}"])
    assert end.value.code == 2
    assert "--budget-kib is" in capsys.readouterr().err
    assert not (study / "report").exists()


@pytest.mark.parametrize(
    ("blocked", "is_file", "reason"),
    [
        ("report", True, "report: is a file, and the report"),
        ("report/tables", True, "tables: is a file, and the report"),
        (
            "report/report.html",
            False,
            "report.html: is a directory in the place of a file: move it away, or choose another",
        ),
    ],
)
def test_a_report_that_something_is_in_the_way_of_writes_nothing(study, blocked, is_file, reason, capsys):
    path = study / blocked
    path.parent.mkdir(exist_ok=True)
    if is_file:
        path.write_text("")
    else:
        path.mkdir()
    before = sorted(study.rglob("*"))
    with pytest.raises(SystemExit) as end:
        report(study)
    assert end.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert reason in line
    assert sorted(study.rglob("*")) == before


def test_a_huge_coordinate_ends_no_report(study):
    huge = {"seed": 10**400, "fraction": 10**400, "weight_bit_width": "1e999", "calibration_size": 1e305}
    edit(study / "w4" / "cell.json", lambda content: content["coordinates"].update(huge))
    edit(study / "w4" / "result.json", lambda content: content.update(cost={"size_in_bits": 1e299, "bit_ops": 1e299}))
    results = read(study)
    assert [drawing.png[1:4] for drawing in pareto_fronts(results)] == [b"PNG"] * 2
    assert [(*p.bits, p.number("fraction")) for p in results.pipelines if p.cells[0].name == "w4"] == [(32, 4, None)]
    assert sum(len(table.rows) for table in tables(results, by_size(results)))


def test_reasons_with_commas_stay_apart(study):
    reasons = {"verdict": "suspect", "reasons": ["zero, or tiny, gradients", "noise"]}
    edit(study / "w2" / "result.json", lambda content: content.update(masking=reasons))
    (cell,) = (each for each in read_cells(study) if each.name == "w2")
    assert doubts_of(cell) == "zero, or tiny, gradients; noise"


def test_names_in_markdown_neither_format_nor_link():
    written = markdown_text("_a_ *b* ~c~ [d](http://e) <f> www.g.h $i$ &lt; |")
    for part in ("_a", "*b", "~c", "[d", "://e", "<f", ".g.h", "$i", "&lt", "|"):
        assert f"\\{part}" in written
