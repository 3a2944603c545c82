"""What is wrong in any cell is found before the first one runs."""

import logging
import re
from pathlib import Path
from typing import NamedTuple

import pytest
import tiny_study as tiny

import qra.quant
from qra.cli import main, parse_command
from qra.durations import UntoldError
from qra.study.check import check_checkpoints, check_commands
from qra.study.definition import load_study
from qra.study.forecast import Forecast, Forecaster
from qra.study.grid import expand


@pytest.fixture(autouse=True)
def _in_an_empty_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def cells(**changes):
    return expand(load_study(tiny.write(**changes)))


def parsed(**changes):
    study, found = load_study(tiny.write(**changes)), []
    check_commands(study, expand(study), lambda words, whole: found.append(words))
    return found


def refused(capsys, *arguments):
    """The one line by which a command of the study ends before anything is written."""
    with pytest.raises(SystemExit) as end:
        main(["study", arguments[0], "tiny.yaml", *arguments[1:]])
    assert end.value.code == 2
    assert not Path("runs").exists()
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_commands_that_differ_in_bits_and_seeds_alone_are_parsed_once():
    more = {"bits": ["W4A8", "W2A8", "W8A8"]}
    few, many = parsed(), parsed(stages={1: more}, seed=[0, 1])
    assert len(few) == len(many) == 5  # fit and test of float and qat, test of ptq


def test_bits_that_a_quantizer_of_ones_own_lacks_are_refused_with_the_first_cell_that_has_them(tmp_path, monkeypatch):
    Path("fourbits.py").write_text("import qra.quant\nclass FourBits(qra.quant.DoReFa):\n    bit_widths = (4, 8)\n")
    monkeypatch.syspath_prepend(tmp_path)
    Path("own.yaml").write_text("weight: {class_path: fourbits.FourBits}\nact_bit_width: 4\n")
    own = {"quantizers": {"pwlq": tiny.STUDY["quantizers"]["pwlq"], "pact": "own.yaml"}}
    study = load_study(tiny.write(**own, stages={2: {"bits": ["W4A4", "W3A8"]}}))
    words = r"cell qat-plain-pact-w3a8-calibration20: .*FourBits cannot quantize to 3 bits, only to 4, 8"
    with pytest.raises(ValueError, match=words):
        check_commands(study, [cell for cell in expand(study) if cell.stage == "qat"], parse_command)


def test_the_quantizers_of_qra_have_all_bits():
    kinds = [each for each in vars(qra.quant).values() if isinstance(each, type)]
    quantizers = [kind for kind in kinds if issubclass(kind, qra.quant.WeightQuantizer | qra.quant.ActivationQuantizer)]
    assert len(quantizers) > 8
    assert all(kind.bit_widths == range(2, 9) for kind in quantizers)


def test_each_value_of_an_axis_of_the_study_is_parsed():
    values = {"model.init_args.optimizer.init_args.lr": [0.1, 0.2, 0.3]}
    assert len(parsed(stages={0: {"axes": values}, 1: {"init": ["plain"]}}, sources={"plain": "x.ckpt"})) == 9


@pytest.mark.parametrize("option", ["evaluation.seed", "data.init_args.split_seed", "model.init_args.val_attack.seed"])
def test_an_option_that_no_key_of_a_stage_sets_is_parsed_whatever_its_name_ends_in(option):
    words = parsed(stages={2: {"axes": {option: [0, "abc"]}}})
    assert any(found[found.index(f"--{option}") + 1] == "abc" for found in words if f"--{option}" in found)


def test_options_that_are_wrong_together_only_are_parsed_together():
    alone, both = {"model.init_args.beta": 6}, {"model": "qra.modules.VanillaTraining", "model.init_args.beta": 6}
    stages = {0: {"options": alone}, 1: {"options": {"model": both["model"]}}, 2: {"options": both}}
    same = {"pipeline": tiny.STUDY["stages"][0]["pipeline"], "training": "plain", "init": ["random"]}
    float_ = {"quantizer": ["float"], "bits": ["W4A4"]}
    words = parsed(stages={number: {**same, **float_, **change, "seed": [number]} for number, change in stages.items()})
    assert any(both["model"] in each and "--model.init_args.beta" in each for each in words)


def test_no_command_waits_for_a_checkpoint():
    assert not any(word.endswith(".ckpt") for words in parsed() for word in words)


