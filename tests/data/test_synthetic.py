import pytest
import torch
from torch.nn import functional as F

from qra.data import SyntheticDataModule
from qra.data.synthetic import PATTERN_AMPLITUDE, SHAPES, class_name, draw_images, patterns


def made(**settings):
    module = SyntheticDataModule(
        **{"train_size": 300, "test_size": 100, "val_size": 50, "calibration_size": 50, **settings}
    )
    module.setup()
    return module


@pytest.fixture(scope="module")
def data():
    return made().data


def matched_filter(images):
    """Classes told by the faint patterns alone."""
    return torch.einsum("nchw,kchw->nk", images.float() - images.float().mean((2, 3), keepdim=True), patterns()).argmax(
        1
    )


def test_a_seed_names_the_same_bytes_on_every_machine(data):
    assert data.hash == "202f7e2571276ed8e1ff759bc003a2e98cd89222532694ea112ae8ca22ea9385"


def test_another_seed_makes_other_images(data):
    assert made(data_seed=1).data_hash != data.hash


def test_a_smaller_set_is_the_beginning_of_a_larger_one(data):
    small = made(train_size=200).data
    assert torch.equal(small.train.images, data.train.images[:200])
    assert torch.equal(small.test.images, data.test.images)


def test_train_and_test_share_no_image(data):
    train = {image.numpy().tobytes() for image in data.train.images}
    assert not any(image.numpy().tobytes() in train for image in data.test.images)


def test_classes_are_balanced(data):
    assert torch.bincount(data.train.labels).tolist() == [30] * 10
    assert torch.bincount(data.test.labels).tolist() == [10] * 10


def test_images_are_32_x_32_rgb_of_ten_named_classes(data):
    assert data.train.images.shape == (300, 3, 32, 32)
    assert data.class_names == tuple(SHAPES)
    assert len(data.class_names) == 10


def test_an_attack_of_8_255_can_erase_the_pattern(data):
    assert patterns().abs().max() == PATTERN_AMPLITUDE < 8
    erased = data.train.images - patterns()[data.train.labels]
    assert (matched_filter(erased) == data.train.labels).float().mean() < 0.3


def test_the_pattern_tells_the_class_almost_perfectly(data):
    assert (matched_filter(data.train.images) == data.train.labels).float().mean() > 0.99


def test_the_patterns_of_two_classes_differ_much():
    each = F.normalize(patterns().flatten(1))
    overlap = each @ each.T - torch.eye(10)
    assert overlap.abs().max() < 0.4


def test_a_mirror_only_shifts_a_pattern():
    for pattern in patterns():
        shifts = [pattern.roll(by, dims=2) for by in range(4)]
        assert any(torch.equal(pattern.flip(2), shifted) for shifted in shifts)


def test_an_attack_of_8_255_cannot_hide_the_shape(data):
    without_pattern = F.avg_pool2d(data.train.images.float(), 4).mean(1).flatten(1)
    contrast = without_pattern.max(1).values - without_pattern.min(1).values
    assert contrast.min() > 2 * 8


@pytest.mark.parametrize("name", ["train_size", "test_size"])
def test_fewer_images_than_classes_are_refused(name):
    with pytest.raises(ValueError, match=f"{name} is 9"):
        SyntheticDataModule(**{name: 9})


@pytest.mark.parametrize(
    ("classes", "channels", "image_size"), [(2, 1, 8), (10, 1, 33), (40, 1, 32), (40, 2, 64), (25, 5, 8), (20, 3, 32)]
)
def test_a_set_of_any_form_has_it_and_its_classes_are_told_by_patterns(classes, channels, image_size):
    form = {"classes": classes, "channels": channels, "image_size": image_size}
    data = SyntheticDataModule(train_size=120, test_size=2 * classes, **form).load()
    assert data.train.images.shape == (120, channels, image_size, image_size)
    assert torch.bincount(data.test.labels).tolist() == [2] * classes
    assert data.test.images.min() > 0
    assert data.test.images.max() < 255
    pattern = patterns(classes, channels, image_size)
    overlap = F.normalize(pattern.flatten(1)) @ F.normalize(pattern.flatten(1)).T
    assert overlap.triu(1).abs().max() < 0.9
    assert pattern.abs().eq(PATTERN_AMPLITUDE).all()


def test_the_images_of_any_form_are_the_same_on_every_machine():
    form = {"classes": 25, "image_size": 40, "channels": 2}
    assert made(**form).data_hash == "a2359277546dc1811423aa539223dd3345117b6982464000491de636926524de"


def test_more_classes_keep_the_patterns_of_fewer():
    assert torch.equal(patterns(30)[:10], patterns())


def test_a_larger_image_shows_a_larger_shape_at_the_same_place():
    labels = torch.arange(40)
    small, large = (F.avg_pool2d(draw_images(labels, 0, size=size).float(), size // 8) for size in (32, 64))
    assert (small - large).abs().mean() < 4
    assert (small - large.roll(1, dims=0)).abs().mean() > 10


def test_every_class_has_a_shape_and_a_name_of_its_own():
    classes = 1110
    names = [class_name(number) for number in range(classes)]
    assert len(set(names)) == classes
    assert (names[3], names[10], names[110]) == ("frame", "disk in disk", "disk in disk in disk")
    images = draw_images(torch.arange(111), 0, channels=1, size=64) - patterns(111, 1, 64)
    contrast = images.amax((1, 2, 3)) - images.amin((1, 2, 3))
    assert contrast.min() > 2 * 8


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"classes": 1}, r"classes is 1: it must be in 2..1110"),
        ({"classes": 1111}, r"classes is 1111: it must be in 2..1110"),
        ({"image_size": 7}, "image_size is 7: it must be at least 8"),
        ({"channels": 0}, "channels is 0: it must be at least 1"),
        ({"classes": 101, "test_size": 100}, "test_size is 100: it must be at least 101"),
    ],
)
def test_a_form_that_cannot_be_drawn_is_refused(settings, reason):
    with pytest.raises(ValueError, match=reason):
        SyntheticDataModule(**settings)
