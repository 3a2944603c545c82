"""The benchmarks run, and compare only what is comparable."""

import importlib
import json
import time
from pathlib import Path

import pytest
import torch

from qra.graphs import InputReplays

DIRECTORY = Path(__file__).parents[1] / "benchmarks"

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(DIRECTORY))
    return importlib.import_module


def test_attack_speed_has_a_row_for_each_attack(script, tmp_path):
    file = tmp_path / "speed.json"
    tiny = ["--batch-size", "8", "--rounds", "1", "--steps", "2", "--json", str(file)]
    rows = script("attack_speed").main(tiny)
    names = {"plain loop", "qra PGD", "qra PGD, frozen", "qra PGD, frozen, bfloat16", "pyautoattack APGD-CE"}
    assert names <= {row["attack"] for row in rows}
    assert all(row["image-steps/s"] > 0 for row in rows)
    figures = json.loads(file.read_text())
    assert figures["rows"] == rows
    assert figures["settings"]["steps"] == 2
    assert figures["environment"]["threads"] == torch.get_num_threads()


def test_training_speed_has_a_row_for_each_step_and_setting(script, capsys):
    tiny = ["--batch-size", "4", "--rounds", "1", "--steps", "1", "--inner-steps", "1", "--images", "40"]
    rows = script("training_speed").main(tiny)
    settings = ["float32", "bfloat16", "float32, channels-last", "bfloat16, channels-last"]
    steps = [("plain", setting) for setting in settings] + [("PGD-1 AT", setting) for setting in settings]
    assert [(row["step"], row["setting"]) for row in rows] == [*steps, ("loading and augmenting", "float32")]
    assert rows[0]["ratio"] == rows[4]["to own float32"] == 1
    assert "of a plain step in float32" in capsys.readouterr().out


def test_recording_is_not_timed(script):
    calls = iter(range(1, 100))

    def work():
        if next(calls) == InputReplays.worth:
            time.sleep(0.3)

    ms, _ = script("gradient_speed").milliseconds(work, 3, torch.device("cpu"))
    assert ms < 50


def test_floors_are_of_the_sizes_and_kinds_of_passes_that_ran(script, monkeypatch):
    module, measured = script("autoattack_speed"), []

    def cost(network, x, kind, device):
        measured.append((kind, len(x)))
        return float(len(x))

    monkeypatch.setattr(module, "cost", cost)
    counted = module.Counted(torch.nn.Identity())
    counted.calls["forwards"].update({3: 2, 250: 1})
    floors = module.floors(module.Trial([], torch.empty(0), [counted]), torch.zeros(250, 3, 8, 8), torch.device("cpu"))
    assert floors == (256, 256)
    assert measured == [("forwards", size) for size in (2, 4, 128, 256)]


@pytest.mark.slow
def test_convolution_speed_has_a_row_for_each_precision_size_and_shape(script):
    rows = script("convolution_speed").main(["--sizes", "1", "2", "--rounds", "1"])
    assert len({(row["precision"], row["batch"], row["channels"]) for row in rows}) == len(rows) == 3 * 2 * 4
    assert all(row["ratio"] == row["own"] / row["mirrored"] > 0 for row in rows)


@pytest.mark.slow
def test_strategy_cost_has_a_row_for_each_strategy_and_student(script, capsys):
    rows = script("strategy_cost").main(["--batch-size", "2", "--rounds", "1", "--inner-steps", "1"])
    strategies = ["plain", "adversarial", "TRADES", "MART", "RSLAD", "ARD", "ARD, kd_weight 0.5", "IAD", "AdaAD"]
    strategies += ["RRM", "LwF"]
    found = [(row["strategy"], row["student"]) for row in rows]
    assert found == [(strategy, student) for student in ("float", "W4A4") for strategy in strategies]
    assert all(row["to plain"] == 1 for row in rows if row["strategy"] == "plain")
    assert all(row["lowest"] <= row["to plain"] <= row["highest"] for row in rows)
    assert "to plain: time of a step" in capsys.readouterr().out


def test_quantized_speed_has_a_row_for_each_network(script):
    rows = script("quantized_speed").main(["--batch-size", "2", "--rounds", "1", "--steps", "1"])
    quantized = {f"qra, {name}" for name in ("PACT and DoReFa", "PACT and SAWB", "PACT and uniform weights", "LSQ")}
    trained = {row["network"] for row in rows if row["work"] == "training step"}
    assert {"float", *quantized, "floor: ReLU and one pass more", "PACT and DoReFa, written plainly"} <= trained
    attacked = {row["network"] for row in rows if row["work"] == "attack step"}
    assert attacked == {"float", *quantized, "qra, PACT and DoReFa, not frozen"}
    assert all(row["ratio"] == 1 for row in rows if row["network"] == "float")


