"""Images that are decoded when they are needed: what a batch holds, and what is refused."""

import itertools
import logging
import os
import shutil

import pytest
import torch
from hostile import refusal
from PIL import Image
from torchvision.io import decode_image
from torchvision.models import ResNet18_Weights

from qra.data import StreamedDataModule, to_pixels
from qra.data.crops import AREA, ASPECT, draw, random_box
from qra.models import Normalize
from tests.data.image_tree import make_tree, truncate

SETTINGS = {"size": 32, "batch_size": 8, "val_size": 3, "calibration_size": 4, "workers": 0}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("tree")
    make_tree(root, {"train": 8, "val": 8}, sides=(40, 90))
    return root


@pytest.fixture
def root(made, tmp_path):
    """A tree of one's own to spoil."""
    return shutil.copytree(made, tmp_path / "tree")


def streamed(root, stage="fit", kind=StreamedDataModule, **settings):
    data = kind(str(root), **{**SETTINGS, **settings})
    data.prepare_data()
    data.setup(stage)
    return data


def error_of(root, stage="fit", **settings):
    return refusal(lambda: streamed(root, stage, **settings))


def collected(loader, epochs=1):
    batches = []
    for epoch in range(epochs):
        loader.sampler.set_epoch(epoch)
        batches += list(loader)
    return batches


def are_equal(some, others):
    return len(some) == len(others) and all(
        torch.equal(a, b) for batch, other in zip(some, others, strict=True) for a, b in zip(batch, other, strict=True)
    )


def test_labels_follow_the_folders(made):
    data = streamed(made)
    assert data.class_names == ("class00", "class01", "class02")
    assert data.labels("test").tolist() == [0] * 8 + [1] * 8 + [2] * 8
    assert data.size("train") == 24
    assert data.image_shape == (3, 32, 32)


@pytest.mark.filterwarnings("ignore:The image decoding and encoding:DeprecationWarning")  # of torchvision's decoders
@pytest.mark.parametrize("decode", ["pillow", "torchvision"])
def test_test_images_are_those_of_torchvisions_weights(made, decode):
    data = streamed(made, decode=decode, size=224, resize=256)
    weights = ResNet18_Weights.IMAGENET1K_V1.transforms()
    normalize = Normalize(weights.mean, weights.std)
    files = sorted((made / "val/class00").iterdir(), key=lambda path: path.name)
    for index, file in enumerate(files):
        content = Image.open(file).convert("RGB")
        if decode == "torchvision":
            content = decode_image(str(file), "RGB").to(torch.uint8)
        ours = normalize(to_pixels(data.fetch("test", torch.tensor([index])).x[0]))
        assert torch.equal(ours, weights(content)), file.name


@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_batches_are_the_same_with_any_number_of_workers(made, workers):
    alone, helped = (streamed(made, workers=count) for count in (0, workers))
    assert are_equal(collected(alone.train_dataloader(), 2), collected(helped.train_dataloader(), 2))
    assert are_equal(collected(alone.test_dataloader()), collected(helped.test_dataloader()))


class OneOf(StreamedDataModule):
    """What one of several processes sees of the data."""

    place = (0, 1)

    def _place(self):
        return self.place


@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_share_what_one_process_would_do(made, ranks):
    whole = collected(streamed(made).train_dataloader(), 2)
    shares = []
    for rank in range(ranks):
        data = streamed(made, kind=OneOf)
        data.place = (rank, ranks)
        shares.append(collected(data.train_dataloader(), 2))
    for number, batch in enumerate(whole):
        for rank, share in enumerate(shares):
            assert all(torch.equal(a[rank::ranks], b) for a, b in zip(batch, share[number], strict=True))


def test_a_loader_that_is_told_its_epoch_after_it_began_follows_it(made):
    data = streamed(made, workers=1)
    loader = data.train_dataloader()
    begun = iter(loader)
    loader.sampler.set_epoch(1)
    late = list(begun)
    assert are_equal(late, collected(streamed(made).train_dataloader(), 2)[len(late) :])


def test_every_pass_cuts_anew_and_only_training_images_are_cut(made):
    data = streamed(made, batch_size=21)
    first, second = collected(data.train_dataloader(), 2)
    order = first.indices.argsort(), second.indices.argsort()
    assert torch.equal(first.indices[order[0]], second.indices[order[1]])
    assert not torch.equal(first.x[order[0]], second.x[order[1]])
    whole = collected(streamed(made, augment=False, batch_size=21).train_dataloader())[0]
    assert torch.equal(whole.x, data.fetch("train", whole.indices).x)
    validated = collected(data.val_dataloader())[0]
    assert torch.equal(validated.x, data.fetch("train", data.val_indices).x)