@pytest.mark.parametrize("extra", [(), ("--dry_run",)])
def test_a_checkpoint_that_no_cell_makes_is_refused_before_the_first_cell(extra, capsys):
    tiny.write(sources={"plain": "float", "late": "checkpoints/tpyo.ckpt"}, stages={2: {"init": ["late"]}})
    said = (
        "sources.late: there is no checkpoint checkpoints/tpyo.ckpt, which cell qat-late-pact-w4a4-calibration20 needs"
    )
    assert said in refused(capsys, "run", *extra)


def test_a_checkpoint_that_only_other_cells_need_is_not_asked_for():
    study = load_study(tiny.write(sources={"plain": "float", "late": "x.ckpt"}, stages={2: {"init": ["late"]}}))
    cells = expand(study)
    check_checkpoints(study, [cell for cell in cells if cell.stage != "qat"])
    with pytest.raises(ValueError, match=r"^sources\.late: there is no checkpoint x\.ckpt"):
        check_checkpoints(study, cells)


@pytest.mark.parametrize(
    ("test", "said"),
    [
        ({"evaluation.eps": [8]}, "eps is 8, but pixels are in [0, 1]: did you mean 8/255?"),
        ({"evaluation.eps": [-0.1]}, "eps is -0.1: it must be at least 0"),
        ({"evaluation.n": 0}, "n is 0: it must be at least 1"),
        (
            {"evaluation.n": 41},
            "n is 41, but there are only 40 test images: set n of RobustnessEvaluation to null for all",
        ),
        (
            {"trainer.callbacks+": "callback/pgd100", "trainer.callbacks.n": 50},
            "n is 50, but there are only 40 test images",
        ),
        ({"trainer.callbacks+": "callback/pgd100", "trainer.callbacks.attack.eps": 8}, "did you mean 8/255?"),
        ({"trainer.limit_test_batches": 0}, "trainer.limit_test_batches is 0"),
    ],
)
def test_a_value_that_its_command_would_refuse_is_one_line_with_the_cell(test, said):
    study = load_study(tiny.write(stages={1: {"test": test}}))
    with pytest.raises(ValueError, match=r"^cell ptq-plain-pwlq-w4a8-calibration20: ") as refusal:
        check_commands(study, [cell for cell in expand(study) if cell.stage == "ptq"], parse_command)
    assert said in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_study_whose_images_are_not_here_is_parsed_without_counting_them():
    elsewhere = {"data": "data/image_folder", "data.init_args.root": "nowhere"}
    study = load_study(tiny.write(options={**elsewhere, "data.init_args.val_size": 10}))
    check_commands(study, [cell for cell in expand(study) if cell.stage == "ptq"], parse_command)


def test_a_scheme_beside_a_quantizer_is_refused(capsys):
    tiny.write(stages={2: {"options": {"model.init_args.scheme": "quant/lsq.yaml"}}})
    assert "model.init_args.scheme is set by options and by quantizer: keep one of the two" in refused(capsys, "list")


@pytest.mark.parametrize("shard", ["²/4", "0/0", "-1/4", "1", "a/b"])
def test_a_shard_that_is_none_says_how_one_is_written(shard, capsys):
    tiny.write()
    assert f"--shard {shard}: write I/N" in refused(capsys, "list", f"--shard={shard}")


@pytest.mark.parametrize(("eps", "said"), [("[1/255", "is not YAML"), ("[foo]", "'foo' is not a length in pixels")])
def test_a_budget_that_is_none_is_told_with_cell_and_key_where_claims_are_listed(eps, said, capsys):
    tiny.write(test={"evaluation.eps": eps})
    line = refused(capsys, "list", "--claims")
    assert "cell float-calibration20: evaluation.eps: " in line
    assert said in line


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
    first = r"float-calibration20: fit and test, 230 images, about .* s, in runs/tiny/float-calibration20"
    assert re.fullmatch(first, lines[0])
    assert lines[-3] == "4 of 4 cells, 6 commands, all of which can be parsed; nothing was written"
    images, forward, backward = (int(word.replace(",", "")) for word in lines[-2].split() if word[0].isdigit())
    assert images == 2 * (2 * 60 + 2 * 20) + 4 * (40 + 2 * 10 + 10) + 2 * 20
    train = 2 * 60 + 2 * 20 * 3  # two epochs, each with a validation under one step of PGD
    test = 40 + 2 * 10 * 2 + 2 * 10  # clean, two budgets, signs of hidden gradients
    assert forward == 2 * (train + test) + 2 * (test + 20)  # the quantized ones are calibrated on 20 images
    assert backward == 2 * (2 * 60 + 2 * 20) + 4 * (2 * 10 * 2 + 10)
    assert lines[-1].startswith("about ")
    assert not Path("runs").exists()
    said = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    assert said.isEnabledFor(logging.INFO), "commands that follow in this process say what they said"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"stages": {1: {"bits": ["W99A8"]}}}, "stage ptq: bits 'W99A8': bit width 99 is not supported"),
        ({"fraction": [2.0]}, "fraction is 2.0: it must be above 0 and at most 1"),
        ({"calibration_size": [0]}, "calibration_size is 0: it must be at least 1"),
        ({"seed": [-1]}, "seed is -1: it must be at least 0"),
        ({"gpus": 1.5}, "gpus is 1.5: a cell takes a share of one GPU, up to 1, or whole ones"),
        ({"gpus": -0.5}, "gpus is -0.5: it must be at least 0"),
        ({"stages": {1: {"overrides": [{"fc": "X9"}]}}}, "overrides: fc: 'X9' is not a bit width"),
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


