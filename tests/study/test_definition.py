"""A study is read, and what defines a cell is known."""

import pytest
import tiny_study as tiny

from qra.describe import differences, digest
from qra.study import expand
from qra.study.definition import define, load_study

CONFIGS = tiny.CONFIGS
STUDIES = sorted((CONFIGS / "study").glob("*.yaml"))
SIZES = {
    "attack-strength": 14,
    "calibration-size": 122,
    "corruptions": 10,
    "data-size": 38,
    "masking": 18,
    "methods": 26,
    "paper": 243,
    "paper-small": 33,
    "quickstart": 10,
    "sensitivity": 21,
}


@pytest.fixture(autouse=True)
def _in_an_empty_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def digests(path="tiny.yaml", settings=()):
    return {name: digest(found) for name, found in define(expand(load_study(path, settings))).items()}


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_each_ready_study_has_the_cells_that_its_header_says(path):
    study = load_study(path)
    cells = expand(study)
    define(cells)
    assert len(cells) == SIZES[path.stem]
    assert f"# {len(cells)} cells" in path.read_text()
    assert f"runs/{path.stem}" in path.read_text()
    assert cells[0].directory.startswith(f"runs/{path.stem}/")


def test_there_is_a_size_for_each_ready_study():
    assert {path.stem for path in STUDIES} == SIZES.keys()


def test_paths_of_configs_are_relative_to_the_study():
    tiny.write()
    plain = load_study("tiny.yaml").stages[0].pipeline
    assert plain == str(CONFIGS / "pipeline/float-plain.yaml")
    assert load_study(STUDIES[0]).quantizers["pwlq"] == str(CONFIGS / "callback/pwlq.yaml")


def test_a_definition_is_the_same_wherever_the_run_is():
    tiny.write()
    study = load_study("tiny.yaml")
    assert define(expand(study, "here")) == define(expand(study, "there"))


def test_a_change_of_the_training_changes_the_cells_that_start_from_it_too():
    tiny.write()
    before = digests()
    tiny.write(stages={0: {"options": {"model.init_args.optimizer.init_args.lr": 0.05}}})
    now = digests()
    assert all(before[name] != now[name] for name in before)


def test_a_change_of_the_tests_leaves_the_training_of_all_cells_alone():
    tiny.write()
    before = define(expand(load_study("tiny.yaml")))
    tiny.write(test={"evaluation.n": 20})
    now = define(expand(load_study("tiny.yaml")))
    name = "qat-plain-pact-w4a4-calibration20"
    assert before[name]["fit"] == now[name]["fit"]
    assert before[name]["test"] != now[name]["test"]


def test_a_change_in_a_fragment_is_found_and_named():
    tiny.write(quantizers={"pwlq": str(CONFIGS / "callback/pwlq.yaml"), "pact": "mine.yaml"})
    scheme = (CONFIGS / "quant/pact.yaml").read_text()
    with open("mine.yaml", "w") as file:
        file.write(scheme)
    before = define(expand(load_study("tiny.yaml")))["qat-plain-pact-w4a4-calibration20"]
    with open("other.yaml", "w") as file:
        file.write(scheme.replace("alpha: 10.0", "alpha: 6.0"))
    tiny.write(quantizers={"pwlq": str(CONFIGS / "callback/pwlq.yaml"), "pact": "other.yaml"})
    now = define(expand(load_study("tiny.yaml")))["qat-plain-pact-w4a4-calibration20"]
    (change,) = differences(before, now)
    assert change == "fit.model.init_args.scheme.activation.alpha was 10.0 and is 6.0"


