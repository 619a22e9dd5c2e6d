"""Goodfire's VPD decompositions in our format, converted once."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from pd_finetune.cache import source_sha256
from pd_finetune.decomposition.folder import RECORD, WEIGHTS
from pd_finetune.decomposition.sites import Site
from pd_finetune.errors import UserError
from pd_finetune.files import file_sha256, write_json
from pd_finetune.goodfire.architecture import PUBLISHED, state_shapes
from pd_finetune.goodfire.cache import converted
from pd_finetune.goodfire.checkpoint import checkpoint_at, read_tensors
from pd_finetune.goodfire.ci_weights import ci_shapes, ci_size, our_ci_weights
from pd_finetune.goodfire.download import run_folder
from pd_finetune.goodfire.names import arcee_tensors, current_names
from pd_finetune.goodfire.runs import RunPath
from pd_finetune.goodfire.schema import Fields, Shape, require_tensors, sizes
from pd_finetune.targets.keys import module_of_site
from pd_finetune.targets.load import architecture, tensors_hash

VERSION = 2
CONFIG = "final_config.yaml"


def converted_decomposition(given: str, option: str = "decomposition.folder") -> Path | None:
    """The converted folder meant by `given`; None where it is nothing of Goodfire's.

    Args:
        given: a folder with `final_config.yaml` and `model_<step>.pth`, such a checkpoint file, or
            a W&B run path.
        option: the setting that named it, for messages.

    Raises:
        UserError: a W&B run cannot be downloaded, or a file is missing, damaged or not read here.
    """
    path = run_folder(given, option, CONFIG)
    checkpoint = checkpoint_at(path)
    config = (checkpoint.parent if checkpoint else path) / CONFIG
    if checkpoint and config.is_file():
        return convert_decomposition(checkpoint, config)
    if checkpoint is None and not config.is_file():
        return None
    missing, beside = (CONFIG, checkpoint.name) if checkpoint else ("model_<step>.pth", CONFIG)
    raise UserError(
        f"no decomposition at '{path}': {missing} is missing beside {beside}; copy it from the "
        f"run, or set {option}"
    )


def convert_decomposition(checkpoint: Path, config: Path) -> Path:
    """The cached conversion of a checkpoint: V, U and CI function as safetensors, and the record.

    The hash of the target that the checkpoint embeds goes into the record, so that loading refuses
    any other.

    Raises:
        UserError: the checkpoint is damaged, or of a kind that is not read.
    """
    sources = {"checkpoint": source_sha256(checkpoint), "config": source_sha256(config)}

    def build(folder: Path) -> None:
        from safetensors.torch import save_file

        settings = Settings(Fields.read(config))
        raw = read_tensors(checkpoint)
        try:
            out, record = _in_our_format(current_names(raw), settings)
        except UserError as error:
            raise UserError(f"decomposition '{checkpoint}': {error}") from None
        save_file(out, folder / WEIGHTS)
        record |= {
            "weights_sha256": file_sha256(folder / WEIGHTS),
            "source": {"checkpoint": checkpoint.name, "target_run": settings.target_run, **sources},
        }
        write_json(folder / RECORD, record)

    return converted("decompositions", VERSION, sources, build)


class Settings:
    """What is needed of a run's `final_config.yaml`, flat or with later code's blocks.

    Raises:
        UserError: a value of a wrong type, or of a kind of decomposition that is not read.
    """

    def __init__(self, config: Fields) -> None:
        flat = Fields({**config.values, **config.block("pd").values}, config.path)
        ci = flat.block("ci_config")
        if not ci.values:
            raise flat.refusal("ci_config", "is needed: is this a decomposition's run?")
        ci.only("fn_type", "global_shared_transformer")
        flat.only("sigmoid_type", "leaky_hard")
        if flat.values.get("identity_module_info"):
            raise flat.refusal("identity_module_info", "cannot be read")
        self.ci = ci.block("simple_transformer_ci_cfg")
        old, new = config.block("task_config"), config.block("data")
        places = [(old, "max_seq_len"), (new, "max_seq_len")]
        places += [(self.ci.block("attn_config"), "max_len")]
        stated = [(block, name) for block, name in places if block.values.get(name) is not None]
        block, name = (stated or places)[0]
        self.window = block.whole(name)
        self.target_run = config.text("pretrained_model_name")
        self.target_run = self.target_run or config.block("target").text("model_name")


def sites_of(tensors: Mapping[str, Tensor]) -> dict[str, Site]:
    """Sites from the names and shapes of V [d_in, C] and of the target's matrices, sorted.

    Raises:
        UserError: there are none, or one is no matrix of the target that the checkpoint embeds.
    """
    sites = {}
    for tensor in sorted(tensors):
        if match := re.fullmatch(r"_components\.(.+)\.V", tensor):
            name = match[1].replace("-", ".")
            d_out, d_in = sizes(tensors, f"target_model.{name}.weight")
            sites[name] = Site(name, module_of_site(name), d_in, d_out, sizes(tensors, tensor)[1])
    if not sites:
        raise UserError("no _components.<site>.V in it: is this the decomposition's checkpoint?")
    return {name: sites[name] for name in sorted(sites)}


def expected_shapes(
    tensors: Mapping[str, Tensor], sites: dict[str, Site], ci: dict[str, Shape]
) -> dict[str, Shape]:
    """Shape of each tensor that a checkpoint with these sites and CI function must hold.

    Raises:
        UserError: a tensor that tells the target's sizes is missing.
    """
    layers = {m[1] for name in tensors if (m := re.match(r"target_model\.h\.(\d+)\.", name))}
    vocab, width = sizes(tensors, "target_model.wte.weight")
    inner, _ = sizes(tensors, "target_model.h.0.mlp.c_fc.weight")
    keys, _ = sizes(tensors, "target_model.h.0.attn.k_proj.weight")
    target = state_shapes(vocab, len(layers), width, inner, keys)
    expected = {f"target_model.{name}": shape for name, shape in target.items()}
    for name, site in sites.items():
        short = f"_components.{name.replace('.', '-')}"
        expected |= {f"{short}.V": (site.d_in, site.C), f"{short}.U": (site.C, site.d_out)}
    return expected | ci


def shared_reads(sites: dict[str, Site]) -> dict[str, str]:
    """For each site, the first that reads the same tensor: q, k and v of a layer share one."""
    first: dict[str, str] = {}
    return {
        name: first.setdefault(re.sub(r"\.[qkv]_proj$", ".qkv", name), name)
        for name in sorted(sites)
    }


def _in_our_format(
    tensors: dict[str, Tensor], settings: Settings
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and record of our format, after a check of everything that they are made from."""
    sites = sites_of(tensors)
    size = ci_size(tensors, settings.ci)
    require_tensors(tensors, expected_shapes(tensors, sites, ci_shapes(sites, size)))
    top = "target_model."
    target = {k.removeprefix(top): tensor for k, tensor in tensors.items() if k.startswith(top)}
    reads = shared_reads(sites)
    out: dict[str, Tensor] = {}
    for name in sites:
        for part in "VU":
            tensor = tensors[f"_components.{name.replace('.', '-')}.{part}"]
            out[f"{part}.{name}"] = tensor.float().contiguous()
    for name, tensor in our_ci_weights(tensors, sites, reads, size).items():
        # all 32 bits: it has to give the published importances, not only their gist
        out[f"ci_function.{name}"] = tensor.contiguous()
    run = RunPath.parse(settings.target_run)
    made_at = PUBLISHED.get(run.id) if run else None
    record = {
        "format": 1,
        "target_hash": tensors_hash(arcee_tensors(target)),
        "target_architecture": architecture(made_at.arcee()) if made_at else {},
        "window": settings.window,
        "sites": {name: asdict(site) for name, site in sites.items()},
        "reads": reads,
        "ci_function": asdict(size),
    }
    return out, record
