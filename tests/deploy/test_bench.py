"""The float network of an export, and times in turns."""

import pytest
import torch
from deploy import small

from qra.deploy.engine import Engine
from qra.deploy.lower import lower
from qra.deploy.onnx import to_onnx
from qra.deploy.speed import bench


def test_the_float_form_is_the_network_without_rounding():
    network = small.trained(small.TRAINED["W8A8-Uniform"])
    program = lower(network, (16, 16))
    engine = Engine(to_onnx(program, "float", pack=False).SerializeToString())
    x = small.images()
    with torch.no_grad():
        expected = network(x)
    assert (engine(x) - expected).abs().max() < 0.15 * expected.std()


def test_every_model_is_timed_in_turns_against_the_first():
    program = lower(small.trained(small.TRAINED["W4A4-DoReFa"]), (16, 16))
    content = {form: to_onnx(program, form, pack=False).SerializeToString() for form in ("float", "qdq")}
    makers = {form: lambda threads, form=form: Engine(content[form], threads=threads) for form in content}
    found = bench(makers, batches=[1, 2], threads=[1], rounds=2)
    assert found["base"] == "float"
    assert [(row["name"], row["batch"]) for row in found["rows"]] == [
        (name, batch) for batch in (1, 2) for name in ("float", "qdq")
    ]
    for row in found["rows"]:
        assert row["images_per_second"] * row["ms"] == pytest.approx(1000 * row["batch"])
        assert row["ms_low"] <= row["ms"] <= row["ms_high"]
        assert row["times_low"] <= row["times_as_fast"] <= row["times_high"]
        assert row["times_as_fast"] == 1 or row["name"] != "float"
