"""Classes that offer exactly what a listing of the real ones says: other names raise AttributeError, other arguments TypeError.

What a fake does is written by hand in a behaviour class; whether it may be asked for it in some version is decided by the listing
of that version. A listed thing that no behaviour does raises NotImplementedError, so that a test cannot pass by it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any


class Member:
    """A member of a pybind enum: its number only when asked with int(), so `1 << member` is refused as in the real binding."""

    def __init__(self, owner: str, name: str, number: int) -> None:
        self.owner, self.name, self.value = owner, name, number

    def __int__(self) -> int:
        return self.value

    def __repr__(self) -> str:
        return f"<{self.owner}.{self.name}: {self.value}>"

    def __str__(self) -> str:
        return f"{self.owner}.{self.name}"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Member) and (self.owner, self.value) == (other.owner, other.value)

    def __hash__(self) -> int:
        return hash((self.owner, self.value))


class OrderedMember(Member):
    """Of an enum that pybind lets compare: severities."""

    def __le__(self, other: Member) -> bool:
        return self.value <= other.value


def strict_enum(name: str, numbers: Mapping[str, int]) -> type:
    """An enum with these members and no others."""
    kind = OrderedMember if name.endswith("Severity") else Member
    return type(name, (), {member: kind(name, member, number) for member, number in numbers.items()})


class _CallsInit(type):
    """pybind refuses objects of a subclass whose __init__ does not call that of its base."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        made = super().__call__(*args, **kwargs)
        if not made.__dict__.get("_is_initialised"):
            raise TypeError(f"{cls.__name__}.__init__() must be called when overriding __init__")
        return made


def strict_class(name: str, facts: Mapping[str, Any], behaviour: type) -> type:
    """The class `name` as listed in `facts`, doing what `behaviour` does."""
    methods: Mapping[str, Sequence[Sequence[str]]] = facts["methods"]
    properties: Mapping[str, bool] = facts["properties"]

    class Strict(behaviour, metaclass=_CallsInit):  # type: ignore[misc]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            if not methods.get("__init__"):
                raise TypeError(f"{name}: No constructor defined!")  # only the library makes these, see `made_by_library`
            check_call(name, methods["__init__"], args, kwargs)
            object.__setattr__(self, "_is_initialised", True)
            super().__init__(*args, **kwargs)

        def __getattribute__(self, attribute: str) -> Any:
            if attribute.startswith("_") or type(self) is not Strict:  # subclasses have what they like
                return super().__getattribute__(attribute)
            if attribute in methods:
                return checked(self, attribute, super().__getattribute__)
            if attribute in properties:
                return found(attribute, super().__getattribute__)
            raise AttributeError(f"{name} has no {attribute} in this version")

        def __setattr__(self, attribute: str, value: Any) -> None:
            if not attribute.startswith("_") and type(self) is Strict and not properties.get(attribute):
                raise AttributeError(f"{name}.{attribute} cannot be set in this version")
            super().__setattr__(attribute, value)

    def found(attribute: str, look: Callable[[str], Any]) -> Any:
        try:
            return look(attribute)
        except AttributeError as error:
            raise NotImplementedError(f"the fake does not do {name}.{attribute}") from error

    def checked(self: Any, attribute: str, look: Callable[[str], Any]) -> Callable[..., Any]:
        does = found(attribute, look)

        def call(*args: Any, **kwargs: Any) -> Any:
            check_call(f"{name}.{attribute}", methods[attribute], args, kwargs)
            return does(*args, **kwargs)

        return call

    Strict.__name__ = Strict.__qualname__ = name
    return Strict


def made_by_library(kind: Any, *arguments: Any) -> Any:
    """An object of a strict class, whether or not its listing has a constructor."""
    made = kind.__new__(kind)
    object.__setattr__(made, "_is_initialised", True)
    kind.__bases__[0].__init__(made, *arguments)
    return made


def check_call(name: str, overloads: Sequence[Sequence[str]], args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Raises TypeError unless some overload takes these arguments; a parameter that may be left out ends in "="."""
    for parameters in overloads:
        names = [parameter.rstrip("=") for parameter in parameters]
        given = [*names[: len(args)], *kwargs]
        needed = [parameter for parameter in parameters if not parameter.endswith("=")]
        if len(args) <= len(names) and len(set(given)) == len(given) and set(needed) <= set(given) <= set(names):
            return
    raise TypeError(f"{name}(): incompatible function arguments {args} {dict(kwargs)}, known are {overloads}")
