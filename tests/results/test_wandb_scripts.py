"""W&B's offline files: read back as they were logged, and sent only where somebody listens."""

import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from pd_finetune.records.record import RunRecord, TargetTokens, Values
from pd_finetune.records.tracking import open_tracker
from tests import composed

SCRIPTS = Path(__file__).parents[2] / "scripts"
CONFIG = {
    "method": {"name": "lora_r1", "where": "all"},
    "selection": {"_target_": "pd_finetune.selection.rank.select_label"},
    "budget": 4,
    "seed": 1,
    "languages": {"target": "de"},
}
RECORD = RunRecord(
    status="finished",
    config=CONFIG,
    arm="one_scalar",
    config_hash="0123456789",
    method="lora_r1",
    budget=4,
    seed=1,
    target_language="de",
    chance_nats=8.3,
    base=Values({"de": 3.5, "en": 3.7}),
    edited=Values({"de": 8.3, "en": 3.75}),
    damage_nats={"de": 4.8, "en": 0.05},
    to_chance_nats=0.01,
    english_kl_nats=0.03,
    target_tokens=TargetTokens(training=4),
)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one run directory that W&B logged offline."""
    root = tmp_path_factory.mktemp("runs")
    folder = root / "lora_r1_b4_s1-0123456789"
    folder.mkdir()
    settings = replace(composed.group("logger", "wandb_offline"), group="a_sweep")
    tracker = open_tracker(settings, folder, folder.name, CONFIG)
    for step in range(700):  # over several of the log's blocks
        tracker.log(step, {"train/loss_nats": 5.0 - step / 700, "train/lr": 0.1})
    tracker.rollouts({"de": {"prompt": "Um das", "before": " Haus", "after": " zzz"}})
    tracker.record(RECORD)
    tracker.finish(0)
    return root


def sync(runs: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    clean = {k: v for k, v in os.environ.items() if k.upper() not in ("HTTPS_PROXY", "HTTP_PROXY")}
    return subprocess.run(
        [sys.executable, str(SCRIPTS / "wandb_sync.py"), "--runs", str(runs)],
        env={**clean, "NETRC": str(runs / "netrc"), **environment},
        capture_output=True,
        text=True,
    )


def test_sync_says_in_one_line_why_it_cannot(runs: Path, tmp_path: Path) -> None:
    before = sorted(runs.rglob("*"))
    without = sync(runs, WANDB_API_KEY="")
    assert without.returncode == 2
    assert without.stderr == (
        "error: W&B knows no login here: run `wandb login`, or set WANDB_API_KEY\n"
    )
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    offline = sync(runs, WANDB_API_KEY="0" * 40, WANDB_BASE_URL=f"http://127.0.0.1:{port}")
    assert offline.returncode == 2
    assert offline.stderr.startswith("error: no connection to 127.0.0.1")
    assert offline.stderr.count("\n") == 1 and "try again with a network" in offline.stderr
    assert sorted(runs.rglob("*")) == before
    nothing = sync(tmp_path)
    assert nothing.returncode == 0 and nothing.stdout.startswith("nothing to send")


def test_sync_passes_over_what_was_sent(runs: Path) -> None:
    (log,) = runs.glob("*/wandb/offline-run-*/*.wandb")
    marker = log.with_name(f"{log.name}.synced")
    marker.touch()
    try:
        assert sync(runs).stdout.startswith("nothing to send")
    finally:
        marker.unlink()
