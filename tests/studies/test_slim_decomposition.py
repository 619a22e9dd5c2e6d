"""What is left of a decomposition that is slimmed: selected from, edited, compared, and no more."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch

from pd_finetune.decomposition.scales import change_of
from pd_finetune.errors import UserError
from pd_finetune.loading.decomposition import load_decomposition
from pd_finetune.loading.target import load_target
from pd_finetune.results.costs import sizes_of
from pd_finetune.selection.rank import select_top
from pd_finetune.selection.store import load_harvest
from pd_finetune.targets.changes import edited
from tests.decomposition import parts
from tests.studies.calling import slim

pytestmark = pytest.mark.usefixtures("own_cache")


def test_a_slim_decomposition_is_edited_and_no_more(
    words: list[str], shared: list[str], slimmed: tuple[Path, Path], tmp_path: Path
) -> None:
    start, out = slimmed
    target = load_target(shared[1].split("=", 1)[1], torch.device("cpu"))
    whole, thin = (load_decomposition(str(folder), target) for folder in (start, out))
    assert thin.hash != whole.hash == thin.record["whole_sha256"]
    assert thin.all_keys() == whole.all_keys()
    before = load_harvest(start / "harvest", target, whole)
    after = load_harvest(out / "harvest", target, thin)
    for name in ("subcomponents", "tokens", "examples"):
        pd.testing.assert_frame_equal(getattr(after, name), getattr(before, name))
    # the same edit of the same subcomponents
    ids, logits = torch.arange(12)[None] * 7 % 300, []
    for decomposition, harvest in ((whole, before), (thin, after)):
        chosen = select_top(harvest, decomposition, "de", 0, count=3, contrast="en")
        change = change_of(decomposition, dict.fromkeys(chosen.keys, -3.0), target.device)
        with edited(target.model, change), torch.no_grad():
            logits.append(target.model(input_ids=ids).logits)
    clean = target.model(input_ids=ids).logits
    torch.testing.assert_close(logits[1], logits[0], rtol=0, atol=2e-3)
    assert (logits[0] - clean).abs().max() > 0.05
    # costs count what is left out
    folder = Path(shared[1].split("=", 1)[1])
    assert sizes_of(folder, out) == sizes_of(folder, start)
    given = ["decomposition=folder", f"decomposition.folder={out}"]
    refused = "stored without its causal-importance function"
    for stage in ("harvest", "quality"):
        with pytest.raises(UserError, match=refused):
            parts.run_stage(stage, [*shared, *given, f"out={tmp_path / stage}"])
    with pytest.raises(UserError, match=refused):
        parts.run_stage("decompose", [*words[:-3], f"start_from={out}", f"out={tmp_path / 'd'}"])


def test_what_cannot_be_slimmed_is_said(
    slimmed: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    start, thin = slimmed
    broken = tmp_path / "broken"
    shutil.copytree(start, broken)
    (broken / "harvest" / "tokens.parquet").write_bytes(b"")
    capsys.readouterr()
    for folder, out, message in (
        (start, start, "that is not slim is there"),
        (thin, tmp_path / "twice", "is slim already"),
        (broken, tmp_path / "b", "is damaged (tokens.parquet)"),
        (tmp_path / "nothing", tmp_path / "n", "no decomposition with a harvest"),
    ):
        assert slim(monkeypatch, folder, out) == 2
        assert message in capsys.readouterr().err
        assert out == start or not out.exists()
    (broken / "decomposition.safetensors").write_bytes(b"")
    assert slim(monkeypatch, broken, tmp_path / "b") == 2
    assert "is not what its record says" in capsys.readouterr().err


def test_nothing_trained_yet_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="start_from"):
        parts.run_stage("decompose", [f"start_from={tmp_path}", f"out={tmp_path / 'o'}"])
    with pytest.raises(UserError, match="is the folder that the new one goes to"):
        parts.run_stage("decompose", [f"start_from={tmp_path}", f"out={tmp_path}"])
