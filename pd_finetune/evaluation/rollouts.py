"""Greedy continuations of fixed prompts: what an edit looks like."""

from __future__ import annotations

from pd_finetune.errors import UserError
from pd_finetune.evaluation.sampling import encoded_prompts, generate
from pd_finetune.targets.load import Target


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
