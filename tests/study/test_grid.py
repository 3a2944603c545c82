"""A study expands into ordinary commands."""

import dataclasses
import itertools
import shlex

import pytest

from qra.study import Stage, Study, expand, select

PLAIN = Stage("float", "plain.yaml", "plain")
SOURCES = {"plain": "float", "robust": "at.ckpt"}
QUANTIZERS = {"pact": "pact.yaml", "pwlq": "pwlq.yaml"}


def study(*stages, **keys):
    return Study("s", [PLAIN, *stages], **{"sources": SOURCES, "quantizers": QUANTIZERS, **keys})


def cells(*stages, **keys):
    return {cell.name: cell for cell in expand(study(*stages, **keys))}


def qat(**keys):
    return Stage("qat", "qat.yaml", **{"training": "plain", "init": ["plain"], "quantizer": ["pact"], **keys})


def test_a_float_cell_is_trained_and_then_tested():
    fit, test = cells(test={"evaluation.n": 10})["float"].commands
    assert shlex.join(fit) == (
        "fit --config plain.yaml --run runs/s/float --data.init_args.fraction 1.0 "
        "--data.init_args.calibration_size 512 "
        "--seed_everything 0 --data.init_args.seed 0 --model.init_args.scheme null"
    )
    assert shlex.join(test) == "test --ckpt_path runs/s/float/best.ckpt --evaluation.n 10"


def test_a_quantized_cell_starts_from_the_checkpoint_of_its_source():
    cell = cells(qat(bits=["W2A32"]))["qat-plain-pact-w2a32"]
    fit = shlex.join(cell.commands[0])
    assert "--model.init_args.init_from runs/s/float/best.ckpt" in fit
    assert "--model.init_args.scheme pact.yaml --model.init_args.scheme.weight_bit_width 2" in fit
    assert "--model.init_args.scheme.act_bit_width 32" in fit
    assert cell.needs == ("float",)


def test_a_cell_that_does_not_train_tests_a_calibrated_checkpoint():
    stage = Stage("ptq", "plain.yaml", "none", init=["robust"], quantizer=["pwlq"], bits=["W4A8"])
    cell = cells(stage)["ptq-robust-pwlq-w4a8"]
    (test,) = map(shlex.join, cell.commands)
    assert test.endswith(
        "--trainer.callbacks+ pwlq.yaml --trainer.callbacks.scheme.weight_bit_width 4 "
        "--trainer.callbacks.scheme.act_bit_width 8 --ckpt_path at.ckpt"
    )
    assert cell.needs == ()
    assert cell.checkpoint == "runs/s/ptq-robust-pwlq-w4a8/calibrated.ckpt"


def test_axes_multiply_and_a_float_network_has_no_bits():
    two = {"quantizer": ["float", "pact"], "bits": ["W4A4", "W2A2"], "init": ["random", "plain"]}
    found = cells(qat(training="adversarial", **two), seed=[0, 1])
    assert len(found) == 2 + 2 * 2 * (1 + 2)
    assert "qat-plain" in found
    assert found["qat-plain"].coordinates["weight_bit_width"] == 32
    assert "--model.init_args.scheme null" in shlex.join(found["qat-plain"].commands[0])


def test_layers_with_bits_of_their_own_are_an_axis():
    several = [{}, {"fc": "W8"}, {"stages.0.*": "W8A8", "fc": "W2"}]
    found = cells(qat(overrides=several, quantizer=["float", "pact"]))
    names = ["qat-plain-pact-w4a4", "qat-plain-pact-w4a4-fc=W8", "qat-plain-pact-w4a4-stages.0._=W8A8_fc=W2"]
    assert list(found) == ["float", "qat-plain", *names]
    options = [dict(itertools.pairwise(found[name].commands[0])) for name in names]
    values = [each.get("--model.init_args.scheme.overrides") for each in options]
    assert values == [None, '{"fc": "W8"}', '{"stages.0.*": "W8A8", "fc": "W2"}']
    assert [found[name].coordinates.get("overrides") for name in names] == [None, "fc=W8", "stages.0.*=W8A8,fc=W2"]
    ptq = Stage("ptq", "plain.yaml", "none", init=["robust"], quantizer=["pwlq"], overrides=[{"fc": "W2"}])
    (test,) = map(shlex.join, cells(ptq)["ptq-robust-pwlq-w4a4-fc=W2"].commands)
    assert """--trainer.callbacks+ pwlq.yaml""" in test.partition("--trainer.callbacks.scheme.overrides")[0]


