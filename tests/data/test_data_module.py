import pytest
import torch
from lightning.pytorch import LightningModule
from torch.nn import functional as F
from trivial import trainer

from qra.data import ImageData, ImageSet, TensorDataModule, random_crop_flip, to_pixels
from qra.types import Batch


class Noise(TensorDataModule):
    """100 training and 30 test images of noise, in 4 classes; counts how often it is read."""

    loads = 0

    def load(self):
        self.loads += 1
        generator = torch.Generator().manual_seed(0)

        def images(n):
            x = torch.randint(0, 256, (n, 3, 8, 8), dtype=torch.uint8, generator=generator)
            return ImageSet(x, torch.arange(n) % 4)

        return ImageData(images(100), images(30), ("a", "b", "c", "d"))


def made(**settings):
    module = Noise(**{"batch_size": 16, "val_size": 20, "calibration_size": 8, **settings})
    module.setup()
    return module


class Recorder(LightningModule):
    """Keeps every batch that it is given, by stage and epoch."""

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(()))
        self.batches = {}

    def keep(self, batch):
        self.batches.setdefault((self.trainer.state.stage.value, self.current_epoch), []).append(batch)

    def training_step(self, batch, batch_idx):
        self.keep(batch)
        return self.scale * batch.x.mean()

    def validation_step(self, batch, batch_idx):
        self.keep(batch)

    test_step = validation_step

    def predict_step(self, batch, batch_idx):
        self.keep(batch)
        return batch.y

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.fixture(scope="module")
def fitted():
    """Batches of two epochs of training, and the data module that gave them."""
    module, recorder = Noise(16, 20, calibration_size=8), Recorder()
    trainer(max_epochs=2).fit(recorder, datamodule=module)
    return recorder.batches, module


def indices(batches):
    return torch.cat([batch.indices for batch in batches])


def test_training_takes_a_new_order_each_epoch(fitted):
    batches, _ = fitted
    first, second = indices(batches["train", 0]), indices(batches["train", 1])
    assert len(first) == len(second) == 80
    assert not torch.equal(first, second)


def test_training_leaves_out_a_last_batch_that_is_not_full():
    module, recorder = made(batch_size=32), Recorder()
    trainer(max_epochs=1).fit(recorder, datamodule=module)
    assert [len(batch.y) for batch in recorder.batches["train", 0]] == [32, 32]


def test_training_images_are_augmented_by_index_and_epoch(fitted):
    batches, module = fitted
    for (stage, epoch), of_epoch in batches.items():
        if stage == "train":
            for batch in of_epoch:
                stored = module.data.train.images[batch.indices]
                assert torch.equal(batch.x, random_crop_flip(to_pixels(stored), batch.indices, module.seed, epoch))


def test_validation_images_are_pixels_as_stored(fitted):
    batches, module = fitted
    for batch in batches["validate", 1]:
        assert batch.x.dtype == torch.float32
        assert torch.equal(batch.x, module.data.train.images[batch.indices] / 255)
        assert torch.equal(batch.y, module.data.train.labels[batch.indices])


def test_validation_sees_each_of_its_images_once_an_epoch_and_training_none_of_them(fitted):
    batches, module = fitted
    assert torch.equal(indices(batches["validate", 0]), module.val_indices)
    assert not set(indices(batches["train", 0]).tolist()) & set(module.val_indices.tolist())


def test_batches_stay_batches(fitted):
    assert all(isinstance(batch, Batch) for batches in fitted[0].values() for batch in batches)


def test_the_data_are_read_once_for_all_stages(fitted):
    module = made()
    runner = trainer(max_epochs=1)
    runner.fit(Recorder(), datamodule=module)
    runner.test(Recorder(), datamodule=module, verbose=False)
    assert module.loads == 1


@pytest.mark.parametrize("stage", ["test", "predict"])
def test_every_test_image_comes_once_and_in_order(stage):
    module, recorder = made(), Recorder()
    getattr(trainer(), stage)(recorder, datamodule=module)
    batches = recorder.batches[stage, 0]
    assert torch.equal(indices(batches), torch.arange(30))
    assert torch.equal(torch.cat([batch.x for batch in batches]), to_pixels(module.data.test.images))


def test_a_resumed_run_sees_the_batches_of_an_uninterrupted_one(fitted, tmp_path):
    def run(epochs, checkpoint):
        runner, recorder = trainer(max_epochs=epochs), Recorder()
        runner.fit(recorder, datamodule=made(), ckpt_path=checkpoint, weights_only=True)
        runner.save_checkpoint(tmp_path / "state.ckpt")
        return recorder.batches

    run(1, None)
    resumed = run(2, tmp_path / "state.ckpt")
    assert torch.equal(indices(resumed["train", 1]), indices(fitted[0]["train", 1]))
    assert all(torch.equal(a.x, b.x) for a, b in zip(resumed["train", 1], fitted[0]["train", 1], strict=True))


