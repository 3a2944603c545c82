"""Figures hold the points and labels that they should."""

import numpy as np
import pytest
from made_up import cell, edit, read
from matplotlib.collections import PathCollection

from qra.evaluation.statistics import wilson_interval
from qra.report.curves import heat_map
from qra.report.figures import KINDS, drawings
from qra.report.paired import CLEAN, paired
from qra.report.style import SERIES, TRAININGS, WIDTHS
from qra.report.trends import trends

CURVE = {"clean": 0.8, "pgd20_2": 0.6, "pgd20_8": 0.4, "pgd20_32": 0.01}


def robust(study, name, accuracies, **more):
    cell(study, name, accuracies, **({"training": "adversarial", "init": "robust", "quantizer": "pact"} | more))


@pytest.fixture
def study(tmp_path):
    cell(tmp_path, "float", CURVE, training="adversarial", seconds=7200)
    robust(tmp_path, "w8", {**CURVE, "pgd20_8": 0.39}, bits=(8, 8), seconds=3600)
    robust(tmp_path, "w2", {**CURVE, "pgd20_8": 0.2}, bits=(2, 2), masking="suspect", seconds=3600)
    robust(tmp_path, "act", {**CURVE, "pgd20_8": 0.41}, bits=(32, 4), seconds=3600)
    return tmp_path


def drawn(study):
    made, missing = drawings(read(study))
    return {drawing.name: drawing for drawing in made}, missing


def labels(figure):
    found = [text.get_text() for legend in figure.legends for text in legend.get_texts()]
    return found + [text.get_text() for axes in figure.axes for text in axes.texts]


def test_curves_hold_every_bit_width_and_the_float_network(study):
    figure = drawn(study)[0]["curves-1"].figure
    both = next(axes for axes in figure.axes if axes.get_title(loc="left") == "PACT\nrobust start, adversarial")
    lines = {line.get_label(): line for line in both.get_lines()}
    assert lines.keys() == {"8 bits", "2 bits", "float, treated alike"}
    assert lines["8 bits"].get_xdata().tolist() == [0, 2, 8, 32]
    assert lines["8 bits"].get_ydata() == pytest.approx([80, 60, 39, 1])
    assert lines["float, treated alike"].get_ydata() == pytest.approx([80, 60, 40, 1])
    assert set(labels(figure)) == {"2 bits", "4 bits", "8 bits", "float, treated alike"}
    assert any("activations only" in axes.get_title(loc="left") for axes in figure.axes)


def test_suspect_pipelines_have_hollow_markers(study):
    figure = drawn(study)[0]["curves-1"].figure
    lines = {line.get_label(): line for axes in figure.axes for line in axes.get_lines()}
    assert lines["2 bits"].get_markerfacecolor() == (1, 1, 1)
    assert lines["8 bits"].get_markerfacecolor() != (1, 1, 1)


def test_a_study_of_float_networks_has_curves_too(tmp_path):
    cell(tmp_path, "plain", {**CURVE, "pgd20_8": 0})
    cell(tmp_path, "at", CURVE, training="adversarial")
    figure = drawn(tmp_path)[0]["curves-1"].figure
    assert set(labels(figure)) == {"float, plain training", "float, adversarial"}


def test_the_heat_map_shows_each_number_and_marks_suspect_ones(study):
    figure = drawn(study)[0]["heat-map"].figure
    assert [text.get_text() for text in figure.axes[0].texts] == ["39.0", "20.0?", "41.0"]
    assert [tick.get_text() for tick in figure.axes[0].get_xticklabels()] == ["W8\nA8", "W2\nA2", "W32\nA4"]
    assert [tick.get_text() for tick in figure.axes[0].get_yticklabels()] == ["robust start, adversarial, PACT"]


def points(axes):
    return sorted(tuple(np.round(collection.get_offsets()[0], 3)) for collection in axes.collections)


def test_clean_against_robust_has_a_point_for_each_pipeline(study):
    figure = drawn(study)[0]["clean-robust"].figure
    assert points(figure.axes[0]) == [(80, 20), (80, 39), (80, 40), (80, 41)]
    assert {"float", "8 bits", "4 bits", "2 bits", "PACT", "suspect", "robust start"} == set(labels(figure))


def test_clean_against_robust_has_a_marker_for_each_quantizer_and_a_panel_for_each_training(study):
    robust(study, "lsq", {**CURVE, "pgd20_8": 0.3}, quantizer="lsq", bits=(4, 4))
    robust(study, "mine", {**CURVE, "pgd20_8": 0.25}, quantizer="mine", bits=(4, 4))
    robust(study, "ptq", {**CURVE, "pgd20_8": 0.35}, quantizer="pwlq", training="none", bits=(4, 4))
    figure = drawn(study)[0]["clean-robust"].figure
    keys = {key.get_label(): key.get_marker() for key in figure.legends[0].get_lines()}
    assert len({keys[name] for name in ("PACT", "LSQ", "mine", "PWLQ")}) == 4
    shapes = {shown.get_paths()[0].vertices.tobytes() for axes in figure.axes for shown in axes.collections}
    assert len(shapes) == 5
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["adversarial", "post-training"]
    assert points(figure.axes[1]) == [(80, 35), (80, 40)]  # with the float network it was made from