def test_an_ancestor_is_that_of_the_same_seed_and_is_trained_once():
    found = cells(qat(bits=["W4A4", "W2A2"]), seed=[0, 1])
    assert found["qat-plain-pact-w2a2-seed1"].needs == ("float-seed1",)
    assert [name for name in found if name.startswith("float")] == ["float", "float-seed1"]


def test_names_of_cells_stay_when_an_axis_grows():
    assert cells(qat()).keys() < cells(qat(bits=["W4A4", "W2A2"], fraction=[1.0, 0.1]), seed=[0, 1]).keys()


def test_a_transfer_needs_its_teacher():
    found = cells(qat(training="transfer", init=["robust"], teacher="plain"))
    cell = found["qat-robust-pact-w4a4"]
    assert "--config qat.yaml --run runs/s/qat-robust-pact-w4a4 --trainer.callbacks.teacher runs/s/float/best.ckpt" in (
        shlex.join(cell.commands[0])
    )
    assert cell.needs == ("float",)


def test_any_option_may_be_an_axis():
    found = cells(qat(axes={"model.init_args.attack.eps": ["4/255", "8/255"]}))
    assert "--model.init_args.attack.eps 8/255" in shlex.join(found["qat-plain-pact-w4a4-eps8_255"].commands[0])
    assert found["qat-plain-pact-w4a4-eps8_255"].coordinates["model.init_args.attack.eps"] == "8/255"


def test_options_may_name_the_checkpoint_that_a_cell_starts_from():
    test = cells(qat(test={"evaluation.surrogate": "{init}"}))["qat-plain-pact-w4a4"].commands[1]
    assert test[-2:] == ("--evaluation.surrogate", "runs/s/float/best.ckpt")


def test_several_callbacks_are_one_option_after_the_other():
    (_, test) = cells(test={"trainer.callbacks+": ["a.yaml", "b.yaml"], "evaluation.eps": ["1/255"]})["float"].commands
    assert test[3:] == (
        *("--trainer.callbacks+", "a.yaml", "--trainer.callbacks+", "b.yaml", "--evaluation.eps", '["1/255"]'),
    )


def test_the_callback_of_a_calibration_and_those_of_the_test_are_all_there():
    stage = Stage("ptq", "plain.yaml", "none", init=["robust"], quantizer=["pwlq"])
    ((test,),) = (cell.commands for cell in expand(study(stage, test={"trainer.callbacks+": "aa.yaml"}))[1:])
    assert [test[place + 1] for place, word in enumerate(test) if word == "--trainer.callbacks+"] == [
        "pwlq.yaml",
        "aa.yaml",
    ]


def test_a_selection_holds_what_its_cells_need():
    found = expand(study(qat(bits=["W4A4", "W2A2"])))
    assert [cell.name for cell in select(found, "*w2a2")] == ["float", "qat-plain-pact-w2a2"]


def test_shards_together_are_the_study():
    found = expand(study(qat(bits=["W4A4", "W3A3", "W2A2"])))
    shards = [{cell.name for cell in select(found, shard=(number, 3))} for number in range(3)]
    assert set.union(*shards) == {cell.name for cell in found}
    assert all(len(shard) < len(found) for shard in shards)


