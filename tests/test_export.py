"""What is exported is the edited model, for transformers alone; nothing half-made is left."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pd_finetune import export
from pd_finetune.decomposition.config import CIFunctionConfig
from pd_finetune.decomposition.store import save_decomposition
from pd_finetune.edits.edit import FILE, Material
from pd_finetune.edits.lora import Lora
from pd_finetune.edits.mask import Mask
from pd_finetune.errors import UserError
from pd_finetune.export import ExportConfig
from pd_finetune.loading.target import load_target
from pd_finetune.records.record import Hashes, RunRecord, Values
from pd_finetune.targets.changes import edited
from tests import tiny

METHODS = ("mask", "lora_r1", "lora_r4", "localized_lora")


def logits(model: nn.Module) -> Tensor:
    ids = torch.arange(24).view(2, 12) * 7 % 300
    return model(input_ids=ids, use_cache=False).logits


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A target and its decomposition on disk."""
    folder = tmp_path_factory.mktemp("world")
    made = tiny.target()
    made.model.save_pretrained(folder / "target")
    made.tokenizer.save(str(folder / "target" / "tokenizer.json"))
    (folder / "target" / "LICENSE").write_text("free")
    target = load_target(str(folder / "target"))
    parts = tiny.decomposition(target)
    save_decomposition(
        folder / "parts",
        parts.components,
        parts.ci_function,
        {name: name for name in parts.sites},
        CIFunctionConfig(width=8, blocks=1, heads=1, mlp_width=8),
        16,
        target,
        {},
    )
    return folder


def finished_run(world: Path, folder: Path, name: str, **changes: Any) -> Tensor:
    """A run directory as `finetune_run` leaves it; the edited model's logits."""
    from pd_finetune.loading.decomposition import load_decomposition

    target = load_target(str(world / "target"))
    parts = load_decomposition(str(world / "parts"), target)
    method: Any
    if name == "mask":
        method = Mask(Material(target, parts, tiny.KEYS))
    else:
        where = "selected" if name == "localized_lora" else "all"
        rank = 4 if name == "lora_r4" else 1
        method = Lora(Material(target, parts, tiny.KEYS[:1]), rank=rank, alpha=3.0, where=where)
    generator = torch.Generator().manual_seed(5)
    for parameter in method.parameters():
        parameter.data += torch.randn(parameter.shape, generator=generator)
    folder.mkdir()
    method.save(folder)
    fields: dict[str, Any] = {
        "status": "finished",
        "config": {
            "model": {"folder": str(world / "target"), "dtype": "float32"},
            "decomposition": {"folder": str(world / "parts")},
        },
        "config_hash": "0123456789",
        "arm": name,
        "method": name,
        "budget": 4,
        "seed": 0,
        "target_language": "de",
        "chance_nats": 5.8,
        "protected_languages": ["en"],
        "base": Values({"de": 3.0, "en": 3.0}),
        "edited": Values({"de": 5.8, "en": 3.1}),
        "damage_nats": {"de": 2.8, "en": 0.1},
        "to_chance_nats": 0.0,
        "masks": method.scalars(),
        "edit": method.describe(),
        "hashes": Hashes(target.hash, parts.hash, {}),
    }
    RunRecord(**(fields | changes)).write(folder / "result.json")
    with edited(target.model, method):
        return logits(target.model)


def exported(run: Path, out: Path) -> Path:
    return export.run(ExportConfig(str(run), str(out), "cpu"))