def test_curves_are_compared_at_the_same_budgets(study):
    robust(study, "few", {"clean": 0.8, "pgd20_2": 0.6, "pgd20_32": 0.01}, quantizer="lsq", bits=(4, 4))
    figure = drawn(study)[0]["curves-1"].figure
    axes = next(axes for axes in figure.axes if axes.get_title(loc="left").startswith("LSQ"))
    assert {line.get_label(): line.get_xdata().tolist() for line in axes.get_lines()} == {
        "4 bits": [0, 2, 32],
        "float, treated alike": [0, 2, 32],
    }


def test_the_front_passes_through_what_nothing_smaller_beats(study):
    figure = drawn(study)[0]["pareto-size"].figure
    assert len(figure.axes[0].collections) == 4
    assert "1  PACT W8A8, robust start, adversarial" in figure.get_supxlabel()
    assert "W2A2" not in figure.get_supxlabel()


def test_attacks_are_set_side_by_side(tmp_path):
    accuracies = {"clean": 0.9, "pgd20_2": 0.3, "pgd20_2_hard": 0.8, "square_2": 0.4}
    robust(tmp_path, "a", accuracies, bits=(4, 4), masking="suspect")
    figure = drawn(tmp_path)[0]["attacks"].figure
    assert labels(figure) == ["PGD-20", "Square", "PGD-20, hard"]
    assert all(key.get_markerfacecolor() == key.get_color() for key in figure.legends[0].get_lines())
    scattered = [c.get_offsets()[0] for c in figure.axes[0].collections if isinstance(c, PathCollection)]
    assert [(x, y) for x, y in scattered] == [(30, 0), (40, 0), (80, 0)]


@pytest.mark.parametrize(
    ("name", "axis", "values", "shown"),
    [
        ("data-size", "fraction", (0.1, 0.5, 1.0), [10, 50, 100]),
        ("calibration-size", "calibration_size", (16, 128, 512), [16, 128, 512]),
        ("over-model-attack-eps", "model.attack.eps", ("4/255", "8/255"), ["4/255", "8/255"]),
        ("over-model-beta", "model.beta", (1, 3.0, 6), [1, 3, 6]),
    ],
)
def test_accuracy_over_an_axis(tmp_path, name, axis, values, shown):
    for place, value in enumerate(values):
        robust(tmp_path, f"c{place}", {"clean": 0.7, "pgd20_8": 0.2 + 0.1 * place}, bits=(4, 4), axes={axis: value})
    figure = drawn(tmp_path)[0][name].figure
    line = figure.axes[1].get_lines()[0]
    assert len(line.get_xdata()) == len(values)
    assert line.get_ydata() == pytest.approx([20, 30, 40][: len(values)])
    low, high = figure.axes[1].containers[0][2][0].get_segments()[0][:, 1]
    assert (low, high) == pytest.approx([100 * end for end in wilson_interval(200, 1000)])
    assert [tick.get_text() for tick in figure.axes[1].get_xticklabels()] == [str(value) for value in shown]


def test_pipelines_whose_labels_are_too_long_to_differ_have_lines_of_their_own(tmp_path):
    first, second = "data.augmentation_strength_of_images", "model.regularization_of_teacher_weight"
    for place, (one, other) in enumerate(((1, 0.1), (2, 0.1), (1, 0.2), (2, 0.2))):
        robust(tmp_path, f"c{place}", {"clean": 0.7, "pgd20_8": 0.3}, bits=(4, 4), axes={first: one, second: other})
    results = read(tmp_path)
    assert len({results.label(pipeline) for pipeline in results.pipelines}) == 4
    figures = {drawing.name: drawing.figure for drawing in trends(results)}
    lines = figures["over-data-augmentation-strength-of-images"].axes[1].containers
    assert [list(line[0].get_xdata()) for line in lines] == [[1, 2], [1, 2]]
    assert len({line.get_label() for line in lines}) == 2


def test_the_heat_map_has_a_row_for_each_pipeline_though_their_labels_are_cut_alike(tmp_path):
    for place, robust_accuracy in enumerate((0.2, 0.3)):
        axes = {"model.regularization_of_the_teacher": f"{'x' * 90}{place}{'y' * 90}"}
        robust(tmp_path, f"c{place}", {"clean": 0.7, "pgd20_8": robust_accuracy}, bits=(4, 4), axes=axes)
    (drawing,) = heat_map(read(tmp_path))
    assert {text.get_text() for text in drawing.figure.axes[0].texts} == {"20.0", "30.0"}


