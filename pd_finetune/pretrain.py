"""Train a small target from scratch: `python -m pd_finetune.pretrain`."""

from pathlib import Path

from pd_finetune.main import stage_main
from pd_finetune.pretraining.config import PretrainConfig


def run(config: PretrainConfig) -> Path:
    """Train (or go on training) and write a transformers folder with its training record."""
    from dataclasses import asdict

    import torch
    from hydra.utils import instantiate
    from tokenizers import Tokenizer

    from pd_finetune.distributed import local_device, workers
    from pd_finetune.errors import UserError
    from pd_finetune.files import make_folder, write_json, write_text
    from pd_finetune.pretraining.initialise import build
    from pd_finetune.pretraining.pretraining import Pretraining, held_out_record, validation_windows
    from pd_finetune.pretraining.tokenizer import train_tokenizer
    from pd_finetune.records.environment import versions
    from pd_finetune.runtime import device_of, prepare
    from pd_finetune.targets.load import Target
    from pd_finetune.text.mixture import mixed_windows

    prepare(config.threads)
    device = local_device(device_of(config.device))
    team = workers(device)
    out = make_folder(Path(config.out).expanduser())
    source = instantiate(config.languages.source)
    tokenizer_file = out / "tokenizer.json"
    if config.tokenizer != "train":
        given = Path(config.tokenizer).expanduser() / "tokenizer.json"
        if not given.is_file():
            raise UserError(f"tokenizer={config.tokenizer}: no tokenizer.json in that folder")
        write_text(tokenizer_file, given.read_text())
    elif not tokenizer_file.is_file():
        if team.size > 1:
            raise UserError(
                f"no tokenizer in '{out}': start with one process, or give tokenizer=<folder>"
            )
        print(f"training a tokenizer of {config.architecture.vocab_size} tokens", flush=True)
        trained = train_tokenizer(
            source, config.mixture, config.architecture.vocab_size, config.tokenizer_characters
        )
        write_text(tokenizer_file, trained.to_str())
    tokenizer = Tokenizer.from_file(str(tokenizer_file))
    settings, context = config.optimisation, config.architecture.context
    batches = mixed_windows(
        tokenizer, source, config.mixture, settings.batch, context + 1, config.seed
    )
    model = build(config.architecture, config.seed)
    torch.nn.Module.to(model, device)
    target = Target(model, tokenizer, "pretrained")
    validation = validation_windows(target, source, list(config.mixture))
    training = Pretraining(target, batches, settings, config.precision, validation, team)
    training.train(out / "checkpoint.pt", config.compile)
    if not team.is_main:
        return out
    model.save_pretrained(out)
    held_out = held_out_record(training, source)
    record = {
        "config": asdict(config) | {"out": out.name},
        "steps": training.step,
        "training_tokens": training.step * settings.batch * context,
        "seconds": round(training.seconds, 1),
        "parameters": sum(p.numel() for p in model.parameters()),
        "text": {name: source.fingerprint(name) for name in config.mixture},
        "held_out": held_out,
        "history": training.history,
        "versions": versions(),
    }
    write_json(out / "training_record.json", record)
    for language, row in held_out.items():
        print(f"{language:5s}" + "  ".join(f"{name} {value:.3f}" for name, value in row.items()))
    return out


if __name__ == "__main__":
    stage_main("pretrain", PretrainConfig, run)
