"""Data-parallel workers: shares, and two processes that train as one does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pd_finetune.distributed import Workers
from pd_finetune.errors import UserError

_PRETRAIN = """
import sys
from pathlib import Path
import torch
from pd_finetune.distributed import workers
from tests.targets.test_pretraining import pretraining
torch.set_num_threads(1)
made = pretraining(steps=5, workers=workers(torch.device("cpu")))
made.train(Path(sys.argv[1]))
"""


def torchrun(script: Path, *arguments: str, processes: int = 2) -> None:
    """Run a script in so many processes on this machine; it must end well."""
    root = Path(__file__).parent.parent
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *(f"--nproc-per-node={processes}", str(script), *arguments),
        ],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_shares_are_equal_parts_in_rank_order() -> None:
    parts = [Workers(rank, 3).share(12) for rank in range(3)]
    assert [list(range(12))[part] for part in parts] == [
        *([0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11])
    ]
    with pytest.raises(UserError, match=r"recipe.rows=10 .* 3 processes"):
        Workers(0, 3).share(10, "recipe.rows")


def test_one_worker_changes_nothing() -> None:
    parameter = torch.nn.Parameter(torch.ones(3))
    parameter.sum().backward()
    alone = Workers()
    alone.mean_gradients([parameter])
    assert parameter.grad is not None and parameter.grad.tolist() == [1.0, 1.0, 1.0]
    value = torch.arange(3.0)
    assert torch.equal(alone.mean(value), value) and torch.equal(alone.gather(value), value)


def test_two_processes_pretrain_as_one(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(_PRETRAIN)
    for processes in (1, 2):
        torchrun(script, str(tmp_path / f"{processes}.pt"), processes=processes)
    one, two = (torch.load(tmp_path / f"{n}.pt", weights_only=True) for n in (1, 2))
    assert one["step"] == two["step"] == 5
    for name, value in one["model"].items():
        torch.testing.assert_close(two["model"][name], value, atol=1e-5, rtol=0)
