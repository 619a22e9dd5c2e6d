"""A finished run is known from files alone, and only while they are what they were."""

import os
import shutil
from pathlib import Path

import pytest

from pd_finetune import cache
from pd_finetune.cache import source_sha256
from pd_finetune.decomposition.folder import EMBEDDED_DECOMPOSITION, WEIGHTS, stored_hash
from pd_finetune.errors import UserError
from pd_finetune.files import file_sha256
from pd_finetune.finetuning.config import RunConfig
from pd_finetune.finetuning.experiment import finetune_run
from pd_finetune.finetuning.identity import finished_run, run_directory, stored_hashes
from pd_finetune.loading.folders import EMBEDDED_TARGET
from pd_finetune.records.record import Hashes
from tests import composed


def compose(*overrides: str) -> RunConfig:
    quick = ["debug=tiny", "logger=none", "progress=false", "evaluation.rollouts={}"]
    return composed.stage("run", *quick, *overrides)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """A copy of the embedded target."""
    return Path(shutil.copytree(EMBEDDED_TARGET, tmp_path / "target"))


def change(path: Path) -> None:
    """Another content of the same size, with the old time of change written back."""
    stat, content = path.stat(), bytearray(path.read_bytes())
    content[-3] ^= 0x55
    path.write_bytes(content)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def test_a_finished_run_is_known_until_its_target_changes(tmp_path: Path, target: Path) -> None:
    config = compose("model=hf", f"model.folder={target}", f"paths.runs={tmp_path / 'runs'}")
    record, folder, fresh = finetune_run(config)
    assert fresh
    found = finished_run(config)
    assert found is not None and found == (record, folder)
    assert stored_hashes(config) == record.hashes
    change(target / "model.safetensors")
    assert finished_run(config) is None
    # loaded anew, though this very process has the old one in memory
    with pytest.raises(UserError, match="is of another target"):
        finetune_run(config)
    assert finished_run(config) is None


def test_another_tokenizer_is_another_run(target: Path) -> None:
    config = compose("model=hf", f"model.folder={target}")
    hashes = Hashes("of the target", "of the decomposition", {"de": "of its text"})
    before = run_directory(config, hashes).path
    assert run_directory(config, hashes).path == before
    tokenizer = target / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text() + "\n")
    assert run_directory(config, hashes).path != before


def test_a_target_never_loaded_is_not_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PD_FINETUNE_CACHE", str(tmp_path / "empty"))
    assert stored_hashes(compose()) is None
    assert finished_run(compose("model=hf", "model.folder=nowhere")) is None
    assert finished_run(compose("decomposition=folder", "decomposition.folder=nowhere")) is None


def test_a_damaged_decomposition_has_no_hash(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(EMBEDDED_DECOMPOSITION, tmp_path / "decomposition"))
    assert stored_hash(folder) == stored_hash(EMBEDDED_DECOMPOSITION) is not None
    change(folder / WEIGHTS)
    assert stored_hash(folder) is None


def test_hashes_are_remembered_of_files_that_have_settled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PD_FINETUNE_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "file"
    path.write_bytes(b"one")
    assert source_sha256(path) == file_sha256(path)
    assert not (tmp_path / "cache").exists()  # it may change once more within the same tick
    monkeypatch.setattr(cache, "_SETTLED_SECONDS", -1.0)
    assert source_sha256(path) == file_sha256(path)
    kept = file_sha256(path)
    assert len(list((tmp_path / "cache" / "hashes").iterdir())) == 1
    monkeypatch.setattr(cache, "file_sha256", lambda path: pytest.fail("hashed again"))
    cache._hashes.clear()
    assert source_sha256(path) == kept
    monkeypatch.undo()
    change(path)
    monkeypatch.setenv("PD_FINETUNE_CACHE", str(tmp_path / "cache"))
    assert source_sha256(path) == file_sha256(path) != kept
