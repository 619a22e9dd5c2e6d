"""Training windows: a function of seed and step, languages by their shares."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pd_finetune.errors import UserError
from pd_finetune.text.mixture import MixedWindows, mixed_windows
from pd_finetune.text.tokens import token_stream
from tests import tiny


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PD_FINETUNE_CACHE", str(tmp_path / "cache"))


def made(seed: int = 0, rows: int = 50) -> MixedWindows:
    """Language a counts from 0, language b from 1000: a window tells where it is from."""
    streams = {"a": np.arange(90, dtype=np.uint16), "b": np.arange(1000, 1300, dtype=np.uint16)}
    return MixedWindows(streams, {"a": 3.0, "b": 1.0}, rows, 8, seed)


def test_rows_are_windows_of_one_language() -> None:
    batch = made()(0)
    assert (batch.shape, batch.dtype) == ((50, 8), torch.int64)
    assert (batch.diff(dim=1) == 1).all()
    assert ((batch < 90) | (batch >= 1000)).all()


def test_languages_come_by_their_shares_and_windows_from_everywhere() -> None:
    windows = made()
    starts = torch.cat([windows(step)[:, 0] for step in range(40)])
    # three standard errors of a share of 3/4 among 2000 are 0.029
    assert (starts < 90).float().mean().item() == pytest.approx(0.75, abs=0.03)
    in_a = starts[starts < 90]
    assert set(in_a.tolist()) == set(range(90 - 8))
    assert in_a.float().mean().item() == pytest.approx(81 / 2, abs=2)


def test_a_pure_function_of_seed_and_step() -> None:
    windows = made()
    third = windows(3)
    windows(4)
    assert torch.equal(windows(3), third)
    assert torch.equal(made()(3), third)
    assert not torch.equal(windows(4), third)
    assert not torch.equal(made(seed=1)(3), third)


def test_streams_of_a_source() -> None:
    tokenizer, source = tiny.tokenizer(), tiny.source()
    windows = mixed_windows(tokenizer, source, {"en": 1.0}, 3, 12, seed=0)
    stream = token_stream(tokenizer, source, "en", "train").tolist()
    for row in windows(5).tolist():
        assert any(stream[i : i + 12] == row for i in range(len(stream)))
    needed = len(stream)
    with pytest.raises(UserError, match=f"train text of en has {needed} tokens.*{needed + 1}"):
        mixed_windows(tokenizer, source, {"en": 1.0}, 3, needed, seed=0)
    assert mixed_windows(tokenizer, source, {"en": 1.0}, 3, needed - 1, seed=0)(0).shape[1] > 0
