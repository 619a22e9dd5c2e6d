"""The objective against float64 written out, and the loop's behaviour."""

import math
from dataclasses import replace
from weakref import WeakKeyDictionary

import pytest
import torch
from torch import Tensor

from pd_finetune.edits.edit import Material
from pd_finetune.edits.lora import Lora
from pd_finetune.edits.mask import Mask
from pd_finetune.errors import TrainingError
from pd_finetune.finetuning.loop import lr_factor, protected_rows, train
from pd_finetune.finetuning.objective import Objective
from pd_finetune.targets.changes import edited
from pd_finetune.targets.head import has_linear_head
from pd_finetune.targets.load import Target, weights_hash
from pd_finetune.targets.predictions import Predictions
from pd_finetune.text.budget import TargetSample, protect_pool, target_sample
from tests import tiny
from tests.composed import group

SETTINGS = group("objective", "chance", steps=6, protect_rows=3, protect_tokens=12, protect_pool=5)


def text(budget: int = 30) -> tuple[TargetSample, Tensor]:
    how = group("token_budget", "paragraphs", sequence_tokens=12, min_paragraph_tokens=8)
    sample = target_sample(tiny.tokenizer(), tiny.source(), "de", budget, 0, how)
    return sample, protect_pool(tiny.tokenizer(), tiny.source(), ["en"], 0, pool=5, tokens=12)


