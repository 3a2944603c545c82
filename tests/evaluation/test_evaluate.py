"""Robustness in a few lines of Python."""

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import nn

import qra
from qra.attacks import PGD, Attack, Square, UniformStart
from qra.describe import describe
from qra.evaluation.protocol import Protocol
from qra.quant import PACT, ActivationQuantizer, DoReFa, QuantScheme, convert

ATTACKS = [PGD(0.05, 0.0125, 3, early_stop=True), Square(0.05, queries=10)]


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5))


def examples(model, n=40, dtype=torch.uint8):
    images = torch.randint(0, 256, (n, 3, 8, 8), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    with torch.no_grad():
        labels = model.eval()(images / 255).argmax(1)
    labels[:4] = (labels[:4] + 1) % 5
    model.train()
    return images if dtype == torch.uint8 else (images / 255).to(dtype), labels


def test_five_lines_give_clean_and_robust_accuracy_and_signs(tmp_path):
    model = network()
    images, labels = examples(model)
    found = qra.evaluate(model, images, labels)
    assert found["clean"].accuracy == 0.9
    assert not found["clean"].correct[:4].any()
    assert found["pgd20_8"].accuracy < 0.9
    low, high = found["pgd20_8"].interval
    assert low <= found["pgd20_8"].accuracy <= high
    assert "PGD-20" in str(found)
    assert "eps 8/255" in str(found)
    assert found.signs.line in " ".join(str(found).split("\n"))
    found.write(tmp_path / "result.json")
    assert json.loads((tmp_path / "result.json").read_text())["outcomes"]["clean"]["n"] == 40


def test_the_usual_attack_has_the_settings_that_are_asked_for():
    model = network()
    convert(model, QuantScheme(DoReFa(), PACT(alpha=1.0), 4, 4))
    images, labels = examples(model, 12)
    found = qra.evaluate(model, images, labels, eps="4/255", gradient="hard", seed=3)
    expected = PGD("4/255", "1/255", 20, start=UniformStart(3), early_stop=True)
    assert found["pgd20_4_hard"].settings == describe(expected)
    assert "the input gradient of the cross-entropy is zero" in found.signs.reasons[0]
    assert [each.name for each in found.signs.indicators][-1] == "left_at_large_eps"


def test_the_network_is_left_as_it_was():
    model = network()
    images, labels = examples(model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    random = torch.get_rng_state()
    with torch.no_grad():
        qra.evaluate(model, images, labels, ATTACKS)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training
    assert torch.equal(torch.get_rng_state(), random)


def test_several_attacks_have_a_worst_case():
    model = network()
    found = qra.evaluate(model, *examples(model, dtype=torch.float32), ATTACKS)
    both = torch.stack([found["pgd3_12.75"].correct, found["square_12.75"].correct]).all(0)
    assert torch.equal(found["worst_12.75"].correct, both)
    assert list(found.outcomes)[-1] == "worst_12.75"


def test_the_standard_autoattack_has_its_name():
    model = network()
    images, labels = examples(model, 6)
    found = qra.evaluate(model, images, (labels + 1) % 5, "autoattack", eps=0.5 / 255)  # nothing is left to attack
    assert found["autoattack_0.5"].standard == "AutoAttack"
    assert found["autoattack_0.5.apgd_ce"].role == "part"


def test_chunks_do_not_matter_to_an_attack_that_draws_by_index():
    model = network()
    images, labels = examples(model)
    whole, cut = (qra.evaluate(model, images, labels, ATTACKS[0], chunk_size=size) for size in (100, 7))
    assert torch.equal(whole["pgd3_12.75"].correct, cut["pgd3_12.75"].correct)


@dataclass(frozen=True)
class Numbered(Attack):
    """Remembers the chunks that it is for."""

    eps: float = 0.1
    norm: str = "linf"
    seen: tuple[list[int], ...] = ()
    number: int = -1
    needs_fixed_chunks = True

    def in_chunk(self, number):
        return dataclasses.replace(self, number=number)

    def perturb(self, model, x, y, index, epoch):
        self.seen[0].append(self.number)
        return x.clone()


def test_each_chunk_is_attacked_with_draws_of_its_own():
    model, numbers = network(), []
    qra.evaluate(model, *examples(model), Numbered(seen=(numbers,)), chunk_size=15)
    assert numbers == [0, 1, 2]


def test_inference_mode_around_the_calls_changes_nothing():
    model = network()
    images, labels = examples(model)
    with torch.inference_mode():
        quantized = qra.quantize(model, "W4A4", images)
        found = qra.evaluate(quantized, images.clone(), labels, ATTACKS)
    expected = qra.evaluate(qra.quantize(model, "W4A4", images), images, labels, ATTACKS)
    assert {o.name: o.accuracy for o in found.outcomes.values()} == {
        o.name: o.accuracy for o in expected.outcomes.values()
    }


def test_bytes_and_l2_are_bounds_of_their_own():
    model = network()
    images, labels = examples(model)
    assert qra.evaluate(model, images, labels, pixels="bytes")["pgd20_8_bytes"].pixels == "bytes"
    assert qra.evaluate(model, images, labels, eps=0.5, norm="l2")["pgd20_l2_0.5"].norm == "l2"


@dataclass(frozen=True)
class Cautious(Attack):
    """One step for every third image."""

    eps: float
    start: int

    def perturb(self, model, x, y, index, epoch):
        x_adv = PGD(self.eps, self.eps, 1)(model, x, y)
        return torch.where((index % 3 == self.start)[:, None, None, None], x_adv, x)


@dataclass(frozen=True)
class Returning(Attack):
    eps: float
    made: Callable[[torch.Tensor], Any]

    def perturb(self, model, x, y, index, epoch):
        return self.made(x)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_images_of_another_precision_are_taken_as_float32(dtype):
    model = network()
    images, labels = examples(model, dtype=dtype)
    expected = qra.evaluate(model, images.float(), labels, ATTACKS[0])
    found = qra.evaluate(model, images, labels, ATTACKS[0])
    assert torch.equal(found["pgd3_12.75"].correct, expected["pgd3_12.75"].correct)


def test_attacks_of_one_name_are_told_apart_and_all_count_in_the_worst_case():
    model = network()
    images, labels = examples(model)
    weak = [Cautious(0.05, start=seed) for seed in range(3)]
    found = qra.evaluate(model, images, labels, weak)
    several = [found[name].correct for name in ("cautious_12.75", "cautious_12.75-2", "cautious_12.75-3")]
    assert len({tuple(correct.tolist()) for correct in several}) == 3
    assert torch.equal(found["worst_12.75"].correct, torch.stack(several).all(0))


class Undescribed(Attack):
    eps = 0.05

    def perturb(self, model, x, y, index, epoch):
        return (x + self.eps).clamp(0, 1)


def test_an_attack_of_which_nothing_can_be_described_is_evaluated():
    model = network()
    assert qra.evaluate(model, *examples(model), Undescribed())["undescribed_12.75"].n == 40


def test_what_an_attack_keeps_of_its_arguments_tells_it_from_others():
    class Plain(Attack):
        def __init__(self, eps, strength):
            self.eps, self.strength = eps, strength

        def perturb(self, model, x, y, index, epoch):
            return x

    one, other = (Protocol(Plain(0.05, strength)).settings() for strength in (1, 2))
    assert one["init_args"] == {"eps": 0.05, "strength": 1} != other["init_args"]
    assert Protocol(Plain(0.05, Plain(0.05, 1))).settings()["init_args"] == {"eps": 0.05, "strength": one}


def test_an_attack_that_passes_its_arguments_on_to_a_dataclass_is_recorded_with_its_fields():
    class Halved(PGD):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            object.__setattr__(self, "step_size", self.eps / 2)

    assert Protocol(Halved(0.05, steps=3)).settings()["init_args"] == describe(PGD(0.05, 0.025, 3))["init_args"]


def test_an_attack_whose_settings_results_could_not_record_is_refused():
    class Unsaid(Attack):
        def __init__(self, eps, strength):
            self.eps, self._strength = eps, strength

        def perturb(self, model, x, y, index, epoch):
            return (x + self._strength * self.eps).clamp(0, 1)

    model = network()
    with pytest.raises(ValueError, match="Unsaid takes strength, which results cannot record: store"):
        qra.evaluate(model, *examples(model), Unsaid(0.05, 1))


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        (lambda x: (x, None), "Returning returned a tuple"),
        (lambda x: None, "Returning returned a NoneType"),
        (lambda x: (x * 255).byte(), "Returning returned torch.uint8"),
        (lambda x: x[:1], "Returning returned images"),
    ],
)
def test_what_an_attack_returned_instead_of_images_is_named(made, reason):
    model = network()
    images, labels = examples(model)
    with pytest.raises(ValueError, match=reason):
        qra.evaluate(model, images, labels, Returning(0.05, made))
    with pytest.raises(ValueError, match=reason):
        Returning(0.05, made)(model, images / 255, labels)


