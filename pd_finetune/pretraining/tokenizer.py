"""A byte-level BPE tokenizer, trained on the same mixture of languages as the target."""

from collections.abc import Iterator

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from pd_finetune.text.tokens import END_OF_TEXT, DocumentSource


def _sample(source: DocumentSource, mixture: dict[str, float], characters: int) -> Iterator[str]:
    total = sum(mixture.values())
    for language, share in mixture.items():
        left = int(characters * share / total)
        documents = source.documents(language, "train")
        # a fixed stride takes from all sources of a language, not from its first files alone
        stride = max(1, sum(map(len, documents)) // max(left, 1))
        for document in documents[::stride]:
            if left <= 0:
                break
            yield document
            left -= len(document)


def train_tokenizer(
    source: DocumentSource, mixture: dict[str, float], vocab_size: int, characters: int
) -> Tokenizer:
    """Train a byte-level BPE (GPT-2 style splitting, no prefix space) with end-of-text as id 0."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_sample(source, mixture, characters), trainer)
    return tokenizer