def reference(
    target: Target, method: Mask, sample: TargetSample, windows: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Cross-entropies, hinge and KL in float64 by the definitions, one token at a time."""
    target.model.double()
    clean = target.model(input_ids=windows, use_cache=False).logits
    ces = []
    with edited(target.model, method):
        for ids, counted in zip(sample.rows, sample.counted, strict=True):
            logits = target.model(input_ids=ids[None], use_cache=False).logits[0]
            for position in range(1, len(ids)):
                if counted[position]:
                    q = logits[position - 1].exp() / logits[position - 1].exp().sum()
                    ces.append(-q[ids[position]].log())
        after = target.model(input_ids=windows, use_cache=False).logits
    p, q = clean.softmax(-1), after.softmax(-1)
    kl = (p * (p.log() - q.log())).sum(-1)
    target.model.float()
    ce = torch.stack(ces)
    hinge = torch.stack([torch.relu(target.chance_nats - value) for value in ces]).mean()
    return ce, hinge, kl


def scaled_head(target: Target) -> Target:
    """With logits of half the size, so that hidden states do not tell them."""
    head = target.model.get_output_embeddings()
    head.register_forward_hook(lambda module, args, output: output * 0.5)
    return target


def all_terms(objective: Objective, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy of every token of the sample, and KL of the pool's windows `rows`."""
    forwards = objective.forwards(objective.windows(rows))
    ces, kls = zip(*(objective.terms(*forward) for forward in forwards), strict=True)
    return torch.cat(ces), torch.cat(kls)


def divergence(objective: Objective, rows: Tensor) -> Tensor:
    return all_terms(objective, rows)[1]


@pytest.mark.parametrize("linear", [True, False])
@pytest.mark.parametrize("lowest_layer", [None, 0])
def test_values_and_gradients_against_float64(linear: bool, lowest_layer: int | None) -> None:
    target = tiny.target() if linear else scaled_head(tiny.target())
    sample, pool = text()
    method = Mask(Material(target, tiny.decomposition(target), tiny.KEYS), start=-1.0)
    rows = torch.tensor([0, 3])
    ce, hinge, kl = reference(target, method, sample, pool[rows])
    expected = torch.autograd.grad(hinge + 3.0 * kl.mean(), method.parameters())

    objective = Objective(target, sample, pool, 3.0, lowest_layer)
    windows = objective.windows(rows)
    with edited(target.model, method):
        (forward,) = objective.forwards(windows)
        mine, mine_kl = objective.terms(*forward)
    loss = objective.hinge(mine).mean() + 3.0 * mine_kl.mean()
    gradients = torch.autograd.grad(loss, method.parameters())
    if linear:  # the hinge matters
        assert (ce > target.chance_nats).any() and (ce < target.chance_nats).any()
    torch.testing.assert_close(mine.double(), ce, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(mine_kl.double(), kl, atol=1e-4, rtol=1e-4)
    for gradient, wanted in zip(gradients, expected, strict=True):
        torch.testing.assert_close(gradient, wanted.float(), atol=1e-4, rtol=1e-3)


def test_head_with_a_scale_is_not_taken_for_linear() -> None:
    assert has_linear_head(tiny.target().model)
    target = scaled_head(tiny.target())
    assert not has_linear_head(target.model)
    sample, pool = text()
    kl = divergence(Objective(target, sample, pool, 1.0), torch.tensor([1]))
    torch.testing.assert_close(kl, torch.zeros(1, 12), atol=1e-5, rtol=0)


def test_clean_predictions_too_large_to_keep_are_made_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    target = tiny.target()
    sample, pool = text()
    method = Mask(Material(target, tiny.decomposition(target), tiny.KEYS), start=0.0)
    rows = torch.tensor([2, 4])
    windows = [Objective(target, sample, pool, 1.0).windows(rows)]
    monkeypatch.setattr("pd_finetune.targets.predictions._READY_BYTES", 10)
    objective = Objective(target, sample, pool, 1.0)
    with monkeypatch.context() as patch:
        patch.setattr("pd_finetune.targets.predictions._KEPT", WeakKeyDictionary())
        windows.append(objective.windows(rows))
    with edited(target.model, method):
        kept, anew = (objective.terms(slice(0, 1), given)[1] for given in windows)
    assert kept.min() > 1e-4
    torch.testing.assert_close(anew, kept)


@pytest.mark.parametrize("kind", ["mask", "lora"])
def test_loop_lowers_the_loss_and_leaves_the_model_clean(kind: str) -> None:
    target = tiny.target()
    sample, pool = text()
    parts = tiny.decomposition(target)
    method = (
        Mask(Material(target, parts, tiny.KEYS))
        if kind == "mask"
        else Lora(Material(target, parts, []))
    )
    before = weights_hash(target.model)
    seen: dict[int, dict[str, float]] = {}
    settings = replace(SETTINGS, steps=25, protect_rows=5)
    lr = 0.3 if kind == "mask" else 0.02
    steps = train(target, method, sample, pool, settings, lr, 0, seen.__setitem__)
    assert list(seen) == list(range(25)) and steps == 25
    fall = seen[0]["train/loss_nats"] - seen[24]["train/loss_nats"]
    assert fall > (0.001 if kind == "mask" else 0.01)  # two random scalars can do little
    assert abs(seen[0]["train/protected_kl_nats"]) < 1e-5
    assert weights_hash(target.model) == before
    assert all(parameter.grad is None for parameter in method.parameters())
    if kind == "mask":
        assert seen[0][f"masks/{tiny.KEYS[0]}"] == 1.0


def test_loop_repeats_exactly_and_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    sample, pool = text(60)
    ends = []
    for rows in (32, 32, 2):
        monkeypatch.setattr("pd_finetune.finetuning.objective._ROWS", rows)
        target = tiny.target()
        method = Mask(Material(target, tiny.decomposition(target), tiny.KEYS))
        train(target, method, sample, pool, SETTINGS, lr=0.3, seed=4)
        ends.append(method.scalars())
    assert ends[0] == ends[1]
    assert ends[2] == pytest.approx(ends[0], abs=1e-4)


def test_pool_is_prepared_once_for_all_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    target = tiny.target()
    sample, pool = text()
    rows = torch.tensor([1, 2])
    first = Objective(target, sample, pool, 1.0, lowest_layer=1)
    monkeypatch.setattr(Predictions, "_clean", lambda *args: pytest.fail("made again"))
    other, _ = text(60)
    again = Objective(target, other, pool.clone(), 5.0, lowest_layer=1)
    for mine, wanted in zip(again.windows(rows).clean, first.windows(rows).clean, strict=True):
        torch.testing.assert_close(mine, wanted, atol=0, rtol=0)
    monkeypatch.undo()
    shifted = Objective(target, sample, pool.roll(1, 0), 1.0, lowest_layer=1)
    assert divergence(shifted, rows).abs().max() < 1e-5  # not against another pool's predictions
    lower = Objective(target, sample, pool, 1.0, lowest_layer=0)
    assert divergence(lower, rows).abs().max() < 1e-5


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
    method = Mask(Material(target, tiny.decomposition(target), tiny.KEYS))
    method.parameters()[0].data.fill_(math.nan)
    with pytest.raises(TrainingError, match="target cross-entropy is nan at step 0"):
        train(target, method, sample, pool, SETTINGS, 0.3, 0)
    assert not any(module._forward_hooks for module in target.model.modules())
