import io
import json
import os
import time
import zipfile

import numpy as np
import pytest

from qra import files
from qra.errors import one_line


def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    start = time.monotonic()
    with pytest.raises(ValueError, match="pipe: is not a regular file"):
        files.read_text(tmp_path / "pipe")
    assert time.monotonic() - start < 1


@pytest.mark.parametrize("path", ["/dev/zero", "/"])
def test_a_device_and_a_directory_are_refused(path):
    with pytest.raises(ValueError, match=r"is not a regular file|is a directory: name a file in it"):
        files.read_text(path)


def test_a_file_that_grows_is_read_no_further_than_the_limit(monkeypatch):
    monkeypatch.setattr(files, "TEXT_LIMIT", 10)
    with pytest.raises(ValueError, match="more than the limit of 10 bytes"):
        files.read_text("/proc/self/maps")  # of size 0, as its status has it


def test_a_large_file_is_refused_by_its_size(tmp_path):
    with open(tmp_path / "large", "wb") as file:
        file.truncate(files.TEXT_LIMIT + 1)
    with pytest.raises(ValueError, match="large: has 64000001 bytes"):
        files.read_json(tmp_path / "large")


def test_a_link_is_followed_only_where_that_is_asked_for(tmp_path):
    (tmp_path / "file").write_text("[1]")
    (tmp_path / "link").symlink_to("file")
    assert files.read_json(tmp_path / "link") == [1]
    with pytest.raises(ValueError, match="link: is a symbolic link"):
        files.read_json(tmp_path / "link", follow=False)


@pytest.mark.parametrize("depth", [101, 1000, 200_000])
@pytest.mark.parametrize("brackets", ["[]", ('{"a":', "}")])
def test_json_that_nests_too_deep_is_refused(tmp_path, depth, brackets):
    (tmp_path / "deep.json").write_text(brackets[0] * depth + "1" + brackets[1] * depth)
    with pytest.raises(ValueError, match=r"deep.json: .*nested deeper than 100"):
        files.read_json(tmp_path / "deep.json")


def test_json_that_nests_a_hundred_deep_is_read(tmp_path):
    (tmp_path / "fine.json").write_text("[" * 100 + "]" * 100)
    assert files.read_json(tmp_path / "fine.json") == json.loads("[" * 100 + "]" * 100)


@pytest.mark.parametrize("content", [b"{", b"", b"\xff\xfe", b'{"a": 1} x'])
def test_what_is_no_json_is_named(tmp_path, content):
    (tmp_path / "wrong.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"wrong.json: is "):
        files.read_json(tmp_path / "wrong.json")


def npz(path, **members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return path


def header(shape, dtype="<i8"):
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": dtype, "fortran_order": False, "shape": shape})
    return file.getvalue()


def test_arrays_are_read_as_they_were_written(tmp_path):
    arrays = {"a": np.arange(6).reshape(2, 3), "b": np.array(True), "c": np.array("text"), "d": np.empty((0, 3))}
    np.savez_compressed(tmp_path / "fine.npz", **arrays)
    found = files.read_npz(tmp_path / "fine.npz")
    assert found.keys() == arrays.keys()
    assert all(
        np.array_equal(found[name], array) and found[name].dtype == array.dtype for name, array in arrays.items()
    )


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (header((10**12,)), "a.npy claims 8000000000000 bytes, but holds"),
        (header((-1,)) + bytes(8), "a.npy claims"),
        (header((1,), "|O"), "Object arrays cannot be loaded"),
        (b"no array", "magic string"),
        (bytes(2**20), "magic string"),
    ],
)
def test_an_array_that_is_none_is_refused(tmp_path, content, reason):
    with pytest.raises(ValueError, match=f"wrong.npz: is truncated or damaged .*{reason}"):
        files.read_npz(npz(tmp_path / "wrong.npz", a=content))


@pytest.mark.parametrize("said", [b",", b"{'descr': (", b"1", b"\xff"])
def test_an_array_whose_header_cannot_be_parsed_is_refused(tmp_path, said):
    (tmp_path / "a.npy").write_bytes(b"\x93NUMPY\1\0" + bytes([len(said) + 1, 0]) + said + b"\n")
    with pytest.raises(ValueError, match=r"a\.npy: is not a readable \.npy file"):
        files.read_npy(tmp_path / "a.npy")


def test_an_array_of_columns_is_read_whole_but_not_cut(tmp_path):
    array = np.asfortranarray(np.arange(24).reshape(4, 3, 2))
    np.save(tmp_path / "a.npy", array)
    assert np.array_equal(files.read_npy(tmp_path / "a.npy"), array)
    with pytest.raises(ValueError, match="holds no rows one after the other"):
        files.read_npy(tmp_path / "a.npy", parts=2)


def test_text_is_read_without_the_mark_of_an_editor(tmp_path):
    (tmp_path / "a.txt").write_text("a\n", encoding="utf-8-sig")
    assert files.read_text(tmp_path / "a.txt") == "a\n"


def test_an_archive_that_unpacks_to_too_much_is_refused(tmp_path):
    bomb = npz(tmp_path / "bomb.npz", a=header((2**24,), "|u1") + bytes(2**24))
    assert bomb.stat().st_size < 2**16
    with pytest.raises(ValueError, match="holds more than the"):
        files.read_npz(bomb, limit=2**23)


def test_of_errors_of_the_system_the_one_that_was_raised_tells(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError) as error:  # noqa: PT011 - the first one is that there is no such directory
        (tmp_path / "file" / "a" / "b").mkdir(parents=True)
    first = FileNotFoundError(2, "No such file or directory", "a")
    error.value.__context__ = first
    assert one_line(error.value) == f"Not a directory: '{error.value.filename}'"


def test_text_from_files_is_one_line_without_control_characters():
    assert files.plain("a\n\x1b[31mb\tc\u202e") == "a [31mb c"


@pytest.mark.parametrize("text", ["=1+1", "+1", "@SUM(A1)", "-1+cmd"])
def test_a_text_for_a_spreadsheet_is_no_formula(text):
    assert files.no_formula(text) == f"'{text}"
    assert files.no_formula("-") == "-"
    assert files.no_formula("plain") == "plain"
