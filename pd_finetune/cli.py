"""The wrapper around every stage's main: Hydra composes, dataclasses check, errors stay short.

Importing this module does not import torch: a typo is answered at once.
"""

import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from string import Template
from typing import Any

import hydra
from hydra._internal.utils import get_args_parser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from pd_finetune.checking import checked_config
from pd_finetune.cli_messages import one_line
from pd_finetune.config_store import SCHEMAS, expect_launcher_schemas, register_schemas
from pd_finetune.errors import TrainingError, UserError
from pd_finetune.experiments import check_experiment, experiment_stages
from pd_finetune.sweep.tally import Tally
from pd_finetune.sweep.work import Stage, SweepSupport

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


def _complain(message: str) -> None:
    sys.stderr.flush()
    print(f"error: {message}", file=sys.stderr, flush=True)


class Task:
    """What Hydra calls with each composed config. The sweeper takes `stage` and leaves `tally`."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.tally: Tally | None = None
        self.exit_code = 0

    def __call__(self, config: DictConfig) -> None:
        """Do one job; what went wrong is told, and kept as exit code."""
        try:
            self.stage.run(checked_config(config))
        except (UserError, TrainingError) as error:
            self.exit_code = EXIT_USER_ERROR if isinstance(error, UserError) else EXIT_FAILED
            _complain(str(error))
        except Exception:
            self.exit_code = EXIT_FAILED
            traceback.print_exc()

    def report(self) -> int:
        """List a sweep's failures; the exit code."""
        messages = self.tally.messages if self.tally else {}
        if self.tally and messages:
            print(f"{len(messages)} of {len(self.tally.names)} jobs failed:", file=sys.stderr)
            for number in sorted(messages):
                print(f"  {self.tally.names[number]}: {messages[number]}", file=sys.stderr)
        return EXIT_FAILED if messages else self.exit_code


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


def stage_config(config_name: str, words: list[str]) -> Any:
    """The checked config that a stage's command line of these words gives, outside of its main.

    Raises:
        HydraException, OmegaConfBaseException: a word names nothing.
        UserError: a value is refused.
    """
    register_schemas()
    OmegaConf.register_new_resolver("config_options", config_options, replace=True)
    with hydra.initialize_config_dir(str(config_folder()), version_base="1.3"):
        return checked_config(hydra.compose(config_name, words))


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


def stage_main(
    config_name: str, run: Callable[[Any], object], sweep: SweepSupport | None = None
) -> None:
    """Compose `configs/<config_name>.yaml` with the command line and call `run` with the result.

    Exit codes: 0 done, 1 failed (with a traceback; in a multirun: any job failed), 2 a user's
    mistake (one line), 130 interrupted.
    """
    # idle OpenMP threads sleep: where they spin, a busy neighbour slows a run by a factor of three
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    expect_launcher_schemas()
    register_schemas()
    OmegaConf.register_new_resolver("config_options", config_options, replace=True)
    task = Task(Stage(run, sweep))
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
    if code := task.report():
        sys.exit(code)
