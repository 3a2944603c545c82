"""What every data module gives: batches by part and index, splits and shares, from labels and fetched images alone."""

import inspect

import pytest
import torch
import trivial
from computed import Computed, ForTesting, Untrainable
from test_data_module import made as in_memory
from torch import nn

from qra.callbacks import RobustnessEvaluation
from qra.data import (
    CIFAR10DataModule,
    ImageDataModule,
    ImageFolderDataModule,
    SyntheticDataModule,
    balanced_subset,
    data_of,
    to_pixels,
)
from qra.front.signatures import signatures
from qra.losses import prediction
from qra.modules import VanillaTraining


def network():
    return nn.Sequential(nn.Flatten(), nn.Linear(48, 4))


def test_a_batch_is_pixels_labels_and_the_indices_that_were_asked_for():
    module, indices = in_memory(), torch.tensor([29, 3, 7])
    x, y, places = module.batch("test", indices)
    assert torch.equal(x, to_pixels(module.data.test.images[indices]))
    assert torch.equal(y, module.data.test.labels[indices])
    assert torch.equal(places, indices)


@pytest.mark.parametrize("part", ["train", "test"])
def test_batches_are_the_images_in_the_order_asked_for(part):
    module, indices = Computed(), torch.tensor([5, 1, 29, 0, 2])
    batches = list(module.batches(part, indices, batch_size=2))
    assert [len(batch.y) for batch in batches] == [2, 2, 1]
    whole = module.batch(part, indices)
    assert all(
        torch.equal(torch.cat(parts), all_) for parts, all_ in zip(zip(*batches, strict=True), whole, strict=True)
    )


def test_only_what_is_asked_for_is_fetched_and_only_when_it_is_needed():
    module = Computed()
    batches = module.batches("test", torch.arange(6), batch_size=3)
    assert module.fetched == []
    next(batches)
    assert module.fetched == [("test", [0, 1, 2])]


@pytest.mark.parametrize("index", [-1, 30])
def test_an_index_of_no_image_is_an_error(index):
    with pytest.raises(IndexError, match=f"indices range from {min(index, 0)} to .*, but test has 30 images"):
        Computed().batch("test", torch.tensor([0, index]))


def test_no_index_gives_one_empty_batch():
    (batch,) = in_memory().batches("test", torch.arange(0))
    assert [len(each) for each in batch] == [0, 0, 0]


def test_a_choice_is_balanced_nested_and_at_most_all_there_are():
    module = Computed()
    few, more = module.choose("test", 8, seed=3), module.choose("test", 12, seed=3)
    assert torch.equal(few, balanced_subset(module.labels("test"), 8, 3))
    assert set(few.tolist()) < set(more.tolist())
    for n in (None, 30, 1000):
        assert torch.equal(module.choose("test", n), torch.arange(30))


def test_a_choice_among_some_images_takes_only_those():
    module = Computed()
    module.setup()
    chosen = module.choose("train", 8, among=module.val_indices)
    assert set(chosen.tolist()) < set(module.val_indices.tolist())
    assert torch.bincount(module.labels("train")[chosen]).tolist() == [2, 2, 2, 2]


def test_the_shares_of_ranks_are_the_whole(tmp_path):
    module = Computed()
    module.trainer = trivial.trainer(devices=2, strategy="ddp", default_root_dir=tmp_path)
    assert module.share(torch.arange(5)).tolist() == [0, 2, 4]


def test_a_set_that_makes_its_images_is_trained_on_calibrated_with_and_attacked(tmp_path):
    torch.manual_seed(0)
    data, module = Computed(), VanillaTraining(network())
    evaluation = RobustnessEvaluation(eps=["8/255"], steps=2, n=12)
    runner = trivial.trainer(callbacks=[evaluation], inference_mode=False, default_root_dir=tmp_path)
    runner.fit(module, datamodule=data)
    runner.test(module, datamodule=data, verbose=False)
    x, y, _ = data.batch("test", torch.arange(30))
    right = prediction(module.network(x)) == y
    assert evaluation.outcomes["clean"].accuracy == pytest.approx(right.float().mean().item())
    assert torch.equal(evaluation.outcomes["pgd2_8"].indices, data.choose("test", 12))
    assert [len(batch.y) for batch in data.calibration_batches()] == [8]


@pytest.mark.parametrize("kind", [ForTesting, Untrainable])
def test_a_test_asks_for_nothing_of_the_training_images(kind, tmp_path):
    data, evaluation = kind(), RobustnessEvaluation(eps=["8/255"], steps=1, n=12)
    runner = trivial.trainer(callbacks=[evaluation], inference_mode=False, default_root_dir=tmp_path)
    runner.test(VanillaTraining(network()), datamodule=data, verbose=False)
    assert evaluation.outcomes["clean"].n == 30
    assert evaluation.outcomes["pgd1_8"].n == 12
    assert {part for part, _ in data.fetched} == {"test"}


@pytest.mark.parametrize(
    "use",
    [
        lambda data: data.setup("fit"),
        lambda data: data.setup("validate"),
        lambda data: data.check_calibration(),
        lambda data: data.calibration_batches(),
        lambda data: data.val_indices,
    ],
)
def test_without_training_images_training_and_calibration_are_refused_with_the_way_out(use):
    data = ForTesting()
    data.setup()
    with pytest.raises(
        ValueError, match=r"the data has no training images: it can be used for tests, .* give a data set that"
    ):
        use(data)


def test_calibration_in_a_test_asks_for_its_images_before_it_begins():
    data = Computed(calibration_size=90)
    data.setup("test")
    with pytest.raises(ValueError, match="calibration_size is 90, but only 80 of 100 training images are left"):
        data.check_calibration()


def test_data_of_another_kind_are_named():
    runner = trivial.trainer()
    runner.datamodule = object()
    with pytest.raises(ValueError, match=r"the data is object: derive it from qra.data.ImageDataModule"):
        data_of(runner)


def test_what_a_data_set_does_not_write_is_named():
    class Incomplete(Computed):
        fetch = ImageDataModule.fetch

    with pytest.raises(TypeError, match=r"abstract class Incomplete .*fetch"):
        Incomplete()


@pytest.mark.parametrize("kind", [CIFAR10DataModule, ImageFolderDataModule, SyntheticDataModule])
def test_an_argument_of_all_data_sets_is_documented_once(kind):
    inherited = inspect.signature(ImageDataModule.__init__).parameters
    own = inspect.signature(kind.__init__).parameters
    assert own["settings"].kind == inspect.Parameter.VAR_KEYWORD
    again = [name for name in own if name in inherited and own[name].default == inherited[name].default]
    assert again == ["self"]
    assert {parameter.name for parameter in signatures()[kind.__name__].parameters} > inherited.keys() - {"self"}
    assert all(parameter.text for parameter in signatures()[kind.__name__].parameters)
