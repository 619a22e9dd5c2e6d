"""Greedy continuations of fixed prompts: what an edit looks like."""

from __future__ import annotations

import warnings

import torch

from pd_finetune.errors import UserError
from pd_finetune.targets.load import Target
from pd_finetune.text.tokens import end_of_text_id


@torch.no_grad()
def continuation(target: Target, prompt: str, tokens: int) -> str:
    """The greedy continuation of `prompt`, at most `tokens` tokens and within the context.

    The prompt follows an end-of-text token, as every training sequence does; generation ends
    where the model writes another.

    Raises:
        UserError: the prompt fills the context by itself.
    """
    eot = end_of_text_id(target.tokenizer)
    ids = [eot, *target.tokenizer.encode(prompt, add_special_tokens=False).ids]
    room = target.context - len(ids)
    if room < 1:
        raise UserError(
            f"evaluation.rollouts: the prompt '{prompt[:40]}...' has {len(ids)} tokens, "
            f"the target's context is {target.context}: give a shorter one"
        )
    device = target.model.device
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        output = target.model.generate(  # type: ignore[operator]
            input_ids=torch.tensor([ids], device=device),
            attention_mask=torch.ones(1, len(ids), dtype=torch.int64, device=device),
            max_new_tokens=min(tokens, room),
            do_sample=False,
            num_beams=1,
            repetition_penalty=1.0,
            eos_token_id=eot,
            pad_token_id=eot,
        )
    return str(target.tokenizer.decode(output[0, len(ids) :].tolist(), skip_special_tokens=True))


def continuations(target: Target, prompts: dict[str, str], tokens: int) -> dict[str, str]:
    """Greedy continuation of each language's prompt."""
    return {language: continuation(target, prompt, tokens) for language, prompt in prompts.items()}
