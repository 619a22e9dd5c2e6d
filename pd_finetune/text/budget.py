"""Drawing the few target-language tokens that a fine-tune sees, and the protected text beside them.

Both are drawn in one style, so that position effects are equal: a sequence is an end-of-text token
followed by text that begins where a paragraph begins.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import zip_longest
from zlib import crc32

import numpy as np
import torch
from jaxtyping import Bool, Int
from tokenizers import Tokenizer
from torch import Tensor

from pd_finetune.errors import UserError
from pd_finetune.text.config import TokenBudgetConfig
from pd_finetune.text.tokens import DocumentSource, end_of_text_id

_CHARACTERS_PER_TOKEN = 16  # tokens are shorter on average; a shortfall is made up


@dataclass(frozen=True)
class TargetSample:
    """Exactly `tokens` tokens of the target language.

    Args:
        rows: end-of-text, then tokens of one paragraph; padded on the right with end-of-text.
        counted: true at the tokens that count and are predicted, false at the first and at padding.
        text: the counted tokens of each row as plain text (the last may end within a word).
    """

    language: str
    rows: Int[Tensor, "rows pos"]
    counted: Bool[Tensor, "rows pos"]
    text: list[str]

    @property
    def tokens(self) -> int:
        """The budget spent: every token but end-of-text and padding."""
        return int(self.counted.sum())

    @property
    def stream(self) -> list[int]:
        """All counted tokens, rows one after the other."""
        return [int(token) for token in self.rows[self.counted]]


def _order(purpose: str, language: str, seed: int, count: int) -> Int[np.ndarray, " count"]:
    """A permutation of `count` things; other languages and purposes get an unrelated one."""
    return np.random.default_rng((seed, crc32(f"{purpose}/{language}".encode()))).permutation(count)


def _paragraphs(documents: list[str]) -> list[tuple[int, int, int]]:
    """(document, start, end) of every paragraph that holds more than white space."""
    found = []
    for number, document in enumerate(documents):
        start = 0
        while start < len(document):
            end = document.find("\n", start)
            end = len(document) if end < 0 else end
            # leading blanks stay: they are how the tokenizer sees an indented paragraph
            if not document[start:end].isspace() and end > start:
                found.append((number, start, end))
            start = end + 1
    return found


def target_sample(
    tokenizer: Tokenizer,
    source: DocumentSource,
    language: str,
    budget: int,
    seed: int,
    settings: TokenBudgetConfig,
) -> TargetSample:
    """Draw exactly `budget` tokens of `language` from its train split.

    Paragraphs come in an order permuted by `seed`, each cut at `sequence_tokens`. Samples are
    nested: with one seed, a smaller budget's token stream is the start of a larger one's, with
    the same boundaries between sequences.

    Raises:
        UserError: the text holds fewer tokens than `budget`.
    """
    eot = end_of_text_id(tokenizer)
    documents = source.documents(language, "train")
    paragraphs = _paragraphs(documents)
    sequences: list[list[int]] = []
    drawn = 0
    for index in _order("budget", language, seed, len(paragraphs)):
        if drawn == budget:
            break
        number, start, end = paragraphs[index]
        ids = tokenizer.encode(documents[number][start:end], add_special_tokens=False).ids
        if len(ids) >= settings.min_paragraph_tokens:
            sequences.append(ids[: min(settings.sequence_tokens, budget - drawn)])
            drawn += len(sequences[-1])
    if drawn < budget:
        raise UserError(
            f"budget={budget}: the train text of '{language}' has {drawn:,} tokens in paragraphs "
            f"of at least {settings.min_paragraph_tokens} tokens; give {drawn} or less"
        )
    width = 1 + max(map(len, sequences))
    rows = torch.full((len(sequences), width), eot)
    counted = torch.zeros(len(sequences), width, dtype=torch.bool)
    for row, ids in enumerate(sequences):
        rows[row, 1 : 1 + len(ids)] = torch.tensor(ids)
        counted[row, 1 : 1 + len(ids)] = True
    return TargetSample(language, rows, counted, [tokenizer.decode(ids) for ids in sequences])


def _window(tokenizer: Tokenizer, text: str, count: int) -> list[int]:
    """The first `count` tokens of a text, or all where there are fewer."""
    start = text[: _CHARACTERS_PER_TOKEN * count]
    ids = tokenizer.encode(start, add_special_tokens=False).ids
    if len(ids) <= count and len(start) < len(text):
        ids = tokenizer.encode(text, add_special_tokens=False).ids
    return list(ids[:count])


def _protect_windows(
    tokenizer: Tokenizer, documents: list[str], language: str, seed: int, count: int, tokens: int
) -> list[list[int]]:
    eot = end_of_text_id(tokenizer)
    paragraphs = _paragraphs(documents)
    order = iter(_order("protect", language, seed, len(paragraphs)))
    result: list[list[int]] = []
    window: list[int] = []
    for index in order:
        if len(result) == count:
            break
        number, start, _ = paragraphs[index]
        # a document that ends too early is followed by the next one drawn, as in running text
        rest = documents[number][start:]
        window += [eot, *_window(tokenizer, rest, max(0, tokens - len(window) - 1))]
        if len(window) >= tokens:
            result.append(window[:tokens])
            window = []
    if len(result) < count:
        raise UserError(
            f"objective.protect_pool asks for {count} windows of {tokens} tokens of '{language}', "
            f"its train text gives {len(result)}: give a smaller pool or shorter windows"
        )
    return result


def protect_pool(
    tokenizer: Tokenizer,
    source: DocumentSource,
    languages: list[str],
    seed: int,
    pool: int,
    tokens: int,
) -> Int[Tensor, "pool tokens"]:
    """Windows of protected train text, each an end-of-text and the text from a paragraph start on.

    Languages have equal shares (the first ones get what is left over) and take turns, so that any
    start of the pool is balanced too.

    Raises:
        UserError: a language has too little text.
    """
    by_language = []
    for position, language in enumerate(languages):
        count = pool // len(languages) + (position < pool % len(languages))
        documents = source.documents(language, "train")
        windows = _protect_windows(tokenizer, documents, language, seed, count, tokens)
        by_language.append(windows)
    turns = zip_longest(*by_language)
    rows = [window for turn in turns for window in turn if window is not None]
    return torch.tensor(rows, dtype=torch.int64).reshape(pool, tokens)
