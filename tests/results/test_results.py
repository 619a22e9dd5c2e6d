"""Records, run directories, the table and the W&B mirror."""

import fcntl
import io
import json
import math
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from pd_finetune.errors import UserError
from pd_finetune.records import environment
from pd_finetune.records.directory import RunBusy, RunDirectory, config_hash
from pd_finetune.records.record import (
    Hashes,
    RunRecord,
    Seconds,
    TargetTokens,
    Values,
    read_records,
)
from pd_finetune.records.tracking import open_tracker
from pd_finetune.results.table import print_record
from tests import composed

CONFIG: dict[str, Any] = {
    "method": {"name": "mask", "lr": 0.3},
    "budget": 4,
    "device": "cpu",
    "logger": {"kind": "none"},
    "paths": {"runs": "runs"},
    "threads": 1,
    "progress": False,
}
ROLLOUTS = {"de": {"prompt": "Der", "before": " Hund", "after": " zzz"}}


def record(**changes: Any) -> RunRecord:
    values: dict[str, Any] = {
        "status": "finished",
        "config": CONFIG,
        "config_hash": "0123456789",
        "arm": "one_scalar",
        "method": "mask",
        "budget": 4,
        "seed": 0,
        "target_language": "de",
        "chance_nats": 8.32,
        "protected_languages": ["en"],
        "base": Values({"de": 3.5, "en": 3.6, "fr": 3.7}),
        "edited": Values({"de": 8.3, "en": 3.65, "fr": 3.9}),
        "damage_nats": {"de": 4.8, "en": 0.05, "fr": 0.2},
        "damage_standard_error_nats": {"de": 0.1, "en": 0.01, "fr": 0.02},
        "to_chance_nats": 0.02,
        "english_kl_nats": 0.031,
        "kl_nats": {"en": 0.031},
        "masks": {"h.3.attn.v_proj:513": -1.02},
        "trainable_parameters": 1,
        "target_tokens": TargetTokens(training=4, selection=1000),
        "seconds": Seconds(1.0, 3.0, 2.0, 6.0),
        "hashes": Hashes("a", "b", {"de": "c"}),
    }
    return RunRecord(**(values | changes))


def directory(root: Path, **changes: Any) -> RunDirectory:
    return RunDirectory(root, "mask", 4, 0, CONFIG | changes, {"target": "aa"})


def test_record_round_trip_and_keys_that_others_rely_on(tmp_path: Path) -> None:
    record().write(tmp_path / "result.json")
    assert RunRecord.read(tmp_path / "result.json") == record()
    content = json.loads((tmp_path / "result.json").read_text())
    assert content["base"]["ce_nats"]["de"] == 3.5
    assert content["edited"]["ce_nats"]["fr"] == 3.9
    assert content["target_tokens"] == {"training": 4, "selection": 1000, "labels": 0, "tuning": 0}
    assert set(content["seconds"]) == {"load", "train", "evaluate", "total"}
    assert set(content["hashes"]) == {"target", "decomposition", "text"}
    assert {
        *("status", "config", "config_hash", "target_language", "chance_nats", "damage_nats"),
        *("to_chance_nats", "english_kl_nats", "masks", "trainable_parameters"),
        *("peak_memory_bytes", "versions", "git_commit", "device"),
    } <= set(content)
    assert RunRecord.from_dict(content | {"of_a_later_version": 1}) == record()


def test_nan_is_refused_and_nothing_written(tmp_path: Path) -> None:
    for bad in (math.nan, math.inf):
        with pytest.raises(ValueError):
            record(to_chance_nats=bad).write(tmp_path / "result.json")
    assert list(tmp_path.iterdir()) == []