@pytest.mark.parametrize(
    ("stage", "reason"),
    [
        ({"init": ["robst"]}, "init 'robst' is not one of random, plain, robust"),
        ({"quantizer": ["lqs"]}, "quantizer 'lqs' is not one of float, pact, pwlq"),
        ({"bits": ["4/4"]}, "bits '4/4': write W4A8"),
        ({"bits": []}, "the axis bits is empty"),
        ({"seed": []}, "the axis seed is empty"),
        ({"axes": {"trainer.max_epochs": []}}, "the axis trainer.max_epochs is empty"),
        ({"bits": ["W4A4", "W4A4"]}, "an axis has a value twice"),
        pytest.param({"bits": [f"W{'9' * 5000}A4"]}, "write W4A8 for weights", id="digits"),
        ({"bits": ["W1A4"]}, "bits 'W1A4': bit width 1 is not supported: choose 2 to 8"),
        ({"bits": ["W4A16"]}, "bits 'W4A16': bit width 16 is not"),
        ({"overrides": [{"fc": "W99"}]}, "overrides: fc: 'W99': bit width 99 is not supported"),
        ({"overrides": [{"fc": "W8A0"}]}, "overrides: fc: 'W8A0': bit width 0 is not supported"),
        ({"seed": [2**32]}, "seed is 4294967296: it must be at least 0 and at most 4294967295"),
        ({"coordinates": {"trainning": "adversarial"}}, "'trainning': did you mean training?"),
        ({"coordinates": {"Is_Adversarial": "true"}}, "did you mean is_adversarial?"),
        ({"coordinates": {"training": "advesarial"}}, "coordinates: training 'advesarial': did you mean adversarial?"),
        ({"coordinates": {"is_adversarial": "maybe"}}, "is_adversarial is 'maybe': write true or false"),
        (
            {"axes": {"model.init_args.optimizer": ["a/b.X", "a_b.X"]}},
            "values of model.init_args.optimizer differ only in characters that cell names drop",
        ),
        ({"training": "none", "init": ["random"]}, "it needs a trained network: set init"),
        ({"teacher": "nobody"}, "teacher 'nobody' is not one of"),
        ({"options": {"data.fraction": 0.5}}, "data.fraction is set by options and by fraction"),
        ({"options": {"model.init_args.scheme.act_bit_width": 2}}, "act_bit_width is set by options and by bits"),
        ({"axes": {"seed_everything": [1]}}, "seed_everything is set by axes and by seed"),
        ({"axes": {"evaluation.n": [1, 2]}, "test": {"evaluation.n": 5}}, "evaluation.n is set by test and by axes"),
        ({"axes": {"model.beta": [1]}, "options": {"model.init_args.beta": 2}}, "beta is set by options and by axes"),
        ({"test": {"data.fraction": 0.5}}, "data.fraction is set by test and by fraction"),
        ({"test": {"evaluation.surrogate": "{teacher}"}}, "{teacher} stands for a checkpoint, but the cell has no"),
    ],
    ids=str,
)
def test_a_wrong_stage_is_named(stage, reason):
    with pytest.raises(ValueError, match=r"qat|evaluation") as error:
        cells(qat(**stage))
    assert reason in str(error.value)


def test_stages_that_differ_by_options_alone_are_refused_unless_coordinates_tell_them_apart():
    longer = Stage("long", "qat.yaml", "plain", init=["plain"], quantizer=["pact"], options={"trainer.max_epochs": 9})
    with pytest.raises(
        ValueError, match=r"^stage long: cell long-plain-pact-w4a4 has the same coordinates as qat-plain-"
    ):
        cells(qat(), longer)
    told = dataclasses.replace(longer, coordinates={"epochs": "9"})
    assert cells(qat(), told)["long-plain-pact-w4a4"].coordinates["epochs"] == "9"


def test_coordinates_that_hide_an_axis_are_refused():
    with pytest.raises(
        ValueError, match="cell qat-plain-pact-w4a4-seed1 has the same coordinates as qat-plain-pact-w4a4"
    ):
        cells(qat(coordinates={"seed": "0"}), seed=[0, 1])


