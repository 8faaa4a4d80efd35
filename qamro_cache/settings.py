"""One declaration an option: type, default, choices, range and help, wherever it is given.

A field of a frozen dataclass is declared with `setting`; `check_settings` in its ``__post_init__``
refuses what the declaration does not allow. Command-line options, grid files, the head file and the
table in docs/training.md are made from the same declarations.
"""

import inspect
import re
import sys
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cache
from numbers import Integral, Real
from os import PathLike
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from qamro_cache.errors import OptionError, nearest, quoted

Function = TypeVar("Function", bound=Callable[..., Any])

_CLOSING = {"(": ")", "[": "]", "'": "'", '"': '"'}
_WORDS = {float: "a number", int: "a whole number", bool: "true or false", str: "text"}


@dataclass(frozen=True)
class Setting:
    """What one option may be.

    Attributes:
        name: in Python and in files; a command line has ``--name`` with dashes.
        kind: ``float``, ``int``, ``bool``, ``str`` or ``Path``; of each value where there are
            several.
        default: the value where nobody said.
        help: one line for ``--help`` and the docs.
        several: whether the value is a tuple.
        choices: what text may be; empty for any.
        low: the least number. No number is infinite or NaN.
        high: the greatest.
        above: what a number must stay over.
        below: what a number must stay under.
        why: what the greatest number protects from.
        default_help: the default in words, where the value alone says too little.
    """

    name: str
    kind: type
    default: Any
    help: str
    several: bool = False
    choices: tuple[str, ...] = ()
    low: float | None = None
    high: float | None = None
    above: float | None = None
    below: float | None = None
    why: str = ""
    default_help: str = ""

    def check(self, value: Any) -> Any:
        """Return the value in the declared type.

        Raises:
            ValueError: names the setting, the value and what is allowed.
        """
        if not self.several:
            return self._one(value)
        if isinstance(value, str | PathLike):
            # ``axis="quality"``, ``company="others.csv"``, ``widths="256-64"``
            return self.check((value,)) if self.kind in (str, Path) else self.parse(str(value))
        if not isinstance(value, Sequence):
            raise ValueError(f"{self.name} must be a list of values, got {quoted(value)}")
        return tuple(self._one(item) for item in value)

    def parse(self, text: str) -> Any:
        """Read a value as a command line has it: ``0.5``, ``true``, ``256-64``.

        Raises:
            ValueError: as `check`.
        """
        if not self.several:
            return self.check(self._number(text))
        try:
            return self.check([self._number(part) for part in text.split("-") if part])
        except ValueError:
            if re.fullmatch(r"[\d-]*", text.strip()):
                raise
            words = f"{_WORDS[self.kind]}s joined by -".removeprefix("a ")
            raise ValueError(f"{self.name} must be {words}, got {quoted(text)}") from None

    def show(self, value: Any) -> str:
        """Return a value as `parse` reads it."""
        if self.several:
            return "-".join(map(str, value))
        if value is None:
            return ""
        if isinstance(value, bool):
            return str(value).lower()
        return short(value) if isinstance(value, float) else str(value)

    @property
    def rule(self) -> str:
        """What is allowed, in words; empty for anything."""
        if self.choices:
            return ", ".join(choice for choice in self.choices if choice)
        ends = (("at least", self.low), ("above", self.above), ("below", self.below))
        parts = [f"{word} {short(end)}" for word, end in (*ends, ("at most", self.high))
                 if end is not None]  # fmt: skip
        return ", ".join(parts)

    @property
    def default_text(self) -> str:
        """The default in words."""
        return self.default_help or self.show(self.default) or "none"

    def _number(self, text: str) -> Any:
        text = text.strip()
        try:
            if self.kind in (int, float):
                return self.kind(text)
        except ValueError:
            raise ValueError(
                f"{self.name} must be {_WORDS[self.kind]}, got {quoted(text)}"
            ) from None
        if self.kind is bool and text.lower() in ("true", "false"):
            return text.lower() == "true"
        return text

    def _one(self, value: Any) -> Any:
        if value is None and self.default is None:
            return None
        if self.kind is Path:
            if isinstance(value, str) and not value:
                raise ValueError(f"{self.name} is empty; name a file or folder")
            if isinstance(value, str | PathLike):
                return Path(value)
            raise ValueError(f"{self.name} must be a path, got {quoted(value)}")
        if not isinstance(value, bool | int | float) and isinstance(value, Real):
            # One of numpy's.
            value = int(value) if isinstance(value, Integral) else float(value)
        if self.kind is str and isinstance(value, int) and not isinstance(value, bool):
            value = str(value)  # ``cv = 5``
        wanted: Any = (int, float) if self.kind is float else self.kind
        if not isinstance(value, wanted) or (isinstance(value, bool) and self.kind is not bool):
            raise ValueError(f"{self.name} must be {_WORDS[self.kind]}, got {quoted(value)}")
        if self.choices and value not in self.choices:
            raise ValueError(
                f"{self.name} must be one of {', '.join(c for c in self.choices if c)}, "
                f"got {quoted(value)}{nearest(value, self.choices)}"
            )
        if self.kind in (int, float):
            self._in_range(value)
        return self.kind(value)

    def _in_range(self, value: float) -> None:
        # Written so that NaN is refused too, and whole numbers that no float can hold.
        if self.low is not None and not value >= self.low:
            raise ValueError(f"{self.name} must be at least {self.low:g}, got {value}")
        if self.above is not None and not value > self.above:
            raise ValueError(f"{self.name} must be above {self.above:g}, got {value}")
        if self.below is not None and not value < self.below:
            raise ValueError(f"{self.name} must be below {self.below:g}, got {value}")
        if self.high is not None and not value <= self.high:
            why = f" ({self.why})" if self.why else ""
            raise ValueError(f"{self.name} must be at most {short(self.high)}{why}, got {value}")
        if not abs(value) <= sys.float_info.max:
            raise ValueError(f"{self.name} must be finite, got {value}")


