"""The objective against float64 written out, and the loop's behaviour."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from pd_finetune.errors import TrainingError
from pd_finetune.finetuning.config import ObjectiveConfig
from pd_finetune.finetuning.loop import finetune, lr_factor, protected_rows
from pd_finetune.finetuning.objective import Objective, has_linear_head
from pd_finetune.targets.load import Target, weights_hash
from pd_finetune.text.budget import TargetSample, protect_pool, target_sample
from pd_finetune.text.config import TokenBudgetConfig
from tests.methods import tiny

SETTINGS = ObjectiveConfig(steps=6, protect_rows=3, protect_tokens=12, protect_pool=5)


def text(budget: int = 30) -> tuple[TargetSample, Tensor]:
    how = TokenBudgetConfig(sequence_tokens=12, min_paragraph_tokens=8)
    sample = target_sample(tiny.tokenizer(), tiny.source(), "de", budget, 0, how)
    return sample, protect_pool(tiny.tokenizer(), tiny.source(), ["en"], 0, pool=5, tokens=12)


def reference(
    target: Target, method: MaskMethod, sample: TargetSample, windows: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Cross-entropies, hinge and KL in float64 by the definitions, one token at a time."""
    target.model.double()
    clean = target.model(input_ids=windows, use_cache=False).logits
    ces = []
    with method.edited():
        for ids, counted in zip(sample.rows, sample.counted, strict=True):
            logits = target.model(input_ids=ids[None], use_cache=False).logits[0]
            for position in range(1, len(ids)):
                if counted[position]:
                    q = logits[position - 1].exp() / logits[position - 1].exp().sum()
                    ces.append(-q[ids[position]].log())
        edited = target.model(input_ids=windows, use_cache=False).logits
    p, q = clean.softmax(-1), edited.softmax(-1)
    kl = (p * (p.log() - q.log())).sum(-1)
    target.model.float()
    ce = torch.stack(ces)
    hinge = torch.stack([torch.relu(target.chance_nats - value) for value in ces]).mean()
    return ce, hinge, kl