def test_two_stages_that_make_cells_of_one_name_are_both_named():
    other = Stage("qat-plain", "qat.yaml", "adversarial", quantizer=["pact"])
    with pytest.raises(
        ValueError, match=r"^stages qat and qat-plain both make a cell named qat-plain-pact-w4a4: rename"
    ):
        cells(qat(), other)


def test_a_float_network_that_is_only_tested_hands_on_the_checkpoint_that_it_starts_from():
    tested = Stage("tested", "plain.yaml", "none", init=["robust"])
    again = Stage("again", "plain.yaml", "none", init=["tested"])
    found = cells(tested, again, qat(init=["again"]), sources={**SOURCES, "tested": "tested", "again": "again"})
    fit = shlex.join(found["qat-again-pact-w4a4"].commands[0])
    assert "--model.init_args.init_from at.ckpt" in fit
    assert found["qat-again-pact-w4a4"].needs == ("again-tested",)


def test_a_quantized_network_that_is_only_tested_hands_on_what_was_calibrated():
    ptq = Stage("ptq", "plain.yaml", "none", init=["robust"], quantizer=["pwlq"])
    found = cells(ptq, qat(init=["ptq"]), sources={**SOURCES, "ptq": "ptq"})
    fit = shlex.join(found["qat-ptq-pact-w4a4"].commands[0])
    assert "init_from runs/s/ptq-robust-pwlq-w4a4/calibrated.ckpt" in fit


def test_names_that_are_too_long_for_a_directory_are_cut_and_stay_apart():
    layers = [
        {f"stages.{n}.conv{place}": "W2" for n in range(20) for place in (1, 2)} | {"fc": fc} for fc in ("W2", "W4")
    ]
    first, second = list(cells(qat(overrides=layers)))[1:]
    assert first != second
    for name in (first, second):
        assert name.startswith("qat-plain-pact-w4a4-stages.0.conv1=W2_stages")
        assert len(name) < 150


def test_names_that_a_directory_can_have_are_never_cut():
    layers = {f"stages.{n}.conv1": "W2" for n in range(11)}
    name = list(cells(qat(overrides=[layers])))[1]
    assert 200 < len(name) <= 255
    assert name.endswith("stages.10.conv1=W2")


@pytest.mark.parametrize("name", ["../../x", "/tmp/elsewhere", "..", ".", "", " ", "a\nb", "a\\b", "n" * 300])
def test_a_study_and_a_stage_are_named_by_what_can_be_a_directory(name):
    with pytest.raises(ValueError, match=r"^name .* is not a plain directory name"):
        Study(name, [PLAIN])
    with pytest.raises(ValueError, match=r"^stage .* is not a plain directory name"):
        Study("s", [dataclasses.replace(PLAIN, name=name)])


def test_a_study_may_be_named_in_any_script():
    assert Study("Größe (2), v1.0", [PLAIN]).name == "Größe (2), v1.0"


def test_a_source_must_come_before():
    with pytest.raises(ValueError, match="starts from stage float, which must come before it"):
        expand(Study("s", [qat(), PLAIN], sources=SOURCES, quantizers=QUANTIZERS))


def test_a_source_of_several_cells_is_refused_if_none_fits_best():
    wide = Stage("wide", "plain.yaml", "plain", axes={"trainer.max_epochs": [1, 2]})
    with pytest.raises(ValueError, match="several cells that it could start from: wide-max_epochs1, wide-max_epochs2"):
        cells(wide, qat(init=["wide"]), sources={"wide": "wide"})


def test_a_selection_of_nothing_is_refused():
    with pytest.raises(ValueError, match="no cell matches 'none\\*'"):
        select(expand(study()), "none*")
    with pytest.raises(ValueError, match="numbered from 0 to 1"):
        select(expand(study()), shard=(2, 2))