@pytest.mark.parametrize("name", METHODS)
def test_exported_logits_are_those_of_the_edited_model(
    name: str, world: Path, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    expected = finished_run(world, tmp_path / "run", name)
    out = exported(tmp_path / "run", tmp_path / "deep" / "out")
    model = AutoModelForCausalLM.from_pretrained(out).eval()
    with torch.no_grad():
        found = logits(model)
        clean = logits(AutoModelForCausalLM.from_pretrained(world / "target").eval())
    # rounded in another order, for logits of up to some 30
    torch.testing.assert_close(found, expected, atol=3e-5, rtol=1e-5)
    assert (found - clean).abs().max() > 1e-2
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert model.dtype == torch.float32
    config = json.loads((out / "config.json").read_text())
    assert config["hidden_act"] == "gelu_new" and config["dtype"] == "float32"
    tokens = AutoTokenizer.from_pretrained(out)("Der Hund")["input_ids"]
    assert tokens == tiny.tokenizer().encode("Der Hund").ids
    assert {path.name for path in out.iterdir()} == {
        *("config.json", "generation_config.json", "model.safetensors", "tokenizer.json"),
        *("tokenizer_config.json", "edit.json", "README.md", "LICENSE"),
    }
    assert [path.name for path in out.parent.iterdir()] == ["out"]


def test_edit_is_described(world: Path, tmp_path: Path) -> None:
    finished_run(world, tmp_path / "run", "mask")
    out = exported(tmp_path / "run", tmp_path / "out")
    edit = json.loads((out / "edit.json").read_text())
    assert list(edit["masks"]) == [str(key) for key in tiny.KEYS]
    assert edit["edited_matrices"] == [
        "model.layers.0.self_attn.v_proj",
        "model.layers.1.mlp.up_proj",
    ]
    assert edit["hashes"]["edited"] == load_target(str(out)).hash != edit["hashes"]["target"]
    readme = (out / "README.md").read_text()
    for part in ("h.1.mlp.c_fc:3", "2 matrices differ", "| en | +0.1000 |", "AutoModelForCausalLM"):
        assert part in readme


def test_runs_that_have_no_edit_are_refused(world: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(UserError, match="no such folder"):
        exported(tmp_path / "absent", out)
    (tmp_path / "half").mkdir()
    with pytest.raises(UserError, match="result.json is missing"):
        exported(tmp_path / "half", out)
    finished_run(world, tmp_path / "failed", "mask", status="failed", error="KeyError: 'x'")
    with pytest.raises(UserError, match="failed.*KeyError"):
        exported(tmp_path / "failed", out)
    finished_run(world, tmp_path / "bare", "mask")
    (tmp_path / "bare" / FILE).unlink()
    with pytest.raises(UserError, match=FILE):
        exported(tmp_path / "bare", out)
    finished_run(world, tmp_path / "old", "mask", config={})
    with pytest.raises(UserError, match="resolved config"):
        exported(tmp_path / "old", out)
    assert not out.exists()


def test_what_was_edited_must_be_the_same(world: Path, tmp_path: Path) -> None:
    other = Hashes("a" * 64, "b" * 64, {})
    finished_run(world, tmp_path / "target", "mask", hashes=other)
    with pytest.raises(UserError, match="target model .* is another one now"):
        exported(tmp_path / "target", tmp_path / "out")
    config = {"model": {"folder": "gone", "dtype": "float32"}, "decomposition": {"folder": "gone"}}
    finished_run(world, tmp_path / "moved", "mask", config=config)
    with pytest.raises(UserError, match="folder that the run was started in"):
        exported(tmp_path / "moved", tmp_path / "out")


def test_files_that_were_changed_are_refused(world: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    run, out = tmp_path / "run", tmp_path / "out"
    finished_run(world, run, "lora_r4")
    whole = load_file(run / FILE)
    name = next(name for name in whole if name.endswith(".left"))
    path = name.removesuffix(".left")
    for tensors, message in (
        ({key: value for key, value in whole.items() if key != name}, "does not fit"),
        (whole | {name: whole[name][:1].clone()}, "another shape"),  # would broadcast
        (whole | {name: whole[name][:, :1].clone()}, "does not fit"),
        (whole | {name: whole[name] * torch.nan}, "not finite"),
        (whole | {f"{path}.more": torch.zeros(1)}, f"damaged: {path}.more"),
        (whole | {"nowhere.left": torch.zeros(1, 1)}, "does not fit"),
    ):
        save_file(tensors, run / FILE)
        with pytest.raises(UserError, match=message):
            exported(run, out)
    (run / FILE).write_bytes(b"half")
    with pytest.raises(UserError, match="cannot read"):
        exported(run, out)
    assert not out.exists()


def test_taken_folder_is_refused_and_an_empty_one_used(world: Path, tmp_path: Path) -> None:
    finished_run(world, tmp_path / "run", "mask")
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine").touch()
    with pytest.raises(UserError, match="not an empty folder"):
        exported(tmp_path / "run", out)
    assert [path.name for path in out.iterdir()] == ["mine"]
    with pytest.raises(UserError, match="not an empty folder"):
        exported(tmp_path / "run", out / "mine")
    (out / "mine").unlink()
    assert (exported(tmp_path / "run", out) / "model.safetensors").is_file()


def test_nothing_half_written_remains(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished_run(world, tmp_path / "run", "mask")

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(export, "_readme", stop)
    with pytest.raises(KeyboardInterrupt):
        exported(tmp_path / "run", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