def test_loading_leaves_the_global_generator_alone():
    module = made()
    before = torch.get_rng_state()
    for loader in (module.train_dataloader(), module.val_dataloader(), module.calibration_batches()):
        list(loader)
    assert torch.equal(torch.get_rng_state(), before)


def test_augmentation_can_be_switched_off():
    module, recorder = made(augment=False), Recorder()
    trainer(max_epochs=1).fit(recorder, datamodule=module)
    for batch in recorder.batches["train", 0]:
        assert torch.equal(batch.x, to_pixels(module.data.train.images[batch.indices]))


@pytest.mark.filterwarnings("ignore:Total length of `list` across ranks is zero")
def test_without_validation_images_there_is_no_validation():
    recorder = Recorder()
    trainer(max_epochs=1).fit(recorder, datamodule=made(val_size=0))
    assert [stage for stage, _ in recorder.batches] == ["train"]


def test_a_fraction_is_taken_from_the_training_part():
    whole, half = made(), made(fraction=0.5)
    assert torch.equal(whole.val_indices, half.val_indices)
    assert len(half.train_indices) == 40
    assert set(half.train_indices.tolist()) < set(whole.train_indices.tolist())


def test_calibration_images_are_balanced_training_images_as_stored():
    module = made(calibration_size=24)
    batches = list(module.calibration_batches())
    assert set(indices(batches).tolist()) < set(module.train_indices.tolist())
    assert torch.bincount(torch.cat([batch.y for batch in batches])).tolist() == [6, 6, 6, 6]
    assert all(torch.equal(batch.x, to_pixels(module.data.train.images[batch.indices])) for batch in batches)


def test_fewer_calibration_images_are_the_first_of_more():
    assert torch.equal(made(calibration_size=8).calibration_indices, made(calibration_size=24).calibration_indices[:8])


@pytest.mark.parametrize("chosen", ["val_indices", "train_indices", "calibration_indices"])
def test_split_seed_chooses_the_images_of_each_part_and_seed_does_not(chosen):
    def part(**seeds):
        return getattr(made(fraction=0.5, **seeds), chosen)

    assert torch.equal(part(seed=1), part())
    assert not torch.equal(part(split_seed=1), part())


def test_properties_describe_the_data():
    module = made()
    assert (module.num_classes, module.class_names, module.image_shape) == (4, ("a", "b", "c", "d"), (3, 8, 8))


def test_the_hash_depends_on_every_part_of_the_data():
    def changed(change):
        data = Noise().load()
        change(data)
        return data.hash

    hashes = {
        changed(lambda data: None),
        changed(lambda data: data.train.images[7, 1, 2, 3].add_(1)),
        changed(lambda data: data.train.labels[7].fill_(0)),
        changed(lambda data: data.test.images[7, 1, 2, 3].add_(1)),
        changed(lambda data: data.test.labels[7].fill_(0)),
    }
    assert len(hashes) == 5
    assert made().data_hash in hashes


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"fraction": 0.0}, "fraction is 0.0: it must be above 0 and at most 1"),
        ({"fraction": 1.5}, "fraction is 1.5: it must be above 0 and at most 1"),
        ({"budget": "hours"}, "budget is .hours.: choose one of epochs, steps"),
        ({"batch_size": 0}, "batch_size is 0: it must be at least 1"),
        ({"val_size": -1}, "val_size is -1: it must be at least 0"),
        ({"calibration_size": 0}, "calibration_size is 0: it must be at least 1"),
    ],
)
def test_a_value_out_of_range_is_refused_at_construction(settings, reason):
    with pytest.raises(ValueError, match=reason):
        Noise(**settings)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"val_size": 100}, "val_size is 100, but the training set has 100 images"),
        ({"batch_size": 81}, "batch_size is 81, but only 80 of 100 training images are left after val_size 20"),
        ({"fraction": 0.1}, "batch_size is 16, but only 8 of 100 .* fraction 0.1: lower batch_size"),
    ],
)
def test_a_value_that_does_not_fit_the_data_is_refused_by_setup(settings, reason):
    with pytest.raises(ValueError, match=reason):
        made(**settings)


@pytest.mark.parametrize(("stage", "val_size", "told"), [("fit", 51, True), ("fit", 50, False), ("test", 51, False)])
def test_a_training_tells_that_most_images_are_held_out(stage, val_size, told, caplog):
    Noise(batch_size=16, val_size=val_size).setup(stage)
    line = f"only 49 of 100 training images are left after val_size {val_size}: lower --data.val_size to train on more"
    assert (line in caplog.messages) == told


def test_a_data_set_that_loads_something_else_is_named():
    class Forgetful(Noise):
        def load(self):
            super().load()

    with pytest.raises(ValueError, match=r"Forgetful.load returned a NoneType: it must return a qra.data.ImageData"):
        Forgetful().setup()


def test_data_before_setup_is_an_error():
    with pytest.raises(RuntimeError, match=r"call setup\(\) first"):
        Noise().class_names  # noqa: B018


