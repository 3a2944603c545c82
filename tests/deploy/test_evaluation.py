"""What is deployed, evaluated: engines against the program, robust only where everything agrees."""

import pytest
import torch
from deploy import small
from deploy.exports import export

from qra.attacks import PGD
from qra.deploy import folder
from qra.deploy.evaluation import Evaluation, FakeQuantized
from qra.deploy.parity import add_codes
from qra.deploy.robustness import ImageChunks, Tried, attack_program, replay, threat, white_box_images
from qra.evaluation.protocol import Protocol
from qra.types import Batch

PROTOCOL = Protocol(PGD(8 / 255, 2 / 255, 5, early_stop=True), pixels="bytes")


def evaluated(directory, network, engines=("onnxruntime",), defaults=False, n=60, queries=10):
    """The evaluation of an export on images that the network itself gets right."""
    export(directory, network)
    exported = folder.read(directory)
    runs = folder.runs(exported, engines, defaults=defaults)
    twin = small.IntegerNetwork(exported.program).eval()
    x = small.images(n)
    batch = Batch(x, twin(x).argmax(1), torch.arange(n).flip(0))
    what = threat(PROTOCOL, queries, steps=5)
    evaluation = Evaluation(twin, runs, what, FakeQuantized(network, exported.program))
    files = ImageChunks(directory / "chunks", "pgd", {}, [batch.indices], 1)
    x_adv = white_box_images(twin, PROTOCOL, files, batch, 0)
    evaluation.add(0, attack_program(twin, what, batch, x_adv))
    return evaluation, files, batch, x_adv


@pytest.fixture(scope="module")
def coarse(tmp_path_factory):
    """A network of 2 bits on onnxruntime, which is faithful, and on its defaults, which are not."""
    network = small.trained(small.TRAINED["W2A2-DoReFa"])
    return evaluated(tmp_path_factory.mktemp("export") / "out", network, defaults=True)


def by_name(evaluation):
    return {run["name"]: run for run in evaluation.content()["runs"]}


def test_a_known_bad_engine_is_called_unfaithful_and_a_good_one_faithful(coarse):
    runs = by_name(coarse[0])
    assert runs["onnxruntime"]["verdict"] in ("faithful", "masked")
    assert runs["onnxruntime, integer form"]["verdict"] == "faithful"
    bad = runs["onnxruntime, its defaults"]
    assert bad["verdict"] == "unfaithful"
    assert any("decisions differ" in reason for reason in bad["reasons"])
    assert bad["engine"]["engine_defaults"]


def test_codes_are_compared_from_the_network_to_the_program_to_the_engine(coarse):
    content = coarse[0].content()
    fake, engine = content["fake_quantized"]["layers"], by_name(coarse[0])["onnxruntime"]["layers"]
    names = [op.name for op in coarse[0].program._steps if hasattr(op, "zero_point")]
    assert list(engine) == names
    assert set(fake) <= set(names)
    assert len(fake) >= len(names) - 1
    assert all(each["share"] <= 1e-3 for each in fake.values())


def test_the_integer_form_decides_and_scores_exactly_as_the_program(coarse):
    evaluation, _, _, _ = coarse
    run = by_name(evaluation)["onnxruntime, integer form"]
    assert all(found["differ"] == 0 for found in run["decisions"].values())
    assert run["robust"] == evaluation.content()["program"]["robust"]


def test_deployed_accuracy_is_the_worst_over_program_and_engines(coarse):
    content = coarse[0].content()
    worst = content["outcomes"]["deployed"]["accuracy"]
    attacked = [run for run in content["runs"] if run["square"] is not None and not run["engine"]["engine_defaults"]]
    assert worst <= min(run["robust"]["accuracy"] for run in attacked)
    assert worst <= content["program"]["robust"]["accuracy"] < content["program"]["clean"]["accuracy"]
    assert content["outcomes"]["deployed"]["members"] == ["pgd5_8_bytes", "onnxruntime: replayed, Square"]


def test_images_at_a_boundary_are_told_apart_by_the_program(coarse):
    tried = coarse[0]._tried[0]
    assert len(tried.rows["inside"]) > 0
    crossed = tried.rows["inside"]
    assert torch.equal(tried.decisions["inside"], tried.decisions["clean"][crossed])
    assert (tried.decisions["outside"] != tried.decisions["clean"][crossed]).all()


def test_every_image_that_is_tried_is_of_bytes_within_the_ball(coarse):
    tried = coarse[0]._tried[0]
    for kind, images in tried.images.items():
        apart = (images - tried.batch.x[tried.rows[kind]]) * 255
        assert (apart.round() - apart).abs().max() < 1e-3
        assert apart.abs().max() <= 8 + 1e-3


