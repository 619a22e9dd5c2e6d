"""Token streams: documents of one language and split, tokenised once and cached."""

from typing import Protocol

import numpy as np
from jaxtyping import Int
from tokenizers import Tokenizer
from tqdm import tqdm

from pd_finetune import cache
from pd_finetune.errors import UserError


class DocumentSource(Protocol):
    """What any source of text offers."""

    def documents(self, language: str, split: str) -> list[str]: ...

    def fingerprint(self, language: str) -> str: ...


END_OF_TEXT = "<|endoftext|>"
# the first of these that a vocabulary has: GPT-2, GPT-NeoX, Llama 3, Llama 1 and 2, Gemma
_OPENING = (END_OF_TEXT, "<|begin_of_text|>", "<s>", "<bos>")


def end_of_text_id(tokenizer: Tokenizer) -> int:
    """Id of the token that starts every document: end-of-text, or the beginning of a text.

    Raises:
        UserError: the tokenizer knows none of them.
    """
    for token in _OPENING:
        if (found := tokenizer.token_to_id(token)) is not None:
            return int(found)
    raise UserError(
        f"the tokenizer has no '{END_OF_TEXT}' token (nor {', '.join(_OPENING[1:])}): give one "
        "that has it"
    )


def token_stream(
    tokenizer: Tokenizer, source: DocumentSource, language: str, split: str
) -> Int[np.ndarray, " tokens"]:
    """All documents as one stream, an end-of-text token before each (memory-mapped integers).

    The cache file is keyed by tokenizer, text, language and split: a change of any makes another.
    """
    identity = f"{tokenizer.to_str()}|{source.fingerprint(language)}|{language}|{split}"
    path = cache.entry("tokens", identity, ".npy")
    if cache.is_whole(path):
        return np.load(path, mmap_mode="r")
    documents = source.documents(language, split)
    eot = end_of_text_id(tokenizer)
    dtype = np.uint16 if tokenizer.get_vocab_size() <= 2**16 else np.int32
    pieces: list[np.ndarray] = []
    batches = range(0, len(documents), 1000)
    name = f"tokenise {language}/{split}"
    for start in tqdm(batches, name, leave=False, disable=len(documents) < 5000):
        batch = documents[start : start + 1000]
        for encoding in tokenizer.encode_batch_fast(batch, add_special_tokens=False):
            pieces.append(np.array([eot, *encoding.ids], dtype=dtype))
    stream = np.concatenate(pieces) if pieces else np.zeros(0, dtype)
    cache.keep(path, lambda handle: np.save(handle, stream))
    return np.load(path, mmap_mode="r") if len(stream) else stream


def windows(
    stream: Int[np.ndarray, " tokens"], rows: int, length: int
) -> Int[np.ndarray, "rows length"]:
    """`rows` disjoint windows of `length` tokens, spread evenly over the stream.

    Fewer rows come back where the stream is shorter than asked.
    """
    available = len(stream) // length
    count = min(rows, available)
    if count == 0:
        return np.zeros((0, length), np.int64)
    starts = (np.arange(count) * (available / count)).astype(np.int64) * length
    return np.stack([np.asarray(stream[s : s + length], dtype=np.int64) for s in starts])