def test_images_of_an_attack_in_another_precision_are_those_of_the_batch():
    model = network()
    images, labels = examples(model)
    found = qra.evaluate(model, images, labels, Returning(0.05, lambda x: (x.double() + 0.04).clamp(0, 1)))
    assert found["returning_12.75"].n == 40


@dataclass(frozen=True)
class OfOnesOwn(ActivationQuantizer):
    change: Callable[[torch.Tensor], torch.Tensor]

    def start(self, bit_width):
        return {}

    def quantize(self, x, bit_width, state, gradient):
        return self.change(x.relu())


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda x: x + 0.1 * torch.rand_like(x), "different logits for the same images"),
        (lambda x: x * torch.nan, "logits for two images of the data are not finite"),
        (lambda x: x.detach(), "no gradient reaches the network's input"),
        (lambda x: x.half(), "the network cannot process images of the data"),
        (lambda x: x.mul_(2), "the network cannot be differentiated with respect to the image"),
    ],
)
def test_a_quantizer_of_ones_own_is_tried_out_with_the_network(change, reason):
    model = network()
    convert(model, QuantScheme(DoReFa(), OfOnesOwn(change), 32, 4))
    with pytest.raises(ValueError, match=reason):
        qra.evaluate(model, *examples(network()), ATTACKS[0])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"images": torch.rand(40, 3, 8, 8) * 255}, "pixels range from"),
        ({"images": torch.zeros(40, 3, 8, 8, dtype=torch.int64)}, "images are torch.int64"),
        ({"images": torch.rand(3, 8, 8)}, "images have the shape"),
        ({"labels": torch.zeros(39, dtype=torch.int64)}, "one for each of 40 images"),
        ({"labels": torch.full((40,), 7)}, "the largest label is 7"),
        ({"attack": "fgsm"}, "attack is 'fgsm'"),
        ({"attack": []}, "attack is empty"),
        ({"attack": PGD}, "give pgd, autoattack, or attacks such as"),
        ({"attack": PGD(targeted=True)}, "PGD is targeted"),
        ({"pixels": "bytes", "eps": "0.5/255"}, "a pixel changes by at least 1/255"),
    ],
)
def test_what_does_not_fit_is_named(change, reason):
    model = network()
    images, labels = examples(model)
    with pytest.raises(ValueError, match=reason):
        qra.evaluate(model, **{"images": images, "labels": labels, **change})


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda model: model.half(), "is float16: make it float32"),
        (lambda model: nn.Sequential(model, nn.Flatten(0)), r"of shape \(10,\).*must return only logits"),
        (lambda model: nn.Sequential(model, nn.Linear(5, 1)), "has 1 classes"),
    ],
)
def test_a_network_that_returns_no_logits_is_refused(change, reason):
    model = network()
    images, labels = examples(model)
    with pytest.raises(ValueError, match=reason):
        qra.evaluate(change(model), images, labels)


def test_a_result_can_be_compared_example_by_example():
    model = network()
    images, labels = examples(model)
    found = qra.evaluate(model, images, labels)
    assert dataclasses.is_dataclass(found["clean"])
    assert found["clean"].indices.tolist() == list(range(40))
    assert (found["pgd20_8"].correct <= found["clean"].correct).all()
