"""A loss: a weighted sum of terms, such as ``0.5*huber(delta=2)+qamro@standardized``.

What it is worth is computed in `composed`.

**Units.** Each term names the units of labels and predictions it works in: ``raw``, or
``standardized``, where it sees ``(x - mean) / std`` of both, with the mean and std of the training
fold's labels. The authors' track 2 is ``mse@standardized+mae@standardized+qamro@raw``.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from qamro_cache.errors import nearest, quoted
from qamro_cache.losses.grammar import Piece, read_pieces
from qamro_cache.losses.terms import PARAMETERS, TERMS
from qamro_cache.settings import short


@dataclass(frozen=True)
class Term:
    """One summand of a loss.

    Attributes:
        name: of `TERMS`.
        weight: what its value is multiplied by.
        parameters: name and value of each of its parameters; what is not given is filled in,
            and all stand in the order of `TermInfo`.
        units: ``raw`` or ``standardized``; None: the default of the term.

    Raises:
        ValueError: names what is unknown, given twice or out of its range.
    """

    name: str
    weight: float = 1.0
    parameters: tuple[tuple[str, object], ...] = ()
    units: str | None = None

    def __post_init__(self) -> None:
        if self.name not in TERMS:
            close = nearest(self.name, tuple(TERMS))
            raise ValueError(f"there is no {quoted(self.name)} among {', '.join(TERMS)}{close}")
        allowed = TERMS[self.name].units  # the default first
        object.__setattr__(self, "units", allowed[0] if self.units is None else self.units)
        if self.units not in allowed:
            assert self.units is not None
            raise ValueError(
                f"units of {self.name} is {quoted(self.units)}: use {' or '.join(allowed)}"
            )
        if not 0 < self.weight < float("inf"):
            raise ValueError(f"weight of {self.name} must be above 0 and finite, got {self.weight}")
        known = {parameter.name: parameter for parameter in TERMS[self.name].parameters}
        given: dict[str, object] = {}
        for name, value in self.parameters:
            if name not in known:
                has, close = ", ".join(known) or "none", nearest(name, tuple(known))
                raise ValueError(
                    f"{self.name} has no parameter {quoted(name)} (it has {has}){close}"
                )
            if name in given:
                raise ValueError(f"{self.name} has {name} twice")
            given[name] = known[name].check(value)
        filled = tuple((name, given.get(name, known[name].default)) for name in known)
        object.__setattr__(self, "parameters", filled)
        object.__setattr__(self, "weight", float(self.weight))
        if given.get("bins") and self.units != "raw":
            raise ValueError(f"bins of {self.name} are of raw labels: write {self.name}@raw")

    def __str__(self) -> str:
        return self.text()

    @property
    def on_pairs(self) -> bool:
        """Whether it sees given pairs, not labels."""
        return TERMS[self.name].kind == "preference"

    @property
    def numbers(self) -> int:
        """How many of `Loss.numbers` are its own."""
        return 1 + sum(isinstance(value, int | float) for _, value in self.parameters)

    def text(self, whole: bool = False) -> str:
        """Return the text that `parse_loss` reads; ``whole``: with the parameters by default."""
        own = dict(self.parameters)
        shown = [
            f"{parameter.name}={parameter.show(own[parameter.name])}"
            for parameter in TERMS[self.name].parameters
            if own[parameter.name] != parameter.default or (whole and own[parameter.name] != "")
        ]
        weight = "" if self.weight == 1 else f"{short(self.weight)}*"
        brackets = f"({','.join(shown)})" if shown else ""
        return f"{weight}{self.name}{brackets}@{self.units}"


@dataclass(frozen=True)
class Loss:
    """A weighted sum of terms; `str` gives the text that `parse_loss` reads back."""

    terms: tuple[Term, ...]

    def __post_init__(self) -> None:
        if len(self._ranges) > 1:
            raise ValueError("normalize is train and scale: the terms of a loss share one of them")

    def __str__(self) -> str:
        return self.text()

    def text(self, whole: bool = False) -> str:
        """Return the text that `parse_loss` reads; ``whole``: with the parameters by default."""
        return "+".join(term.text(whole) for term in self.terms)

    @property
    def structure(self) -> tuple[object, ...]:
        """What heads must share to be trained in one stack: names, units and text."""
        return tuple(
            (term.name, term.units, *(p for p in term.parameters if isinstance(p[1], str)))
            for term in self.terms
        )

    @property
    def numbers(self) -> tuple[float, ...]:
        """What may differ from head to head: each term's weight, then its numeric parameters."""
        return tuple(
            float(number)
            for term in self.terms
            for number in (term.weight, *(value for _, value in term.parameters))
            if isinstance(number, int | float)
        )

    @property
    def label_range(self) -> str:
        """Whose lowest and highest label a term needs: ``train``, ``scale``, or empty for none."""
        return "".join(self._ranges)

    @property
    def _ranges(self) -> set[str]:
        own = [dict(term.parameters) for term in self.terms]
        wanted = {str(p.get("normalize", "batch")) for p in own if not p.get("bins")}
        return wanted - {"batch"}

    @property
    def on_labels(self) -> "Loss":
        """The terms that see labels."""
        return Loss(tuple(term for term in self.terms if not term.on_pairs))

    @property
    def on_pairs(self) -> "Loss":
        """The terms that see given pairs."""
        return Loss(tuple(term for term in self.terms if term.on_pairs))

    def numbers_on(self, pairs: bool) -> list[int]:
        """Return the places in `numbers` of the terms that see given pairs, or of the others."""
        kinds = [term.on_pairs for term in self.terms for _ in range(term.numbers)]
        return [place for place, kind in enumerate(kinds) if kind == pairs]

    def takes(self, name: str) -> bool:
        """Whether some term has a parameter of that name."""
        return any(name in dict(term.parameters) for term in self.terms)


