"""What every test looks at, without a masking check."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from qra.evaluation.doubt import doubt_of
from qra.evaluation.outcome import Outcome
from qra.evaluation.signs import Signs, find_signs
from qra.types import Batch


class Scaled(nn.Module):
    def __init__(self, scale):
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.scale = nn.Linear(48, 5), scale

    def forward(self, x):
        return self.scale * self.layer(x.flatten(1))


def signs(network, outcomes=()):
    x = torch.rand(60, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    return find_signs(network, network, Batch(x, network(x).argmax(1), torch.arange(60)), outcomes)


def suspects(found):
    return {indicator.name for indicator in found.indicators if indicator.suspect}


def test_a_plain_network_shows_no_sign_and_is_not_called_sound():
    found = signs(Scaled(1.0))
    assert found.reasons == []
    assert found.verdict == "not judged"
    assert "no sign of masking on 60 examples" in found.line


def test_where_nothing_is_correct_nothing_was_looked_at():
    assert Signs(tuple(replace(i, value=None) for i in signs(Scaled(1.0)).indicators), 60).line == (
        "gradients: not checked, because none of 60 examples is classified correctly"
    )


def test_gradients_are_those_of_the_network_that_attacks_search_on():
    x = torch.rand(6, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    batch = Batch(x, Scaled(1.0)(x).argmax(1), torch.arange(6))
    assert suspects(find_signs(Scaled(1.0), Scaled(0.0), batch)) == {"zero_gradients"}


def test_saturated_logits_are_suspect():
    found = signs(Scaled(1e4))
    assert suspects(found) == {"zero_gradients", "saturated_logits"}
    assert found.verdict == "suspect"
    assert found.line.startswith("gradients: SUSPECT")
    assert found.summary()["reasons"] == found.reasons


class BesideOthers(Scaled):
    """Steps of its inputs depend on the largest one in the batch."""

    def forward(self, x):
        step = x.detach().amax() / 3
        return super().forward(x + ((x / step).round() * step - x).detach())


class ByPlace(Scaled):
    """The same noise in each pass, another one in each place of the batch."""

    def forward(self, x):
        return super().forward(x + 0.1 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0)))


@pytest.mark.parametrize("network", [BesideOthers(1.0), ByPlace(1.0)])
def test_logits_that_depend_on_the_batch_are_suspect(network):
    x = (
        torch.rand(60, 3, 4, 4, generator=torch.Generator().manual_seed(1))
        * torch.linspace(0.5, 1, 60)[:, None, None, None]
    )
    found = find_signs(network, network, Batch(x, network(x).argmax(1), torch.arange(60)))
    assert suspects(found) == {"changing_logits"}


@pytest.mark.parametrize("n", [1, 2, 5])
def test_few_images_of_a_plain_network_show_no_change(n):
    x = torch.rand(n, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    assert suspects(find_signs(Scaled(1.0), Scaled(1.0), Batch(x, Scaled(1.0)(x).argmax(1), torch.arange(n)))) == set()


@pytest.mark.parametrize(("left", "suspect"), [(0, False), (6, False), (30, True)])
def test_what_is_left_under_a_large_budget_is_suspect(left, suspect):
    examples = torch.arange(60)
    large = Outcome("pgd20_32", "PGD-20", {"a": 1}, examples, examples < left, 32 / 255)
    small = Outcome("pgd20_8", "PGD-20", {"a": 1}, examples, examples < 55, 8 / 255)
    assert suspects(signs(Scaled(1.0), [large, small])) == ({"left_at_large_eps"} if suspect else set())


def test_the_network_and_its_gradients_are_left_alone():
    network = Scaled(1.0)
    with torch.no_grad():
        signs(network)
    assert all(parameter.grad is None and parameter.requires_grad for parameter in network.parameters())


class Wanders(Scaled):
    """Sees its last image otherwise where that is not last; dark ones are shown in other places."""

    def forward(self, x):
        is_bright = x.amax((1, 2, 3)) > 1.5
        is_bright[-1] = False
        return super().forward(x) + is_bright[:, None]


def test_an_image_whose_logits_change_in_several_places_is_one():
    x = torch.rand(6, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    x[5] += 1
    network = Wanders(1.0)
    found = find_signs(network, network, Batch(x, network(x).argmax(1), torch.arange(6)))
    assert next(i.value for i in found.indicators if i.name == "changing_logits") == pytest.approx(1 / 6)


def test_of_several_attacks_of_a_network_itself_the_one_that_leaves_least_counts():
    examples = torch.arange(60)

    def outcome(name, left, **more):
        return Outcome(name, name, {"a": name}, examples, examples < left, 32 / 255, **more)

    strong, weak, other = outcome("strong", 0), outcome("weak", 30), outcome("transfer", 0, source={"name": "other"})
    assert suspects(signs(Scaled(1.0), [weak, strong])) == set()
    assert suspects(signs(Scaled(1.0), [weak, other])) == {"left_at_large_eps"}


@pytest.mark.parametrize("verdict", ["sound", "not judged"])
def test_signs_make_a_network_suspect_whatever_the_masking_check_found(verdict):
    result = {"masking": {"verdict": verdict}, "signs": {"verdict": "suspect", "reasons": ["why"]}}
    assert doubt_of(result).reasons == ("why",)
    assert doubt_of(result).state == "suspect"
    assert doubt_of({**result, "signs": {"verdict": "not judged"}}).state == verdict


def test_what_an_earlier_test_left_under_a_large_budget_stays_a_sign():
    examples = torch.arange(60)
    large = Outcome("pgd20_32", "PGD-20", {"a": 1}, examples, examples < 30, 32 / 255)
    result = {"outcomes": {"pgd20_32": large.summary(), "x": 1}, "signs": {"verdict": "not judged", "reasons": []}}
    assert doubt_of(result).reasons == ("too much is left at 32/255 (30 of 60 examples)",)
    assert doubt_of(result).state == "suspect"
    result["outcomes"]["apgd_32"] = {**large.summary(), "accuracy": 0.0}
    assert doubt_of(result).state == "not judged"
