"""The files that keep what became of chunks, and what they are known by."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from qra.attacks import PGD
from qra.evaluation.chunks import ChunkFiles, code_of, fingerprint, shuffled
from qra.evaluation.identity import network_id
from qra.quant import PACT, DoReFa, QuantScheme, convert, gradient_mode

INDICES = torch.tensor([1, 3, 4, 8, 9])
SETTINGS = {"eps": 0.03, "network": "abc"}


@pytest.fixture
def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(216, 5))


def files(tmp_path, settings=SETTINGS, indices=INDICES):
    return ChunkFiles(tmp_path, "autoattack_8", settings, indices.split(3), 4)


def test_a_chunk_comes_back_as_it_was_written(tmp_path):
    kept = files(tmp_path)
    assert [chunk.tolist() for chunk in kept.chunks] == [[1, 3, 4], [8, 9]]
    assert kept.read(0) is None
    kept.write(1, torch.tensor([5, 2], dtype=torch.uint8))
    assert files(tmp_path).read(1).tolist() == [5, 2]
    assert files(tmp_path).read(0) is None
    assert {path.name for path in kept.directory.iterdir()} == {"settings.json", "chunk-00001.npz"}
    kept.write(0, torch.tensor([0, 5, 6], dtype=torch.uint8))  # of 4 attacks
    assert kept.read(0) is None


@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 0.99])
def test_a_chunk_file_that_was_cut_short_is_not_there(tmp_path, share):
    kept = files(tmp_path)
    kept.write(0, torch.zeros(3, dtype=torch.uint8))
    path = kept.directory / "chunk-00000.npz"
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    assert files(tmp_path).read(0) is None


def test_a_chunk_file_with_a_flipped_bit_is_not_there(tmp_path):
    kept = files(tmp_path)
    kept.write(0, torch.full((3,), 5, dtype=torch.uint8))
    path = kept.directory / "chunk-00000.npz"
    content = path.read_bytes()
    path.write_bytes(content.replace(b"\5\5\5", b"\5\5\1"))
    assert files(tmp_path).read(0) is None


@pytest.mark.parametrize(("name", "value"), [("eps", 0.1), ("network", "abd"), ("n", 5)])
def test_evaluations_of_other_settings_have_directories_of_their_own(tmp_path, name, value):
    kept = files(tmp_path)
    kept.write(0, torch.zeros(3, dtype=torch.uint8))
    other = files(tmp_path, {**SETTINGS, name: value})
    assert other.directory != kept.directory
    assert other.read(0) is None
    assert files(tmp_path).read(0) is not None


def test_a_chunk_is_not_taken_for_that_of_other_settings_or_examples(tmp_path):
    kept, other = files(tmp_path), files(tmp_path, {**SETTINGS, "eps": 0.1})
    kept.write(0, torch.zeros(3, dtype=torch.uint8))
    (kept.directory / "chunk-00000.npz").rename(other.directory / "chunk-00000.npz")
    assert other.read(0) is None
    (other.directory / "chunk-00000.npz").rename(kept.directory / "chunk-00000.npz")
    assert files(tmp_path).read(0) is not None
    assert files(tmp_path, indices=INDICES + 1).read(0) is None


def test_chunks_of_a_set_that_is_sorted_by_class_have_many_classes():
    labels = torch.arange(200) // 20
    order = shuffled(torch.arange(200), 0)
    assert order.sort().values.tolist() == list(range(200))
    assert all(len(labels[chunk].unique()) > 5 for chunk in order.split(20))
    assert torch.equal(order, shuffled(torch.arange(200), 0))
    assert not torch.equal(order, shuffled(torch.arange(200), 1))


def test_the_place_of_an_example_in_the_order_does_not_depend_on_the_others():
    part = torch.arange(0, 200, 3)
    whole = shuffled(torch.arange(200), 0)
    assert torch.equal(shuffled(part, 0), whole[torch.isin(whole, part)])


CODE = """
class Mine:
    @staticmethod
    def value_of():
        return 1
"""


@dataclass
class Holding:
    value: Any


Holding.__module__ = "qra"  # whose code is left out


def test_a_class_of_ones_own_is_known_by_its_code(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    source = tmp_path / "mine_to_change.py"
    source.write_text(CODE)
    from mine_to_change import Mine

    before = code_of(Mine())
    assert code_of(nn.Linear(1, 1), PGD()) == ""
    assert code_of(nn.Linear(1, 1), Mine()) == before != ""
    assert code_of(Mine(), test_a_class_of_ones_own_is_known_by_its_code) not in (before, "")
    heir = type("Heir", (Mine,), {"__module__": "qra"})
    holders = [partial(max, key=[Mine]), Holding({"key": Mine.value_of}), heir()]
    assert {code_of(holder) for holder in holders} == {before}
    source.write_text(CODE.replace("1", "2"))
    assert {code_of(holder) for holder in (Mine(), *holders)} == {code_of(Mine())} != {before}


def test_a_network_is_another_once_the_code_of_what_its_modules_hold_has_changed(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    source = tmp_path / "mine_to_hold.py"
    source.write_text(CODE)
    from mine_to_hold import Mine

    plain, holder = nn.Sequential(nn.Linear(1, 1)), nn.Sequential(nn.Linear(1, 1))
    holder[0].settings = Mine()  # as a quantizer's settings are held
    before = [network_id(network, "sha256", None, None, False) for network in (plain, holder)]
    codes = code_of(plain), code_of(holder)
    source.write_text(CODE.replace("1", "2"))
    after = [network_id(network, "sha256", None, None, False) for network in (plain, holder)]
    assert (before[0], codes[0]) == (after[0], "")
    assert before[1] != after[1]
    assert code_of(holder) != codes[1]


def test_a_fingerprint_is_that_of_weights_statistics_and_gradients(network):
    first = fingerprint(network)
    assert fingerprint(network.eval()) == first
    value, transposed = torch.zeros(2, 3), torch.zeros(3, 2)
    found = {fingerprint(nn.ParameterDict(each)) for each in ({"a": value}, {"b": value}, {"a": transposed})}
    assert len(found) == 3
    network[1].running_mean[0] += 1e-6
    changed = fingerprint(network)
    assert changed != first
    assert fingerprint(network, "4 bits") != changed
    convert(network, QuantScheme(DoReFa(), PACT(), 4, 4))
    quantized = fingerprint(network)
    with gradient_mode(network, "ste_soft"):
        assert fingerprint(network) != quantized
    assert fingerprint(network) == quantized


class Coarse(nn.Module):
    """A defence without weights, which its text does not describe."""

    def __init__(self, levels, activation=torch.tanh):
        super().__init__()
        self.levels = levels
        self.activation = activation

    def forward(self, x):
        return self.activation((x * self.levels).round() / self.levels)


def test_networks_that_differ_in_settings_alone_are_told_apart(network):
    others = [Coarse(16), Coarse(8), Coarse(16, torch.sigmoid), Coarse([16]), Coarse([8])]
    networks = [nn.Sequential(first, network) for first in others]
    assert len({fingerprint(each) for each in networks}) == 5
    assert len({network_id(each, "sha256", None, None, changed=False) for each in networks}) == 5
    again = nn.Sequential(Coarse(16), network).eval()
    assert fingerprint(again) == fingerprint(networks[0])
    assert network_id(again, "sha256", None, None, False) == network_id(networks[0], "sha256", None, None, False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_fingerprint_knows_buffers_that_no_checkpoint_has(network, dtype):
    network.register_buffer("offset", torch.zeros(3, dtype=dtype), persistent=False)
    first = fingerprint(network)
    network.offset += 1
    assert fingerprint(network) != first
