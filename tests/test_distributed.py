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

pytestmark = pytest.mark.slow

_PRETRAIN = """
import sys
from pathlib import Path
import torch
from pd_finetune.distributed import workers
from tests.pretraining.test_pretraining import pretraining
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


_DECOMPOSE = """
import sys
from pathlib import Path
import torch
from pd_finetune.decomposition.trainer import Trainer
from pd_finetune.distributed import workers
from tests.decomposition import parts
from tests.decomposition.test_trainer import RECIPES
from tests import tiny
torch.set_num_threads(1)
folder = Path(sys.argv[1])
config = parts.config(int(sys.argv[3]), **RECIPES[sys.argv[2]])
config.log_steps, config.checkpoint_steps = 1, 2
team = workers(torch.device("cpu"))
made = Trainer(tiny.target(), config, parts.batch_at, folder, team)
made.train(progress=False)
"""


@pytest.mark.parametrize("recipe", ["merged", "paper", "no adversary"])
def test_two_processes_decompose_as_one(recipe: str, tmp_path: Path) -> None:
    """The same losses at every step, and the same sources, weights and moments at the end."""
    script = tmp_path / "script.py"
    script.write_text(_DECOMPOSE)
    states = []
    for processes in (1, 2):
        folder = tmp_path / str(processes)
        folder.mkdir()
        torchrun(script, str(folder), recipe, "6", processes=processes)
        states.append(torch.load(folder / "checkpoint.pt", weights_only=True))
    one, two = states
    assert len(one["history"]) == len(two["history"]) == 6
    for before, after in zip(one["history"], two["history"], strict=True):
        assert set(before) == set(after)
        for term in set(before) - {"tokens_per_second"}:
            assert after[term] == pytest.approx(before[term], rel=2e-4, abs=1e-6), term
    for module in ("components", "ci_function", "sources", "frequency"):
        for name, value in (one[module] or {}).items():
            torch.testing.assert_close(two[module][name], value, atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize("recipe", ["merged", "paper"])
def test_two_processes_in_micro_batches_decompose_as_one(recipe: str, tmp_path: Path) -> None:
    """Eight rows: at once in one process, or in two micro-batches of two in each of two."""
    states = []
    for processes, micro_batch in ((1, 0), (2, 2)):
        script, folder = tmp_path / f"{processes}.py", tmp_path / str(processes)
        settings = f"config.micro_batch, config.recipe.rows = {micro_batch}, 8"
        text = _DECOMPOSE.replace("config.log_steps", f"{settings}\nconfig.log_steps")
        script.write_text(text.replace("parts.batch_at", "lambda step: parts.batch_at(step, 8)"))
        folder.mkdir()
        torchrun(script, str(folder), recipe, "4", processes=processes)
        states.append(torch.load(folder / "checkpoint.pt", weights_only=True))
    one, two = states
    for before, after in zip(one["history"], two["history"], strict=True):
        for term in set(before) - {"tokens_per_second"}:
            assert after[term] == pytest.approx(before[term], rel=2e-4, abs=1e-6), term
    for name, value in one["sources"].items():
        torch.testing.assert_close(two["sources"][name], value, atol=2e-4, rtol=1e-3)


def test_a_decomposition_goes_on_with_another_number_of_processes(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(_DECOMPOSE)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    for folder in (whole, cut):
        folder.mkdir()
    torchrun(script, str(whole), "merged", "6", processes=1)
    # 6 steps are the plan; this one is stopped by hand after 4
    stopped = tmp_path / "stopped.py"
    stopped.write_text(
        _DECOMPOSE.replace("made.train(progress=False)", "[made.train_step() for _ in range(4)]")
        + "made.save(made.checkpoint)\n"
    )
    torchrun(stopped, str(cut), "merged", "6", processes=2)
    torchrun(script, str(cut), "merged", "6", processes=1)
    one, other = (
        torch.load(f / "checkpoint.pt", weights_only=True)["components"] for f in (whole, cut)
    )
    for name, value in one.items():
        torch.testing.assert_close(other[name], value, atol=2e-4, rtol=1e-3)
