"""The examples of docs/extending.md are complete, and do what the page says."""

import gc
import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import CONFIGS, NETWORK, TINY, TINY_FIT, pipeline, qra
from torch import nn

from qra import load
from qra.evaluation.outcome import read_correct

ROOT = CONFIGS.parent
PAGE = (ROOT / "docs/extending.md").read_text()
FILES = dict(re.findall(r"```(?:python|yaml)\n# (\S+)\n(.*?)```", PAGE, re.DOTALL))
COMMANDS = [
    line.removeprefix("$ ")
    for block in re.findall(r"```console\n(.*?)```", PAGE, re.DOTALL)
    for line in block.splitlines()
]
TEST_IMAGES = {"--data.init_args.test_size": "200"}
"""As many as the evaluations of the page take."""
LIGHTNING = [command for command in COMMANDS if re.match(r"qra (fit|test|predict) ", command)]


@pytest.fixture(scope="module")
def copied(tmp_path_factory):
    """The directory of a reader who has copied all files."""
    directory = tmp_path_factory.mktemp("copied")
    for folder in CONFIGS.iterdir():
        (directory / "configs" / folder.name).parent.mkdir(exist_ok=True)
        (directory / "configs" / folder.name).symlink_to(folder)
    for name, content in FILES.items():
        (directory / name).parent.mkdir(exist_ok=True)
        (directory / name).write_text(content)
    _write_images(directory / "data/mine.npz")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(directory)
        patch.setenv("PYTHONPATH", f"{directory}:{ROOT}")
        yield directory
    for name in [name for name in sys.modules if name.split(".")[0] == "mine"]:
        del sys.modules[name]
    gc.collect()  # classes that are gone from the modules would still be found as subclasses


@pytest.fixture(autouse=True)
def _among_the_files_of_the_page(copied, monkeypatch):
    monkeypatch.chdir(copied)


def _write_images(path):
    numbers = np.random.default_rng(0)
    arrays = {}
    for part, size in (("train", 80), ("test", 40)):
        arrays[f"x_{part}"] = numbers.integers(0, 256, (size, 32, 32, 3), dtype=np.uint8)
        arrays[f"y_{part}"] = np.arange(size) % 10
    path.parent.mkdir()
    np.savez(path, **arrays)


def words_of(command):
    """The words of a command, with a config in the place of the one that would lie beside its checkpoint."""
    words = shlex.split(command)[1:]
    return words if "--config" in words else [words[0], *pipeline("quickstart-plain"), *words[1:]]


@pytest.mark.parametrize("command", [command for command in LIGHTNING if "--config runs/" not in command])
def test_each_command_is_understood(command):
    output, code = qra(*words_of(command), "--print_config")
    assert code == 0, output
    assert all(word in output for word in re.findall(r"mine\.\w+\.\w+", command))


def test_every_config_of_the_page_is_used():
    configs = [name for name in FILES if name.endswith(".yaml")]
    assert len(configs) >= 9
    assert all(any(name in command for command in COMMANDS) for name in configs)


def test_every_class_of_the_page_is_used():
    configs_and_commands = PAGE + "".join(COMMANDS)
    defined = [
        f"{name.removesuffix('.py').replace('/', '.')}.{cls}"
        for name, content in FILES.items()
        for cls in re.findall(r"^class (\w+)", content, re.MULTILINE)
    ]
    assert len(defined) >= 9
    unused = {name for name in defined if name not in configs_and_commands}
    assert unused == set()


def test_the_study_has_the_cells_it_promises():
    output, code = qra("study", "list", "configs/mine/study.yaml")
    assert code == 0, output
    names = re.findall(r"^# (\S+)", output, re.MULTILINE)
    assert len(names) == 7
    assert "qat-plain-powers-w2a4" in names


@pytest.mark.parametrize("bit_width", [2, 4, 8])
def test_powers_of_two_has_no_more_levels_than_its_bits_can_tell(bit_width):
    from mine.weights import PowersOfTwo

    w = torch.randn(50, 40, generator=torch.Generator().manual_seed(0)).requires_grad_()
    quantized = PowersOfTwo().quantize(w, bit_width, {})
    levels = quantized.detach().unique()
    assert len(levels) <= 2**bit_width - 1
    exponents = levels[levels != 0].abs().log2()
    assert torch.equal(exponents, exponents.round())
    quantized.sum().backward()
    assert torch.equal(w.grad, torch.ones_like(w))


