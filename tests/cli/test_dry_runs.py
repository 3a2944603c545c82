"""What a command would do, said without doing it."""

import re
from pathlib import Path

import pytest
from commands import CONFIGS, NETWORK, TINY, pipeline, qra, refused, trained
from torch.nn.functional import cross_entropy

from qra.modules import ImageClassifier

FIT = [*pipeline("float-at"), *TINY, *NETWORK, "--trainer.max_epochs", "3", "--model.attack.steps", "4"]
FIT += ["--model.val_attack.steps", "5"]


def rows(output):
    """Images, forward and backward passes of each row of the table."""
    found = [re.split(r"\s*[│┃]\s*", line)[1:5] for line in output.splitlines() if line.startswith("│")]
    return {what: tuple(int(n.replace(",", "")) for n in numbers if n) for what, *numbers in found}


def test_a_fit_tells_its_steps_and_validations_and_where_it_would_write():
    output, code = qra("fit", *FIT, "--dry_run", "--run", "runs/there")
    assert code == 0, output
    found = rows(output)
    images = 3 * 60  # epochs of three batches of 20
    assert found["training, 3 epochs"] == (images, 5 * images, 5 * images)  # 4 steps of PGD and one of training
    assert found["3 validations, PGD-5"] == (3 * 20, 3 * 20 * 7, 3 * 20 * 5)  # clean, 5 steps, judged
    assert "qra fit would take about" in output
    assert output.splitlines()[-1] == "it would write to runs/there; nothing was written"
    assert not list(Path().iterdir())


def test_limits_of_the_trainer_count():
    limits = ["--trainer.max_steps", "4", "--trainer.limit_val_batches", "0"]
    output, code = qra("fit", *FIT, *limits, "--dry_run=true")
    assert code == 0, output
    assert rows(output)["training, 2 of 3 epochs"][0] == 4 * 20
    assert rows(output)["2 validations, PGD-5"][0] == 0


def test_a_test_tells_each_attack_of_each_evaluation(tmp_path):
    checkpoint = trained(tmp_path, *TINY, *NETWORK, "--trainer.max_epochs", "1")
    before = sorted(tmp_path.rglob("*"))
    more = ["--trainer.callbacks+", str(CONFIGS / "callback/white-box.yaml"), "--trainer.callbacks.attack.steps", "3"]
    output, code = qra("test", "--ckpt_path", checkpoint, *TINY, *more, "--dry_run")
    assert code == 0, output
    found = rows(output)
    assert found["clean images"] == (40, 40, 0)
    assert found["PGD-2, eps 2/255"] == found["PGD-2, eps 8/255"] == (10, 20, 20)
    assert found["PGD-2, eps 0/255"] == (10, 0, 0)
    (cascade,) = (numbers for what, numbers in found.items() if what.startswith("APGD-CE"))
    assert cascade == (40, 40 * (3 + 9 * 3 + 2 * 9 * 3), 40 * (3 + 9 * 3 + 9 * 3))
    assert found["together"][0] == sum(numbers[1] for numbers in found.values() if len(numbers) == 3)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_network_that_is_quantized_at_the_start_of_a_test_is_tried_as_it_will_be(plain_run):
    more = ["--trainer.callbacks+", str(CONFIGS / "callback/pwlq.yaml")]
    config = ["--config", plain_run / "config.yaml"]
    output, code = qra("test", *config, "--ckpt_path", plain_run / "best.ckpt", *more, "--run", "q", "--dry_run")
    assert code == 0, output
    assert rows(output)["calibration"] == (20, 20, 0)
    assert not Path("q").exists()


def test_a_resumed_fit_tells_what_is_left(plain_run):
    arguments = ["--config", plain_run / "config.yaml", "--run", plain_run, "--trainer.max_epochs", "5"]
    output, code = qra("fit", *arguments, "--ckpt_path", plain_run / "last.ckpt", "--dry_run")
    assert code == 0, output
    assert rows(output)["training, 3 of 5 epochs"][0] == 3 * 60


class Logging(ImageClassifier):
    def training_loss(self, batch):
        loss = cross_entropy(self(batch.x), batch.y)
        self.log("train/mine", loss)
        return loss


def test_a_training_that_logs_is_tried_without_a_warning():
    arguments = ["fit", *pipeline("float-plain"), *TINY, *NETWORK, "--model", f"{__name__}.Logging", "--run", "r"]
    output, code = qra(*arguments, "--dry_run")
    assert code == 0, output
    assert "self.log" not in output


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (
            ["validate", "--untrained", "true", "--dry_run"],
            "--dry_run is an option of qra fit, qra test and qra study run",
        ),
        (
            ["fit", "--trainer.fast_dev_run", "true", "--dry_run"],
            "--trainer.fast_dev_run tries a few batches: give one",
        ),
        (
            ["fit", "--dry_run", "--model", "qra.modules.ImageClassifier"],
            "the training step cannot be tried: ImageClas",
        ),
        (["fit", "--dry_run", "maybe"], "dry_run: expected bool, got maybe"),
        (["fit", "--dry_run", "--trainer.max_epochs", "-1"], "a training without an end"),
        (["test", "--dry_run"], "the network has no trained weights"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_dry_run_that_could_tell_nothing_is_refused(arguments, reason):
    command, *options = arguments
    assert reason in refused(command, *pipeline("float-at"), *TINY, *NETWORK, *options)
    assert not list(Path().iterdir())