def test_on_two_devices_lightning_must_not_deal_out_the_data_too():
    module = made()
    module.trainer = trainer(devices=2, strategy="ddp")
    with pytest.raises(ValueError, match="use_distributed_sampler=False"):
        module.test_dataloader()


def test_overfit_batches_of_lightning_is_refused_in_training_alone():
    run = trainer(overfit_batches=1, max_epochs=1)
    with pytest.raises(ValueError, match=r"overfit_batches does not work with .* give the data module a fraction"):
        run.fit(Recorder(), made())
    run.test(Recorder(), made())


def test_on_two_devices_the_batch_size_must_be_even():
    module = made(batch_size=15)
    module.trainer = trainer(devices=2, strategy="ddp", use_distributed_sampler=False)
    with pytest.raises(ValueError, match="batch_size is 15 over all devices: make it a multiple of the 2 devices"):
        module.train_dataloader()


def test_on_two_devices_a_rank_takes_every_second_image_but_all_calibration_images():
    module = made()
    module.trainer = trainer(devices=2, strategy="ddp", use_distributed_sampler=False)
    assert torch.equal(indices(module.test_dataloader()), torch.arange(0, 30, 2))
    assert torch.equal(indices(module.calibration_batches()), module.calibration_indices)


IMAGES = torch.zeros(4, 3, 8, 8, dtype=torch.uint8)
LABELS = torch.tensor([0, 1, 0, 1])
SET = ImageSet(IMAGES, LABELS)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: ImageSet(IMAGES.float(), LABELS), "images must be a tensor of uint8"),
        (lambda: ImageSet(IMAGES[0], LABELS), "images must be a tensor of uint8"),
        (lambda: ImageSet(IMAGES.numpy(), LABELS), "images must be a tensor of uint8 .* not a ndarray of uint8"),
        (lambda: ImageSet(IMAGES, LABELS[:3]), "labels must be int64, one for each of the 4 images"),
        (lambda: ImageSet(IMAGES, LABELS.int()), "labels must be int64"),
        (lambda: ImageData(SET, SET, ("a",)), "at least 2 are needed"),
        (lambda: ImageData(None, SET, ("cat", "cat")), "two classes of the data are called 'cat'"),
        (lambda: ImageData(SET, ImageSet(IMAGES[:0], LABELS[:0]), ("a", "b")), "no test images: at least 1 is needed"),
        (lambda: ImageData(SET, ImageSet(IMAGES, LABELS + 1), ("a", "b")), "labels range from 0 to 2"),
        (lambda: ImageData(SET, ImageSet(F.pad(IMAGES, (1, 1)), LABELS), ("a", "b")), "they must have the same shape"),
    ],
)
def test_data_of_another_form_are_refused(make, reason):
    with pytest.raises(ValueError, match=reason):
        make()


def steps_of(accumulated=1, **settings):
    """What a run of 2 epochs was given: its recorder."""
    recorder = Recorder()
    trainer(limit_val_batches=0, accumulate_grad_batches=accumulated).fit(recorder, made(**settings))
    return recorder.batches


@pytest.mark.parametrize("fraction", [0.2, 0.5, 0.99, 1.0])
def test_with_a_budget_of_steps_every_fraction_takes_as_many_full_steps_as_the_whole(fraction):
    batches = steps_of(fraction=fraction, budget="steps")
    used = made(fraction=fraction).train_indices
    for epoch in range(2):
        given = batches["train", epoch]
        assert [len(batch.y) for batch in given] == [16] * 5
        counts = torch.bincount(torch.cat([batch.indices for batch in given]), minlength=100)[used]
        assert counts.sum() == 80
        assert counts.max() - counts.min() <= 1


def test_with_a_budget_of_epochs_a_fraction_takes_fewer_steps():
    assert len(steps_of(fraction=0.5)["train", 0]) == 2


def test_the_whole_set_is_served_alike_under_both_budgets():
    one, other = (steps_of(budget=budget) for budget in ("epochs", "steps"))
    for key, batches in one.items():
        assert all(torch.equal(a.x, b.x) for a, b in zip(batches, other[key], strict=True))


def test_a_pass_is_counted_by_batches_not_by_steps_of_the_optimizer():
    one, other = (steps_of(accumulated, fraction=0.2, budget="steps") for accumulated in (1, 2))
    for key, batches in one.items():
        assert all(torch.equal(a.x, b.x) for a, b in zip(batches, other[key], strict=True))


def test_an_image_that_comes_again_in_an_epoch_is_cropped_anew_and_in_another_order():
    batches = steps_of(fraction=0.2, budget="steps", batch_size=16)["train", 0]
    first, second = batches[:2]  # 16 images are the whole subset
    assert first.indices.sort().values.tolist() == second.indices.sort().values.tolist()
    assert first.indices.tolist() != second.indices.tolist()
    pairs = [(first.x[first.indices == index], second.x[second.indices == index]) for index in first.indices]
    assert sum(not torch.equal(one, other) for one, other in pairs) > 12
