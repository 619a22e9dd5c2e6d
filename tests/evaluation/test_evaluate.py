"""Cross-entropy and KL against float64, pairing, true means, and a cache that knows its model."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pd_finetune.cache import cache_folder
from pd_finetune.edits.edit import Material
from pd_finetune.edits.lora import Lora
from pd_finetune.edits.mask import Mask
from pd_finetune.errors import UserError
from pd_finetune.evaluation.config import EvaluationConfig
from pd_finetune.evaluation.evaluate import (
    Evaluation,
    edited_values,
    evaluate,
    paired_standard_error,
)
from pd_finetune.evaluation.held_out import held_out
from pd_finetune.evaluation.sampling import continuations
from pd_finetune.targets.changes import edited
from pd_finetune.targets.load import Target
from pd_finetune.targets.predictions import sequence_cross_entropies
from tests import tiny
from tests.composed import group

SETTINGS = replace(
    group("evaluation", "default", rows=5, window=16, batch=2, rollout_tokens=6),
    rollouts={"de": "Der Hund", "en": "The dog"},
)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PD_FINETUNE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def edit(target: Target, m: float = -1.0) -> Mask:
    return Mask(Material(target, tiny.decomposition(target), tiny.KEYS), start=m)


def run(target: Target, m: float = -1.0, settings: EvaluationConfig = SETTINGS) -> Evaluation:
    return evaluate(target, edit(target, m), tiny.source(), ["de", "en"], ["en"], settings)


@pytest.mark.parametrize("at_once", [2**28, 1])
@pytest.mark.parametrize("linear", [True, False])
def test_cross_entropy_and_kl_against_float64(
    linear: bool, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pd_finetune.targets.predictions._READY_BYTES", at_once)
    target = tiny.target()
    if not linear:
        head = target.model.get_output_embeddings()
        head.register_forward_hook(lambda module, args, output: output * 0.5)
    texts = held_out(target, tiny.source(), ["en"], SETTINGS)
    ids = texts["en"].ids
    method = edit(target)
    ce = sequence_cross_entropies(target, ids, 2)
    after, divergences = edited_values(target, method, texts, ["en"], SETTINGS)
    kl = divergences["en"]
    target.model.double()
    clean = target.model(input_ids=ids).logits[:, :-1].log_softmax(-1)
    with edited(target.model, method):
        changed = target.model(input_ids=ids).logits[:, :-1].log_softmax(-1)
    wanted = -clean.gather(-1, ids[:, 1:, None])[..., 0].mean(1)
    assert ce == pytest.approx(wanted.tolist(), abs=1e-5)
    wanted = -changed.gather(-1, ids[:, 1:, None])[..., 0].mean(1)
    assert after["en"] == pytest.approx(wanted.tolist(), abs=1e-5)
    wanted = (clean.exp() * (clean - changed)).sum(-1).mean(1)
    assert kl == pytest.approx(wanted.tolist(), abs=1e-5)
    assert min(kl) > 1e-4


def test_means_are_the_true_means_of_paired_windows() -> None:
    result = run(tiny.target())
    assert set(result.damage_nats) == {"de", "en", "de_ood"}  # English has no such text here
    for name, damage in result.damage_nats.items():
        pairs = zip(
            result.base_sequences_nats[name], result.edited_sequences_nats[name], strict=True
        )
        differences = [after - before for before, after in pairs]
        assert damage == pytest.approx(sum(differences) / len(differences), abs=1e-12)
    assert set(result.kl_nats) == {"en"} and result.protected_kl_nats == result.kl_nats["en"]


def test_no_edit_is_exactly_no_damage() -> None:
    result = run(tiny.target(), m=1.0)
    assert all(abs(damage) < 1e-6 for damage in result.damage_nats.values())
    assert all(texts["before"] == texts["after"] for texts in result.rollouts.values())


def test_lora_evaluates_too() -> None:
    target = tiny.target()
    method = Lora(Material(target, tiny.decomposition(target), []), rank=1)
    for parameter in method.parameters():
        parameter.data.normal_()
    result = evaluate(target, method, tiny.source(), ["de", "en"], ["en"], SETTINGS)
    assert abs(result.damage_nats["de"]) > 1e-3


def test_base_is_computed_once_and_never_served_for_another_model(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run(tiny.target(0))
    files = set((cache / "evaluation").iterdir())
    assert len(files) == 4  # de, en, de_ood, rollouts
    second = run(tiny.target(0))
    assert set((cache / "evaluation").iterdir()) == files
    assert second == first
    other = run(tiny.target(1))
    assert other.base_ce_nats["de"] != first.base_ce_nats["de"]
    assert len(set((cache / "evaluation").iterdir())) == 8

    # the same weights under another architecture are another model
    target = tiny.target(0)
    target.model.config.rms_norm_eps = 0.1
    run(target)
    assert len(set((cache / "evaluation").iterdir())) == 12


def test_cache_is_used_and_damaged_files_are_not() -> None:
    target = tiny.target()
    honest = run(target)
    entries = sorted((cache_folder() / "evaluation").iterdir())
    for path in entries:
        path.write_bytes(path.read_bytes().replace(b".", b"9", 1))
    assert run(target).base_ce_nats == honest.base_ce_nats
    assert sorted((cache_folder() / "evaluation").iterdir()) == entries


def test_settings_are_part_of_the_key() -> None:
    target = tiny.target()
    short = group("evaluation", "fast", rows=5, window=8, batch=2)
    assert run(target, settings=short).base_ce_nats != run(target).base_ce_nats


def test_rollout_is_greedy_and_within_the_context() -> None:
    target = tiny.target()
    ids = [0, *target.tokenizer.encode("Der Hund").ids]
    for _ in range(6):
        logits = target.model(input_ids=torch.tensor([ids])).logits[0, -1]
        ids.append(int(logits.argmax()))
    expected = target.tokenizer.decode(ids[1 + len(target.tokenizer.encode("Der Hund").ids) :])
    assert continuations(target, {"de": "Der Hund"}, 6) == {"de": expected}
    assert continuations(target, {"de": "Der Hund"}, 500)["de"].startswith(expected)
    with pytest.raises(UserError, match="evaluation.rollouts: .*sehr lang"):
        continuations(target, {"de": "sehr lang " * 60}, 6)


def test_windows_that_cannot_be() -> None:
    target = tiny.target()
    with pytest.raises(UserError, match="context is 64"):
        held_out(target, tiny.source(), ["de"], group("evaluation", "fast", window=65))
    with pytest.raises(UserError, match="less than"):
        held_out(
            target,
            tiny.MemorySource({"de": ["kurz"]}),
            ["de"],
            group("evaluation", "fast", window=60),
        )


def test_standard_error_is_paired() -> None:
    assert paired_standard_error([1.0, 5.0, 9.0], [2.0, 6.0, 10.0]) == 0.0
    assert paired_standard_error([0.0, 0.0], [1.0, 3.0]) == pytest.approx(1.0)
    assert paired_standard_error([1.0], [2.0]) == 0.0
