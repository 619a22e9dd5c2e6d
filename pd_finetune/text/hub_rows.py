"""Rows of a data set, streamed from the Hugging Face Hub or from a local copy's parquet files."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pd_finetune.errors import UserError, first_line


def local_files(name: str, folder: str, pattern: str) -> list[Path]:
    """The parquet files of a local copy.

    Raises:
        UserError: there are none.
    """
    root = Path(folder).expanduser()
    files = sorted(root.glob(pattern))
    if not files:
        raise UserError(
            f"no copy of '{name}' at '{root}': tried {pattern}; fetch it where there is a network "
            "and set languages.source.folder to it, or use languages=embedded"
        )
    return files


def rows(name: str, config: str | None, files: list[Path] | None) -> Iterator[dict[str, Any]]:
    """Rows of a data set's train split, streamed: only what is read is fetched.

    Args:
        config: of the Hub's data set; None: it has one.
        files: parquet files of a local copy, read instead.

    Raises:
        UserError: the Hub, the data set or the configuration cannot be reached, a file not read.
    """
    try:
        from datasets import load_dataset

        if files is not None:
            paths = list(map(str, files))
            yield from load_dataset("parquet", data_files=paths, split="train", streaming=True)
        else:
            from huggingface_hub import HfApi

            # one quick question first: offline, streaming would try again for half a minute
            HfApi().dataset_info(name, timeout=20)
            yield from load_dataset(name, config, split="train", streaming=True)
    except Exception as error:  # HTTP, offline and data set errors share no base class
        reason = f"{type(error).__name__}: {first_line(error)}"
        if files is not None:
            raise UserError(f"cannot read text file of '{files[0].parent}': {reason}") from None
        raise UserError(
            f"cannot read '{name}' ({config or 'all'}) from the Hugging Face Hub ({reason}): fetch "
            "it where there is a network and set languages.source.folder to it, or use "
            "languages=embedded"
        ) from None
