"""Files are whole or old; a folder that cannot be written is said at once."""

import hashlib
import json
from pathlib import Path

import pytest

from pd_finetune.errors import UserError
from pd_finetune.files import (
    file_sha256,
    make_folder,
    replacing,
    write_json,
    write_text,
)


def test_replacing_keeps_the_old_content_on_failure(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(RuntimeError, match="inside"), replacing(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError("inside")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_replacing_swaps_at_the_end_alone(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with replacing(path) as temporary:
        assert temporary.parent == path.parent  # one file system: the rename is atomic
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_replacing_without_content_is_an_error_and_keeps_the_old(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(FileNotFoundError), replacing(path):
        pass
    assert path.read_text() == "old"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_json_refuses_what_is_no_number(value: float, tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, {"deep": [{"a": value}]})
    assert json.loads(path.read_text()) == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_json_round_trip(tmp_path: Path) -> None:
    value = {"ä": [1, 2.5, None, True], "b": {"c": "ß"}}
    write_json(tmp_path / "file.json", value)
    text = (tmp_path / "file.json").read_text(encoding="utf-8")
    assert json.loads(text) == value
    assert "ä" in text and text.endswith("}\n")


def test_text_and_hash(tmp_path: Path) -> None:
    write_text(tmp_path / "file", "grün\n")
    raw = (tmp_path / "file").read_bytes()
    assert raw == "grün\n".encode()
    assert file_sha256(tmp_path / "file") == hashlib.sha256(raw).hexdigest()


def test_make_folder(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    assert make_folder(folder) == make_folder(folder) == folder
    assert folder.is_dir() and not list(folder.iterdir())
    (tmp_path / "file").write_text("content")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UserError, match=f"cannot write to folder '{path}' .*another one"):
            make_folder(path)
    assert (tmp_path / "file").read_text() == "content"


def test_make_folder_where_nothing_can_be_written(tmp_path: Path) -> None:
    folder = tmp_path / "closed"
    folder.mkdir()
    folder.chmod(0o555)
    try:
        (folder / "probe").touch()
    except OSError:
        with pytest.raises(UserError, match=f"cannot write to folder '{folder}'"):
            make_folder(folder)
    else:
        pytest.skip("this user (root) may write to read-only folders")
    finally:
        folder.chmod(0o755)
