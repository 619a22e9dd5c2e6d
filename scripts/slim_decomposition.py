"""The part of a decomposition that edits are made of: V and U in 16 bits, and its harvest.

    python scripts/slim_decomposition.py <folder> --out <folder>

The causal-importance function is left out and V and U are halved: a third of the file is left. What
is written can be selected from, edited and compared with others, but not harvested, measured or
trained on. Its record and harvest are of the whole one, which they name (`whole_sha256`).
"""

import argparse
import json
import math
import shutil
import sys
from pathlib import Path
from typing import Any

from pd_finetune.decomposition.folder import RECORD, WEIGHTS, stored_hash
from pd_finetune.errors import UserError
from pd_finetune.files import file_sha256, make_folder, replacing, write_json


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Record and harvest's configuration of a whole decomposition.

    Raises:
        UserError: one of them is missing or broken, or they do not belong together.
    """
    again = f"python -m pd_finetune.harvest decomposition=folder decomposition.folder={folder}"
    try:
        whole = stored_hash(folder)
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        harvest = json.loads((folder / "harvest" / "harvest.json").read_text(encoding="utf-8"))
        harvested, files = harvest["hashes"]["decomposition"], dict(harvest["files"])
        slimmed = record["ci_function"] is None
        damaged = [
            name
            for name, sha in files.items()
            if not (folder / "harvest" / name).is_file()
            or file_sha256(folder / "harvest" / name) != sha
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"no decomposition with a harvest in '{folder}' ({error}): {again} makes the harvest"
        ) from None
    if slimmed:
        raise UserError(f"'{folder}' is slim already: give the folder of the whole one")
    if whole is None:
        raise UserError(f"'{folder / WEIGHTS}' is not what its record says: it is damaged")
    if harvested != whole or damaged:
        what = f"damaged ({', '.join(damaged)})" if damaged else "of another decomposition"
        raise UserError(f"the harvest in '{folder}' is {what}: {again} makes it anew")
    return record, harvest


def slim(folder: Path, out: Path) -> None:
    """Write the slim form of the decomposition and harvest in `folder`.

    Raises:
        UserError: one of them is missing or broken, they do not belong together, or `out` has
            something else.
    """
    import torch
    from safetensors.torch import load_file, save_file

    record, harvest = _read(folder)
    if (out / RECORD).exists() and '"ci_function": null' not in (out / RECORD).read_text():
        raise UserError(f"--out {out}: one that is not slim is there, give another folder")
    tensors = load_file(folder / WEIGHTS)
    kept = {name: value.half() for name, value in tensors.items() if name[:2] in ("V.", "U.")}
    if not all(torch.isfinite(value).all() for value in kept.values()):
        raise UserError(f"'{folder}': V or U has values that 16 bits cannot hold")
    predicting = [v for name, v in tensors.items() if name.startswith("ci_function.")]
    whole = record["weights_sha256"]
    make_folder(out / "harvest")
    with replacing(out / WEIGHTS) as temporary:
        save_file(kept, temporary)
    own = file_sha256(out / WEIGHTS)
    for name in harvest["files"]:
        with replacing(out / "harvest" / name) as temporary:
            shutil.copyfile(folder / "harvest" / name, temporary)
    hashes = harvest["hashes"] | {"decomposition": own}
    write_json(
        out / "harvest" / "harvest.json", harvest | {"hashes": hashes, "whole_sha256": whole}
    )
    slimmed = {
        "weights_sha256": own,
        "ci_function": None,
        "ci_function_weights": sum(math.prod(v.shape) for v in predicting if v.ndim == 2),
        "whole_sha256": whole,
    }
    write_json(out / RECORD, record | slimmed)


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