@pytest.mark.parametrize("fused", [True, False])
def test_values_and_gradients_against_float64(fused: bool) -> None:
    target = tiny.target()
    sample, pool = text()
    method = MaskMethod(target, tiny.decomposition(target), tiny.KEYS, start=-1.0)
    rows = torch.tensor([0, 3])
    ce, hinge, kl = reference(target, method, sample, pool[rows])
    expected = torch.autograd.grad(hinge + 3.0 * kl.mean(), method.parameters())

    objective = Objective(target, sample, pool, kl_weight=3.0, fused=fused)
    with method.edited():
        mine = torch.cat([objective.target_ce(part) for part in objective.sample_parts()])
        mine_kl = objective.protected_kl(rows)
        if fused:
            both_ce, both_kl = objective.both(rows)
            torch.testing.assert_close(both_ce, mine, atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(both_kl, mine_kl, atol=1e-5, rtol=1e-5)
            mine, mine_kl = both_ce, both_kl
    loss = objective.hinge(mine).mean() + 3.0 * mine_kl.mean()
    gradients = torch.autograd.grad(loss, method.parameters())
    assert (ce > target.chance_nats).any() and (ce < target.chance_nats).any()  # the hinge matters
    torch.testing.assert_close(mine.double(), ce, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(mine_kl.double(), kl, atol=1e-4, rtol=1e-4)
    for gradient, wanted in zip(gradients, expected, strict=True):
        torch.testing.assert_close(gradient, wanted.float(), atol=1e-4, rtol=1e-3)


def test_head_with_a_scale_is_not_taken_for_linear() -> None:
    assert has_linear_head(tiny.target().model)
    target = tiny.target()
    head = target.model.get_output_embeddings()
    head.register_forward_hook(lambda module, args, output: output * 0.5)
    assert not has_linear_head(target.model)
    sample, pool = text()
    objective = Objective(target, sample, pool, 1.0)
    torch.testing.assert_close(
        objective.protected_kl(torch.tensor([1])), torch.zeros(1, 12), atol=1e-5, rtol=0
    )


def test_clean_predictions_too_large_to_keep_are_made_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    target = tiny.target()
    sample, pool = text()
    method = MaskMethod(target, tiny.decomposition(target), tiny.KEYS, start=0.0)
    rows = torch.tensor([2, 4])
    kept = Objective(target, sample, pool, 1.0, fused=False)
    assert kept.clean_log_probabilities(rows) is None
    monkeypatch.setattr("pd_finetune.finetuning.objective._KEPT_BYTES", 10)
    anew = Objective(target, sample, pool, 1.0, fused=False)
    clean = anew.clean_log_probabilities(rows)
    with method.edited():
        torch.testing.assert_close(anew.protected_kl(rows, clean), kept.protected_kl(rows))


@pytest.mark.parametrize("kind", ["mask", "lora"])
def test_loop_lowers_the_loss_and_leaves_the_model_clean(kind: str) -> None:
    target = tiny.target()
    sample, pool = text()
    parts = tiny.decomposition(target)
    method = (
        MaskMethod(target, parts, tiny.KEYS, lr=0.3)
        if kind == "mask"
        else LoraMethod(target, parts, [], lr=0.02)
    )
    before = weights_hash(target.model)
    seen: list[int] = []
    settings = replace(SETTINGS, steps=25, protect_rows=5)
    result = finetune(target, method, sample, pool, settings, 0, lambda step, _: seen.append(step))
    assert seen == list(range(25)) and result.steps == 25 and not result.stopped_early
    fall = result.history[0]["train/loss_nats"] - result.history[-1]["train/loss_nats"]
    assert fall > (0.001 if kind == "mask" else 0.01)  # two random scalars can do little
    assert abs(result.history[0]["train/protected_kl_nats"]) < 1e-5
    assert weights_hash(target.model) == before
    assert all(parameter.grad is None for parameter in method.parameters())
    if kind == "mask":
        assert result.history[0][f"masks/{tiny.KEYS[0]}"] == 1.0


def test_loop_repeats_exactly_and_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    sample, pool = text(60)
    ends = []
    for rows in (32, 32, 2):
        monkeypatch.setattr("pd_finetune.finetuning.objective._ROWS", rows)
        target = tiny.target()
        method = MaskMethod(target, tiny.decomposition(target), tiny.KEYS)
        finetune(target, method, sample, pool, SETTINGS, seed=4)
        ends.append(method.scalars())
    assert ends[0] == ends[1]
    assert ends[2] == pytest.approx(ends[0], abs=1e-4)


def test_pool_is_prepared_once_for_all_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    target = tiny.target()
    sample, pool = text()
    rows = torch.tensor([1, 2])
    first = Objective(target, sample, pool, 1.0, lowest_layer=1)
    monkeypatch.setattr(Objective, "_clean_statistics", lambda self: pytest.fail("made again"))
    other, _ = text(60)
    again = Objective(target, other, pool.clone(), 5.0, lowest_layer=1)
    torch.testing.assert_close(again.protected_kl(rows), first.protected_kl(rows), atol=0, rtol=0)
    monkeypatch.undo()
    shifted = Objective(target, sample, pool.roll(1, 0), 1.0, lowest_layer=1)
    assert shifted.protected_kl(rows).abs().max() < 1e-5  # not against another pool's predictions
    lower = Objective(target, sample, pool, 1.0, lowest_layer=0)
    assert lower.protected_kl(rows).abs().max() < 1e-5


def test_stop_rule_needs_patience() -> None:
    target = tiny.target()
    sample, pool = text()
    method = MaskMethod(target, tiny.decomposition(target), tiny.KEYS)
    settings = replace(SETTINGS, steps=20, stop_gap_nats=100.0, patience=3)
    result = finetune(target, method, sample, pool, settings, 0)
    assert result.stopped_early and result.steps == 2 and len(result.history) == 3


def test_schedule_and_rows() -> None:
    assert [lr_factor(step, SETTINGS) for step in (0, 3)] == [1.0, 0.5]
    assert lr_factor(5, replace(SETTINGS, lr_decay="none")) == 1.0
    rows = [protected_rows(1, step, 5, SETTINGS) for step in range(8)]
    assert all(len(set(r.tolist())) == 3 for r in rows)
    assert torch.equal(rows[2], protected_rows(1, 2, 5, SETTINGS))
    assert len({tuple(r.tolist()) for r in rows}) > 1


def test_nan_names_step_and_term() -> None:
    target = tiny.target()
    sample, pool = text()
    method = MaskMethod(target, tiny.decomposition(target), tiny.KEYS)
    method.parameters()[0].data.fill_(math.nan)
    with pytest.raises(TrainingError, match="target cross-entropy is nan at step 0"):
        finetune(target, method, sample, pool, SETTINGS, 0)
    assert not any(module._forward_hooks for module in target.model.modules())