def parse_loss(text: str, parameters: Mapping[str, object] = {}) -> Loss:
    """Read a loss: terms ``[weight*]name[(key=value,...)][@units]`` joined by ``+``.

    >>> str(parse_loss("0.5*huber + qamro(alpha=0.3, beta=7)@standardized"))
    '0.5*huber@raw+qamro(alpha=0.3)@standardized'
    >>> parse_loss("huber+qamro", {"alpha": 0.3}) == parse_loss("huber+qamro(alpha=0.3)")
    True
    >>> parse_loss("margin(gap=1)")
    Traceback (most recent call last):
    ...
    ValueError: loss is 'margin(gap=1)': margin has no parameter 'gap' (it has width)

    Args:
        text: as above.
        parameters: the short way: name -> value, for every term that has such a parameter.

    Raises:
        ValueError: in one line, what is unknown, malformed, out of its range, given twice or
            taken by no term.
    """
    for name, value in parameters.items():
        if name in PARAMETERS:
            PARAMETERS[name].check(value)
    try:
        loss = Loss(tuple(_make_term(piece, parameters) for piece in read_pieces(text)))
    except ValueError as error:
        raise ValueError(f"loss is {quoted(text)}: {error}") from None
    for name in parameters:
        if not loss.takes(name):
            raise ValueError(f"{name} is given, but no term of the loss {quoted(text)} takes it")
    return loss


def _make_term(piece: Piece, parameters: Mapping[str, object]) -> Term:
    """Make a term of its text, with those of ``parameters`` that it takes."""
    known = {p.name: p for p in TERMS[piece.name].parameters} if piece.name in TERMS else {}
    pairs: list[tuple[str, object]] = []
    for key, value in piece.pairs:
        if key in known and key in parameters:
            raise ValueError(f"{key} is in the text and given besides it: give it once")
        pairs.append((key, known[key].parse(value) if key in known else value))
    pairs += [(key, parameters[key]) for key in known if key in parameters]
    return Term(piece.name, piece.weight, tuple(pairs), piece.units)
