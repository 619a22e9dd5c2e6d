"""The wrapper around every stage's main: Hydra composes, dataclasses check, errors stay short.

Importing this module does not import torch: a typo is answered at once.
"""

import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from string import Template
from typing import Any

import hydra
from hydra._internal.utils import get_args_parser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from pd_finetune.cli.checked import checked_config
from pd_finetune.cli.compose import composed, config_options
from pd_finetune.cli.experiments import check_experiment
from pd_finetune.cli.messages import one_line
from pd_finetune.cli.store import expect_launcher_schemas, register
from pd_finetune.errors import TrainingError, UserError
from pd_finetune.files import config_folder
from pd_finetune.sweep.tally import Tally
from pd_finetune.sweep.work import Stage, SweepSupport

EXIT_FAILED, EXIT_USER_ERROR, EXIT_INTERRUPTED = 1, 2, 130
# words of the command line that need no group in front: only one of a stage's groups can mean them
_SHORT = {"keys": "selection.keys", "name": "model.folder"}


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


def _spelled_out(schema: Any, argument: str) -> str:
    """`keys=[...]` as `selection.keys=[...]`, where the stage has a selection; others unchanged."""
    word, equals, value = argument.partition("=")
    meant = _SHORT.get(word, "")
    known = [f.name for f in fields(schema)]
    return f"{meant}={value}" if equals and meant.partition(".")[0] in known else argument


def _print_help(config_name: str, overrides: list[str]) -> None:
    """What Hydra's --help prints from `hydra.help.template`, without its seconds of listing."""
    config = composed(config_name, overrides, with_hydra=True)
    template = Template(config.hydra.help.template)
    with open_dict(config):
        del config["hydra"]
    print(template.safe_substitute(CONFIG=OmegaConf.to_yaml(config)))


def stage_main(
    config_name: str,
    schema: Any,
    run: Callable[[Any], object],
    sweep: SweepSupport | None = None,
) -> None:
    """Compose `configs/<config_name>.yaml` with the command line and call `run` with the result.

    Args:
        schema: the dataclass that the result is an object of; the YAML's `/schema/<config_name>`.

    Exit codes: 0 done, 1 failed (with a traceback; in a multirun: any job failed), 2 a user's
    mistake (one line), 130 interrupted.
    """
    # idle OpenMP threads sleep: where they spin, a busy neighbour slows a run by a factor of three
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    expect_launcher_schemas()
    register(config_name, schema)
    OmegaConf.register_new_resolver("config_options", config_options, replace=True)
    task = Task(Stage(run, sweep))
    # Hydra reads the command line again by itself
    sys.argv[1:] = [_spelled_out(schema, argument) for argument in sys.argv[1:]]
    arguments = get_args_parser().parse_args()
    overrides = list(arguments.overrides)
    try:
        if arguments.config_dir:  # options of the user's own, which may be experiments
            overrides.append(f"hydra.searchpath=['file://{os.path.abspath(arguments.config_dir)}']")
        else:
            check_experiment(config_folder(), config_name, overrides)
        if arguments.help:
            _print_help(config_name, overrides)
            return
        with _hydra_raises():
            hydra.main(
                version_base="1.3", config_path=str(config_folder()), config_name=config_name
            )(task)()
        if arguments.cfg == "job":
            checked_config(composed(config_name, overrides))
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
