"""pretrain -> decompose -> harvest through the real mains and configs, tiny."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file

from pd_finetune.errors import UserError
from pd_finetune.loading.decomposition import load_decomposition
from pd_finetune.loading.target import load_target
from pd_finetune.plots.evidence import figures
from pd_finetune.selection.store import load_harvest
from tests.decomposition import parts

ROOT = Path(__file__).parent.parent
TEXT = ["languages=local", "languages.all=[de,en]", "device=cpu", "threads=1"]
MIXTURE = ["~mixture", "+mixture={de: 1, en: 2}"]
PRETRAIN = [
    *TEXT,
    *MIXTURE,
    "architecture={vocab_size: 300, width: 16, layers: 2, heads: 2, mlp_width: 24, context: 16}",
    "optimisation={steps: 20, batch: 4, lr: 1e-2, warmup_steps: 2}",
    "tokenizer_characters=4000",
    "precision=float32",
]


pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """text, target and decomposition, each made by its stage."""
    root = tmp_path_factory.mktemp("stages")
    parts.text_folder(root / "text")
    source = f"languages.source.folder={root / 'text'}"
    assert parts.run_stage("pretrain", [*PRETRAIN, source, f"out={root / 'target'}"])
    words = parts.overrides(root / "target", root / "text")
    out = f"out={root / 'decomposition'}"
    made = parts.run_stage("decompose", [*words, out, "recipe.steps=4", "log_steps=2"])
    assert made == root / "decomposition"
    return root


def record(path: Path) -> dict[str, Any]:
    def refuse(constant: str) -> float:
        raise AssertionError(f"{constant} in {path}")

    return json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)


def test_pretrain_makes_a_target(folder: Path) -> None:
    target = load_target(str(folder / "target"))
    assert target.vocab_size == 300
    assert target.context == 16
    written = record(folder / "target" / "training_record.json")
    assert written["steps"] == 20
    assert written["training_tokens"] == 20 * 4 * 16
    assert written["config"]["mixture"] == {"de": 1.0, "en": 2.0}
    assert set(written["text"]) == set(written["held_out"]) == {"de", "en"}
    for row in written["held_out"].values():
        assert row["test_ce_nats"] < target.chance_nats == pytest.approx(math.log(300))
    assert written["parameters"] == sum(p.numel() for p in target.model.parameters())


def test_a_finished_pretraining_is_not_trained_again(folder: Path) -> None:
    weights = folder / "target" / "model.safetensors"
    before = weights.read_bytes()
    parts.run_stage(
        "pretrain",
        [*PRETRAIN, f"languages.source.folder={folder / 'text'}", f"out={folder / 'target'}"],
    )
    assert weights.read_bytes() == before


def test_decompose_writes_parts_and_evidence(folder: Path) -> None:
    target = load_target(str(folder / "target"))
    made = load_decomposition(str(folder / "decomposition"), target)
    assert {name: site.C for name, site in made.sites.items()} == {
        "h.0.attn.v_proj": 6,
        "h.1.attn.v_proj": 6,
        "h.1.mlp.c_fc": 20,
    }
    written = record(folder / "decomposition" / "decomposition.json")
    assert written["target_hash"] == target.hash
    assert written["window"] == 12
    assert written["training_tokens"] == 4 * 4 * 12
    assert [row["step"] for row in written["history"]] == [2, 4]
    evidence = written["evidence"]
    assert evidence["tokens"] == 2 * 2 * 12  # two windows of each language
    assert evidence["kl_nats"]["zero"] > evidence["kl_nats"]["unmasked"] >= -1e-6
    assert load_file(folder / "decomposition" / "decomposition.safetensors")


def quality_words(folder: Path) -> list[str]:
    return [
        *TEXT,
        "model=hf",
        f"model.folder={folder / 'target'}",
        "decomposition=folder",
        f"decomposition.folder={folder / 'decomposition'}",
        f"languages.source.folder={folder / 'text'}",
        "rows_per_language=2",
        "batch=3",
        "adversary={rungs: [2, 5], restarts: 2, site_steps: 2}",
    ]


def test_quality_writes_record_tables_and_pictures(
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    words = [*quality_words(folder), f"out={tmp_path}"]
    assert parts.run_stage("quality", words) == tmp_path
    written = record(tmp_path / "quality.json")
    assert written["tokens"] == 2 * 2 * 12
    assert written["text"]["windows"] == {"de": 2, "en": 2}
    assert [row["steps"] for row in written["adversary"]["rungs"]] == [0, 2, 5]
    assert list(written["sites"]) == ["h.0.attn.v_proj", "h.1.attn.v_proj", "h.1.mlp.c_fc"]
    # what the training ended with is said of the same windows
    ended = record(folder / "decomposition" / "decomposition.json")["evidence"]
    for name in ("unmasked", "ci_masked", "rounded", "zero"):
        assert written["kl"][name]["nats"] == pytest.approx(ended["kl_nats"][name], abs=1e-6)
    assert written["ci_l0"] == pytest.approx(ended["ci_l0"])
    for name in ("adversary_ladder", "mean_ci", "ci_histograms", "site_l0"):
        for kind in ("png", "svg", "csv"):
            assert (tmp_path / f"{name}.{kind}").stat().st_size > 100
        assert f"({name}.png)" in (tmp_path / "quality.md").read_text()
    assert "fresh adversary, 5 steps" in capsys.readouterr().out

    before = (tmp_path / "quality.json").read_bytes()
    parts.run_stage("quality", words)
    assert "already measured" in capsys.readouterr().out
    assert (tmp_path / "quality.json").read_bytes() == before
    monkeypatch.setattr(figures, "save_figures", lambda *_: None)  # slow, and seen above
    parts.run_stage("quality", [*words, "seed=1", "adversary.restarts=1"])
    assert (tmp_path / "quality.json").read_bytes() != before


def test_quality_names_mistakes_in_one_line(folder: Path, tmp_path: Path) -> None:
    words = [*quality_words(folder), f"out={tmp_path / 'q'}"]
    for change, message in (
        (f"decomposition.folder={tmp_path / 'none'}", "no decomposition at"),
        ("languages.all=[de,en,zz]", "no text for language 'zz'"),
    ):
        with pytest.raises(UserError, match=message) as caught:
            parts.run_stage("quality", [*words, change])
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "q" / "quality.json").exists()


def test_quality_as_a_command_refuses_train_text(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pd_finetune.quality", "split=train"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2
    assert done.stderr == "error: split=train: possible are validation, test\n"
    assert not list(tmp_path.iterdir())


def harvest_words(folder: Path) -> list[str]:
    return [
        *TEXT,
        "model=hf",
        f"model.folder={folder / 'target'}",
        "decomposition=folder",
        f"decomposition.folder={folder / 'decomposition'}",
        f"languages.source.folder={folder / 'text'}",
        "rows_per_language=4",
        "batch=3",
    ]


@pytest.mark.slow
def test_harvest_as_a_command(folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pd_finetune.harvest", *harvest_words(folder)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    out = folder / "decomposition" / "harvest"
    assert f"harvest: {out}" in done.stdout
    target = load_target(str(folder / "target"))
    decomposition = load_decomposition(str(folder / "decomposition"), target)
    found = load_harvest(out, target, decomposition)
    assert found.languages == ["de", "en"]
    assert [str(key) for key in decomposition.all_keys()] == list(found.subcomponents["key"])
    assert found.tokens_spent("de") == found.tokens_spent("en") > 0
    assert {path.name for path in folder.iterdir()} == {"text", "target", "decomposition"}


def test_parts_of_another_target_are_refused(folder: Path) -> None:
    parts.model_folder(folder.parent / "other")
    words = [*harvest_words(folder), f"model.folder={folder.parent / 'other'}"]
    with pytest.raises(UserError, match="of another target"):
        parts.run_stage("harvest", words)


def test_out_that_is_a_file(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    words = parts.overrides(folder / "target", folder / "text")
    with pytest.raises(UserError, match="cannot write to folder"):
        parts.run_stage("decompose", [*words, f"out={tmp_path / 'file' / 'd'}"])


def test_text_without_validation_rows_is_refused_at_once(folder: Path, tmp_path: Path) -> None:
    text = parts.text_folder(tmp_path / "text")
    for path in text.glob("*.parquet"):
        table = pq.read_table(path)
        pq.write_table(table.filter([s.as_py() == "train" for s in table["split"]]), path)
    words = parts.overrides(folder / "target", text)
    with pytest.raises(UserError, match="validation"):
        parts.run_stage("decompose", [*words, "recipe.steps=1", f"out={tmp_path / 'd'}"])
    assert not (tmp_path / "d" / "checkpoint.pt").exists()
