"""One run of the comparison written plainly: what `benchmarks.sweep` compares with.

    python -m benchmarks.plain_run --out plain.json arm=lora_r1 budget=4

The same configs, text, selection, start and steps as `pd_finetune.run`, which is called for these.
Then as one would write it in an afternoon: PEFT's model (or one hook for the scalars), a whole
forward of sample and protected windows at every step, all logits, evaluation of the model before
and after the edit, one rollout after the other.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from pd_finetune.finetuning.config import RunConfig
    from pd_finetune.finetuning.experiment import Prepared
    from pd_finetune.targets.load import Target

Unedited = Callable[[], AbstractContextManager[Any]]


def lora_model(prepared: Prepared, plain: Any) -> tuple[Any, list[Tensor], Unedited]:
    """PEFT's model from the method's seed, its trainable parameters, and how to switch it off."""
    from peft import LoraConfig, get_peft_model

    method = prepared.config.method
    sites = prepared.setting.decomposition.sites
    chosen = {key.site for key in prepared.selection.keys} if prepared.selection else set(sites)
    torch.manual_seed(prepared.config.seed)
    adapter = LoraConfig(
        r=method.rank,
        lora_alpha=method.alpha,
        target_modules=sorted(sites[name].module for name in chosen),
        task_type="CAUSAL_LM",
    )
    model = get_peft_model(plain, adapter)
    return model, [p for p in model.parameters() if p.requires_grad], model.disable_adapter


def masked_model(prepared: Prepared, plain: Any) -> tuple[Any, list[Tensor], Unedited]:
    """The model with a hook on each selected matrix, and the scales."""
    setting, start = prepared.setting, prepared.config.method.start
    assert prepared.selection is not None
    scales: list[Tensor] = []
    active = [True]
    for site in {key.site: None for key in prepared.selection.keys}:
        keys = [key for key in prepared.selection.keys if key.site == site]
        pairs = [setting.decomposition.vectors(key) for key in keys]
        V, U = torch.stack([v for v, _ in pairs], 1), torch.stack([u for _, u in pairs])
        m = torch.full((len(keys),), start, requires_grad=True)
        scales.append(m)

        def hook(_: Any, args: Any, out: Tensor, V: Any = V, U: Any = U, m: Any = m) -> Tensor:
            return out + ((args[0] @ V) * (m - 1)) @ U if active[0] else out

        module = plain.get_submodule(setting.decomposition.sites[site].module)
        module.register_forward_hook(hook)

    @contextmanager
    def unedited() -> Iterator[None]:
        active[0] = False
        try:
            yield
        finally:
            active[0] = True

    return plain, scales, unedited


def train(
    prepared: Prepared, target: Target, model: Any, parameters: list[Tensor], unedited: Unedited
) -> None:
    """German up to chance, English kept: two forwards with all logits a step."""
    from pd_finetune.finetuning.loop import protected_rows

    config, settings = prepared.config, prepared.config.objective
    rows, counted = prepared.sample.rows, prepared.sample.counted
    optimiser = torch.optim.Adam(parameters, lr=config.method.lr)
    with torch.no_grad(), unedited():
        clean = model(input_ids=prepared.pool).logits.float().log_softmax(-1)
    for step in range(settings.steps):
        for group in optimiser.param_groups:
            group["lr"] = config.method.lr * (1 - step / settings.steps)
        drawn = protected_rows(config.seed, step, len(prepared.pool), settings)
        windows = prepared.pool[drawn]
        logits = model(input_ids=rows).logits.float()[:, :-1]
        ce = F.cross_entropy(logits.transpose(1, 2), rows[:, 1:], reduction="none")[counted[:, 1:]]
        kept = model(input_ids=windows).logits.float().log_softmax(-1)
        kl = F.kl_div(kept, clean[drawn], reduction="none", log_target=True).sum(-1).mean()
        loss = (target.chance_nats - ce).clamp_min(0).mean() + settings.kl_weight * kl
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()


@torch.no_grad()
def evaluate(config: RunConfig, target: Target, model: Any, texts: dict[str, Any]) -> Any:
    """Cross-entropy of each text, eight windows at a time."""
    values = {}
    for name, text in texts.items():
        found = []
        for ids in text.ids.split(8):
            logits = model(input_ids=ids).logits.float()[:, :-1]
            ce = F.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none")
            found.append(ce.double().mean(1))
        values[name] = float(torch.cat(found).mean())
    for prompt in config.evaluation.rollouts.values():
        start = torch.tensor([target.tokenizer.encode(prompt).ids])
        model.generate(
            input_ids=start, max_new_tokens=config.evaluation.rollout_tokens, do_sample=False
        )
    return values


@torch.no_grad()
def divergence(model: Any, unedited: Unedited, ids: Tensor) -> float:
    """Mean KL(clean || edited) on windows of protected text."""
    found = []
    for part in ids.split(8):
        part = part[:, :-1]
        with unedited():
            clean = model(input_ids=part).logits.float().log_softmax(-1)
        edited = model(input_ids=part).logits.float().log_softmax(-1)
        found.append(F.kl_div(edited, clean, reduction="none", log_target=True).sum(-1).mean(1))
    return float(torch.cat(found).double().mean())


def run(overrides: list[str], threads: int) -> dict[str, Any]:
    """The result of one run."""
    from pd_finetune.cli.compose import stage_config
    from pd_finetune.finetuning.config import RunConfig

    config = stage_config("run", RunConfig, overrides)
    config.threads = threads or torch.get_num_threads()
    from pd_finetune.evaluation.held_out import held_out
    from pd_finetune.finetuning.experiment import Prepared
    from pd_finetune.finetuning.setting import load_setting

    setting = load_setting(config)
    prepared = Prepared.of(config, setting)
    target = setting.target
    texts = held_out(target, setting.source, config.languages.all, config.evaluation)
    build = masked_model if config.method.name == "mask" else lora_model
    # the loaded one is shared by all runs of a process
    model, parameters, unedited = build(prepared, deepcopy(target.model))
    train(prepared, target, model, parameters, unedited)
    with unedited():
        base = evaluate(config, target, model, texts)
    edited = evaluate(config, target, model, texts)
    return {
        "to_chance_nats": target.chance_nats - edited[config.languages.target],
        "damage_nats": {name: edited[name] - base[name] for name in texts},
        "english_kl_nats": divergence(model, unedited, texts["en"].ids),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="One run of the comparison, written plainly.")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=0, help="0: torch's default")
    parser.add_argument("words", nargs="*", help="as of pd_finetune.run")
    args = parser.parse_args()
    started = time.monotonic()
    found = run(args.words, args.threads)
    args.out.write_text(json.dumps(found | {"seconds": time.monotonic() - started}))


if __name__ == "__main__":
    main()