class Attacked(torch.nn.Module):
    """A network that says when it is asked."""

    def forward(self, x):
        raise AssertionError("attacked again")


def test_a_chunk_that_was_attacked_is_read_and_not_attacked_again(coarse):
    _, files, batch, x_adv = coarse
    assert torch.equal(white_box_images(Attacked(), PROTOCOL, files, batch, 0), x_adv)
    for foreign in (batch._replace(x=1 - batch.x), batch._replace(x=batch.x[..., :8])):  # of which they are no chunk
        with pytest.raises(AssertionError, match="attacked again"):
            white_box_images(Attacked(), PROTOCOL, files, foreign, 0)
    (files.directory / "images-00000.npz").unlink()
    assert files.images(0) is None


class Contrary(torch.nn.Module):
    """Decides as a network does but for one image in three."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        logits = self.network(x)
        logits[::3] = -logits[::3]
        return logits


def test_an_example_is_robust_only_where_program_and_engine_are_right(coarse):
    evaluation, _, _, _ = coarse
    tried = evaluation._tried[0]
    found = replay(Contrary(evaluation.program), evaluation.program, tried, None)
    assert not found.correct[::3].any()
    assert torch.equal(found.correct[1::3], tried.correct[1::3])
    assert found.changes["clean"].differ == found.changes["clean"].lost == 20


class Knowing(torch.nn.Module):
    """Right about all images that it is asked about, kind by kind."""

    def __init__(self, tried):
        super().__init__()
        self.labels = [tried.labels(kind) for kind, images in tried.images.items() if len(images)]

    def forward(self, x):
        return torch.nn.functional.one_hot(self.labels.pop(0)).float()


def test_what_breaks_the_program_counts_on_an_engine_that_it_does_not_break(coarse):
    tried = coarse[0]._tried[0]
    found = replay(Knowing(tried), coarse[0].program, tried, None)
    assert found.clean.all()
    assert torch.equal(found.correct, tried.correct)
    assert not tried.correct.all()


def test_outcomes_are_in_the_order_of_the_test_set(coarse):
    evaluation, _, batch, _ = coarse
    order = batch.indices.argsort()
    (engine,) = (run for run in evaluation.runs if run.name == "onnxruntime")
    clean, robust, deployed = evaluation.outcomes()
    assert all(torch.equal(each.indices, batch.indices[order]) for each in (clean, robust, deployed))
    assert torch.equal(robust.correct, evaluation._tried[0].correct[order])
    assert torch.equal(deployed.correct, engine.parts[0].correct[order])
    assert not torch.equal(deployed.correct, engine.parts[0].correct)


def test_what_an_attacked_engine_gets_wrong_counts_in_the_clean_and_the_worst_case(coarse, monkeypatch):
    evaluation, _, batch, _ = coarse
    (engine,) = (run for run in evaluation.runs if run.name == "onnxruntime")
    (part,) = engine.parts
    before = [outcome.correct for outcome in evaluation.outcomes()]
    others = torch.arange(60) % 3 > 0
    for place, field in ((0, "clean"), (2, "correct")):
        monkeypatch.setattr(engine, "parts", [part._replace(**{field: getattr(part, field) & others})])
        expected = [each & others[batch.indices.argsort()] if i == place else each for i, each in enumerate(before)]
        assert all(map(torch.equal, [outcome.correct for outcome in evaluation.outcomes()], expected))
        assert not torch.equal(expected[place], before[place])


def test_an_example_that_one_image_of_it_breaks_is_broken_whatever_comes_after():
    y, every = torch.tensor([0, 1, 2]), torch.arange(3)
    batch, rows = Batch(torch.zeros(3, 1, 1, 1), y, every), {"clean": every, "full-length": every, "inside": every[2:]}
    decisions = {"clean": y, "full-length": torch.tensor([0, 0, 0]), "inside": torch.tensor([2])}
    for order in (decisions, dict(reversed(decisions.items()))):
        assert Tried(batch, {}, rows, order).correct.tolist() == [True, False, False]


def test_codes_of_a_zero_point_are_those_of_the_program():
    network, x = small.trained(small.LSQ_PLUS, small.bottleneck()), small.images()
    program, twin = small.programmed(network)
    found = add_codes({}, FakeQuantized(network, program).codes(x), twin.codes(x))
    assert any(program[name].zero_point for name in found)
    assert all(each.differ <= 1 + 1e-3 * each.values for each in found.values())
