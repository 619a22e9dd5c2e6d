"""Continuations of many prompts at once, greedy or sampled with a seed."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch

from pd_finetune.errors import UserError
from pd_finetune.targets.load import Target
from pd_finetune.text.tokens import end_of_text_id


def encoded_prompts(target: Target, prompts: Sequence[str], tokens: int) -> list[list[int]]:
    """Token ids of each prompt, after an end-of-text token as in every training sequence.

    Raises:
        UserError: a prompt and `tokens` more do not fit the target's context.
    """
    eot = end_of_text_id(target.tokenizer)
    encoded = []
    for prompt in prompts:
        ids = [eot, *target.tokenizer.encode(prompt, add_special_tokens=False).ids]
        if len(ids) + tokens > target.context:
            raise UserError(
                f"the prompt '{prompt[:40]}' has {len(ids)} tokens: with {tokens} more it is "
                f"longer than the target's context of {target.context}; shorten it, or ask for less"
            )
        encoded.append(ids)
    return encoded


@torch.no_grad()
def generate(
    target: Target,
    prompts: Sequence[str],
    tokens: int,
    *,
    samples: int | None = None,
    temperature: float = 1.0,
    seed: int = 0,
) -> list[list[list[int]]]:
    """Token ids of the continuations by prompt: one greedy, or `samples` drawn ones.

    Generation ends where the model writes an end-of-text token, which is left out. The prompts are
    padded on the left and run as one batch. The same seed, prompts and weights give the same
    continuations on one device; torch's global random state is left as it was.
    """
    eot = end_of_text_id(target.tokenizer)
    encoded = encoded_prompts(target, prompts, tokens)
    widest = max(map(len, encoded))
    ids = torch.full((len(encoded), widest), eot, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(encoded):
        ids[row, widest - len(prompt) :] = torch.tensor(prompt)
        mask[row, widest - len(prompt) :] = 1
    how: dict[str, Any] = {"do_sample": False}
    if samples is not None:
        how = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
        how["num_return_sequences"] = samples
    device = target.model.device
    devices = [device] if device.type == "cuda" else []
    with warnings.catch_warnings(), torch.random.fork_rng(devices=devices):
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        output = target.model.generate(  # type: ignore[operator]
            input_ids=ids.to(device),
            attention_mask=mask.to(device),
            max_new_tokens=tokens,
            num_beams=1,
            repetition_penalty=1.0,
            eos_token_id=eot,
            pad_token_id=eot,
            **how,
        )
    rows = [_until(row, eot) for row in output[:, widest:].tolist()]
    each = samples or 1
    return [rows[start : start + each] for start in range(0, len(rows), each)]


def _until(ids: list[int], end: int) -> list[int]:
    return ids[: ids.index(end)] if end in ids else ids


def continuations(target: Target, prompts: dict[str, str], tokens: int) -> dict[str, str]:
    """Greedy continuation of each prompt, at most `tokens` tokens and within the context.

    They run as one batch: where the longest prompt leaves less room, all of them are as short.

    Raises:
        UserError: a prompt fills the context by itself.
    """
    if not prompts:
        return {}
    texts = list(prompts.values())
    try:
        longest = max(map(len, encoded_prompts(target, texts, 1)))
    except UserError as error:
        raise UserError(f"evaluation.rollouts: {error}") from None
    found = generate(target, texts, min(tokens, target.context - longest))
    return {
        language: str(target.tokenizer.decode(ids, skip_special_tokens=True))
        for language, (ids,) in zip(prompts, found, strict=True)
    }