def test_damaged_records_are_the_users_to_know(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    with pytest.raises(UserError, match="no result record"):
        RunRecord.read(path)
    for text in ("{half", "[]", '{"status": "finished"}'):
        path.write_text(text)
        with pytest.raises(UserError, match="no result record"):
            RunRecord.read(path)


def test_hash_covers_what_matters_alone() -> None:
    base = config_hash(CONFIG)
    elsewhere = {"device": "cuda", "threads": 8, "progress": True, "paths": {"runs": "x"}}
    assert config_hash(CONFIG | elsewhere | {"logger": {"kind": "wandb_offline"}}) == base
    assert config_hash(CONFIG | {"budget": 8}) != base
    assert config_hash(CONFIG, {"target": "aa"}) != config_hash(CONFIG, {"target": "bb"}) != base


def test_finished_run_is_recognised(tmp_path: Path) -> None:
    assert directory(tmp_path).finished_record() is None
    with directory(tmp_path) as run:
        run.log(0, {"train/lr": 0.1})
        run.write_rollouts(ROLLOUTS)
        run.write_record(record())
    assert run.path.name.startswith("mask_b4_s0-")
    assert directory(tmp_path, device="cuda").finished_record() == record()
    assert directory(tmp_path, budget=8).finished_record() is None
    assert {path.name for path in run.path.iterdir()} == {
        *("config.yaml", "metrics.jsonl", "result.json", "rollouts.jsonl")
    }
    assert json.loads((run.path / "metrics.jsonl").read_text()) == {"step": 0, "train/lr": 0.1}
    assert json.loads((run.path / "rollouts.jsonl").read_text())["after"] == " zzz"
    assert read_records(tmp_path) == [record()]


def test_half_finished_run_is_cleaned_and_redone(tmp_path: Path) -> None:
    with pytest.raises(KeyError), directory(tmp_path) as run:
        (run.path / "wandb").mkdir()
        (run.path / "wandb" / "left").touch()
        raise KeyError("stop")
    assert "KeyError" in (run.path / "error.txt").read_text()
    with directory(tmp_path) as run:
        assert {p.name for p in run.path.iterdir()} == {".lock", "config.yaml", "metrics.jsonl"}
        run.write_record(record(status="failed", error="KeyError: 'stop'"))
    assert directory(tmp_path).finished_record() is None
    assert read_records(tmp_path) == []


def test_killed_run_leaves_a_directory_that_the_next_one_takes(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path;"
        "from pd_finetune.records.directory import RunDirectory;"
        "run = RunDirectory(Path(sys.argv[1]), 'mask', 4, 0, {'budget': 4});"
        "run.__enter__(); run.log(0, {'a/b': 1.0}); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)])
    assert done.returncode == -9
    with RunDirectory(tmp_path, "mask", 4, 0, {"budget": 4}) as run:
        assert (run.path / "metrics.jsonl").read_text() == ""


def test_two_processes_do_not_share_a_directory(tmp_path: Path) -> None:
    with (
        directory(tmp_path),
        pytest.raises(UserError, match="another process"),
        directory(tmp_path),
    ):
        pass


def test_a_run_that_another_process_has_just_finished_is_left_alone(tmp_path: Path) -> None:
    late = directory(tmp_path)
    assert late.finished_record() is None
    with directory(tmp_path) as run:
        run.write_record(record())
    with pytest.raises(RunBusy, match="just finished"), late:
        pass
    assert late.finished_record() == record()
    assert not (late.path / ".lock").exists()


def test_a_lock_that_its_holder_removed_locks_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between opening the lock file and locking it, the holder ends and somebody else begins."""
    first, second, third = directory(tmp_path), directory(tmp_path), directory(tmp_path)
    first.__enter__()
    lock, swapped = fcntl.flock, []

    def late_lock(handle: Any, operation: int) -> None:
        if not swapped:
            swapped.append(True)
            first.__exit__(None, None, None)
            second.__enter__()
        lock(handle, operation)

    monkeypatch.setattr(fcntl, "flock", late_lock)
    with pytest.raises(RunBusy), third:
        pass
    second.__exit__(None, None, None)


def test_another_config_in_the_directory_is_refused(tmp_path: Path) -> None:
    with directory(tmp_path) as run:
        run.write_record(record())
    (run.path / "config.yaml").write_text("budget: 99\n")
    with pytest.raises(UserError, match="config.yaml"):
        directory(tmp_path).finished_record()
    with pytest.raises(UserError, match="config.yaml"), directory(tmp_path):
        pass
    assert (run.path / "result.json").is_file()


def test_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write"), directory(tmp_path / "file" / "runs"):
        pass

    def refuse(*_: Any, **__: Any) -> None:  # root may write anywhere, so the refusal is made
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "touch", refuse)
    with pytest.raises(UserError, match="Permission denied"), directory(tmp_path / "runs"):
        pass


def shown(what: RunRecord) -> str:
    out = io.StringIO()
    print_record(what, Console(file=out, width=100, force_terminal=True, color_system="standard"))
    return out.getvalue()


def test_table_says_what_counts() -> None:
    text = shown(record())
    for part in ("+4.800", "+0.050", "off-target", "-1.020", "0.0310", "h.3.attn.v_proj:513"):
        assert part in text
    assert "\x1b[32m +4.800" in text and "\x1b[32m +0.050" in text
    bad = shown(
        record(edited=Values({"de": 5.0, "en": 3.8, "fr": 3.9}), damage_nats={"de": 1.5, "en": 0.2})
    )
    assert "\x1b[31m +1.500" in bad and "\x1b[31m +0.200" in bad
    assert "went wrong" in shown(record(status="failed", error="went wrong"))
    text = shown(record(masks={}, edit={"rank": 4, "sites": ["a", "b", "c", "d"]}))
    for part in ("edit: rank", "edit: sites", "4 of them"):
        assert part in text


def test_environment() -> None:
    assert {"python", "torch", "transformers", "peft"} <= set(environment.versions())
    assert environment.peak_memory_bytes() > 2**20
    commit = environment.git_commit()
    assert commit is None or len(commit) == 40


def test_no_tracker_does_not_import_wandb() -> None:
    code = (
        "import sys; from pathlib import Path; from tests import composed;"
        "from pd_finetune.records.tracking import open_tracker;"
        "open_tracker(composed.group('logger', 'none'), Path(), 'x', {}).finish(0);"
        "print('wandb' in sys.modules, 'torch' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.split() == ["False", "False"]


def test_wandb_offline_writes_inside_the_run_directory_without_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    # W&B's service is a process of its own: a proxy that counts sees what it would send out
    proxy = socket.create_server(("127.0.0.1", 0))
    proxy.setblocking(False)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.getsockname()[1]}")
    tracker = open_tracker(composed.group("logger", "wandb_offline"), tmp_path, "mask_b4", CONFIG)
    try:
        tracker.log(0, {"train/lr": 0.1, "masks/h.3.attn.v_proj:513": 1.0})
        tracker.rollouts(ROLLOUTS)
        tracker.record(record())
    finally:
        tracker.finish(exit_code=0)
    files = list(tmp_path.glob("wandb/offline-run-*/*.wandb"))
    assert len(files) == 1 and files[0].stat().st_size > 0
    words = (b"masks/h.3.attn.v_proj:513", b"method:mask", b"budget:4", b"result.json")
    deadline = time.monotonic() + 20  # W&B's service writes on after its `finish` has returned
    while not all(word in files[0].read_bytes() for word in words):
        assert time.monotonic() < deadline, files[0].read_bytes()
        time.sleep(0.02)
    with proxy, pytest.raises(BlockingIOError):
        proxy.accept()
    assert "wandb" not in capfd.readouterr().err


def test_wandb_online_without_login_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))  # where a stored login would be
    with pytest.raises(UserError, match="wandb login"):
        open_tracker(composed.group("logger", "wandb_online"), tmp_path, "x", {})


def test_settings_that_wandb_refuses_are_told(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    settings = composed.group("logger", "wandb_offline", project="a/b")
    with pytest.raises(UserError, match="W&B cannot start .*a/b"):
        open_tracker(settings, tmp_path, "x", CONFIG)
    assert "Traceback" not in capfd.readouterr().err


def test_one_process_mirrors_one_run_after_the_other(tmp_path: Path) -> None:
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        settings = composed.group("logger", "wandb_offline")
        tracker = open_tracker(settings, tmp_path / name, name, CONFIG)
        tracker.log(0, {"train/lr": 0.1})
        tracker.finish(0)
        assert len(list((tmp_path / name).glob("wandb/offline-run-*/*.wandb"))) == 1
