"""Every config in the repository is understood."""

import pytest
from commands import CONFIGS, TINY_FIT, pipeline, qra

PLACES = {
    "attack": ("float-at", "--model.init_args.attack"),
    "callback": ("float-plain", "--trainer.callbacks+"),
    "data": ("float-plain", "--data"),
    "debug": ("float-plain", "--config"),
    "network": ("float-plain", "--model.init_args.network"),
    "optim": ("float-plain", None),
    "quant": ("qat-plain", "--model.init_args.scheme"),
    "trainer": ("float-plain", "--config"),
    "transfer": ("float-transfer", "--model.init_args.transfer"),
}
FRAGMENTS = sorted(path for folder in PLACES for path in (CONFIGS / folder).glob("*.yaml"))


@pytest.mark.parametrize("path", FRAGMENTS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_each_fragment_fits_its_place(path):
    name, key = PLACES[path.parent.name]
    if key is None:
        key = "--model.init_args.optimizer" if "torch.optim" in path.read_text() else "--model.init_args.schedule"
    output, code = qra("fit", *pipeline(name), key, path, "--print_config")
    assert code == 0, output
    named = path.read_text().partition("class_path: ")[2].partition("\n")[0]
    assert named in output


def test_every_folder_of_fragments_has_a_place():
    folders = {path.name for path in CONFIGS.iterdir()}
    assert folders - {"pipeline", "study"} == PLACES.keys()


def test_a_trainer_fragment_keeps_the_callbacks_of_the_pipeline():
    trainer = CONFIGS / "trainer/ddp-cpu.yaml"
    output, code = qra("fit", *pipeline("float-fgsm-rs"), *TINY_FIT, "--config", trainer, "--print_config")
    assert code == 0, output
    assert "CatastrophicOverfittingGuard" in output
    assert "strategy: ddp" in output
