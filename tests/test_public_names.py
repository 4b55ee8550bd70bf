"""Every public name says in its docstring what it takes, gives and raises."""

import ast
import inspect
import re
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from typing import Any

import pytest

import yoloflow
from yoloflow import mindyolo

NAMES = [
    (module, name) for module in (yoloflow, mindyolo) for name in module.__all__ if name != "__version__"
]
VALUES = {"CALLBACK_REGISTRY", "ms"}
"""No functions and no classes."""
SELF_EVIDENT = {"self", "cls", "context", "run_context", "state"}
"""Parameters of all hooks, and of `load_state_dict`."""
ARRAYS = re.compile(r"^(?!Mapping|dict).*(Tensor|Array|ndarray)")
"""Annotations of one array or several; of those by name each has its own shape."""
SHAPE = re.compile(r"\(\)|\(\w+,( [\w+* ]+)?|scalar")
PUT_TOGETHER = {"Trainer"}
"""Data classes that a function puts together; what it takes is described there."""


def own_functions(thing: Any) -> Iterator[tuple[str, Callable[..., Any]]]:
    """The function itself; of a class its public methods and `__init__`, as far as they are ours."""
    if not inspect.isclass(thing):
        yield thing.__name__, thing
        return
    for name, member in inspect.getmembers(thing):
        function = member.fget if isinstance(member, property) else inspect.unwrap(member)
        is_named = name == "__init__" or not name.startswith("_")
        if inspect.isfunction(function) and is_named and function.__module__.startswith("yoloflow"):
            if name == "__init__" and is_dataclass(thing):
                continue
            yield f"{thing.__name__}.{name}", function


def raised(function: Callable[..., Any]) -> set[str]:
    """Names of the errors that the function itself raises."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    calls = [node.exc for node in ast.walk(tree) if isinstance(node, ast.Raise)]
    return {call.func.id for call in calls if isinstance(call, ast.Call) and isinstance(call.func, ast.Name)}


def faults(thing: Any) -> Iterator[str]:
    """What a docstring lacks."""
    whole = inspect.getdoc(thing) or ""
    if inspect.isclass(thing) and not thing.__dict__.get("__doc__"):
        yield f"{thing.__name__}: no docstring"
    if is_dataclass(thing) and (title := getattr(thing, "__name__", "")) not in PUT_TOGETHER:
        for field in fields(thing):
            if not field.name.startswith("_") and not re.search(rf"\b{field.name}\b", whole):
                yield f"{title}.{field.name}: an attribute without a word"
    for name, function in own_functions(thing):
        text = inspect.getdoc(function) or ""
        if like := re.match(r"Does as `(\w+)`", text):
            text += inspect.getdoc(getattr(thing, like[1])) or ""
        if not text and not name.endswith("__init__"):
            yield f"{name}: no docstring"
        for parameter in inspect.signature(function).parameters:
            if parameter not in SELF_EVIDENT and not re.search(rf"\b{parameter}\b", text + whole):
                yield f"{name}: {parameter} is not described"
        arrays = [kind for kind in map(str, function.__annotations__.values()) if ARRAYS.search(kind)]
        if arrays and not SHAPE.search(text + whole):
            yield f"{name}: takes or gives {', '.join(arrays)} and no shape is stated"
        if "YoloflowError" in raised(function) and "Raises:" not in text + whole:
            yield f"{name}: raises and does not say so"


@pytest.mark.parametrize(("module", "name"), NAMES, ids=[f"{m.__name__}.{n}" for m, n in NAMES])
def test_a_public_name_describes_what_it_takes_and_raises(module: Any, name: str) -> None:
    thing = getattr(module, name)
    if name in VALUES:
        return
    assert list(faults(thing)) == []


def test_the_public_names_are_those_that_are_loaded_when_first_used() -> None:
    assert {*yoloflow._HOMES, "__version__"} == set(yoloflow.__all__)
    assert set(dir(yoloflow)) == set(yoloflow.__all__)