def test_a_bit_width_has_one_colour_in_every_figure_of_every_study(study, tmp_path):
    other = tmp_path / "other"
    robust(other, "w2", CURVE, bits=(2, 2))
    robust(other, "w2-more", {**CURVE, "pgd20_8": 0.3}, bits=(2, 2), axes={"calibration_size": 16})
    robust(other, "w2-less", {**CURVE, "pgd20_8": 0.3}, bits=(2, 2), axes={"calibration_size": 32})
    colors = set()
    for made in (drawn(study)[0], drawn(other)[0]):
        lines = [line for axes in made["curves-1"].figure.axes for line in axes.get_lines()]
        colors |= {line.get_color() for line in lines if line.get_label() == "2 bits"}
        keys = made["clean-robust"].figure.legends[0].get_lines()
        colors |= {key.get_color() for key in keys if key.get_label() == "2 bits"}
    colors |= {line.get_color() for line in drawn(other)[0]["calibration-size"].figure.axes[0].get_lines()}
    assert len(colors) == 1


def test_budgets_are_evenly_spaced_on_a_named_axis(study):
    axes = drawn(study)[0]["curves-1"].figure.axes[0]
    assert axes.get_xscale() == "linear"
    assert axes.get_xlim()[1] > 32
    assert axes.get_xlabel() == "budget eps of the attack (pixel levels of 255)"


def test_the_bars_are_times(study):
    axes = drawn(study)[0]["cost"].figure.axes[0]
    assert axes.get_xlabel() == "median fit time of a cell (h)"
    assert [bar.get_width() for bar in axes.patches] == [1, 2]
    assert [text.get_text() for text in axes.texts] == ["1 h 00 min", "2 h 00 min"]


def test_what_cannot_be_drawn_is_said(tmp_path):
    cell(tmp_path, "a", {"clean": 0.5}, seconds=0)
    made, missing = drawn(tmp_path)
    assert not made
    assert len(missing) == len(KINDS)
    assert all(": needs " in reason for reason in missing)


def test_series_are_told_apart_in_grey_and_by_the_colour_blind():
    for part in zip(*SERIES, strict=True):
        assert len({str(each) for each in part[:7]}) == 7
    assert len(set(TRAININGS.values())) == len(TRAININGS)
    assert len({color for color, _ in WIDTHS.values()}) == len({marker for _, marker in WIDTHS.values()}) == len(WIDTHS)


def test_a_strange_training_and_a_size_of_zero_are_drawn(tmp_path):
    robust(tmp_path, "a", CURVE, training="mine", bits=(4, 4))
    robust(tmp_path, "b", CURVE, training="plain", bits=(4, 4))
    edit(tmp_path / "a" / "result.json", lambda content: content["cost"].update(size_in_bits=0))
    made, _ = drawn(tmp_path)
    assert "mine" in [axes.get_title(loc="left") for axes in made["clean-robust"].figure.axes]
    assert made["clean-robust"].svg.startswith(b"<?xml")


def test_the_sensitivity_of_layers_is_what_each_loses_with_the_greatest_loss_on_top(tmp_path):
    def layer(name, clean, attacked, overrides):
        directory = cell(tmp_path, name, {"clean": clean, "pgd20_8": attacked}, quantizer="pact", bits=(4, 4))
        if overrides:
            edit(directory / "cell.json", lambda content: content["coordinates"].update(overrides=overrides))

    layer("whole", 0.8, 0.4, "")
    layer("first", 0.7, 0.38, "conv1=W2")
    layer("last", 0.75, 0.2, "fc=W2")
    found, results = drawn(tmp_path)[0], read(tmp_path)
    (axes,) = found["sensitivity-1"].figure.axes
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["conv1 at W2", "fc at W2"]
    clean, attacked = (container for container in axes.containers if hasattr(container, "datavalues"))
    assert clean.datavalues == pytest.approx([10, 5])
    assert attacked.datavalues == pytest.approx([2, 20])
    whole, first = (next(p for p in results.pipelines if p.cells[0].name == name) for name in ("whole", "first"))
    effect = paired(whole, first, ("", ""), (CLEAN, CLEAN)).effect(1)
    (low, high), *_ = (segment[:, 0] for segment in clean.errorbar[2][0].get_segments())
    assert high - low == pytest.approx(100 * (effect.high - effect.low), rel=1e-3)
    assert set(labels(found["sensitivity-1"].figure)) == {"clean", "PGD-20, eps 8/255"}
    assert "n = 1,000" in found["sensitivity-1"].caption


def test_one_set_of_layers_alone_has_no_sensitivity(tmp_path):
    cell(tmp_path, "whole", CURVE, quantizer="pact", bits=(4, 4))
    assert "sensitivity-1" not in drawn(tmp_path)[0]
