"""What is wrong in any cell is found before the first one runs."""

import re
from pathlib import Path
from typing import NamedTuple

import pytest
import tiny_study as tiny

from qra.cli import main, parse_command
from qra.study.check import check_commands
from qra.study.definition import load_study
from qra.study.forecast import Forecast, Forecaster
from qra.study.grid import expand


@pytest.fixture(autouse=True)
def _in_an_empty_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def cells(**changes):
    return expand(load_study(tiny.write(**changes)))


def parsed(cells):
    found = []
    check_commands(cells, found.append)
    return found


def test_commands_that_differ_in_bits_and_seeds_alone_are_parsed_once():
    more = {"bits": ["W4A8", "W2A8", "W8A8"]}
    few, many = parsed(cells()), parsed(cells(stages={1: more}, seed=[0, 1]))
    assert len(few) == len(many) == 5  # fit and test of float and qat, test of ptq


def test_each_value_of_an_axis_of_the_study_is_parsed():
    values = {"model.init_args.optimizer.init_args.lr": [0.1, 0.2, 0.3]}
    assert len(parsed(cells(stages={0: {"axes": values}, 1: {"init": ["plain"]}}, sources={"plain": "x.ckpt"}))) == 9


def test_no_command_waits_for_a_checkpoint():
    assert not any(word.endswith(".ckpt") for words in parsed(cells()) for word in words)


def test_a_typo_in_a_late_cell_is_one_line_with_the_cell_and_the_key_before_anything_runs(capsys):
    tiny.write(stages={2: {"options": {"model.init_args.optimizer.init_args.learning": 0.1}}})
    with pytest.raises(SystemExit) as end:
        main(["study", "run", "tiny.yaml"])
    assert end.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "cell qat-plain-pact-w4a4-calibration20" in line
    assert "learning" in line
    assert not Path("runs").exists()


def test_a_dry_run_tells_what_would_run_and_where_and_writes_nothing(capsys):
    tiny.write()
    main(["study", "run", "tiny.yaml", "--dry_run"])
    lines = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"float-calibration20: fit and test, about .* s, in runs/tiny/float-calibration20", lines[0])
    assert lines[-3] == "4 of 4 cells, 6 commands, all of which can be parsed; nothing was written"
    forward, backward = (int(word.replace(",", "")) for word in lines[-2].split() if word[0].isdigit())
    train = 2 * 60 + 2 * 20 * 3  # two epochs, each with a validation under one step of PGD
    test = 40 + 2 * 10 * 2 + 2 * 10  # clean, two budgets, signs of hidden gradients
    assert forward == 2 * (train + test) + 2 * (test + 20)  # the quantized ones are calibrated on 20 images
    assert backward == 2 * (2 * 60 + 2 * 20) + 4 * (2 * 10 * 2 + 10)
    assert lines[-1].startswith("about ")
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"stages": {1: {"bits": ["W99A8"]}}}, "stage ptq: bits 'W99A8': bit width 99 cannot be quantized to"),
        ({"stages": {1: {"bits": ["W0A8"]}}}, "bit width 0 cannot be quantized to: choose 2 to 8"),
        ({"fraction": [2.0]}, "fraction is 2.0: it must be above 0 and at most 1"),
        ({"calibration_size": [0]}, "calibration_size is 0: it must be at least 1"),
        ({"seed": [-1]}, "seed is -1: it must be at least 0"),
        ({"gpus": 1.5}, "gpus is 1.5: a cell takes a share of one GPU, up to 1, or whole ones"),
        ({"gpus": -0.5}, "gpus is -0.5: it must be at least 0"),
        ({"stages": {1: {"overrides": [{"fc": "X9"}]}}}, "overrides: fc: 'X9' is no bit width"),
        ({"stages": {2: {"training": "advesarial"}}}, "did you mean adversarial?"),
        ({"stages": {2: {"training": "mine", "options": {"model": "mine.Training"}}}}, "mine.Training"),
    ],
)
def test_what_is_out_of_range_is_refused_when_cells_are_listed(changes, said, capsys):
    tiny.write(**changes)
    with pytest.raises(SystemExit) as end:
        main(["study", "list", "tiny.yaml"])
    assert end.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line