def test_a_longer_epoch_of_a_share_cuts_each_pass_anew(made):
    data = streamed(made, fraction=0.4, budget="steps", batch_size=4)
    batches = collected(data.train_dataloader())
    assert len(batches) == 5
    seen = {}
    for batch in batches:
        for index, x in zip(batch.indices.tolist(), batch.x, strict=True):
            assert not any(torch.equal(x, other) for other in seen.setdefault(index, []))
            seen[index].append(x)


def test_cuts_are_those_of_torchvision_in_distribution():
    boxes = [random_box(400, 400, draws[1:]) for draws in draw(torch.arange(4000), 0, 0)]
    top, left, height, width = torch.tensor(boxes).double().unbind(1)
    share, aspect = height * width / 160_000, width / height
    assert AREA[0] * 0.97 < share.min()
    assert share.max() <= 1
    assert ASPECT[0] * 0.97 < aspect.min()
    assert aspect.max() < ASPECT[1] * 1.03
    assert abs(aspect.log().mean()) < 0.02
    assert ((top >= 0) & (top + height <= 400) & (left >= 0) & (left + width <= 400)).all()
    assert abs((left / (400 - width).clamp(min=1)).mean() - 0.5) < 0.03


def test_an_image_too_long_to_be_scaled_is_named(root):
    Image.new("L", (1, 2000)).save(root / "val/class00/000.JPEG")
    data = StreamedDataModule(str(root), workers=0)
    with pytest.raises(ValueError, match=r"000\.JPEG has 1 x 2000 pixels, too elongated to be scaled to 256"):
        data.fetch("test", torch.arange(1))


def test_an_image_too_narrow_for_any_cut_gives_its_middle():
    assert random_box(1000, 10, draw(torch.tensor([0]), 0, 0)[0][1:]) == (493, 0, 13, 10)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_truncated_file_ends_in_one_line_from_a_worker_too(root, workers):
    file = root / "train/class00/000.JPEG"
    truncate(file)
    data = streamed(root, workers=workers, val_size=0, batch_size=24)
    with pytest.raises(ValueError, match="cannot be decoded as an image") as caught:
        collected(data.train_dataloader())
    assert str(caught.value).startswith(f"{file} cannot be decoded as an image (image file is truncated")
    assert "\n" not in str(caught.value)


def test_a_file_that_changed_after_it_was_listed_is_named(root):
    data = streamed(root)
    file = root / "val/class01/002.JPEG"
    file.write_bytes(file.read_bytes() + b"\0")
    with pytest.raises(ValueError, match=r"002\.JPEG .*when this run started: the data has changed"):
        data.fetch("test", torch.arange(24))
    file.unlink()
    with pytest.raises(ValueError, match=r"002\.JPEG cannot be decoded as an image .No such file"):
        data.fetch("test", torch.arange(24))


def test_tests_need_no_training_images_and_read_none(root):
    whole = streamed(root)
    for file in (root / "train").rglob("*.*"):
        truncate(file)
    assert streamed(root, "test").data_hash == whole.data_hash
    (root / "train").rename(root / "elsewhere")
    data = streamed(root, "test")
    assert data.data_hash == whole.data_hash
    assert data.size("train") == 0
    assert "the data has no training images" in error_of(root)


def test_the_hash_is_of_names_sizes_labels_and_how_images_are_made(root):
    hashes = [streamed(root).data_hash, streamed(root, decode="pillow").data_hash, streamed(root, size=31).data_hash]
    (root / "val/class00/000.JPEG").rename(root / "val/class00/0000.JPEG")
    hashes.append(streamed(root).data_hash)
    (root / "val/class01/001.JPEG").unlink()
    hashes.append(streamed(root).data_hash)
    assert len(set(hashes)) == 5


def test_what_training_depends_on_includes_its_images(root):
    before = streamed(root)
    hashes = before.data_hash, before.training_hash
    (root / "train/class00/000.JPEG").unlink()
    after = streamed(root)
    assert after.data_hash == hashes[0]
    assert after.training_hash != hashes[1]


def test_other_classes_for_testing_are_refused(root):
    (root / "val/class02").rename(root / "val/class03")
    for stage in ("fit", "test"):
        assert "only one has ['class02', 'class03']" in error_of(root, stage)


@pytest.fixture
def listed(root):
    """A function that writes a list file and names it."""

    def write(*lines):
        (root / "list.txt").write_text("\n".join(lines) + "\n")
        return "list.txt"

    return write


