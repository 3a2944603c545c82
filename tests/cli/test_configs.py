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
FRAGMENTS = {folder: sorted((CONFIGS / folder).glob("*.yaml")) for folder in PLACES}


def options(path):
    key = PLACES[path.parent.name][1]
    if key is None:
        key = "--model.init_args.optimizer" if "torch.optim" in path.read_text() else "--model.init_args.schedule"
    return [key, path]


def named(path):
    """The class that a fragment names; nothing if it is settings alone."""
    return path.read_text().partition("class_path: ")[2].partition("\n")[0]


@pytest.mark.parametrize("folder", PLACES)
def test_each_fragment_of_a_folder_fits_its_place(folder):
    """Checked where it stands on the command line, though another one of its place may take its place after it."""
    name, _ = PLACES[folder]
    words = [word for path in FRAGMENTS[folder] for word in options(path)]
    output, code = qra("fit", *pipeline(name), *words, "--print_config")
    assert code == 0, output
    if folder == "callback":  # all of them stand side by side
        assert all(named(path) in output for path in FRAGMENTS[folder])


@pytest.mark.slow
@pytest.mark.parametrize(
    "path", [path for paths in FRAGMENTS.values() for path in paths], ids=lambda path: f"{path.parent.name}/{path.stem}"
)
def test_each_fragment_alone_is_what_is_used(path):
    output, code = qra("fit", *pipeline(PLACES[path.parent.name][0]), *options(path), "--print_config")
    assert code == 0, output
    assert named(path) in output


def test_every_folder_of_fragments_has_a_place():
    folders = {path.name for path in CONFIGS.iterdir()}
    assert folders - {"pipeline", "study"} == PLACES.keys()


def test_a_trainer_fragment_keeps_the_callbacks_of_the_pipeline():
    trainer = CONFIGS / "trainer/ddp-cpu.yaml"
    output, code = qra("fit", *pipeline("float-fgsm-rs"), *TINY_FIT, "--config", trainer, "--print_config")
    assert code == 0, output
    assert "CatastrophicOverfittingGuard" in output
    assert "strategy: ddp" in output


def test_null_reaches_an_option_inside_of_options():
    nulls = ["--model.scheme.first_last_bit_width", "null", "--model.scheme.activation.percentile", "null"]
    output, code = qra("fit", *pipeline("qat-plain"), *nulls, "--print_config")
    assert code == 0, output
    assert "first_last_bit_width: null" in output
    assert "percentile: null" in output


def test_a_class_given_instead_of_a_default_object_has_its_own_defaults():
    output, code = qra("fit", *pipeline("float-plain"), "--model.val_attack", "qra.attacks.FGSM", "--print_config")
    assert code == 0, output
    fgsm = output[output.index("class_path: qra.attacks.FGSM") :]
    assert "step_size: null" in fgsm
    assert fgsm.index("class_path: qra.attacks.ZeroStart") < fgsm.index("norm:")
