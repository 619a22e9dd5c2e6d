"""`python -m pd_finetune.run` on the embedded artifacts: results, reruns, kills, mistakes."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from pd_finetune.errors import UserError
from pd_finetune.finetuning.experiment import finetune_run
from pd_finetune.records.record import RunRecord
from tests import composed

QUICK = ["debug=tiny", "logger=none", "progress=false"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def compose(*overrides: str):
    return composed.stage("run", *QUICK, *overrides)


def command(*overrides: str) -> list[str]:
    return [sys.executable, "-m", "pd_finetune.run", *QUICK, *overrides]


def findings(record: RunRecord) -> dict:
    """What a repetition must reproduce to the bit: everything but times and memory."""
    left_out = ("seconds", "peak_memory_bytes", "config", "git_commit", "versions")
    return {k: v for k, v in record.to_dict().items() if k not in left_out}


@pytest.mark.parametrize(
    ("arm", "trainable"),
    [("one_scalar", 1), ("top16", 16), ("lora_r1", 9216), ("lora_r4", 36864)],
)
def test_each_arm_ends_in_a_complete_record(tmp_path, arm, trainable):
    config = compose(f"arm={arm}", "budget=6", f"paths.runs={tmp_path}")
    record, folder, fresh = finetune_run(config)
    assert fresh and record.finished
    assert record.trainable_parameters == trainable
    assert record.target_tokens.training == 6
    assert set(record.edited.ce_nats) == {
        *("de", "en", "fr", "es", "it", "code"),
        *("de_ood", "en_ood", "fr_ood", "es_ood", "it_ood"),
    }
    for name, damage in record.damage_nats.items():
        assert damage == pytest.approx(record.edited.ce_nats[name] - record.base.ce_nats[name])
    assert record.to_chance_nats == pytest.approx(record.chance_nats - record.edited.ce_nats["de"])
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == 3 == record.steps
    rollouts = (folder / "rollouts.jsonl").read_text().splitlines()
    assert {json.loads(line)["language"] for line in rollouts} == {*("de", "en", "fr")}
    saved = "mask.json" if arm in ("one_scalar", "top16") else "adapter_model.safetensors"
    assert (folder / saved).is_file()


def test_localised_lora_sits_on_the_selected_matrix(tmp_path):
    one, *_ = finetune_run(compose("arm=one_scalar", f"paths.runs={tmp_path}"))
    local, *_ = finetune_run(compose("arm=localized_lora", f"paths.runs={tmp_path}"))
    assert local.selection == one.selection
    assert local.edit["sites"] == [one.selection[0].rpartition(":")[0]]


def test_a_finished_run_is_not_done_again(tmp_path):
    config = compose(f"paths.runs={tmp_path}")
    first, folder, fresh = finetune_run(config)
    written = (folder / "result.json").stat().st_mtime_ns
    again, same, fresh_again = finetune_run(config)
    assert (fresh, fresh_again) == (True, False)
    assert same == folder and findings(again) == findings(first)
    assert (folder / "result.json").stat().st_mtime_ns == written
    other, elsewhere, fresh_other = finetune_run(compose("seed=1", f"paths.runs={tmp_path}"))
    assert fresh_other and elsewhere != folder


def test_killed_then_run_again_gives_the_undisturbed_result(tmp_path):
    more = ["objective.steps=160", "evaluation.rollouts={}", "threads=1"]
    whole, _, _ = finetune_run(compose(*more, f"paths.runs={tmp_path / 'whole'}"))
    root = tmp_path / "killed"
    process = subprocess.Popen(
        command(*more, f"paths.runs={root}"), env=ENVIRONMENT, start_new_session=True
    )
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        logs = list(root.glob("*/metrics.jsonl"))
        if logs and logs[0].stat().st_size > 0:
            break
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    (folder,) = root.iterdir()
    assert not (folder / "result.json").exists(), "it was over before the kill"
    done = subprocess.run(
        command(*more, f"paths.runs={root}"), env=ENVIRONMENT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    record = RunRecord.read(folder / "result.json")
    assert findings(record) == findings(whole)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["languages.target=xx"], "languages.target=xx: possible are de, en, fr, es, it, code"),
        (["budget=-4"], "budget=-4 must be at least 1"),
        (["budget=1000000000"], "1000000000"),
        (["selection=keys", "selection.keys=[h.9.attn.v_proj:1]"], "no site 'h.9.attn.v_proj'"),
        (["selection=keys", "selection.keys=[h.1.attn.v_proj:5000]"], "run from 0 to"),
        (["selection=keys", "selection.keys=[nonsense]"], "'nonsense' is no subcomponent key"),
        (["model=hf", "model.folder=nowhere"], "no target model at 'nowhere'"),
        (["decomposition=folder", "decomposition.folder=nowhere"], "no decomposition at 'nowhere'"),
        (["languages=local", "languages.source.folder=nowhere"], "'nowhere' does not exist"),
        (["token_budget.sequence_tokens=128"], "context of 128"),
        (["device=tpu"], "tpu"),
    ],
)
def test_mistakes_are_one_line_and_write_nothing(tmp_path, overrides, message):
    with pytest.raises(UserError) as refused:
        finetune_run(compose(*overrides, f"paths.runs={tmp_path / 'runs'}"))
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)
    assert not list(tmp_path.rglob("*.json"))


def test_the_command_line_prints_one_line_and_exits_with_2(tmp_path):
    a_file = tmp_path / "file"
    a_file.write_text("")
    done = subprocess.run(
        command(f"paths.runs={a_file}/runs"),
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert str(a_file) in line
