"""What a config field's annotation forbids is refused, what it admits is taken: every field."""

from __future__ import annotations

import math
import types
from collections.abc import Iterator
from dataclasses import field, fields, make_dataclass
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pd_finetune.cli import store
from pd_finetune.errors import UserError
from pd_finetune.schema import Above, AtLeast, AtMost, Checked, NotEmpty, OneOf
from tests.composed import STAGES, schema

FAR = 10**6
assert store.GROUPS and all(map(schema, STAGES))  # all schemas are imported, and so subclasses


def subclasses(cls: type) -> Iterator[type]:
    for sub in cls.__subclasses__():
        yield sub
        yield from subclasses(sub)


def all_fields() -> dict[str, Any]:
    """Annotation of every field of every schema of the package, by class and name."""
    found = {}
    for cls in subclasses(Checked):
        if cls.__module__.startswith("pd_finetune."):
            hints = get_type_hints(cls, include_extras=True)
            for f in fields(cls):  # type: ignore[arg-type]
                found[f"{cls.__name__}.{f.name}"] = hints[f.name]
    return found


def parts(annotation: Any) -> tuple[Any, list[Any]]:
    """The bare type and the rules of an annotation, of `X | None` those of X."""
    if get_origin(annotation) in (Union, types.UnionType):
        (annotation,) = (a for a in get_args(annotation) if a is not type(None))
    if get_origin(annotation) is Annotated:
        bare, *rules = get_args(annotation)
        return bare, rules
    return annotation, []


def limits(rules: list[Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for rule in rules:
        if isinstance(rule, AtLeast | Above):
            found["min_value"] = rule.low
            found["exclude_min"] = isinstance(rule, Above)
        elif isinstance(rule, AtMost):
            found["max_value"] = rule.high
    return found


def inside(annotation: Any) -> st.SearchStrategy[Any] | None:
    """Values that the annotation admits; None where it is not about numbers, words or size."""
    bare, rules = parts(annotation)
    options = [rule.options for rule in rules if isinstance(rule, OneOf)]
    if options:
        return st.sampled_from(options[0])
    if bare in (int, float):
        given_limits = limits(rules)
        if bare is int:
            assert not given_limits.pop("exclude_min", False)
            return st.integers(**given_limits)
        exact = {k: v for k, v in given_limits.items() if k != "exclude_min"}
        if given_limits.get("exclude_min"):
            exact["min_value"] = math.nextafter(exact["min_value"], math.inf)
        return st.floats(**exact, allow_nan=False, allow_infinity=False)
    if get_origin(bare) in (list, dict):
        item = inside(get_args(bare)[-1])
        size = max([rule.count for rule in rules if isinstance(rule, NotEmpty)], default=0)
        if item is not None and get_origin(bare) is list:
            return st.lists(item, min_size=size, max_size=size + 2)
        if item is not None:
            return st.dictionaries(st.text("abc", min_size=1), item, min_size=size, max_size=3)
    return None


def outside(annotation: Any) -> st.SearchStrategy[Any] | None:
    """Values that the annotation forbids."""
    bare, rules = parts(annotation)
    options = [rule.options for rule in rules if isinstance(rule, OneOf)]
    if options:
        return st.text().filter(lambda word: word not in (*options[0], "???"))
    refused: list[st.SearchStrategy[Any]] = []
    if bare is float:
        refused.append(st.sampled_from([math.inf, -math.inf, math.nan]))
    for rule in rules:
        if isinstance(rule, AtLeast | Above):
            below: Any = rule.low - FAR
            high = rule.low - 1 if bare is int else math.nextafter(rule.low, -math.inf)
            strategy = st.integers if bare is int else st.floats
            refused.append(strategy(below, high) | st.just(rule.low - 1))
            if isinstance(rule, Above):
                refused.append(st.just(type(rule.low)(rule.low)))
        elif isinstance(rule, AtMost):
            low = rule.high + 1 if bare is int else math.nextafter(rule.high, math.inf)
            strategy = st.integers if bare is int else st.floats
            refused.append(strategy(low, rule.high + FAR))
        elif isinstance(rule, NotEmpty):
            refused.append(st.just("" if bare is str else get_origin(bare)()))
    if get_origin(bare) in (list, dict):
        item = outside(get_args(bare)[-1])
        if item is not None:
            wrap = (lambda v: [v]) if get_origin(bare) is list else (lambda v: {"some": v})
            refused.append(item.map(wrap))
    return st.one_of(refused) if refused else None


FIELDS = all_fields()
TAKEN = {name: kind for name, kind in FIELDS.items() if inside(kind) is not None}
REFUSED = {name: kind for name, kind in FIELDS.items() if outside(kind) is not None}


def alone(name: str, annotation: Any) -> Any:
    """A schema of this one field."""
    key = name.rpartition(".")[2]
    return make_dataclass("One", [(key, annotation, field(default="???"))], bases=(Checked,))


def test_there_are_many() -> None:
    assert len(TAKEN) > 80 and len(REFUSED) > 80


@pytest.mark.parametrize("name", TAKEN)
def test_what_is_admitted_is_taken(name: str) -> None:
    One, key = alone(name, FIELDS[name]), name.rpartition(".")[2]
    strategy = inside(FIELDS[name])
    assert strategy is not None

    @settings(max_examples=15, deadline=None)
    @given(strategy)
    def check(value: Any) -> None:
        assert getattr(One(**{key: value}), key) == value

    check()


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_forbidden_is_refused_by_name_and_value(name: str) -> None:
    field_name = name.rpartition(".")[2]
    One, strategy = alone(name, FIELDS[name]), outside(FIELDS[name])
    assert strategy is not None

    @settings(max_examples=15, deadline=None)
    @given(strategy)
    def check(value: Any) -> None:
        with pytest.raises(UserError) as refused:
            One(**{field_name: value})
        message, key = str(refused.value), field_name
        assert message.startswith(key)
        while isinstance(value, list | dict) and value and f"{key} has" not in message:
            key += "[0]" if isinstance(value, list) else ".some"
            value = value[0] if isinstance(value, list) else value["some"]
            assert message.startswith(key)
        if isinstance(value, int | float) or (isinstance(value, str) and value):
            assert message.startswith(f"{key}={value}")

    check()


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_no_number_is_infinite_wherever_it_stands(value: float) -> None:
    for annotation, given_value in (
        (Any, value),
        (float, value),
        (dict[str, Any], {"a": {"b": value}}),
        (list[float], [1.0, value]),
        (dict[str, list[float]], {"a": [value]}),
        (float | None, value),
    ):
        with pytest.raises(UserError, match="^x.* must be finite$"):
            alone("One.x", annotation)(x=given_value)


def test_what_is_missing_or_none_is_left_alone() -> None:
    One = alone("One.x", Annotated[float, Above(0)] | None)
    assert One().x == "???" and One(x=None).x is None


def test_a_subclass_keeps_its_place_in_messages() -> None:
    from pd_finetune.edits.config import LoraConfig

    with pytest.raises(UserError, match="^method.rank=0 must be at least 1$"):
        LoraConfig(rank=0)
    with pytest.raises(UserError, match="^method.lr=-1.0 must be above 0$"):
        LoraConfig(lr=-1.0)
