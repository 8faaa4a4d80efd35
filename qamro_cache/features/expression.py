"""What a head reads, in words: ``distillmos.embedding + std(resemblyzer.states)``, parsed once.

    expression = term { "+" term }
    term       = [encoder "."] feature [ "[" (layer | first ":" end | "*") "]" ]
               | "mean" "(" expression ")" | "std" "(" expression ")"
               | "project" "(" expression "," numbers ")"

A name of other signs than letters, digits, ``_`` and ``-`` stands in quotes.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial

from qamro_cache.errors import OptionError, nearest, quoted

#: What stands before a bracket.
FUNCTIONS = ("mean", "std", "project")
#: What a clip is heard beside, see `features.context`.
CONTEXTS = ("none", "reference", "group", "both")
#: Longest text, and deepest nesting, that is read from a stranger's file.
_LONGEST, _DEEPEST = 2000, 20

_TOKEN = re.compile(r"\s*(?:(?P<name>[\w-]+)|(?P<quoted>'[^']*'|\"[^\"]*\")|(?P<sign>[][().,:+*]))")
_PLAIN = re.compile(r"[\w-]+")


@dataclass(frozen=True)
class Read:
    """A feature of a cache, window by window.

    Attributes:
        encoder: whose; empty where there is but one that has it.
        feature: its name; empty: the encoder's first.
        layers: ``"4"``, ``"2:6"`` or ``"*"`` of a feature [L, D]; empty for the whole.
    """

    encoder: str
    feature: str
    layers: str = ""

    def __str__(self) -> str:
        name = f"{_name(self.encoder)}." if self.encoder else ""
        return f"{name}{_name(self.feature)}{f'[{self.layers}]' if self.layers else ''}"


@dataclass(frozen=True)
class Call:
    """A vector a clip: mean or std over windows, or principal components of a fold's clips.

    Attributes:
        function: of `FUNCTIONS`.
        of: what it is of.
        size: numbers that ``project`` leaves; 0 for the others.
    """

    function: str
    of: "Expression"
    size: int = 0

    def __str__(self) -> str:
        return f"{self.function}({self.of}{f', {self.size}' if self.size else ''})"


@dataclass(frozen=True)
class Join:
    """Vectors a clip, side by side."""

    parts: "tuple[Expression, ...]"

    def __str__(self) -> str:
        return " + ".join(map(str, self.parts))


Expression = Read | Call | Join


def parse(text: str) -> Expression:
    """Read an expression; an empty text is the first feature.

    Raises:
        OptionError: it is none.
    """
    if not text.strip():
        return Read("", "")
    if len(text) > _LONGEST:
        raise OptionError(f"a feature of more than {_LONGEST} characters: {quoted(text)}")
    return _Parser(text).whole()


def reads(expression: Expression) -> list[Read]:
    """Return every feature that an expression names, in its order."""
    match expression:
        case Read():
            return [expression]
        case Call(of=of):
            return reads(of)
        case Join(parts=parts):
            return [one for part in parts for one in reads(part)]


def replaced(expression: Expression, change: Callable[[Read], Read]) -> Expression:
    """Return an expression with other features in it."""
    match expression:
        case Read():
            return change(expression)
        case Call(of=of):
            return replace(expression, of=replaced(of, change))
        case Join(parts=parts):
            return Join(tuple(replaced(part, change) for part in parts))


def takes_windows(expression: Expression, context: str = "none") -> bool:
    """Whether a head sees windows; else a vector a clip."""
    return isinstance(expression, Read) and context == "none"


def refuse_pooling(expression: Expression, context: str, pooling: str) -> None:
    """Refuse a pooling of windows where there is a vector a clip.

    Raises:
        OptionError: it is not the mean.
    """
    if not takes_windows(expression, context) and pooling != "mean":
        what = str(expression) if context == "none" else f"context {context}"
        raise OptionError(
            f"pooling={pooling} is of windows, and {what} is of a vector a clip; leave it at mean"
        )


def projections(expression: Expression) -> list[Call]:
    """Return every ``project`` of an expression, the inner ones first."""
    match expression:
        case Read():
            return []
        case Call(function=function, of=of):
            return projections(of) + ([expression] if function == "project" else [])
        case Join(parts=parts):
            return [one for part in parts for one in projections(part)]


def each_layer(expression: Expression, number: Callable[[Read], int]) -> Iterator[Expression]:
    """Yield an expression for every layer that a ``[*]`` in it stands for; itself without one.

    Args:
        expression: of features that are there.
        number: how many layers a feature has.
    """
    star = next((one for one in reads(expression) if one.layers == "*"), None)
    if star is None:
        yield expression
        return
    for layer in range(number(star)):
        there = {star: replace(star, layers=str(layer))}
        yield from each_layer(replaced(expression, partial(_swapped, there)), number)


def _swapped(there: Mapping[Read, Read], read: Read) -> Read:
    return there.get(read, read)


def _name(name: str) -> str:
    if _PLAIN.fullmatch(name):
        return name
    return f'"{name}"' if "'" in name else f"'{name}'"


class _Parser:
    """Recursive descent over the tokens of a text."""

    def __init__(self, text: str) -> None:
        self.text, self.place, self.depth = text, 0, 0
        self.tokens: list[tuple[str, str]] = []
        at, end = 0, len(text.rstrip())
        while at < end:
            found = _TOKEN.match(text, at)
            if found is None:
                raise self.error(f"{quoted(text[at:].lstrip()[:1])} means nothing there")
            kind = str(found.lastgroup)
            word = found[kind]
            self.tokens.append((kind, word[1:-1] if kind == "quoted" else word))
            at = found.end()

    def error(self, what: str) -> OptionError:
        return OptionError(
            f"feature {quoted(self.text)}: {what}; "
            "write for example 'distillmos.embedding + std(mel.layers[4])'"
        )

    def whole(self) -> Expression:
        found = self.expression()
        if self.place < len(self.tokens):
            raise self.error(f"{quoted(self.tokens[self.place][1])} is one too many")
        return found

    def expression(self) -> Expression:
        self.depth += 1
        if self.depth > _DEEPEST:
            raise self.error("it is nested too deep")
        parts = [self.term()]
        while self.takes("+"):
            parts.append(self.term())
        self.depth -= 1
        # A join within a join is one.
        flat = [p for part in parts for p in (part.parts if isinstance(part, Join) else (part,))]
        return flat[0] if len(flat) == 1 else Join(tuple(flat))

    def term(self) -> Expression:
        kind, first = self.tokens[self.place] if self.place < len(self.tokens) else ("", "")
        if kind not in ("name", "quoted") or not first:
            raise self.error(f"a name belongs where {quoted(first) if first else 'it ends'}")
        self.place += 1
        if kind == "name" and self.takes("("):
            return self.call(first)
        read = Read(first, self.word("a feature")) if self.takes(".") else Read("", first)
        if self.takes("["):
            read = replace(read, layers=self.layers())
            self.needs("]")
        return read

    def call(self, function: str) -> Call:
        if function not in FUNCTIONS:
            like = nearest(function, FUNCTIONS) or f"; there are: {', '.join(FUNCTIONS)}"
            raise self.error(f"there is no function {quoted(function)}{like}")
        of, size = self.expression(), 0
        if function == "project":
            self.needs(",")
            size = self.number()
        self.needs(")")
        if function != "project" and not isinstance(of, Read):
            raise self.error(f"{function}(...) is over the windows of one feature")
        if function == "project" and size < 1:
            raise self.error("project(..., 0) leaves nothing")
        return Call(function, of, size)

    def layers(self) -> str:
        if self.takes("*"):
            return "*"
        first = self.number()
        if not self.takes(":"):
            return str(first)
        end = self.number()
        if end <= first:
            raise self.error(f"[{first}:{end}] has no layer; the end is not among them")
        return f"{first}:{end}"

    def takes(self, sign: str) -> bool:
        there = self.place < len(self.tokens) and self.tokens[self.place] == ("sign", sign)
        self.place += there
        return there

    def needs(self, sign: str) -> None:
        if not self.takes(sign):
            raise self.error(f"{quoted(sign)} is missing")

    def word(self, what: str) -> str:
        kind, word = self.tokens[self.place] if self.place < len(self.tokens) else ("", "")
        if kind not in ("name", "quoted") or not word:
            raise self.error(f"{what} is missing")
        self.place += 1
        return word

    def number(self) -> int:
        word = self.word("a number")
        if not re.fullmatch(r"[0-9]{1,9}", word):
            raise self.error(f"{quoted(word)} is no number")
        return int(word)
