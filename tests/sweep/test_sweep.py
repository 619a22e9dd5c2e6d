"""Whole sweeps by command: killed and taken up, in parts, side by side, with failures."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

TINY = ["debug=tiny", "logger=none", "threads=1", "evaluation.rollouts={}"]
GRID = ["arm=one_scalar,lora_r1", "budget=2,4", "seed=0"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "pd_finetune.run", "-m", *TINY, *words]


def sweep(root: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        command(f"paths.runs={root}", *words), env=ENVIRONMENT, capture_output=True, text=True
    )


def table(root: Path) -> dict[str, Any]:
    """What the runs found, by directory: everything but times, memory and how they were done."""
    left_out = ("seconds", "peak_memory_bytes", "config", "git_commit", "versions")
    return {
        path.parent.name: {
            name: value
            for name, value in json.loads(path.read_text()).items()
            if name not in left_out
        }
        for path in sorted(root.glob("*/result.json"))
    }


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The table of an undisturbed sweep."""
    root = tmp_path_factory.mktemp("whole")
    done = sweep(root, *GRID)
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1] == "sweep: 4 done, 0 skipped, 0 failed of 4"
    found = table(root)
    assert len(found) == 4 and all(run["status"] == "finished" for run in found.values())
    return found


@pytest.mark.slow
def test_killed_and_taken_up_it_gives_the_same_table(tmp_path: Path, whole: dict[str, Any]) -> None:
    process = subprocess.Popen(
        command(f"paths.runs={tmp_path}", *GRID),
        env=ENVIRONMENT,
        start_new_session=True,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 240
    # at least one run is finished, and one has begun
    while time.monotonic() < deadline and process.poll() is None:
        begun = len(list(tmp_path.glob("*/metrics.jsonl")))
        if begun > len(table(tmp_path)) > 0:
            break
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    before = len(table(tmp_path))
    assert 0 < before < 4, "it was over before the kill"
    done = sweep(tmp_path, *GRID)
    assert done.returncode == 0, done.stderr
    assert f"{4 - before} done, {before} skipped, 0 failed of 4" in done.stderr
    assert table(tmp_path) == whole


@pytest.mark.slow
@pytest.mark.slow
def test_parts_side_by_side_make_the_whole(tmp_path: Path, whole: dict[str, Any]) -> None:
    # the last process asks for everything: it waits for what the others have in hand
    parts = [["shard=0/2"], ["shard=1/2"], []]
    processes = [
        subprocess.Popen(
            command(f"paths.runs={tmp_path}", *GRID, *part),
            env=ENVIRONMENT,
            stderr=subprocess.PIPE,
            text=True,
        )
        for part in parts
    ]
    last = []
    for process in processes:
        _, errors = process.communicate(timeout=500)
        assert process.returncode == 0, errors
        last.append(errors.splitlines()[-1])
    counts = [[int(line.split()[n]) for n in (1, 3, 5, 8)] for line in last]
    assert [of for *_, of in counts] == [2, 2, 4]
    assert sum(done for done, *_ in counts) == 4  # each run was done once
    assert table(tmp_path) == whole


@pytest.mark.slow
@pytest.mark.slow
def test_a_finished_sweep_is_over_soon_and_loads_nothing(
    tmp_path: Path, whole: dict[str, Any]
) -> None:
    sweep(tmp_path, *GRID)
    again = subprocess.run(
        [sys.executable, "-X", "importtime", *command(f"paths.runs={tmp_path}", *GRID)[1:]],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
    )
    assert again.returncode == 0, again.stderr
    assert "0 done, 4 skipped, 0 failed of 4" in again.stderr
    imported = {line.rpartition("|")[2].strip() for line in again.stderr.splitlines()}
    assert "pd_finetune.finetuning.identity" in imported
    assert not imported & {"torch", "transformers", "datasets", "wandb"}


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["joblib", "submitit_local"])
def test_launchers_do_the_same_and_list_failures(
    tmp_path: Path, whole: dict[str, Any], launcher: str
) -> None:
    pytest.importorskip("joblib" if launcher == "joblib" else "submitit")
    more = ["hydra.launcher.n_jobs=2"] if launcher == "joblib" else []
    # the third budget is more than there is text
    grid = [word.replace("budget=2,4", "budget=2,4,1000000000") for word in GRID]
    done = sweep(tmp_path, *grid, f"hydra/launcher={launcher}", "hydra.sweeper.batch=3", *more)
    assert done.returncode == 1, done.stderr
    assert table(tmp_path) == whole
    lines = done.stderr.splitlines()
    listed = lines[lines.index("2 of 6 jobs failed:") + 1 :]
    assert [line.partition(":")[0].strip() for line in listed] == [
        f"arm={arm} budget=1000000000" for arm in ("one_scalar", "lora_r1")
    ]
    assert all("give" in line for line in listed)
    assert "Warning" not in done.stderr
    assert "sweep: 4 done, 0 skipped, 2 failed of 6" in lines
    assert not list(tmp_path.glob(".sweep-*"))


def test_a_process_that_dies_is_a_failure(tmp_path: Path) -> None:
    pytest.importorskip("joblib")
    script = tmp_path / "dies.py"
    script.write_text(
        "import os\n"
        "from pd_finetune.finetuning.config import RunConfig\n"
        "from pd_finetune.main import stage_main\n"
        "def run(config):\n"
        "    os.kill(os.getpid(), 9)\n"
        "if __name__ == '__main__':\n"
        "    stage_main('run', RunConfig, run)\n"
    )
    done = subprocess.run(
        [
            *(sys.executable, str(script), "-m", "seed=0,1", f"paths.runs={tmp_path / 'runs'}"),
            *("hydra/launcher=joblib", "hydra.launcher.n_jobs=2"),
        ],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 1
    assert "2 of 2 jobs failed:" in done.stderr.splitlines()
    assert "the process that had it ended early: TerminatedWorkerError" in done.stderr


def test_a_launcher_that_is_not_there(tmp_path: Path) -> None:
    script = tmp_path / "without.py"
    # as if hydra-joblib-launcher were not installed
    script.write_text(
        "import sys\n"
        "sys.modules['hydra_plugins.hydra_joblib_launcher'] = None\n"
        "from pd_finetune.finetuning.config import RunConfig\n"
        "from pd_finetune.main import stage_main\n"
        "stage_main('run', RunConfig, print)\n"
    )
    done = subprocess.run(
        [sys.executable, str(script), "-m", "seed=0,1", "hydra/launcher=joblib"],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == (
        "error: hydra/launcher: JoblibLauncher is not installed: pip install 'pd_finetune[sweep]'"
    )


def test_a_shard_of_one_run_is_refused(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pd_finetune.run", *TINY, "shard=0/2", f"paths.runs={tmp_path}"],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr == "error: shard=0/2 is a part of a sweep: give -m, or no shard\n"
    wrong = sweep(tmp_path, *GRID, "shard=2/2")
    assert wrong.returncode == 2 and "give i/N" in wrong.stderr
