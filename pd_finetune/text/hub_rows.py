"""Rows of a data set, from the Hub (streamed) or from a local copy's parquet files."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pd_finetune.errors import UserError


def _way_out(name: str) -> str:
    return (
        f"fetch '{name}' where there is a network and set languages.source.folder to it, "
        "or use languages=embedded"
    )


def local_files(name: str, folder: str, pattern: str) -> list[Path]:
    """The parquet files of a local copy.

    Raises:
        UserError: there are none.
    """
    root = Path(folder).expanduser()
    files = sorted(root.glob(pattern))
    if not files:
        raise UserError(f"no copy of '{name}' at '{root}': tried {pattern}; {_way_out(name)}")
    return files


def local_rows(files: list[Path], columns: list[str]) -> Iterator[dict[str, Any]]:
    """Rows of parquet files in order, a batch at a time; `columns` where they exist.

    Raises:
        UserError: a file cannot be read.
    """
    import pyarrow.parquet as pq

    for path in files:
        try:
            with pq.ParquetFile(path) as file:
                known = [c for c in columns if c in file.schema_arrow.names]
                # with a column missing the whole row comes back, for a message that names them
                wanted = known if len(known) == len(columns) else None
                for batch in file.iter_batches(batch_size=1024, columns=wanted):
                    yield from batch.to_pylist()
        except (OSError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"cannot read text file '{path}': {reason}") from None


def hub_rows(name: str, config: str | None) -> Iterator[dict[str, Any]]:
    """Rows of a Hub data set's train split, streamed: only what is read is fetched.

    Raises:
        UserError: the Hub, the data set or the configuration cannot be reached.
    """
    label = f"'{name}'" + (f" ({config})" if config else "")
    try:
        from huggingface_hub import HfApi

        # one quick question first: offline, streaming would try again for half a minute
        HfApi().dataset_info(name, timeout=20)
        from datasets import load_dataset

        yield from load_dataset(name, config, split="train", streaming=True)
    except Exception as error:  # HTTP, offline and data set errors share no base class
        lines = str(error).strip().splitlines()
        reason = f"{type(error).__name__}: {lines[0] if lines else ''}"[:200]
        raise UserError(
            f"cannot read {label} from the Hugging Face Hub ({reason}): {_way_out(name)}"
        ) from None
