"""The scripts that write tables of the results page."""

import importlib
from pathlib import Path

import pytest
import torch

from qra.evaluation import store
from qra.evaluation.outcome import Outcome
from qra.evaluation.radii import Radii

SCRIPTS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    return importlib.import_module


def measured(directory, levels, found=True):
    """A run with distances."""
    n = len(levels)
    radius = torch.tensor(levels, dtype=torch.float64) / 255
    radii = Radii(torch.arange(n), radius, torch.full((n,), found))
    attack = {"class_path": "qra.attacks.FMN"}
    outcome = Outcome("fmn_8", "FMN", attack, radii.indices, radii.correct(8 / 255), 8 / 255, radii=radii)
    directory.mkdir()
    gathered = store.Gathered()
    gathered.add([outcome], 0)
    store.write(directory, gathered)


def test_the_table_of_distances_has_a_row_for_each_run_beside_its_float_parent(script, tmp_path):
    measured(tmp_path / "float-at", [0, 3, 9, 12])
    measured(tmp_path / "w2a2", [0, 1, 10])
    module = script("radii_table")
    found = {name: module.radii_in(tmp_path / name) for name in ("w2a2", "float-at")}
    _, _, parent, other = module.table(found)
    assert parent == "| the float parent | W32A32 | 4 | 3.00 | 2.25 to 9.75 | 1 | 50.0 |  |  |  |  |"
    assert other == "| PACT | W2A2 | 3 | 1.00 | 0.50 to 5.50 | 1 | 33.3 | 1 | 1 | 3.00, 1.00 (n = 3) | 1 |"


def test_distances_that_were_not_found_are_no_row_of_the_table(script, tmp_path):
    measured(tmp_path / "float-at", [200, 200], found=False)
    module = script("radii_table")
    with pytest.raises(ValueError, match="float-at: FMN left 2 images unbroken"):
        list(module.table({"float-at": module.radii_in(tmp_path / "float-at")}))


def test_a_table_takes_the_place_of_the_one_before_and_of_nothing_else(script, tmp_path):
    page = tmp_path / "page.md"
    page.write_text("a\n\n<!-- x.py -->\nold\n<!-- end -->\nb\n<!-- y.py -->\n<!-- end -->\n")
    module = script("results_page")
    for _ in range(2):
        module.between_marks(page, "x.py", ["new"])
    assert page.read_text() == "a\n\n<!-- x.py -->\n\nnew\n\n<!-- end -->\nb\n<!-- y.py -->\n<!-- end -->\n"


def test_a_page_without_a_place_for_a_table_is_left_as_it_is(script, tmp_path):
    page = tmp_path / "page.md"
    page.write_text("<!-- x.py -->\n")
    with pytest.raises(ValueError, match=r"page.md: has no place for x.py"):
        script("results_page").between_marks(page, "x.py", ["new"])
    assert page.read_text() == "<!-- x.py -->\n"


def test_networks_that_were_not_measured_are_named_below_a_table(script):
    assert script("results_page").missing(["w2a2", "w3a3", "pact-w4a4-at", "w8a8", "lsq-w4a4", "float-at"]) == [
        "",
        "Not measured yet: PWLQ W4A4, PWLQ W4A8.",
    ]
