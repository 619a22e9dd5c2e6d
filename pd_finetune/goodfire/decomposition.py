"""Goodfire's VPD decompositions in our format, converted once."""

from __future__ import annotations

import re
from dataclasses import asdict
from pathlib import Path

from torch import Tensor

from pd_finetune.decomposition.sites import Site
from pd_finetune.errors import UserError
from pd_finetune.files import source_sha256
from pd_finetune.goodfire.cache import converted
from pd_finetune.goodfire.checkpoint import (
    is_checkpoint,
    latest_checkpoint,
    read_tensors,
    read_yaml,
)
from pd_finetune.goodfire.ci_weights import ci_size, ci_tensors, our_ci_weights
from pd_finetune.goodfire.names import arcee_tensors, current_names
from pd_finetune.goodfire.runs import run_folder
from pd_finetune.goodfire.settings import Settings
from pd_finetune.targets.keys import module_of_site

VERSION = 1
CONFIG = "final_config.yaml"
_COMPONENT = re.compile(r"_components\.(.+)\.([VU])")


def converted_decomposition(given: str, option: str = "decomposition.folder") -> Path:
    """The folder of our format meant by `given`: itself where it is one, else a conversion of it.

    Args:
        given: a folder of ours, a folder with `final_config.yaml` and `model_<step>.pth`, such a
            checkpoint file, or a W&B run path.

    Raises:
        UserError: a W&B run cannot be downloaded, or the checkpoint cannot be read.
    """
    from pd_finetune.decomposition.folder import RECORD

    path = Path(given).expanduser()
    if (path / RECORD).is_file():
        return path
    path = run_folder(given, option, CONFIG)
    checkpoint = path if is_checkpoint(path) else latest_checkpoint(path)
    if checkpoint is None or not (checkpoint.parent / CONFIG).is_file():
        return path
    return convert_decomposition(checkpoint)


def convert_decomposition(checkpoint: Path) -> Path:
    """The cached conversion of a checkpoint: V, U and CI function as safetensors, and the record.

    The hash of the target that the checkpoint embeds goes into the record, so that loading refuses
    any other.

    Raises:
        UserError: the checkpoint is damaged, or of a kind that is not read.
    """
    config_path = checkpoint.parent / CONFIG
    sources = {
        "checkpoint": source_sha256(checkpoint),
        "config": source_sha256(config_path),
    }

    def build(folder: Path) -> None:
        config = Settings(read_yaml(config_path), config_path)
        try:
            _write(folder, read_tensors(checkpoint), config, checkpoint, sources)
        except UserError as error:
            raise UserError(f"decomposition '{checkpoint}': {error}") from None

    return converted("decompositions", VERSION, sources, build)


def sites_of(tensors: dict[str, Tensor]) -> dict[str, Site]:
    """Sites from the shapes of V [d_in, C] and U [C, d_out], in sorted order.

    Raises:
        UserError: there are none, or a V and its U do not fit.
    """
    pairs: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if match := _COMPONENT.fullmatch(name):
            pairs.setdefault(match[1].replace("-", "."), {})[match[2]] = tensor
    if not pairs:
        raise UserError("no _components.<site>.V in it: is this the decomposition's checkpoint?")
    sites = {}
    for name, pair in sorted(pairs.items()):
        if set(pair) != {"V", "U"} or pair["V"].shape[1] != pair["U"].shape[0]:
            raise UserError(f"V and U of {name} do not belong together")
        (d_in, C), d_out = pair["V"].shape, pair["U"].shape[1]
        sites[name] = Site(name, module_of_site(name), d_in, d_out, C)
    return sites


def shared_reads(sites: dict[str, Site]) -> dict[str, str]:
    """For each site, the first that reads the same tensor: q, k and v of a layer share one."""
    first: dict[str, str] = {}
    return {
        name: first.setdefault(re.sub(r"\.[qkv]_proj$", ".qkv", name), name)
        for name in sorted(sites)
    }


def _write(
    folder: Path,
    raw: dict[str, Tensor],
    config: Settings,
    checkpoint: Path,
    sources: dict[str, str],
) -> None:
    from safetensors.torch import save_file

    from pd_finetune.decomposition.folder import RECORD, WEIGHTS
    from pd_finetune.files import file_sha256, write_json
    from pd_finetune.targets.load import tensors_hash

    tensors = current_names(raw)
    sites = sites_of(tensors)
    reads = shared_reads(sites)
    found = ci_tensors(tensors)
    size = ci_size(found, config.ci)
    embedded = {
        name.removeprefix("target_model."): tensor
        for name, tensor in tensors.items()
        if name.startswith("target_model.")
    }
    target = arcee_tensors(embedded)
    for name, site in sites.items():
        weight = target.get(f"{site.module}.weight")
        if weight is None or tuple(weight.shape) != (site.d_out, site.d_in):
            raise UserError(f"{name} fits no matrix of the target that the checkpoint embeds")
    known = {"_components.", "target_model.", "ci_fn."}
    if strange := [name for name in tensors if not name.startswith(tuple(known))]:
        raise UserError(f"unknown tensors: {', '.join(strange[:3])}")
    out: dict[str, Tensor] = {}
    for name in sites:
        for part in "VU":
            tensor = tensors[f"_components.{name.replace('.', '-')}.{part}"]
            out[f"{part}.{name}"] = tensor.float().contiguous()
    for name, tensor in our_ci_weights(found, sites, reads, size).items():
        # all 32 bits: it has to give the published importances, not only their gist
        out[f"ci_function.{name}"] = tensor.contiguous()
    save_file(out, folder / WEIGHTS)
    record = {
        "format": 1,
        "target_hash": tensors_hash(target),
        "weights_sha256": file_sha256(folder / WEIGHTS),
        "window": config.window,
        "sites": {name: asdict(site) for name, site in sites.items()},
        "reads": reads,
        "ci_function": asdict(size),
        "source": {"checkpoint": checkpoint.name, "target_run": config.target_run, **sources},
    }
    write_json(folder / RECORD, record)
