"""Every setting with a closed set of values says so in its type, and any other value is refused
with one sentence.
"""

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterator
from dataclasses import is_dataclass
from typing import Any, Literal

import pytest
from lightning import LightningModule

import lit_iba
from lit_iba import FrozenClassifier
from lit_iba.checks import check_literals, literals_of
from lit_iba.errors import InputError


def choices_of_the_package() -> Iterator[tuple[type, str, tuple[Any, ...]]]:
    """Class, setting and allowed values of every dataclass and constructor, the command line's
    functions aside.
    """
    modules = [
        importlib.import_module(m.name) for m in pkgutil.walk_packages(lit_iba.__path__, "lit_iba.")
    ]
    for module in modules:
        for cls in vars(module).values():
            if inspect.isclass(cls) and cls.__module__ == module.__name__:
                owner: Any = cls if is_dataclass(cls) else vars(cls).get("__init__")
                if owner is not None:
                    yield from (
                        (cls, setting, allowed) for setting, allowed in literals_of(owner).items()
                    )


FOUND = list(choices_of_the_package())


def concrete(cls: type) -> type:
    """The class, or one that is made of it where it is abstract."""
    return concrete(cls.__subclasses__()[0]) if inspect.isabstract(cls) else cls


@pytest.mark.parametrize(
    ("cls", "setting", "allowed"), FOUND, ids=[f"{c.__name__}-{s}" for c, s, _ in FOUND]
)
def test_a_value_that_the_type_does_not_name_is_refused_with_those_that_it_names(
    cls: type, setting: str, allowed: tuple[Any, ...], small_classifier: FrozenClassifier
) -> None:
    given = {"vocabulary_size": 4, "method": "Saliency", "classifier": small_classifier}
    if issubclass(cls, LightningModule):
        given["classifier"] = {"model": "small_cnn", "weights": "random"}
    made: Callable[..., object] = concrete(cls)
    parameters = inspect.signature(made).parameters.values()
    needed = [p.name for p in parameters if p.default is p.empty and p.kind is not p.VAR_KEYWORD]

    with pytest.raises(InputError) as refused:
        made(**{name: given.get(name) for name in needed} | {setting: "no such value"})

    names = ", ".join(repr(name) for name in allowed if name is not None)
    assert str(refused.value) == f"{setting} is 'no such value'; it must be one of {names}"


def test_a_hint_may_allow_none_and_other_hints_are_left_alone() -> None:
    def function(
        a: Literal["x", "y"] | None, b: str, c: None = None, d: int | Literal["z"] = 1
    ) -> Literal["r"]:
        raise NotImplementedError

    check_literals(function, {"a": None, "b": "anything"})

    assert literals_of(function) == {"a": ("x", "y", None)}
    with pytest.raises(InputError, match="a is 'z'; it must be one of 'x', 'y'"):
        check_literals(function, {"a": "z"})