@pytest.mark.parametrize(("name", "kind"), [("Trades", "true"), ("VanillaTraining", "false")])
def test_a_training_of_ones_own_is_one_word_and_its_class_says_whether_it_is_adversarial(name, kind):
    (cell,) = (
        cell
        for cell in cells(stages={2: {"training": "mine", "options": {"model": f"qra.modules.{name}"}}})
        if cell.stage == "qat"
    )
    assert cell.coordinates["training"] == "mine"
    assert cell.coordinates["is_adversarial"] == kind
    assert cell.name == "qat-plain-pact-w4a4-calibration20"


def test_a_list_tells_which_claims_the_study_could_decide(capsys):
    tiny.write(test={"evaluation.eps": ["2/255", "8/255"], "evaluation.gradients": "[ste, hard]"})
    main(["study", "list", "tiny.yaml", "--claims"])
    lines = dict(line.split(": ", 1) for line in capsys.readouterr().out.splitlines())
    assert lines["yes  true-gradients-mask"].startswith("6 checks.")
    assert lines["no   activations-more"].startswith("needs weight-only")
    assert "yes  quantization-alone" in lines


def test_a_study_that_attacks_at_other_budgets_could_decide_less(capsys):
    tiny.write(test={"evaluation.eps": ["3/255"]})
    main(["study", "list", "tiny.yaml", "--claims"])
    assert "no   quantization-alone" in capsys.readouterr().out


READY = sorted((Path(__file__).parents[2] / "configs/study").glob("*.yaml"))


@pytest.mark.parametrize("path", READY, ids=lambda path: path.stem)
def test_a_ready_study_says_its_question_and_its_cost(path):
    header = path.read_text().partition("\nsources")[0]
    for words in ("# Question: ", " cells: ", "# Cost: one core: ", "one GPU", "# Can decide: ", "runs/"):
        assert words in header


@pytest.mark.slow
@pytest.mark.parametrize("path", READY, ids=lambda path: path.stem)
def test_a_ready_study_can_decide_the_claims_that_its_header_names(path, capsys):
    said = path.read_text().partition("# Can decide: ")[2].partition("# Results")[0].partition("\nsources")[0]
    main(["study", "list", str(path), "--claims"])
    lines = [line.split(":")[0].split() for line in capsys.readouterr().out.splitlines()]
    named = set(re.findall(r"[a-z-]+", said))
    assert {key for verdict, key in lines if verdict == "yes"} == {key for _, key in lines if key in named}


def test_seeds_are_an_option(capsys):
    tiny.write()
    main(["study", "list", "tiny.yaml", "--seeds", "0", "1", "2"])
    assert capsys.readouterr().out.count("# float-calibration20-seed") == 2


def test_a_start_from_a_checkpoint_that_is_there_can_be_parsed():
    Path("x.ckpt").write_bytes(b"")
    found = [cell for cell in cells(sources={"plain": "x.ckpt"}) if cell.stage == "qat"]
    check_commands(found, parse_command)


def test_a_value_in_braces_is_parsed_even_if_no_path_could_be_that_long():
    several = {f"stages.{block}.conv{place}": "W2" for block in range(9) for place in (1, 2)}
    found = [cell for cell in cells(stages={2: {"overrides": [several]}}) if cell.stage == "qat"]
    assert any(len(word) > 300 for word in found[0].commands[0])
    check_commands(found, parse_command)


class Told(NamedTuple):
    seconds: float
    passes: tuple[float, float]


def test_a_dry_run_tries_commands_that_are_alike_once():
    asked = []
    forecaster = Forecaster(lambda words, threads: asked.append(words) or Told(2.0, (30, 10)), 1)
    found = [forecaster.of(cell) for cell in cells(stages={1: {"bits": ["W4A8", "W2A8", "W32A8"]}}, seed=[0, 1])]
    assert len(asked) == 6  # fit and test of float and qat, test of ptq with weights and without
    assert found[0] == Forecast(4.0, 60, 20)
    assert sum(forecast.seconds for forecast in found) == 2 * (4 + 3 * 2 + 4)


def test_a_dry_run_says_what_it_cannot_count():
    def refuses(words, threads):
        raise ValueError("no network is there")

    forecaster = Forecaster(refuses, 1)
    found = [forecaster.of(cell) for cell in cells()]
    assert Forecast().plus(found[0]).plus(found[1]) == Forecast(unknown=("no network is there",))
