"""What a user says about ratings: their table's columns, the axes' scales, and the raters."""

import math
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from qamro_cache.errors import OptionError, quoted
from qamro_cache.settings import check_settings, setting, split_list

Scales = Mapping[str, tuple[float, float]]


@dataclass(frozen=True, kw_only=True)
class ColumnOptions:
    """What the columns of a person's table are."""

    columns: tuple[str, ...] = setting(
        (),
        "What columns of a table are, for example path=filename,quality=mos; may repeat.",
        default_help="by their names",
    )


@dataclass(frozen=True, kw_only=True)
class ScaleOptions:
    """On which scales the ratings are."""

    scale: tuple[str, ...] = setting(
        (),
        "Scale of an axis, AXIS=LOW:HIGH, for example quality=0:100; may repeat.",
        default_help="as known, else guessed from the ratings",
    )


@dataclass(frozen=True, kw_only=True)
class RelabelOptions(ColumnOptions, ScaleOptions):
    """The options of `relabel_cache` and of ``qamro-cache relabel``."""

    source: str = setting("", "Name of the listening test that all clips are rated in.")

    def __post_init__(self) -> None:
        check_settings(self)


@dataclass(frozen=True, kw_only=True)
class RaterOptions:
    """What is made of the training clips' ratings before their mean is learned."""

    rater_model: str = setting(
        "none",
        "Training labels from ratings as they are, of each rater standardized, or less an offset "
        "of each rater.",
        choices=("none", "standardized", "additive"),
    )
    rater_weights: str = setting(
        "none",
        "Whether those who agree with the others count more in a training label.",
        choices=("none", "reliability"),
    )
    screen: str = setting(
        "none",
        "Raters that a rule takes out of the training labels: bs1534, by the hidden reference; "
        "bt500, by scores far from the others'.",
        choices=("none", "bs1534", "bt500"),
    )

    @property
    def modeling(self) -> "RaterOptions":
        """These options alone."""
        given = (self.rater_model, self.rater_weights, self.screen)
        return RaterOptions(**dict(zip(_NAMES, given, strict=True)))

    @property
    def plain(self) -> bool:
        """Whether labels are plain means."""
        return self.modeling == PLAIN

    def words(self) -> str:
        """Return what is done, in a few words; empty for nothing."""
        given = (getattr(self, name) for name in reversed(_NAMES))
        return ", ".join(one for one in given if one != "none")


#: Labels are plain means.
PLAIN = RaterOptions()

_NAMES = ("rater_model", "rater_weights", "screen")


def parse_columns(asked: Sequence[str]) -> dict[str, str]:
    """Return field or axis -> column, of texts such as ``path=filename,quality=mos``.

    Raises:
        OptionError: not of this form, or a field twice.
    """
    found: dict[str, str] = {}
    for words in asked:
        try:
            parts = split_list(words)
        except ValueError as error:
            raise OptionError(f"--columns: {error}") from None
        for part in parts:
            field, sign, column = (one.strip() for one in part.partition("="))
            if len(column) > 1 and column[0] == column[-1] and column[0] in "'\"":
                column = column[1:-1]
            if not (field and sign and column):
                raise OptionError(
                    f"--columns {quoted(words)} is not NAME=COLUMN, for example path=filename"
                )
            if field in found:
                raise OptionError(f"--columns names {quoted(field)} twice; name it once")
            found[field] = column
    return found


def as_option(field: str, column: str) -> str:
    """Return what to say on a command line for a column to be a field."""
    return f"--columns {shlex.quote(f'{field}={column}')}"


def refuse_columns(asked: Sequence[str], where: str, *, table: bool) -> None:
    """Refuse ``--columns`` that cannot be right, or that is for no table.

    Raises:
        OptionError: it is not of its form, or there is no ``table``, which ``where`` would name.
    """
    if parse_columns(asked) and not table:
        raise OptionError(f"--columns is for a table of your own; give it with {where}")


def parse_scales(asked: Sequence[str]) -> dict[str, tuple[float, float]]:
    """Return axis -> lowest and highest rating, of texts such as ``quality=0:100``.

    Raises:
        OptionError: not of this form, or an axis twice.
    """
    found: dict[str, tuple[float, float]] = {}
    for words in asked:
        name, _, ends = words.rpartition("=")
        number = r"\s*([+-]?[\d.]+(?:e[+-]?\d+)?)\s*"
        parts = re.fullmatch(f"{number}:{number}", ends)
        try:
            low, high = (float(part) for part in parts.groups()) if parts else (0.0, 0.0)
        except ValueError:
            low = high = 0.0
        if not name.strip() or not -math.inf < low < high < math.inf:
            raise OptionError(
                f"--scale {quoted(words)} is not AXIS=LOW:HIGH with LOW below HIGH, "
                "for example quality=0:100"
            )
        if name.strip() in found:
            raise OptionError(f"--scale names {quoted(name.strip())} twice; name it once")
        found[name.strip()] = low, high
    return found
