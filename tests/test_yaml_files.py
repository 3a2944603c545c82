"""Configs are read as they are written: nothing in them is dropped in silence."""

import pytest

from qra.front.yaml_files import read_yaml


def written(tmp_path, text):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("test: {n: 1}\nname: a\ntest: {m: 2}\n", "line 3: the key 'test' is already in line 1"),
        ('stages:\n- {name: a,\n   "name": b}\n', "line 3: the key 'name' is already in line 2"),
        ("1: a\n1: b\n", "line 2: the key '1' is already in line 1"),
    ],
)
def test_a_key_that_a_mapping_has_twice_is_refused_with_file_key_and_line(text, place, tmp_path):
    path = written(tmp_path, text)
    with pytest.raises(ValueError, match="keep one of the two") as refusal:
        read_yaml(path)
    assert str(refusal.value).startswith(f"{path}, {place}")


def test_a_few_lines_that_repeat_each_other_without_end_are_refused(tmp_path):
    lines = ["a0: &a0 [x, x]", *(f"a{i}: &a{i} [{', '.join(9 * [f'*a{i - 1}'])}]" for i in range(1, 20))]
    with pytest.raises(ValueError, match=r"mine\.yaml: is nested too deeply, or repeats its parts too often"):
        read_yaml(written(tmp_path, "\n".join(lines)))


def test_merge_keys_and_anchors_keep_working(tmp_path):
    text = (
        "deep: {usual: &usual {a: 1, b: 2}}\nmine: &mine {<<: *usual, b: 3}\nyours: {<<: [*usual], a: 4}\nsame: *mine\n"
    )
    found = read_yaml(written(tmp_path, text))
    assert found["mine"] == found["same"] == {"a": 1, "b": 3}
    assert found["yours"] == {"a": 4, "b": 2}
