"""Images in NumPy files: what is read of them, and what is refused by name."""

import numpy as np
import pytest
import torch
from hostile import refusal

from qra.data import ArrayDataModule, CorruptedDataModule, corruptions

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 4, 5, 3), np.uint8)
LABELS = np.array([0, 1, 2, 0, 1, 2])


@pytest.fixture
def pair(tmp_path):
    np.save(tmp_path / "images.npy", PIXELS)
    np.save(tmp_path / "labels.npy", LABELS)
    return tmp_path / "images.npy", tmp_path / "labels.npy"


@pytest.fixture
def corrupted(tmp_path):
    """Two corruptions of two images at three severities."""
    for name, offset in (("fog", 0), ("blur", 1)):
        np.save(tmp_path / f"{name}.npy", PIXELS + np.uint8(offset))
    np.save(tmp_path / "labels.npy", np.array([0, 1, 0, 1, 0, 1], np.uint8))
    return tmp_path


def loaded(data):
    data.prepare_data()
    data.setup("test")
    return data


def error_of(data):
    return refusal(lambda: loaded(data))


def test_a_pair_of_arrays_is_a_set_for_testing(pair):
    data = loaded(ArrayDataModule(*pair))
    batch = data.fetch("test", torch.tensor([4, 1]))
    assert np.array_equal(batch.x.permute(0, 2, 3, 1), PIXELS[[4, 1]])
    assert batch.y.tolist() == [1, 1]
    assert data.size("train") == 0
    assert data.class_names == ("0", "1", "2")


def test_one_file_may_hold_images_and_labels(pair, tmp_path):
    np.savez(tmp_path / "both.npz", images=PIXELS, labels=LABELS)
    assert loaded(ArrayDataModule(tmp_path / "both.npz")).data_hash == loaded(ArrayDataModule(*pair)).data_hash


def test_images_without_channels_are_grey(pair):
    np.save(pair[0], PIXELS[..., 0])
    data = loaded(ArrayDataModule(*pair))
    assert data.image_shape == (1, 4, 5)
    assert np.array_equal(data.fetch("test", torch.arange(6)).x[:, 0], PIXELS[..., 0])


def test_classes_may_be_named(pair):
    assert loaded(ArrayDataModule(*pair, ["ant", "bee", "fly", "wasp"])).num_classes == 4
    assert "labels range from 0 to 2, but there are 2 class names" in error_of(ArrayDataModule(*pair, ["ant", "bee"]))


@pytest.mark.parametrize(
    ("images", "said"),
    [
        (PIXELS.astype(np.float32), "images.npy: its images are float32 of shape (6, 4, 5, 3): they must be uint8"),
        (PIXELS.astype(np.int64), "images.npy: its images are int64"),
        (PIXELS.transpose(0, 3, 1, 2).copy(), "images.npy: its images are uint8 of shape (6, 3, 4, 5)"),
        (PIXELS[..., :2].copy(), "of shape (6, 4, 5, 2)"),
        (PIXELS.reshape(6, -1), "of shape (6, 60)"),
        (PIXELS[:5], "labels.npy has 6 labels, but"),
        (np.array([None, 1], object), "images.npy: is not a readable .npy file (holds Python objects)"),
        (PIXELS >> 7, "images.npy: its pixel values are only 0 and 1, of 255: multiply them by 255"),
        (PIXELS[:, :0].copy(), "of shape (6, 0, 5, 3)"),
    ],
)
def test_images_that_are_none_are_refused(pair, images, said):
    np.save(pair[0], images, allow_pickle=True)
    assert said in error_of(ArrayDataModule(*pair))


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (LABELS / 1, "labels.npy: its labels are float64 of shape (6,): they must be integers (N,)"),
        (np.eye(6, dtype=int), "of shape (6, 6)"),
        (LABELS.astype("m8[s]"), "labels.npy: its labels are timedelta64[s]"),
        (LABELS - 1, "labels.npy: labels range from -1 to 1"),
        (np.full(6, 2**62), "labels.npy: its largest label is 4611686018427387904: class numbers must be below"),
        (LABELS[:0], "labels.npy has 0 labels"),
    ],
)
def test_labels_that_are_none_are_refused(pair, labels, said):
    np.save(pair[1], labels)
    assert said in error_of(ArrayDataModule(*pair))


def test_absent_and_superfluous_files_are_named(pair, tmp_path):
    assert error_of(ArrayDataModule(tmp_path / "no.npy", pair[1])) == f"{tmp_path}/no.npy does not exist"
    assert "give the .npy file of their labels by --data.labels" in error_of(ArrayDataModule(pair[0]))
    np.savez(tmp_path / "both.npz", x=PIXELS, y=LABELS)
    assert "has no array images, but x, y" in error_of(ArrayDataModule(tmp_path / "both.npz"))
    assert "already contains labels" in error_of(ArrayDataModule(tmp_path / "both.npz", pair[1]))


@pytest.mark.parametrize("kept", [0, 10, 0.5, 0.99])
def test_a_truncated_array_is_named(pair, kept):
    whole = pair[0].read_bytes()
    pair[0].write_bytes(whole[: kept if isinstance(kept, int) else int(kept * len(whole))])
    assert error_of(ArrayDataModule(*pair)).startswith(f"{pair[0]}: is not a readable .npy file")


@pytest.mark.parametrize("severity", [1, 2, 3])
def test_a_severity_is_its_rows_alone(corrupted, severity):
    data = loaded(CorruptedDataModule(str(corrupted), "blur", severity, severities=3))
    rows = PIXELS[2 * severity - 2 : 2 * severity] + np.uint8(1)
    assert np.array_equal(data.fetch("test", torch.arange(2)).x.permute(0, 2, 3, 1), rows)
    assert data.labels("test").tolist() == [0, 1]
    assert data.num_classes == 10


def test_labels_of_one_severity_serve_all(corrupted):
    np.save(corrupted / "labels.npy", np.array([1, 0]))
    assert loaded(CorruptedDataModule(str(corrupted), "fog", 2, 3)).labels("test").tolist() == [1, 0]
    np.save(corrupted / "labels.npy", np.array([1, 0, 1]))
    assert "labels.npy has 3 labels, but" in error_of(CorruptedDataModule(str(corrupted), "fog", 2, 3))


def test_every_corruption_and_severity_is_a_data_set_of_its_own(corrupted):
    hashes = {
        loaded(CorruptedDataModule(str(corrupted), name, severity, 3)).data_hash
        for name in corruptions(corrupted)
        for severity in (1, 2, 3)
    }
    assert len(hashes) == 6


def test_wrong_corruptions_and_severities_are_named(corrupted, tmp_path):
    with pytest.raises(ValueError, match=r"severity is 6: it must be in 1\.\.5"):
        CorruptedDataModule(str(corrupted), "fog", 6)
    assert "corruption is 'frost': " in (text := error_of(CorruptedDataModule(str(corrupted), "frost", 1, 3)))
    assert text.endswith("has blur, fog")
    assert "has 6 rows, which do not divide into 5 equal parts" in error_of(
        CorruptedDataModule(str(corrupted), "fog", 1)
    )
    assert "has no corrupted images" in error_of(CorruptedDataModule(str(tmp_path / "none"), "fog", 1))