def test_options_can_be_added_from_the_command_line():
    tiny.write()
    (cell, *_) = expand(load_study("tiny.yaml", ["trainer.max_epochs=7", "data.init_args.val_size=10"]))
    assert "--trainer.max_epochs 7" in " ".join(cell.commands[0])
    assert "--data.init_args.val_size 10" in " ".join(cell.commands[0])


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"seeds": [1]}, "unknown key 'seeds'"),
        ({"stages": {1: {"bit": ["W4A4"]}}}, "stage 2 (ptq): unknown key 'bit'; the keys are name, pipeline"),
        ({"stages": {1: {"training": "plan"}}}, "stage ptq: training 'plan': did you mean plain?"),
        ({"stages": {1: {"training": " "}}}, "stage ptq: training is empty: write none, plain"),
        ({"stages": {1: {"seed": ["first"]}}}, "stage 2 (ptq): seed: expected int, got first"),
        ({"stages": {1: {"pipeline": "none.yaml"}}}, "there is no config file none.yaml"),
        ({"stages": {1: {"name": "float"}}}, "2 stages are named float"),
        ({"sources": {"plain": "flaot"}}, "sources.plain: no stage makes 'flaot'"),
        ({"threads": 0}, "threads is 0: it must be at least 1"),
        ({"name": "../../x"}, "name '../../x' is not a plain directory name"),
        ({"stages": {1: {"options": {1: 2}}}}, "stage 2 (ptq): options: its key 1 is not text: write it in quotes"),
        ({"stages": {1: {"axes": {8: [1]}}}}, "stage 2 (ptq): axes: its key 8 is not text"),
        ({"stages": {1: {"overrides": [{8: "W8"}]}}}, "stage 2 (ptq): overrides: its key 8 is not text"),
        ({"sources": {"plain": "float", False: "x.ckpt"}}, "sources: its key False is not text"),
    ],
    ids=str,
)
def test_a_wrong_study_is_named(changed, reason):
    tiny.write(**changed)
    with pytest.raises(ValueError, match=r"^tiny.yaml: |there is no config file") as error:
        load_study("tiny.yaml")
    assert reason in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("training", ["plain", "mine", "none"])
@pytest.mark.parametrize(("content", "reason"), [("[a, b]", "is not a mapping of keys, but list"), ("", "is empty"),
                                                 ("model: own.yaml", "includes itself")])  # fmt: skip
def test_a_pipeline_that_is_no_config_is_named(training, content, reason, tmp_path):
    (tmp_path / "own.yaml").write_text(content)
    tiny.write(stages={2: {"pipeline": "own.yaml", "training": training}})
    with pytest.raises(ValueError, match=f"own.yaml: .*{reason}|own.yaml {reason}"):
        load_study("tiny.yaml")


def test_options_that_are_no_mapping_are_named_beside_one_from_the_command_line_too():
    tiny.write(options=[1])
    with pytest.raises(ValueError, match=r"^tiny.yaml: options: expected dict, got \[1\]"):
        load_study("tiny.yaml", ["a=b"])


def test_a_key_without_a_value_is_as_if_it_were_not_there():
    tiny.write(options=None, seed=None)
    study = load_study("tiny.yaml")
    assert (study.options, study.seed) == ({}, [0])


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("a: [", "is not YAML"),
        ("a: 1", "no list of"),
        ("", "no list of"),
        pytest.param(f"seed: [{'9' * 5000}]", "study.yaml: a value in it cannot be read: Exceeds", id="digits"),
    ],
)
def test_what_is_no_study_is_refused(tmp_path, content, reason):
    (tmp_path / "study.yaml").write_text(content)
    with pytest.raises(ValueError, match=reason):
        load_study("study.yaml")


def test_a_key_that_a_pipeline_and_an_axis_set_is_refused(tmp_path):
    pipeline = (CONFIGS / "pipeline/float-plain.yaml").read_text().replace("../", f"{CONFIGS}/")
    (tmp_path / "fixed.yaml").write_text(f"seed_everything: 3\n{pipeline}")
    tiny.write(stages={0: {"pipeline": "fixed.yaml"}})
    with pytest.raises(ValueError, match=r"seed_everything is set by fixed\.yaml and by seed: remove it there"):
        load_study("tiny.yaml")


@pytest.mark.parametrize("stages", [{}, {0: {}}])
def test_a_key_inside_of_an_option_that_an_axis_sets_too_is_refused(stages):
    synthetic = {"class_path": "qra.data.SyntheticDataModule", "init_args": {"train_size": 300}}
    load_study(tiny.write(options={"data": synthetic}))
    synthetic["init_args"]["fraction"] = 0.5
    options = {"options": {"data": synthetic}}
    tiny.write(**(options if not stages else {"stages": {0: options}}))
    with pytest.raises(
        ValueError, match=r"data\.init_args\.fraction is set by options and by fraction: remove it there"
    ):
        load_study("tiny.yaml")
