"""The part of a decomposition that edits are made of: V, U in 16 bits, and its harvest.

    python scripts/slim_decomposition.py <folder> --out <folder>

The causal-importance function, two thirds of the file, is left out, and of the harvest all but the
four foremost tokens of each side and the best example: what is written can be selected from, edited
and compared with others, but not harvested, measured or trained on. The record names the whole.
"""

import argparse
import json
import sys
from pathlib import Path

import pandas as pd

from pd_finetune.decomposition.folder import RECORD, WEIGHTS, stored_hash
from pd_finetune.errors import UserError
from pd_finetune.files import file_sha256, make_folder, replacing, write_json
from pd_finetune.selection.labels import LABEL_TOKENS


def slim(folder: Path, out: Path) -> None:
    """Write the slim form of the decomposition and harvest in `folder`.

    Raises:
        UserError: one of them is missing or broken, or they do not belong together.
    """
    from safetensors.torch import load_file, save_file

    if out.resolve() == folder.resolve():
        raise UserError(f"--out {out}: it would replace the whole decomposition")
    try:
        whole = stored_hash(folder)
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        harvest = json.loads((folder / "harvest" / "harvest.json").read_text(encoding="utf-8"))
        harvested = harvest["hashes"]["decomposition"]
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"no decomposition with a harvest in '{folder}': {error}") from None
    if whole is None or harvested != whole:
        raise UserError(f"'{folder}': weights, record and harvest do not belong together")
    tensors = load_file(folder / WEIGHTS)
    kept = {name: value.half() for name, value in tensors.items() if name[:2] in ("V.", "U.")}
    make_folder(out / "harvest")
    with replacing(out / WEIGHTS) as temporary:
        save_file(kept, temporary)
    own = file_sha256(out / WEIGHTS)
    tokens = pd.read_parquet(folder / "harvest" / "tokens.parquet")
    ranks = tokens[["pmi_rank", "weight_rank"]]  # from 1; 0: not among the foremost
    foremost = ranks.isin(range(1, LABEL_TOKENS + 1)).any(axis=1)
    examples = pd.read_parquet(folder / "harvest" / "examples.parquet")
    tables = {
        "subcomponents": pd.read_parquet(folder / "harvest" / "subcomponents.parquet"),
        "tokens": tokens[foremost],
        "examples": examples[examples["rank"] == 1],
    }
    for name, table in tables.items():
        path = out / "harvest" / f"{name}.parquet"
        with replacing(path) as temporary:
            table.reset_index(drop=True).to_parquet(temporary, index=False)
        harvest["files"][path.name] = file_sha256(path)
    harvest["hashes"]["decomposition"] = own
    harvest["top_tokens"] = LABEL_TOKENS
    write_json(out / "harvest" / "harvest.json", harvest)
    slimmed = record | {"weights_sha256": own, "ci_function": None, "whole_sha256": whole}
    write_json(out / RECORD, slimmed)


def main() -> None:
    """Slim one decomposition."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="a decomposition with its harvest in harvest/")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    try:
        slim(options.folder, options.out)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    size = sum(path.stat().st_size for path in options.out.rglob("*") if path.is_file())
    print(f"{options.out}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