def test_square_root_steps_round_and_are_differentiated_as_told():
    from mine.activations import SquareRootSteps

    x = torch.tensor([-1.0, 0.3, 0.9, 2.0], dtype=torch.float64)
    slopes = {"ste": [0, 1, 1, 0], "ste_soft": [0, 1, 1, 1], "hard": [0, 0, 0, 0]}
    for mode, expected in slopes.items():
        leaf = x.clone().requires_grad_()
        result = SquareRootSteps().quantize(leaf, 2, {"high": 1.0}, mode)
        torch.testing.assert_close(result.detach(), torch.tensor([0, 4 / 9, 1, 1], dtype=torch.float64))
        result.sum().backward()
        assert leaf.grad.tolist() == expected


def test_the_attacks_stay_in_the_ball_and_do_harm():
    from mine.attacks import RandomSearch, TopPixelsPGD

    generator = torch.Generator().manual_seed(0)
    x, y = torch.rand(8, 3, 6, 6, generator=generator), torch.arange(8) % 4
    network = nn.Sequential(nn.Flatten(), nn.Linear(108, 4))
    clean = nn.functional.cross_entropy(network(x), y)
    for attack in (RandomSearch(eps=0.1), TopPixelsPGD(eps=0.1, step_size=0.05, share=0.2)):
        x_adv = attack(network, x, y)
        assert (x_adv - x).abs().max() <= 0.1 + 1e-6
        assert x_adv.min() >= 0
        assert x_adv.max() <= 1
        assert nn.functional.cross_entropy(network(x_adv), y) > clean


def pairs(words):
    return dict(zip(words[::2], words[1::2], strict=True))


def tiny_options(words):
    """What makes a command of the page take a second."""
    options = {**pairs(TINY_FIT), "--trainer.max_epochs": "1"} if words[0] == "fit" else pairs(TINY)
    if "configs/mine/data.yaml" in words:
        for name in ("--data", "--data.init_args.train_size", "--data.init_args.test_size"):
            del options[name]
    else:
        options |= TEST_IMAGES
    if words[1] == "--config" and words[2].startswith("configs/") and "configs/mine/network.yaml" not in words:
        options |= pairs(NETWORK)
    if "--trainer.callbacks.teacher" in words:
        options["--trainer.callbacks.if_not_robust"] = "warn"
    return [word for pair in options.items() for word in pair]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*teacher", "ignore:.*student")
def test_all_commands_of_the_page_run_one_after_the_other():
    for command in LIGHTNING:
        words = shlex.split(command)[1:]
        output, code = qra(*words, *tiny_options(words))
        assert code == 0, f"{command}\n{output}"
    from mine.networks import Plain

    network = load("runs/network/best.ckpt", Plain())
    assert network(torch.zeros(1, 3, 32, 32)).shape == (1, 10)
    assert load("runs/powers/best.ckpt")(torch.zeros(1, 3, 32, 32)).shape == (1, 10)
    assert {"random_8", "random_16", "random_search_8"} <= read_correct(Path("runs/plain-random/correct.npz")).keys()
    assert {"pgd2_8", "pgd2_8_ste_soft", "pgd2_8_hard"} <= read_correct(Path("runs/square-root/correct.npz")).keys()
    assert Path("runs/top-pixels-images/adversarial.png").exists()


@pytest.mark.slow
def test_the_study_of_the_page_runs_and_is_reported():
    options = pairs([*TINY_FIT, *NETWORK]) | TEST_IMAGES
    fit = {name.removeprefix("--"): value for name, value in options.items() if "evaluation" not in name}
    study = Path("configs/mine/small-study.yaml")
    study.write_text(
        f"{study.with_name('study.yaml').read_text()}calibration_size: [{fit.pop('data.init_args.calibration_size')}]\n"
    )
    tiny = [word for name, value in fit.items() for word in ("--set", f"{name}={value}")]
    output, code = qra("study", "run", study, "--only", "qat-plain-powers-w2a4*", *tiny)
    assert code == 0, output
    output, code = qra("report", "runs/powers-of-two")
    assert code == 0, output
    assert Path("runs/powers-of-two/report/report.html").exists()
