"""Where documents come from: folders of parquet files, one file a language."""

from dataclasses import dataclass
from pathlib import Path

from pd_finetune.cache import source_sha256
from pd_finetune.errors import UserError, first_line

SPLITS = ("train", "validation", "test", "ood")
EMBEDDED_TEXT = Path(__file__).parent.parent / "embedded" / "text"


@dataclass(frozen=True)
class ParquetFolder:
    """Documents in `<folder>/<language>.parquet` with columns `text` and `split`.

    Paragraphs of a document are joined by newlines. Splits are train, validation, test and
    `ood` (out of domain); a language without out-of-domain text has no such rows.

    Args:
        folder: the folder, or "embedded" for the text that ships with the package.
    """

    folder: str = "embedded"

    @property
    def root(self) -> Path:
        return EMBEDDED_TEXT if self.folder == "embedded" else Path(self.folder).expanduser()

    def path(self, language: str) -> Path:
        path = self.root / f"{language}.parquet"
        if not path.is_file():
            if not self.root.is_dir():
                raise UserError(f"text folder '{self.root}' does not exist: set languages.source")
            known = sorted(p.stem for p in self.root.glob("*.parquet"))
            raise UserError(
                f"no text for language '{language}' in '{self.root}'; "
                f"possible: {', '.join(known) or 'none'}"
            )
        return path

    def fingerprint(self, language: str) -> str:
        """Identity of the text, for caches and records (hex)."""
        return source_sha256(self.path(language))

    def documents(self, language: str, split: str) -> list[str]:
        """All documents of one split in file order; empty where the split has none."""
        import pyarrow.parquet as pq

        if split not in SPLITS:
            raise UserError(f"unknown split '{split}'; possible: {', '.join(SPLITS)}")
        path = self.path(language)
        try:
            table = pq.read_table(path, columns=["text"], filters=[("split", "=", split)])
            return table["text"].to_pylist()
        except (OSError, ValueError, KeyError) as error:  # pyarrow's own are of these
            raise UserError(f"cannot read text file '{path}': {first_line(error)}") from None
