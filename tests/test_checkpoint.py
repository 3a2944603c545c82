import hashlib
import io
import os
import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from hostile import Payload
from torch import nn

import qra
from qra import checkpoint, models
from qra.modules import VanillaTraining
from qra.pickle_check import tuple_sizes


def save(network, path):
    state = {f"network.{name}": value for name, value in network.state_dict().items()}
    torch.save({"state_dict": state, "qra": {"network": network.description}}, path)


@pytest.fixture
def path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path / "some.ckpt"


def test_load_gives_an_eval_network_with_the_weights(path):
    network = models.resnet20()
    save(network, path)
    loaded = qra.load(path)
    x = torch.rand(2, 3, 32, 32)
    assert not loaded.training
    assert torch.equal(loaded(x), network.eval()(x))


def test_load_takes_a_network_the_checkpoint_does_not_describe(path):
    torch.save({"state_dict": nn.Linear(3, 2).state_dict(prefix="network.")}, path)
    assert qra.load(path, nn.Linear(3, 2)).weight.shape == (2, 3)
    with pytest.raises(ValueError, match=r"some.ckpt: .*pass the network yourself"):
        qra.load(path)


def test_a_network_whose_weights_have_no_shape_yet_is_refused(path):
    torch.save(nn.Linear(3, 2).state_dict(), path)
    with pytest.raises(ValueError, match=r"some\.ckpt: the network's weight has no shape yet: run the network"):
        qra.load(path, nn.LazyLinear(2))


def test_pickled_code_is_refused_and_not_run(path):
    torch.save({"state_dict": {}, "surprise": Payload("pwned")}, path)
    with pytest.raises(ValueError, match=r"some.ckpt: holds pickled objects"):
        checkpoint.read(path)
    assert not os.path.exists("pwned")


@pytest.mark.parametrize("kept", [0, 100, 0.5])
def test_a_truncated_file_is_named(path, kept):
    save(models.resnet20(), path)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content)) if kept < 1 else kept])
    with pytest.raises(ValueError, match=r"some\.ckpt: "):
        checkpoint.read(path)


def test_a_missing_file_is_named(path):
    with pytest.raises(ValueError, match=r"some.ckpt: there is no such checkpoint$"):
        checkpoint.read(path)
    path.touch()
    with pytest.raises(ValueError, match=r"some: there is no such checkpoint: did you mean .*some.ckpt\?$"):
        checkpoint.read(path.with_suffix(""))


def test_a_file_without_weights_is_named(path):
    torch.save({"epoch": 3}, path)
    with pytest.raises(ValueError, match=r"some.ckpt: .*no state_dict"):
        checkpoint.read(path)


@pytest.mark.parametrize(
    ("other", "difference"),
    [
        (models.resnet32, "which this one lacks"),
        (lambda: models.resnet20(num_classes=3), r"shape \(10, 64\), not \(3, 64\)"),
    ],
)
def test_weights_of_another_network_are_refused_whole(path, other, difference):
    saved = models.resnet20() if "shape" in difference else other()
    save(saved, path)
    network = other() if "shape" in difference else models.resnet20()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with pytest.raises(ValueError, match=difference):
        checkpoint.load_weights(network, path)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize("alpha", [0.0, -1.0])
def test_a_clip_level_that_is_not_above_0_is_named(path, alpha):
    content = torch.load(Path(__file__).parents[1] / "checkpoints/pact-w4a4-at.ckpt", weights_only=True)
    content["state_dict"]["network.relu1.alpha"].fill_(alpha)
    torch.save(content, path)
    with pytest.raises(ValueError, match=r"^\S+some\.ckpt: its relu1\.alpha is not above 0, "):
        checkpoint.load(path)


def test_sha256_is_that_of_the_file(path):
    path.write_bytes(b"weights" * 1000)
    assert checkpoint.sha256(path) == hashlib.sha256(b"weights" * 1000).hexdigest()


def test_a_key_of_weights_that_is_asked_for_is_taken_from_a_checkpoint_of_a_run_too(path):
    network, average = models.resnet20(), models.resnet20()
    state = {f"network.{name}": value for name, value in network.state_dict().items()}
    torch.save({"state_dict": state, "average": average.state_dict(), "qra": {"network": network.description}}, path)
    assert torch.equal(qra.load(path).conv1.weight, network.conv1.weight)
    assert torch.equal(qra.load(path, weights_key="average").conv1.weight, average.conv1.weight)
    with pytest.raises(ValueError, match="has no weights under other"):
        qra.load(path, weights_key="other")


