"""Wording of composition errors: Hydra's and OmegaConf's messages as one line with the way out."""

import difflib
import re
from collections.abc import Iterator

from hydra.errors import ConfigCompositionException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from pd_finetune.errors import UserError


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and what it came from, outermost first."""
    current: BaseException | None = error
    while current is not None:
        yield current
        current = current.__cause__ or current.__context__


def _user_error_in(error: BaseException) -> UserError | None:
    """The `UserError` that a library wrapped, or nothing."""
    return next((e for e in _chain(error) if isinstance(e, UserError)), None)


def _flat(text: str) -> str:
    """All lines of a message as one, without OmegaConf's bookkeeping lines."""
    lines = [line.strip() for line in text.splitlines()]
    kept = [
        line for line in lines if line and not re.match(r"(full_key|object_type|See http)", line)
    ]
    return "; ".join(kept)


def possible(name: str, known: list[str]) -> str:
    """`possible are ...`, after the nearest one where there is a near one."""
    offered = [k for k in known if k not in ("hydra", "_target_")]
    near = difflib.get_close_matches(name, offered, n=1)
    meant = f"did you mean {near[0]}? " if near else ""
    return f"{meant}possible are {', '.join(offered)}" if offered else "it takes no keys"


def _unknown_key(error: ConfigAttributeError | ConfigKeyError) -> str:
    key = str(error.full_key or error.key)
    parent = error.parent_node
    if isinstance(parent, DictConfig) and OmegaConf.get_type(parent) is dict:
        place = key.removesuffix(f".{error.key}")
        return f"{place} has no {error.key}: add it with a +, as in '+{place}={{{error.key}: ...}}'"
    known = [str(k) for k in parent] if isinstance(parent, DictConfig) else []
    return f"unknown key {key}: {possible(str(error.key), known)}"


def _unknown_option(error: MissingConfigException) -> str:
    group, _, option = str(error.missing_cfg_file or "").rpartition("/")
    options = sorted(set(error.options or []))
    if not group or not options:
        return _flat(str(error))
    return f"{group}={option}: {possible(option, options)}"


def one_line(error: BaseException) -> str:
    """One line for an error of Hydra or OmegaConf, naming the value and what is possible."""
    causes = list(_chain(error))
    wrapped = _user_error_in(error)
    if wrapped:
        return str(wrapped)
    for cause in causes:
        if isinstance(cause, MissingConfigException):
            return _unknown_option(cause)
        if isinstance(cause, OverrideParseException):
            return f"cannot read '{cause.override}': write key=value, with quotes around brackets"
    for cause in causes:
        if isinstance(cause, (ConfigAttributeError, ConfigKeyError)):
            return _unknown_key(cause)
    if isinstance(error, ConfigCompositionException) and isinstance(
        error.__cause__, OmegaConfBaseException
    ):
        cause_text, key = _flat(str(error.__cause__)), error.__cause__.full_key
        return f"{key}: {cause_text}" if key else f"{_flat(str(error))}: {cause_text}"
    if isinstance(error, OmegaConfBaseException) and error.full_key:
        return f"{error.full_key}: {_flat(str(error))}"
    return _flat(str(error)) or type(error).__name__
