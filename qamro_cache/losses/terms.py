"""Every loss by name, with its parameters; docs/loss.md has the recipe for a loss of your own.

No tensors, so no torch: a loss is read, checked and refused before torch is loaded.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from qamro_cache.settings import Setting

NORMALIZATIONS = ("batch", "train", "scale")
#: The value of each bin of the track-2 variant, from a label of 1 on, by the bins' name.
BINS: Mapping[str, tuple[float, ...]] = {
    "aes-PQ": (0, 0, 4.5, 6.5, 7.5, 9.5, 8.5, 5.5, 0),
    "aes-PC": (8.5, 6.5, 9.5, 7.5, 4.5, 5.5, 3.5, 0, 0),
    "aes-CE": (0, 4.5, 7.5, 6.5, 8.5, 9.5, 5.5, 0, 0),
    "aes-CU": (0, 0, 5.5, 6.5, 7.5, 9.5, 8.5, 4.5, 0),
}


@dataclass(frozen=True)
class TermInfo:
    """What is known of a named loss.

    Attributes:
        kind: ``ranking`` or ``regression``; ``preference``: it learns from given pairs.
        description: what it is, with its source.
        module: full name of the module that has a function of the loss's name, imported on first
            use. It takes `samples.Samples` and the parameters by name, numbers as float64 columns
            [1 | H, 1] and text as it is, and returns value [H] and gradient [H, N]; of a
            ``preference``, see `losses.preferences`.
        parameters: numbers may differ from head to head; text is shared by a stack of heads.
        pairs: a ranking that is a mean over pairs of different labels; else over a list.
    """

    kind: str
    description: str
    module: str
    parameters: tuple[Setting, ...] = ()
    pairs: bool = False

    @property
    def units(self) -> tuple[str, ...]:
        """The units that it can see, the default first."""
        return ("standardized",) if self.kind == "preference" else ("raw", "standardized")


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

_QAMRO_FILE = "qamro_cache.losses.qamro"
_LISTS = "qamro_cache.losses.listwise"
_REGRESSION = "qamro_cache.losses.regression"
_PREFERENCES = "qamro_cache.losses.preferences"
_SOFT, _SHARP = _temperature(1.0), _temperature(0.1)

#: A new loss is a function of its name in a file, and its row here.
TERMS: Mapping[str, TermInfo] = {
    "qamro": TermInfo(
        "ranking", "quality-aware adaptive margins (arXiv 2508.08957)", _QAMRO_FILE, _QAMRO, True
    ),
    "margin": TermInfo("ranking", "hinge with one margin for all pairs", _LISTS, (_WIDTH,), True),
    "ranknet": TermInfo("ranking", "RankNet (Burges et al. 2005)", _LISTS, (_SOFT,), True),
    "listnet": TermInfo("ranking", "ListNet, top one (Cao et al. 2007)", _LISTS, (_SOFT,)),
    "listmle": TermInfo("ranking", "ListMLE (Xia et al. 2008)", _LISTS),
    "approx_ndcg": TermInfo("ranking", "1 - ApproxNDCG (Qin et al. 2010)", _LISTS, (_SHARP,)),
    "spearman": TermInfo(
        "ranking", "1 - Spearman's correlation of soft ranks (Qin et al. 2010)", _LISTS, (_SHARP,)
    ),
    "huber": TermInfo("regression", "Huber's loss (Huber 1964)", _REGRESSION, (_DELTA,)),
    "mse": TermInfo("regression", "mean squared error", _REGRESSION),
    "mae": TermInfo("regression", "mean absolute error", _REGRESSION),
    "ccc": TermInfo("regression", "1 - concordance correlation (Lin 1989)", _REGRESSION),
    "bt": TermInfo(
        "preference", "Bradley and Terry's model with Davidson's ties (1970)", _PREFERENCES
    ),
    "ranknet_pairs": TermInfo(
        "preference", "RankNet on given pairs (Burges et al. 2005)", _PREFERENCES, (_SOFT,)
    ),
}


def _listed(names: list[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


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
            words = (f"{value} for {_listed(names)}" for value, names in defaults.items())
            first = replace(first, default_help="; ".join(words))
        merged[name] = first
    return merged


#: Every parameter of any term by name: the short way to set it, beside the loss's text.
PARAMETERS: Mapping[str, Setting] = _by_name()