def test_autoattack_speed_counts_passes_and_compares_outcomes(script, capsys):
    tiny = ["--n", "3", "--steps", "2", "--targets", "2", "--queries", "4"]
    ours, theirs = script("autoattack_speed").main(tiny)
    assert (ours["code"], theirs["code"]) == ("qra", "pyautoattack")
    assert ours["correct"] == theirs["correct"]
    assert 0 < ours["gradients"] <= theirs["gradients"]
    assert ours["forwards"] <= theirs["forwards"]
    assert ours["floor, as batched (s)"] > 0
    assert "outcomes are the same for every example" in capsys.readouterr().out


def test_an_example_that_ends_otherwise_is_named(script):
    module = script("autoattack_speed")
    network = script("common").untrained().eval()
    x = torch.zeros(2, 3, 8, 8)
    trials = {name: module.Trial([1.0], torch.tensor(correct), []) for name, correct in
              (("qra", [True, False]), ("pyautoattack", [True, True]))}  # fmt: skip
    lines = module.notes(trials, network, x, torch.zeros(2, dtype=torch.int64))
    assert lines[1:] == ["example 1 is broken by qra alone"]


@pytest.mark.slow
def test_deploy_speed_has_a_row_for_each_engine_and_form(script, capsys):
    rows = script("deploy_speed").main(["--batch-size", "2", "--rounds", "1", "--images", "4"])
    assert len(rows) == 7
    assert rows[0]["ratio"] == 1
    faithful = [row for row in rows if "QDQ" in row["run by"] and "with its defaults" not in row["run by"]]
    assert [row["decisions that differ"] for row in faithful] == [0, 0]
    assert "model" not in capsys.readouterr().err


def test_images_that_a_network_gets_right_under_fewer_and_more_changes_than_its_parent_are_counted(script):
    table = script("corruption_table")
    indices = torch.arange(6)
    parent = {shift: (indices, torch.tensor([1, 1, 1, 0, 0, 0]).bool()) for shift in table.SHIFTS}
    own = {shift: (indices.flip(0), torch.tensor([0, 0, 1, 1, 0, 0]).bool()) for shift in table.SHIFTS}
    assert table.beside_parent(parent, own).startswith("2 / 1, ")


def test_contestants_take_turns_and_the_first_round_is_not_counted(script):
    calls = []
    contestants = {name: lambda name=name: calls.append(name) for name in "ab"}
    timings = script("common").alternate(contestants, 2, torch.device("cpu"))
    assert "".join(calls) == "ababab"
    assert [len(timing.seconds) for timing in timings.values()] == [2, 2]


def test_on_a_gpu_recording_is_not_timed(script, monkeypatch):
    waits = []
    monkeypatch.setattr(torch.cuda, "synchronize", waits.append)
    (timing,) = script("common").alternate({"": lambda: len(waits)}, 3, torch.device("cuda")).values()
    assert len(timing.seconds) == 3
    assert timing.result == InputReplays.worth + 2  # the last of three rounds after the one that records


def test_a_ratio_compares_within_rounds(script):
    common = script("common")
    ours, theirs = common.Timing([1.0, 5.0, 2.0], None), common.Timing([2.0, 5.0, 8.0], None)
    assert common.speed_ratio(ours, theirs) == {"ratio": 2, "lowest": 1, "highest": 4}


@pytest.mark.parametrize(
    ("steps", "stray", "message"), [(3, 0, None), (1, 0, "different attack"), (3, 0.01, "left the ball")]
)
def test_only_the_same_attack_is_compared(script, steps, stray, message):
    module, common = script("attack_speed"), script("common")
    network = common.untrained().eval()
    x, y = module.attackable(network, 8, torch.device("cpu"))
    adversarial = {
        "plain loop": module.plain_loop(network, x, y, 3),
        "other": module.plain_loop(network, x, y, steps) + stray,
    }
    timings = {name: common.Timing([1.0], x_adv) for name, x_adv in adversarial.items()}
    losses = {name: module.mean_loss(network, x_adv, y) for name, x_adv in adversarial.items()}
    arguments = timings, x, losses, module.mean_loss(network, x, y)
    if message is None:
        module.check_same_attack(*arguments)
    else:
        with pytest.raises(SystemExit, match=message):
            module.check_same_attack(*arguments)


@pytest.mark.slow
def test_what_imagenet_costs_is_what_its_page_says(script, capsys):
    script("imagenet_cost").main()
    table = capsys.readouterr().out.partition("\n\n")[0]
    assert table in (DIRECTORY.parent / "docs/howto/imagenet.md").read_text()
