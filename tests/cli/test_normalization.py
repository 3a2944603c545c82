"""By what a network normalizes: by its data when training begins, by its checkpoint ever after."""

import torch
import yaml
from commands import NETWORK, TINY, TINY_FIT, pipeline, qra

from qra.models import CIFAR10_MEAN


def stored(path):
    """The mean that a network normalizes by, and the one that its checkpoint describes."""
    content = torch.load(path, weights_only=True)
    mean = content["state_dict"]["network.normalize.mean"].flatten()
    return mean, torch.tensor(content["qra"]["network"]["init_args"]["mean"])


def configured(run):
    return yaml.safe_load((run / "config.yaml").read_text())["model"]["init_args"]["network"]["init_args"]["mean"]


def test_the_mean_of_the_data_is_stored_with_a_run(plain_run):
    mean, described = stored(plain_run / "best.ckpt")
    assert torch.equal(mean, described)
    assert torch.equal(mean, torch.tensor(configured(plain_run)))
    assert (mean - torch.tensor(CIFAR10_MEAN)).abs().min() > 0.001


def test_a_checkpoint_brings_its_own_to_a_test_and_to_a_training_on_other_data(plain_run, tmp_path):
    best = plain_run / "best.ckpt"
    other = ("--data.init_args.data_seed", "7", "--data.init_args.train_size", "60")
    output, code = qra(
        "fit", *pipeline("qat-plain"), *TINY_FIT, *NETWORK, *other, "--model.init_from", best, "--run", "qat"
    )
    assert code == 0, output
    assert torch.equal(stored(tmp_path / "qat/best.ckpt")[0], stored(best)[0])


def test_a_pipeline_tests_a_checkpoint_as_the_network_that_it_describes(plain_run, tmp_path):
    for name, config in (("by-pipeline", [*pipeline("float-plain"), *NETWORK]), ("by-itself", [])):
        output, code = qra("test", *config, *TINY, "--ckpt_path", plain_run / "best.ckpt", "--run", name)
        assert code == 0, output
    results = [yaml.safe_load((tmp_path / name / "result.json").read_text()) for name in ("by-pipeline", "by-itself")]
    assert results[0]["network"] == results[1]["network"]


def test_a_training_goes_on_with_what_it_had(tmp_path):
    """As one that an earlier version began, which normalized all data as CIFAR-10."""
    mean = [round(value + 1e-4, 4) for value in CIFAR10_MEAN]
    fit = ("fit", *pipeline("float-plain"), *TINY_FIT, *NETWORK, "--run", "run")
    assert qra(*fit, "--model.network.init_args.mean", str(mean))[1] == 0
    output, code = qra(*fit, "--trainer.max_epochs", "3", "--ckpt_path", "last")
    assert code == 0, output
    assert configured(tmp_path / "run") == mean
