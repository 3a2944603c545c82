"""The rounding cascade as a callback: both figures of one run, and what is refused or skipped."""

import json
from dataclasses import dataclass

import pytest
import torch
from test_autoattack_evaluation import data, evaluation, module, same
from trivial import trainer

from qra.attacks import APGD, AutoAttack, RoundingCascade
from qra.callbacks import AttackEvaluation, ResultWriter, RoundingCascadeEvaluation
from qra.quant import PACT, DoReFa, QuantScheme, convert

SHORT = {"eps": "24/255", "steps": 3, "queries": 10}
CASCADE = RoundingCascade(**SHORT, starts=1, polish=60)


@dataclass(frozen=True)
class NoGrid(PACT):
    """A quantizer of one's own, which says no grid."""

    def quantize(self, x, bit_width, state, gradient):
        return super().quantize(x, bit_width, state, gradient)


def cascade(**settings):
    return RoundingCascadeEvaluation(**{"attack": CASCADE, "n": 24, "chunk_size": 10, **settings})


def quantized(activation=None):
    made = module()
    made.scheme = QuantScheme(DoReFa(), activation or PACT(1.0), 8, 3, first_last_bit_width=None)
    convert(made.network, made.scheme)
    return made


def evaluated(directory, *callbacks, network=quantized):
    trainer(callbacks=[*callbacks, ResultWriter()], default_root_dir=directory).test(network(), data(), verbose=False)
    return {name: outcome for callback in callbacks for name, outcome in callback.outcomes.items()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    directory = tmp_path_factory.mktemp("whole")
    return directory, evaluated(directory, cascade())


def test_one_run_has_the_figures_of_autoattack_and_of_the_cascade(whole, tmp_path):
    directory, found = whole
    alone = evaluated(tmp_path, evaluation(attack=AutoAttack(**SHORT)))
    assert same(alone, {name: found[name] for name in alone})
    assert set(found) - set(alone) == {"rounding_cascade_24", "rounding_cascade_24.unrounded"}
    assert found["rounding_cascade_24"].accuracy <= found["autoattack_24"].accuracy
    written = json.loads((directory / "result.json").read_text())["outcomes"]
    assert written["rounding_cascade_24"]["role"] == written["autoattack_24"]["role"] == "robust"
    assert "standard" not in written["rounding_cascade_24"]
    assert written["worst_24"]["accuracy"] == found["rounding_cascade_24"].accuracy


def test_a_lost_chunk_is_made_again_as_it_was(whole, tmp_path):
    first = evaluated(tmp_path, cascade())
    sorted(tmp_path.glob("chunks/rounding_cascade_24-*/*.npz"))[1].unlink()
    assert same(evaluated(tmp_path, cascade()), first)
    assert same(first, whole[1])


def test_autoattack_beside_the_cascade_is_refused_as_the_same(tmp_path):
    with pytest.raises(ValueError, match="two evaluations are named autoattack_24"):
        evaluated(tmp_path, cascade(), evaluation(attack=AutoAttack(**SHORT)))


def test_the_authors_code_has_no_cascade():
    with pytest.raises(ValueError, match="mode upstream runs the authors' code of AutoAttack, which has no shortened"):
        cascade(mode="upstream")


def test_a_quantizer_without_a_grid_is_named_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match="the unrounded network is not available: at 2, NoGrid does not define"):
        evaluated(tmp_path, cascade(), network=lambda: quantized(NoGrid(1.0)))
    assert not list(tmp_path.iterdir())


def test_a_float_network_says_that_it_is_its_own_unrounded_network(tmp_path, capsys):
    unrounded = AttackEvaluation(APGD("24/255", steps=3), n=24, source="unrounded")
    found = evaluated(tmp_path, unrounded, cascade(), network=module)
    said = capsys.readouterr().out
    assert "apgd_ce_24_unrounded: the network rounds no activations and is its own unrounded network: skipped" in said
    assert "rounding_cascade_24: the network rounds no activations and is its own unrounded network: not att" in said
    assert "apgd_ce_24_unrounded" not in found
    assert torch.equal(found["rounding_cascade_24.unrounded"].correct, found["autoattack_24"].correct)


def test_examples_made_on_the_unrounded_network_say_so(tmp_path):
    found = evaluated(tmp_path, AttackEvaluation(APGD("24/255", steps=3), n=24, source="unrounded"))
    outcome = found["apgd_ce_24_unrounded"]
    assert (outcome.source, outcome.gradient, outcome.standard) == ({"name": "unrounded"}, "", "")
    assert outcome.measured.kind == "APGD-CE, unrounded"
    assert not outcome.measured.stands_alone
    assert outcome.accuracy < 1


def test_a_gradient_mode_of_an_unrounded_network_is_refused():
    with pytest.raises(ValueError, match="source is unrounded, which has no rounding to differentiate: leave out hard"):
        AttackEvaluation(APGD(), source="unrounded", gradient="hard")
