"""Does a target speak a language? What it continues, and how well it predicts."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean

import numpy as np
from jaxtyping import Int
from torch import Tensor

from pd_finetune.errors import UserError
from pd_finetune.evaluation.sampling import generate
from pd_finetune.pretraining.baselines import unigram_nats
from pd_finetune.targets.load import Target
from pd_finetune.targets.predictions import sequence_cross_entropies
from pd_finetune.text.config import LanguagesConfig
from pd_finetune.text.identify import CODE, LanguageIdentifier
from pd_finetune.text.tokens import DocumentSource, token_stream

LEAST_SHARE = 0.9  # of continuations in the language
LEAST_BELOW_UNIGRAM_NATS = 2.0


@dataclass(frozen=True)
class Speech:
    """How well a target speaks the language."""

    greedy_share: float  # of greedy continuations that are identified as the language
    sampled_share: float
    ce_nats: float  # per token of held-out text
    unigram_nats: float

    @property
    def passes(self) -> bool:
        """Whether that is well enough, by the rule of `screen`."""
        fluent = min(self.greedy_share, self.sampled_share) >= LEAST_SHARE
        return fluent and self.unigram_nats - self.ce_nats >= LEAST_BELOW_UNIGRAM_NATS


def speech(
    target: Target,
    source: DocumentSource,
    languages: LanguagesConfig,
    ids: Int[Tensor, "rows window"],
    *,
    prompts: int,
    prompt_tokens: int,
    tokens: int,
    split: str,
    seed: int,
) -> Speech:
    """Continue the first tokens of documents of the target language, and measure.

    Args:
        ids: held-out windows of it.
        prompts: how many documents, spread over those of the split.
        tokens: of a continuation.

    Raises:
        UserError: no document is long enough, or a language cannot be identified.
    """
    language, decode = languages.target, target.tokenizer.decode
    beginnings = []
    for document in source.documents(language, split):
        found = target.tokenizer.encode(document, add_special_tokens=False).ids
        if len(found) > prompt_tokens:
            beginnings.append(decode(found[:prompt_tokens]))
    if not beginnings:
        raise UserError(
            f"no {split} document of '{language}' has prompt_tokens={prompt_tokens} and more: "
            "give fewer"
        )
    places = np.linspace(0, len(beginnings) - 1, min(prompts, len(beginnings))).astype(int)
    chosen = [beginnings[place] for place in places]
    identifier = LanguageIdentifier(tuple(n for n in languages.all if n != CODE))
    shares = []
    for samples in (None, 1):
        continued = generate(target, chosen, tokens, samples=samples, seed=seed)
        texts = [decode(ids) for ids, *_ in continued]
        shares.append(float(np.mean([identifier.identify(t)[0] == language for t in texts])))
    train = token_stream(target.tokenizer, source, language, "train")
    unigram = unigram_nats(train, ids[:, 1:].flatten().numpy(), target.vocab_size)
    return Speech(shares[0], shares[1], fmean(sequence_cross_entropies(target, ids)), unigram)