def test_what_is_no_checkpoint_at_all_is_not_said_to_hold_objects(path):
    path.write_text("{}")
    with pytest.raises(ValueError, match=r"some.ckpt: is not a checkpoint, neither of torch.save nor"):
        checkpoint.read(path)


def test_a_pointer_of_git_in_the_place_of_a_checkpoint_is_named(path):
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n")
    with pytest.raises(ValueError, match=r"some.ckpt: is a Git LFS pointer .* git lfs pull"):
        checkpoint.read(path)


def test_a_torchscript_program_is_named(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("some/data.pkl", b"")
        archive.writestr("some/constants.pkl", b"")
    with pytest.raises(ValueError, match=r"some.ckpt: is a TorchScript program: .*torch.jit.load"):
        checkpoint.read(path)


def test_a_weight_of_which_a_bit_is_flipped_is_not_read(path):
    torch.save({"w": torch.arange(9.0)}, path)
    content = bytearray(path.read_bytes())
    content[content.index(torch.arange(9.0).numpy().tobytes()) + 7] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"some.ckpt: is damaged: the checksum of some/data/0 in it is wrong"):
        checkpoint.read(path)


def test_an_old_file_whose_storages_have_other_names_is_named(path):
    torch.save({"w": (w := torch.zeros(3))}, path, _use_new_zipfile_serialization=False)
    name = str(w.untyped_storage()._cdata).encode()
    content = path.read_bytes()
    path.write_bytes(content.replace(name, name[::-1], content.count(name) - 1))
    with pytest.raises(ValueError, match=r"some.ckpt: cannot be read, it may be truncated"):
        checkpoint.read(path)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["cat", "dog"], None),
        (["dog", "cat"], None),  # which is refused
        (["ant", "bee"], "trained on the classes cat, dog, tested on ant, bee: accuracies count only if"),
    ],
)
def test_classes_of_other_names_are_said(names, said):
    line = checkpoint.other_class_names({"qra": {"classes": ["cat", "dog"]}}, names)
    assert line is None if said is None else line.startswith(said)
    assert checkpoint.other_class_names({"qra": {}}, names) is None


def test_data_whose_classes_are_numbered_otherwise_is_refused_for_a_file_too(path):
    torch.save({"state_dict": nn.Linear(3, 2).state_dict(), "qra": {"classes": ["cat", "dog"]}}, path)
    checkpoint.check_classes_of(path, ["cat", "dog"])
    with pytest.raises(ValueError, match=r"some.ckpt: was trained with the class 'dog' as number 1"):
        checkpoint.check_classes_of(path, ["dog", "cat"])


@pytest.mark.parametrize("archive", [True, False])
def test_a_key_that_mentions_itself_over_and_over_is_not_computed(path, archive):
    key = (1,)
    for _ in range(40):
        key = (key, key)
    entry = b"\x80\x02}" + pickle.dumps(key, 2)[2:-1] + b"K\x01s."  # {key: 1}
    if archive:
        with zipfile.ZipFile(path, "w") as file:
            for name, content in (("data.pkl", entry), ("version", b"3"), ("byteorder", b"little")):
                file.writestr(f"some/{name}", content)
    else:
        torch.save({}, path, _use_new_zipfile_serialization=False)
        path.write_bytes(path.read_bytes().replace(pickle.dumps({}, 2), entry))
    with pytest.raises(ValueError, match=r"some.ckpt: cannot be read: it is larger or nested deeper than a checkpoint"):
        checkpoint.read(path)


def test_tuples_are_counted_as_often_as_they_are_mentioned():
    pair = (1, 2)
    content = {"pair": pair, "pairs": [(pair, pair, {"inside": pair})], "none": ()}
    for protocol in range(5):
        assert max(tuple_sizes(io.BytesIO(pickle.dumps(content, protocol)))) == 1 + 3 + 3 + 1


class Versioned(nn.Linear):
    """Loads nothing that does not say its version, as torchvision's MNASNet."""

    _version = 2

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, *others):
        if local_metadata.get("version") != 2:
            raise ValueError("version should be set")
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *others)


def test_modules_that_ask_for_a_version_are_told_their_own(path):
    weights = Versioned(3, 2).weight.detach().clone()
    torch.save({"network.0.weight": weights, "network.0.bias": torch.zeros(2)}, path)

    def network():
        return nn.Sequential(Versioned(3, 2))

    assert torch.equal(qra.load(path, network())[0].weight, weights)
    started = network()
    checkpoint.load_weights(started, path)
    assert torch.equal(started[0].weight, weights)
    module, content = VanillaTraining(network()), checkpoint.read(path)
    module.adopt(content, str(path))
    module.load_state_dict(content["state_dict"])
    assert torch.equal(module.network[0].weight, weights)
