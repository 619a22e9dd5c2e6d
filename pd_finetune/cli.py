"""The wrapper around every stage's main: Hydra composes, dataclasses check, errors stay short.

Importing this module does not import torch: a typo is answered at once.
"""

import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from string import Template
from typing import Any

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from pd_finetune.cli_messages import one_line, possible
from pd_finetune.config_store import SCHEMAS, register_schemas
from pd_finetune.errors import TrainingError, UserError
from pd_finetune.experiments import check_experiment, experiment_stages

EXIT_FAILED, EXIT_USER_ERROR, EXIT_INTERRUPTED = 1, 2, 130
# words of the command line that need no group in front: only one of a stage's groups can mean them
_SHORT = {"keys": "selection.keys", "name": "model.folder"}


def config_folder() -> Path:
    """`pd_finetune/configs` in an installed wheel, the top-level `configs` in a source checkout."""
    package = Path(__file__).resolve().parent
    carried = package / "configs"
    return carried if carried.is_dir() else package.parent / "configs"


def config_options(*groups: str) -> str:
    """The options of config groups, a line each, for `--help`; `experiment/<stage>`: its own."""
    width = max(len(group.partition("/")[0]) for group in groups) + 2
    lines = []
    for group, _, stage in (group.partition("/") for group in groups):
        names = sorted(path.stem for path in (config_folder() / group).glob("*.yaml"))
        if stage:
            stages = experiment_stages(config_folder())
            names = [name for name in names if stages[name] == stage]
        lines.append(f"  {group:<{width}}{', '.join(names)}")
    return "\n".join(lines)


@dataclass
class _Jobs:
    """What became of the jobs of one call: one, or a multirun's."""

    started: int = 0
    failures: list[str] = field(default_factory=list)
    exit_code: int = 0


def _complain(message: str) -> None:
    sys.stderr.flush()
    print(f"error: {message}", file=sys.stderr, flush=True)


def _refuse_added_keys(config: DictConfig, prefix: str = "") -> None:
    """Refuse keys that `+key=value` put beside a schema's own."""
    schema = OmegaConf.get_type(config)
    known = [f.name for f in fields(schema)] if schema and is_dataclass(schema) else None
    for key in map(str, config):
        if known is not None and key not in known:
            raise UserError(f"unknown key {prefix}{key}: {possible(key, known)}")
        child = OmegaConf.select(config, key) if key.isidentifier() else None
        if isinstance(child, DictConfig):
            _refuse_added_keys(child, f"{prefix}{key}.")


def checked_config(config: DictConfig) -> Any:
    """The plain, validated object for a composed config.

    Raises:
        UserError: a value is missing or impossible.
    """
    for key in sorted(OmegaConf.missing_keys(config)):
        raise UserError(f"{key} is missing: give {key}=...")
    try:
        _refuse_added_keys(config)
        return OmegaConf.to_object(config)
    except OmegaConfBaseException as error:
        raise UserError(one_line(error)) from None


def _job(run: Callable[[Any], object], config: DictConfig, jobs: _Jobs) -> dict[str, str]:
    """One job; its failure is recorded instead of raised, so that a multirun goes on."""
    settings = HydraConfig.get()
    multirun = settings.mode == RunMode.MULTIRUN
    name = " ".join(settings.overrides.task) or "defaults"
    jobs.started += 1
    if multirun:
        print(f"job {jobs.started}: {name}", file=sys.stderr, flush=True)
    try:
        run(checked_config(config))
        return {"status": "finished"}
    except (UserError, TrainingError) as error:
        message = str(error)
        jobs.exit_code = EXIT_USER_ERROR if isinstance(error, UserError) else EXIT_FAILED
        _complain(message)
    except Exception as error:
        message = f"{type(error).__name__}: {error}".splitlines()[0]
        jobs.exit_code = EXIT_FAILED
        traceback.print_exc()
    jobs.failures.append(f"{name}: {message}")
    if multirun:
        jobs.exit_code = EXIT_FAILED
    return {"status": "failed"}


@contextmanager
def _hydra_raises() -> Iterator[None]:
    """Let Hydra raise its errors, which are then worded here, instead of printing and exiting."""
    before = os.environ.get("HYDRA_FULL_ERROR")
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["HYDRA_FULL_ERROR"]
        else:
            os.environ["HYDRA_FULL_ERROR"] = before


def _spelled_out(config_name: str, argument: str) -> str:
    """`keys=[...]` as `selection.keys=[...]`, where the stage has a selection; others unchanged."""
    word, equals, value = argument.partition("=")
    meant = _SHORT.get(word, "")
    schema = SCHEMAS["run" if config_name == "config" else config_name]
    known = [f.name for f in fields(schema)]
    return f"{meant}={value}" if equals and meant.partition(".")[0] in known else argument


def _composed(config_name: str, overrides: list[str]) -> DictConfig:
    with hydra.initialize_config_dir(str(config_folder()), version_base="1.3"):
        return hydra.compose(config_name, overrides, return_hydra_config=True)


def _print_help(config_name: str, overrides: list[str]) -> None:
    """What Hydra's --help prints from `hydra.help.template`, without its seconds of listing."""
    composed = _composed(config_name, overrides)
    template = Template(composed.hydra.help.template)
    with open_dict(composed):
        del composed["hydra"]
    print(template.safe_substitute(CONFIG=OmegaConf.to_yaml(composed)))


def _check_shown(config_name: str, overrides: list[str]) -> None:
    """After `--cfg job`: say what a run of this config would refuse."""
    composed = _composed(config_name, overrides)
    with open_dict(composed):
        del composed["hydra"]
    checked_config(composed)


def stage_main(config_name: str, run: Callable[[Any], object]) -> None:
    """Compose `configs/<config_name>.yaml` with the command line and call `run` with the result.

    Exit codes: 0 done, 1 failed (with a traceback; in a multirun: any job failed), 2 a user's
    mistake (one line), 130 interrupted.
    """
    # idle OpenMP threads sleep: where they spin, a busy neighbour slows a run by a factor of three
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    register_schemas()
    OmegaConf.register_new_resolver("config_options", config_options, replace=True)
    jobs = _Jobs()

    def task(config: DictConfig) -> dict[str, str]:
        return _job(run, config, jobs)

    # Hydra reads the command line again by itself
    sys.argv[1:] = [_spelled_out(config_name, argument) for argument in sys.argv[1:]]
    arguments = get_args_parser().parse_args()
    overrides = list(arguments.overrides)
    try:
        check_experiment(config_folder(), config_name, overrides)
        if arguments.help:
            _print_help(config_name, overrides)
            return
        with _hydra_raises():
            hydra.main(
                version_base="1.3", config_path=str(config_folder()), config_name=config_name
            )(task)()
        if arguments.cfg == "job":
            _check_shown(config_name, overrides)
    except KeyboardInterrupt:
        _complain("interrupted")
        sys.exit(EXIT_INTERRUPTED)
    except UserError as error:
        _complain(str(error))
        sys.exit(EXIT_USER_ERROR)
    except BrokenPipeError:  # the reader of --help or --cfg had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (HydraException, OmegaConfBaseException, OSError, ValueError) as error:
        # a job's own errors never get here: this is about the command line or the sweep folder
        _complain(one_line(error))
        sys.exit(EXIT_USER_ERROR)
    if jobs.failures and jobs.started > 1:
        print(f"{len(jobs.failures)} of {jobs.started} jobs failed:", file=sys.stderr)
        for failure in jobs.failures:
            print(f"  {failure}", file=sys.stderr)
    if jobs.exit_code:
        sys.exit(jobs.exit_code)
