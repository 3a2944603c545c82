"""What a study calls a training is what the class of the model does."""

from importlib import import_module

import pytest
import tiny_study as tiny

from qra.study.definition import load_study
from qra.study.kinds import USUAL

TRADES, PLAIN = "qra.modules.Trades", "qra.modules.VanillaTraining"


@pytest.fixture(autouse=True)
def _in_an_empty_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def qat(settings=(), options=None, **changes):
    """The last stage of the tiny study, changed."""
    whole = {"options": {**tiny.STUDY["options"], **options}} if options else {}
    return load_study(tiny.write(stages={2: changes}, **whole), settings).stages[2]


def pipeline(name):
    return str(tiny.CONFIGS / f"pipeline/{name}.yaml")


@pytest.mark.parametrize("path", USUAL)
def test_what_is_known_of_a_class_without_an_import_is_what_the_class_says(path):
    module, _, name = path.rpartition(".")
    found = getattr(import_module(module), name)
    assert USUAL[path] == (found.is_adversarial, hasattr(found, "learn_from"))


@pytest.mark.parametrize(
    ("training", "name", "right"),
    [
        ("plain", "qat-at", "adversarial"),
        ("adversarial", "qat-plain", "plain"),
        ("transfer", "qat-at", "adversarial"),
        ("adversarial", "qat-transfer", "transfer"),
        ("plain", "float-mart", "adversarial"),
    ],
)
def test_a_usual_training_that_the_class_is_not_is_refused_with_the_right_word(training, name, right):
    with pytest.raises(ValueError, match=f"^tiny.yaml: stage qat: training is {training}, but qra.* write {right}, "):
        qat(training=training, pipeline=pipeline(name))
    assert qat(training=right, pipeline=pipeline(name)).training == right


def test_coordinates_may_say_that_a_usual_training_is_meant_all_the_same():
    stage = qat(training="plain", pipeline=pipeline("qat-at"), coordinates={"training": "plain"})
    assert stage.training == "plain"


@pytest.mark.parametrize(
    ("settings", "options"),
    [
        ([], {"model": TRADES}),
        ([f"model={TRADES}"], {}),
        (["model={class_path: qra.modules.Trades}"], {"model": PLAIN}),
        (["model=Trades"], {}),
        ([], {"model": {"class_path": TRADES}}),
    ],
    ids=str,
)
def test_a_model_that_is_set_for_the_whole_study_says_what_its_trainings_are(settings, options):
    own = {number: {"training": "mine"} for number in (0, 2)}
    whole = {"options": {**tiny.STUDY["options"], **options}}
    float_stage, _, stage = load_study(tiny.write(stages=own, **whole), settings).stages
    assert stage.coordinates == float_stage.coordinates == {"is_adversarial": "true"}


def test_the_model_of_a_stage_goes_before_that_of_the_study():
    options = {**tiny.STUDY["options"], "model": TRADES}
    own = {0: {"training": "adversarial"}, 2: {"training": "mine", "options": {"model": PLAIN}}}
    assert load_study(tiny.write(stages=own, options=options)).stages[2].coordinates == {"is_adversarial": "false"}


def test_models_on_an_axis_are_refused_where_they_train_in_different_ways_unless_coordinates_say_the_kind():
    axes = {"model": [TRADES, PLAIN]}
    with pytest.raises(
        ValueError, match=r"stage qat: some of qra.modules.Trades, qra.* are adversarial and some are not"
    ):
        qat(training="mine", axes=axes)
    with pytest.raises(ValueError, match=f"stage qat: training is plain, but {TRADES} trains on adversarial examples"):
        qat(axes=axes)
    assert qat(training="mine", axes={"model": [TRADES, "qra.modules.Mart"]}).coordinates == {"is_adversarial": "true"}
    assert qat(training="mine", axes=axes, coordinates={"is_adversarial": False}).coordinates == {
        "is_adversarial": "false"
    }


def test_a_class_that_is_not_there_is_named():
    with pytest.raises(ValueError, match=r"stage qat: the class of its model, qra\.modules\.Nothing, does not exist"):
        qat(axes={"model": ["qra.modules.Nothing"]}, training="adversarial")
