"""Edits defined elsewhere: run, saved, reloaded bit by bit and exported, without a line of ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from pd_finetune import export
from pd_finetune.edits.edit import FILE, Edit, Material, SavedEdit
from pd_finetune.edits.lora import Lora
from pd_finetune.edits.mask import Mask
from pd_finetune.errors import UserError
from pd_finetune.finetuning.experiment import finetune_run
from pd_finetune.loading.target import load_target
from pd_finetune.targets.changes import edited, load_change, save_change
from pd_finetune.targets.load import Target
from tests import composed, tiny
from tests.edits.outside import Reading, Shrink

QUICK = ["debug=tiny", "logger=none", "progress=false", "threads=1", "evaluation.rollouts={}"]
HERE = "tests.edits.outside"
METHODS = {
    "shrink": f"+method={{_target_: {HERE}.Shrink, name: shrink, strength: 0.5}}",
    "reading": f"+method={{_target_: {HERE}.Reading, name: reading, start: -1.0, lr: 0.1}}",
}

pytestmark = pytest.mark.usefixtures("own_cache")


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=torch.arange(24).view(2, 12) * 7 % 300, use_cache=False).logits


@pytest.mark.parametrize("name", METHODS)
def test_an_edit_of_ones_own_from_run_to_export(name: str, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    words = [*QUICK, "budget=8", "~method", METHODS[name], f"paths.runs={tmp_path / 'runs'}"]
    config = composed.stage("run", *words)
    record, folder, fresh = finetune_run(config)
    assert fresh and record.finished and record.method == name
    assert record.arm == f"{name}-label" and folder.name.startswith(f"{name}-label_b8_s0-")
    assert finetune_run(config) == (record, folder, False)
    trained = name == "reading"
    assert record.steps == (3 if trained else 0)
    assert record.trainable_parameters == (128 if trained else 0)
    assert record.edit == ({} if trained else {"strength": 0.5})
    assert record.config["method"]["settings"] == ({"start": -1.0} if trained else record.edit)
    assert abs(record.damage_nats["de"]) > 1e-3

    target = load_target("embedded")
    clean, saved = logits(target.model), SavedEdit(folder, target)
    with edited(target.model, saved):
        runtime = logits(target.model)
    assert (runtime - clean).abs().max() > 1e-2
    out = export.run(composed.stage("export", f"run={folder}", f"out={tmp_path / 'out'}"))
    found = logits(AutoModelForCausalLM.from_pretrained(out).eval())
    torch.testing.assert_close(found, runtime, atol=1e-5, rtol=1e-5)


def made(target: Target) -> dict[str, Edit]:
    material = Material(target, tiny.decomposition(target), tiny.KEYS)
    return {
        "mask": Mask(material, start=-0.7),
        "lora": Lora(material, rank=2, alpha=3.0),
        "shrink": Shrink(material, strength=0.3),
        "reading": Reading(material, start=0.4),
    }


@pytest.mark.parametrize("name", ["mask", "lora", "shrink", "reading"])
def test_a_saved_change_is_the_same_to_the_bit(name: str, tmp_path: Path) -> None:
    target = tiny.target()
    edit = made(target)[name]
    generator = torch.Generator().manual_seed(5)
    for parameter in edit.parameters():
        parameter.data += torch.randn(parameter.shape, generator=generator)
    edit.save(tmp_path)
    again = SavedEdit(tmp_path, tiny.target())
    assert sorted(again.paths) == sorted(edit.paths)
    for path in edit.paths:
        before, after = edit.at(path), again.at(path)
        assert type(after) is type(before)
        for key, value in vars(before).items():
            assert torch.equal(getattr(after, key), value)
    save_change(tmp_path / "twice.safetensors", again)
    twice = load_change(tmp_path / "twice.safetensors", target.model)
    assert all(torch.equal(twice.at(p).dense(), again.at(p).dense()) for p in edit.paths)
    assert (tmp_path / FILE).is_file()


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("{_target_: nowhere.Edit, name: x}", "method._target_=nowhere.Edit: "),
        ("{_target_: torch.nn.Linear, name: x}", "method._target_=torch.nn.Linear"),
        (f"{{_target_: {HERE}.Shrink, name: x}}", "missing a required argument: 'strength'"),
        (f"{{_target_: {HERE}.Shrink, name: x, strength: 1, more: 2}}", "argument 'more'"),
        (f"{{_target_: {HERE}.Reading, name: x}}", "method.lr is missing"),
        ("{name: x}", "method._target_ is missing"),
        (f"{{_target_: {HERE}.Reading, name: x, lr: 0}}", "method.lr=0 must be above 0"),
    ],
)
def test_mistakes(method: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as refused:
        config = composed.stage("run", *QUICK, "~method", f"+method={method}")
        config.paths.runs = str(tmp_path / "runs")
        finetune_run(config)
    assert message in str(refused.value) and "\n" not in str(refused.value)
    assert not list(tmp_path.iterdir())