def test_a_list_names_the_test_images(root, listed):
    whole = streamed(root)
    name = listed("# some", "class01/001.JPEG class01", "", "class00/000.JPEG 0", "class02/002.JPEG")
    data = streamed(root, list_file=name)
    assert data.labels("test").tolist() == [1, 0, 2]
    assert torch.equal(data.fetch("test", torch.arange(3)).x, whole.fetch("test", torch.tensor([9, 0, 18])).x)
    assert data.class_names == whole.class_names
    assert data.data_hash != whole.data_hash


def test_a_list_may_be_of_a_folder_without_classes(root, listed):
    flat = root / "val/images"
    flat.mkdir()
    for number in range(3):
        (root / f"val/class0{number}/000.JPEG").rename(flat / f"an image {number}.JPEG")
    name = listed(*(f"an image {number}.JPEG\tclass0{number}\t0\t32" for number in range(3)))
    data = streamed(root, test="val/images", list_file=name)
    assert data.labels("test").tolist() == [0, 1, 2]
    (root / "train").rename(root / "elsewhere")
    assert streamed(root, "test", test="val/images", list_file=name).class_names == data.class_names


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (
            ["class00/000.JPEG 0", "class00/none.JPEG 0"],
            "list.txt, line 2: {root}/val/class00/none.JPEG is not an existing image file",
        ),
        (["class00/000.JPEG bird"], "list.txt, line 1: 'bird' is not one of the 3 classes, such as class00"),
        (["class00/000.JPEG 3"], "'3' is not one of the 3 classes"),
        (["000.JPEG"], "list.txt, line 1: '000.JPEG' has no class: write PATH CLASS"),
        (["../train/class00/000.JPEG 0"], "line 1: ../train/class00/000.JPEG points outside {root}/val"),
        ([], "list.txt lists no images"),
        (["class00/000.JPEG 0", "./class00/000.JPEG 1"], "line 2: ./class00/000.JPEG is listed twice"),
        (["class00/" + 300 * "x" + ".JPEG 0"], "is not an existing image file"),
    ],
)
def test_a_list_of_what_is_not_there_is_refused_with_its_line(root, listed, lines, said):
    assert said.format(root=root) in error_of(root, list_file=listed(*lines))


@pytest.mark.parametrize("end", ["\r\n", "\n"])
def test_a_list_of_another_system_is_read(root, end):
    text = end.join(["class01/001.JPEG class01", "class00/000.JPEG class00", ""])
    (root / "list.txt").write_bytes(text.encode("utf-8-sig"))
    assert streamed(root, list_file="list.txt").labels("test").tolist() == [1, 0]


def test_where_classes_are_called_by_numbers_a_number_in_a_list_is_a_name(root, listed):
    for part, number in itertools.product(("train", "val"), range(3)):
        (root / part / f"class0{number}").rename(root / part / str(number + 1))
    name = listed("3/002.JPEG 3", "1/000.JPEG 1")
    assert streamed(root, list_file=name).labels("test").tolist() == [2, 0]
    name = listed("3/002.JPEG 2", "1/000.JPEG 0")
    assert "line 2: '0' is not one of the 3 classes, such as 1" in error_of(root, list_file=name)


def test_an_absent_list_is_named(root):
    assert error_of(root, list_file="no.txt") == "list_file: no.txt does not exist"


def test_more_workers_than_cores_are_allowed_and_said(made, caplog):
    many = len(os.sched_getaffinity(0)) + 1
    with caplog.at_level(logging.WARNING, "qra"):
        data = streamed(made, workers=many)
    assert caplog.messages == [f"workers is {many}, but there are only {many - 1} cores: workers will share cores"]
    assert are_equal(collected(data.test_dataloader()), collected(streamed(made).test_dataloader()))


def test_settings_out_of_range_are_refused(made):
    for settings, said in (
        ({"size": 0}, "size is 0"),
        ({"resize": 31}, "resize is 31: it must be at least 32"),
        ({"workers": -2}, "workers is -2"),
        ({"decode": "dali"}, "decode is 'dali'"),
        ({"interpolation": "nearest"}, "interpolation is 'nearest'"),
        ({"channels": 4}, "channels is 4"),
    ):
        assert said in error_of(made, **settings)


def test_one_channel_is_kept_where_asked(made):
    x = streamed(made, channels=1).fetch("test", torch.arange(24)).x
    assert x.shape == (24, 1, 32, 32)
    assert x.float().std() > 1


def test_calibration_images_are_whole(made):
    data = streamed(made)
    batch = next(iter(data.calibration_batches()))
    assert torch.equal(batch.x, to_pixels(data.fetch("train", data.calibration_indices).x))
