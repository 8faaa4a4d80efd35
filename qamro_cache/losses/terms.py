"""Losses by name: weighted sums of terms, such as ``0.5*huber(delta=2)+qamro@standardized``.

No tensors, so no torch: a loss is read, checked and refused before torch is loaded. What it is
worth is computed in `composed`; docs/loss.md has the recipe for a loss of your own.

**Units.** Each term names the units of labels and predictions it works in: ``raw``, or
``standardized``, where it sees ``(x - mean) / std`` of both, with the mean and std of the training
fold's labels. The authors' track 2 is ``mse@standardized+mae@standardized+qamro@raw``.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from qamro_cache.errors import quoted
from qamro_cache.losses.grammar import Piece, read_pieces
from qamro_cache.settings import Setting, nearest, short

UNITS = ("raw", "standardized")
NORMALIZATIONS = ("batch", "train", "scale")
BINS = ("aes-PQ", "aes-PC", "aes-CE", "aes-CU")


@dataclass(frozen=True)
class TermInfo:
    """What is known of a named loss.

    Attributes:
        kind: ``ranking`` or ``regression``.
        description: what it is, with its source.
        function: ``module:name``, imported on first use. It takes `samples.Samples` and the
            parameters by name, numbers as float64 columns [1 | H, 1] and text as it is, and
            returns value [H] and gradient [H, N].
        parameters: numbers may differ from head to head; text is shared by a stack of heads.
    """

    kind: str
    description: str
    function: str
    parameters: tuple[Setting, ...] = ()


def _temperature(default: float) -> Setting:
    help = "Softness of each comparison of two scores, in the units of its term."
    return Setting("temperature", float, default, help, above=0)


_QAMRO = (
    Setting("alpha", float, 0.2, "QAMRO's margin per unit of label difference.", low=0),
    Setting("beta", float, 7.0, "QAMRO's weight of the best clips' pairs.", low=0),
    Setting(
        "normalize",
        str,
        "train",
        "What QAMRO's label quality is relative to.",
        choices=NORMALIZATIONS,
    ),
    Setting(
        "bins",
        str,
        "",
        "QAMRO's weights by label bins instead of label quality.",
        choices=("", *BINS),
        default_help="none",
    ),
)
_DELTA = Setting("delta", float, 1.0, "Error from which Huber's loss is linear.", above=0)
_WIDTH = Setting("width", float, 0.1, "The margin of every pair, in the units of its term.", low=0)

_HERE = "qamro_cache.losses"

#: Every loss by name. A new one is a function in a file, and its row here.
TERMS: Mapping[str, TermInfo] = {
    "qamro": TermInfo(
        "ranking",
        "quality-aware adaptive margins (arXiv 2508.08957)",
        f"{_HERE}.qamro:qamro",
        _QAMRO,
    ),
    "margin": TermInfo(
        "ranking", "hinge with one margin for all pairs", f"{_HERE}.listwise:margin", (_WIDTH,)
    ),
    "ranknet": TermInfo(
        "ranking", "RankNet (Burges et al. 2005)", f"{_HERE}.listwise:ranknet", (_temperature(1.0),)
    ),
    "listnet": TermInfo(
        "ranking",
        "ListNet, top one (Cao et al. 2007)",
        f"{_HERE}.listwise:listnet",
        (_temperature(1.0),),
    ),
    "listmle": TermInfo("ranking", "ListMLE (Xia et al. 2008)", f"{_HERE}.listwise:listmle"),
    "approx_ndcg": TermInfo(
        "ranking",
        "1 - ApproxNDCG (Qin et al. 2010)",
        f"{_HERE}.listwise:approx_ndcg",
        (_temperature(0.1),),
    ),
    "spearman": TermInfo(
        "ranking",
        "1 - Spearman's correlation of soft ranks (Qin et al. 2010)",
        f"{_HERE}.listwise:spearman",
        (_temperature(0.1),),
    ),
    "huber": TermInfo(
        "regression", "Huber's loss (Huber 1964)", f"{_HERE}.regression:huber", (_DELTA,)
    ),
    "mse": TermInfo("regression", "mean squared error", f"{_HERE}.regression:mse"),
    "mae": TermInfo("regression", "mean absolute error", f"{_HERE}.regression:mae"),
    "ccc": TermInfo(
        "regression", "1 - concordance correlation (Lin 1989)", f"{_HERE}.regression:ccc"
    ),
}


def _by_name() -> dict[str, Setting]:
    """Return the first declaration of each parameter; differing defaults are said in words."""
    found: dict[str, dict[str, Setting]] = {}
    for name, info in TERMS.items():
        for parameter in info.parameters:
            found.setdefault(parameter.name, {})[name] = parameter
    merged = {}
    for name, owners in found.items():
        first = next(iter(owners.values()))
        defaults: dict[str, list[str]] = {}
        for owner, parameter in owners.items():
            defaults.setdefault(parameter.show(parameter.default), []).append(owner)
        if len(defaults) > 1:
            words = (f"{value} for {' and '.join(names)}" for value, names in defaults.items())
            first = replace(first, default_help=", ".join(words))
        merged[name] = first
    return merged


#: Every parameter of any term by name: the short way to set it, beside the loss's text.
PARAMETERS: Mapping[str, Setting] = _by_name()


@dataclass(frozen=True)
class Term:
    """One summand of a loss.

    Attributes:
        name: of `TERMS`.
        weight: what its value is multiplied by.
        parameters: name and value of each of its parameters; what is not given is filled in,
            and all stand in the order of `TermInfo`.
        units: ``raw`` or ``standardized``.

    Raises:
        ValueError: names what is unknown, given twice or out of its range.
    """

    name: str
    weight: float = 1.0
    parameters: tuple[tuple[str, object], ...] = ()
    units: str = "raw"

    def __post_init__(self) -> None:
        if self.name not in TERMS:
            close = nearest(self.name, tuple(TERMS))
            raise ValueError(f"there is no {quoted(self.name)} among {', '.join(TERMS)}{close}")
        if self.units not in UNITS:
            raise ValueError(
                f"units of {self.name} is {quoted(self.units)}: use {' or '.join(UNITS)}"
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