def test_budgets_count_in_any_spelling(capsys):
    tiny.write(test={"evaluation": {"eps": ["3/255"]}})
    main(["study", "list", "tiny.yaml", "--claims"])
    assert "no   quantization-alone" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("callback", "claim"),
    [("corruptions", "quantization-costs-natural-robustness"), ("fmn", "quantization-brings-nearer")],
)
def test_what_a_callback_measures_counts_for_claims(callback, claim, capsys):
    tiny.write(test={"trainer.callbacks+": f"callback/{callback}"})
    main(["study", "list", "tiny.yaml", "--claims"])
    assert f"yes  {claim}: 3 checks." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("attack", "decides"),
    [({}, True), ({"eps": "4/255"}, False), ({"norm": "l2", "eps": 0.5}, False)],
)
def test_distances_count_as_an_attack_in_their_own_ball(attack, decides, capsys):
    options = {f"trainer.callbacks.attack.{key}": value for key, value in attack.items()}
    tiny.write(test={"evaluation.eps": ["2/255"], "trainer.callbacks+": "callback/fmn", **options})
    main(["study", "list", "tiny.yaml", "--claims"])
    found = capsys.readouterr().out
    assert ("yes  quantization-alone" in found) == decides
    assert "yes  quantization-brings-nearer" in found


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
    study = load_study(tiny.write(sources={"plain": "x.ckpt"}))
    check_commands(study, [cell for cell in expand(study) if cell.stage == "qat"], parse_command)


def test_a_value_in_braces_is_parsed_even_if_no_path_could_be_that_long():
    several = {f"stages.{block}.conv{place}": "W2" for block in range(9) for place in (1, 2)}
    study = load_study(tiny.write(stages={2: {"overrides": [several]}}))
    found = [cell for cell in expand(study) if cell.stage == "qat"]
    assert any(len(word) > 300 for word in found[0].commands[0])
    check_commands(study, found, lambda words, whole: parse_command(words))  # the network has no such layers


class Told(NamedTuple):
    seconds: float
    images: int
    passes: tuple[float, float]


def test_a_dry_run_tries_commands_that_are_alike_once():
    asked = []
    forecaster = Forecaster(lambda words, threads: asked.append(words) or Told(2.0, 20, (30, 10)), 1)
    found = [forecaster.of(cell) for cell in cells(stages={1: {"bits": ["W4A8", "W2A8", "W32A8"]}}, seed=[0, 1])]
    assert len(asked) == 6  # fit and test of float and qat, test of ptq with weights and without
    assert found[0] == Forecast(4.0, 40, 60, 20)
    assert sum(forecast.seconds for forecast in found) == 2 * (4 + 3 * 2 + 4)


def raising(reason):
    def foresee(words, threads):
        raise reason

    return Forecaster(foresee, 1)


def test_a_dry_run_says_what_it_cannot_count():
    found = raising(UntoldError("it has no end")).of(cells()[0])
    assert Forecast().plus(found) == Forecast(unknown=("cell float-calibration20: it has no end",))


def test_what_a_command_refuses_while_it_is_planned_is_one_line_with_the_cell():
    with pytest.raises(ValueError, match=r"^cell float-calibration20: a dump of many lines$"):
        raising(ValueError("a dump of\nmany lines")).of(cells()[0])