def short(value: float) -> str:
    """Return the shortest text that `float` reads back as the same number: 7 for 7.0."""
    text = f"{value:g}"
    return text if float(text) == value else repr(value)


def setting(default: Any, help: str, **more: Any) -> Any:
    """Declare a dataclass field as an option; ``more`` are attributes of `Setting`.

    A field whose option has another name than its own says so with ``name=``.
    """
    return field(default=default, metadata={"setting": {"help": help, **more}})


@cache
def settings_of(record: Any) -> Mapping[str, Setting]:
    """Return the options that a dataclass declares: field name -> `Setting`, in their order."""
    hints = get_type_hints(record)
    found = {}
    for item in fields(record):
        if "setting" in item.metadata:
            kind, several = _kind_of(hints[item.name])
            declared = {"name": item.name, **item.metadata["setting"]}
            found[item.name] = Setting(kind=kind, several=several, default=item.default, **declared)
    return types.MappingProxyType(found)


def check_settings(record: Any) -> None:
    """Check the declared fields of a frozen dataclass, in its ``__post_init__``.

    Raises:
        ValueError: names the first setting that is not as declared.
    """
    kind: Any = type(record)
    for name, declared in settings_of(kind).items():
        object.__setattr__(record, name, declared.check(getattr(record, name)))


def from_options(record: Any, options: Mapping[str, Any]) -> Any:
    """Make a dataclass of declared fields from keywords, a user's mistake being one line.

    None is not given, as in the signatures of `documented`.

    Raises:
        OptionError: an unknown name, or a value that its declaration does not allow.
    """
    known = settings_of(record)
    for name in options:
        if name not in known:
            raise OptionError(f"there is no option {quoted(name)}{nearest(name, tuple(known))}")
    try:
        return record(**{name: one for name, one in options.items() if one is not None})
    except ValueError as error:
        raise OptionError(str(error)) from error


def documented(*declared: Any) -> Callable[[Function], Function]:
    """Give a function that takes declared options their names in its signature and docstring.

    Args:
        declared: dataclasses with declared fields, or mappings of name to `Setting`.
    """
    options = [
        one
        for part in declared
        for one in (part if isinstance(part, Mapping) else settings_of(part)).values()
    ]

    def describe(function: Function) -> Function:
        function.__doc__ = described(function.__doc__, options)
        own = inspect.signature(function)
        kept = [p for p in own.parameters.values() if p.kind is not p.VAR_KEYWORD]
        # None is not given: what the default is may depend on others, and stands in the docstring.
        added = [
            inspect.Parameter(
                one.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=one.kind
            )
            for one in options
        ]
        function.__signature__ = own.replace(parameters=[*kept, *added])  # type: ignore[attr-defined]
        return function

    return describe


def described(doc: str | None, options: Iterable[Setting]) -> str:
    """Return a docstring with a line an option at its end."""
    lines = [f"    {one.name}: {one.help} {_brackets(one)}" for one in options]
    return "\n".join([inspect.cleandoc(doc or ""), "", "Options:", *lines, ""])


def _brackets(one: Setting) -> str:
    return f"[{'; '.join(part for part in (one.default_text, one.rule) if part)}]"


def split_list(text: str) -> list[str]:
    """Split a list at its commas, but not inside brackets or quotes.

    >>> split_list("huber, qamro(alpha=0.1,beta=3)")
    ['huber', 'qamro(alpha=0.1,beta=3)']

    Raises:
        ValueError: a bracket or quote is not closed, or a part is empty.
    """
    parts, start, open_ = [], 0, ""
    for place, sign in enumerate(text):
        if open_ and sign == open_[-1]:
            open_ = open_[:-1]
        elif open_[-1:] in ("'", '"'):
            continue
        elif sign in _CLOSING:
            open_ += _CLOSING[sign]
        elif sign == "," and not open_:
            parts.append(text[start:place].strip())
            start = place + 1
    if open_:
        raise ValueError(f"{quoted(text)} has no closing {open_[-1]}")
    parts.append(text[start:].strip())
    if not all(parts):
        raise ValueError(f"{quoted(text)} has an empty part between commas")
    return parts


def _kind_of(hint: Any) -> tuple[type, bool]:
    """Return the type of one value and whether there are several."""
    if get_origin(hint) is tuple:
        return get_args(hint)[0], True
    if get_origin(hint) in (Union, types.UnionType):
        (hint,) = (part for part in get_args(hint) if part is not type(None))
    return hint, False
