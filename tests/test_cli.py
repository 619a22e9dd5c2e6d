"""The wrapper around stage mains, as a user meets it: exit codes, one line, no torch."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
STAGE = """
import sys
from pd_finetune.main import stage_main
from pd_finetune.errors import TrainingError, UserError
from tests.composed import schema

def run(config):
    print("ran", type(config).__name__, getattr(config, "budget", None))
    match getattr(config, "budget", None):
        case 13: raise RuntimeError("boom")
        case 14: raise UserError("mend it")
        case 15: raise KeyboardInterrupt
        case 16: raise TrainingError("loss is nan")

if __name__ == "__main__":
    try:
        name = sys.argv.pop(1)
        stage_main(name, schema(name), run)
    finally:
        print("torch" if "torch" in sys.modules else "light", file=sys.stderr)
"""


class Outcome:
    def __init__(self, folder: Path, *arguments: str) -> None:
        script = folder / "stage.py"
        script.write_text(STAGE)
        before = set(folder.iterdir())
        started = time.monotonic()
        done = subprocess.run(
            [sys.executable, str(script), *arguments],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=120,
        )
        self.seconds = time.monotonic() - started
        self.code, self.out = done.returncode, done.stdout
        *self.errors, self.weight = done.stderr.splitlines()
        self.new = {path.name for path in folder.iterdir()} - {path.name for path in before}


def test_runs_with_a_checked_config_and_leaves_nothing(tmp_path: Path) -> None:
    done = Outcome(tmp_path, "run", "budget=2")
    assert (done.code, done.out, done.errors) == (0, "ran RunConfig 2\n", [])
    assert not done.new


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["budget=-1"], "error: budget=-1 must be at least 1"),
        (["budget=abc"], "error: budget: Value 'abc' of type 'str' could not be converted"),
        (["budgte=3"], "error: unknown key budgte: did you mean budget? possible are model, "),
        (["method.lrr=3"], "error: unknown key method.lrr: did you mean lr? possible are name"),
        (["method=maskk"], "error: method=maskk: did you mean mask? possible are localized_lora"),
        (["methd=mask"], "error: unknown key methd: did you mean method?"),
        (["languages=latin"], "error: languages=latin: possible are embedded, local"),
        (["languages.target=zz"], "error: languages.target=zz: possible are de, en, fr, es, it"),
        (["experiment=foo"], "error: experiment=foo: possible are write_up"),
        (
            ["-m", "experiment=write_up,toy_tms_5_2"],
            "error: experiment=toy_tms_5_2 is of python -m pd_finetune.decompose; "
            "possible here are write_up",
        ),
        (["model=hf"], "error: model.folder is missing: give model.folder=..."),
        (
            ["decomposition=train", "decomposition.sites={h.*: 3}"],
            "error: decomposition.sites has no h.*: add it with a +, as in "
            "'+decomposition.sites={h.*: ...}'",
        ),
        (["budget=["], "error: cannot read 'budget=['"),
        (["budget=1,2"], "error: Ambiguous value for argument 'budget=1,2'"),
        (["-m", "method=mask,zz"], "error: method=zz: possible are"),
        (["budget=14"], "error: mend it"),
    ],
)
def test_a_mistake_is_one_line(tmp_path: Path, arguments: list[str], line: str) -> None:
    done = Outcome(tmp_path, "run", *arguments)
    assert done.code == 2
    assert len(done.errors) == 1 and done.errors[0].startswith(line)
    assert done.weight == "light"
    assert not done.new - {"runs"}


@pytest.mark.parametrize(
    ("root", "arguments", "shown"),
    [
        ("run", ["selection=keys", "keys=[h.3.attn.v_proj:513]"], "- h.3.attn.v_proj:513"),
        ("run", ["model=hf", "name=some/model"], "folder: some/model"),
        ("harvest", ["model=hf", "name=some/model"], "folder: some/model"),
    ],
)
def test_words_without_their_group(
    tmp_path: Path, root: str, arguments: list[str], shown: str
) -> None:
    done = Outcome(tmp_path, root, "--cfg", "job", *arguments)
    assert (done.code, done.errors) == (0, [])
    assert shown in [line.strip() for line in done.out.splitlines()]


def test_a_word_of_no_group_here(tmp_path: Path) -> None:
    for root, word in (("pretrain", "keys=[a:1]"), ("figures", "name=a")):
        done = Outcome(tmp_path, root, word)
        assert done.code == 2
        assert done.errors[0].startswith(f"error: unknown key {word.partition('=')[0]}: ")


def test_a_typo_is_answered_at_once(tmp_path: Path) -> None:
    # about 0.8 s on a quiet machine; the bound is for busy ones
    assert Outcome(tmp_path, "run", "budgte=3").seconds < 6


def test_other_errors_keep_their_traceback(tmp_path: Path) -> None:
    done = Outcome(tmp_path, "run", "budget=13")
    assert done.code == 1
    assert done.errors[0].startswith("Traceback")
    assert done.errors[-1] == "RuntimeError: boom"


def test_a_training_that_diverged_is_one_line(tmp_path: Path) -> None:
    done = Outcome(tmp_path, "run", "budget=16")
    assert (done.code, done.errors) == (1, ["error: loss is nan"])


def test_interruption(tmp_path: Path) -> None:
    done = Outcome(tmp_path, "run", "budget=15")
    assert (done.code, done.errors) == (130, ["error: interrupted"])


def test_multirun_goes_on_after_a_failure(tmp_path: Path) -> None:
    done = Outcome(tmp_path, "run", "-m", "budget=13,-1,14,2", "seed=0,1")
    assert done.code == 1
    assert done.out.count("ran RunConfig 2") == 2
    listed = done.errors[done.errors.index("6 of 8 jobs failed:") + 1 :]
    assert len(listed) == 6
    assert listed[0] == "  budget=13 seed=0: RuntimeError: boom"
    assert listed[-1] == "  budget=14 seed=1: mend it"
    assert done.new == {"runs"}
    assert not [p for p in (tmp_path / "runs").iterdir() if p.is_dir()]


def test_multirun_without_failures(tmp_path: Path) -> None:
    done = Outcome(tmp_path, "run", "-m", "method=mask,lora_r1", "budget=1,2")
    assert done.code == 0
    assert done.out.count("ran RunConfig") == 4
    assert done.errors == ["sweep: 4 done, 0 skipped, 0 failed of 4"]


@pytest.mark.parametrize(
    "root",
    ["run", "pretrain", "decompose", "token_counts", "harvest", "export", "figures", "rollouts"],
)
def test_help_and_config(tmp_path: Path, root: str) -> None:
    helped = Outcome(tmp_path, root, "--help")
    assert (helped.code, helped.errors, helped.weight) == (0, [], "light")
    assert "python -m pd_finetune." in helped.out and "Example" in helped.out
    assert "$" not in helped.out.replace("${", "")
    assert helped.seconds < 6
    needed = ["run=x", "out=y"] if root == "export" else []
    shown = Outcome(tmp_path, root, "--cfg", "job", "--resolve", *needed)
    assert (shown.code, shown.errors) == (0, [])
    assert not shown.new and "ran" not in shown.out.split()


def test_help_lists_options(tmp_path: Path) -> None:
    text = Outcome(tmp_path, "run", "--help", "budget=77").out
    assert "localized_lora, lora_r1, lora_r4, mask" in text
    assert "budget: 77" in text


def test_dry_run_refuses_what_a_run_would(tmp_path: Path) -> None:
    done = Outcome(tmp_path, "run", "--cfg", "job", "budget=-2")
    assert done.code == 2
    assert done.errors == ["error: budget=-2 must be at least 1"]
