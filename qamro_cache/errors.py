"""What can be wrong with the user's input, and with one clip."""

import difflib
import os
from collections.abc import Iterable, Sequence

#: Rows that one message names at most.
_ROWS = 10


class QamroError(Exception):
    """Something the user can mend; the message is one line: what, where, what to do."""


class OptionError(QamroError):
    """An option that cannot be right, whatever the files hold: wrong usage, exit code 2."""


class MistakesError(QamroError):
    """Several mistakes of one input, found in one pass.

    Attributes:
        lines: each of them in a line; the message is the first, and how many more there are.
    """

    def __init__(self, lines: Sequence[str]) -> None:
        super().__init__(f"{lines[0]} (and {len(lines) - 1} more)")
        self.lines = tuple(lines)


class Together:
    """Mistakes to be told together: what a ``with`` block of it raises is kept until `tell`."""

    def __init__(self) -> None:
        self.found: list[QamroError] = []

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if not isinstance(error, QamroError):
            return False
        self.found.append(error)
        return True

    def tell(self) -> None:
        """Raise what was kept: the error itself, or `MistakesError`."""
        if len(self.found) == 1:
            raise self.found[0]
        if self.found:
            lines = [mistakes_of(error) for error in self.found]
            raise MistakesError([line for part in lines for line in part])


def mistakes_of(error: QamroError) -> tuple[str, ...]:
    """Return the mistakes that an error tells, a line each."""
    return error.lines if isinstance(error, MistakesError) else (str(error),)


class ClipError(QamroError):
    """One clip cannot be used; the run goes on and the clip becomes a row with this reason.

    Attributes:
        code: the clip's status in the cache: ``missing``, ``unreadable``, ``empty``,
            ``too-short``, ``not-finite``, ``changed`` or ``failed``.
        reason: one line for a person.
    """

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


def words_of(error: BaseException) -> str:
    """Return what an error says in one line of at most 200 characters: the system's words alone."""
    if isinstance(error, OSError) and error.errno is not None:
        return os.strerror(error.errno)
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__


def kind_and_words_of(error: BaseException) -> str:
    """Return what a stranger's code raised, and what it says, in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


def quoted(value: object) -> str:
    """Return a user's value as it stands in a message: quoted, in one line, and cut where long."""
    text = repr(value) if isinstance(value, str) else " ".join(repr(value).split())
    return text if len(text) <= 100 else f"{text[:90]}... ({len(text)} characters)"


def few(names: Sequence[str], most: int = 5) -> str:
    """Name the first of some clips, systems or files, with dots where there are more."""
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


def at_rows(where: object, rows: Iterable[int]) -> str:
    """Begin a message of one or several rows of a file; what follows is of the first."""
    told = listed_rows(rows)
    return f"{where}, {told}: " if told.startswith("row ") else f"{where}, {told}; the first: "


def listed_rows(rows: Iterable[int]) -> str:
    """Return ``row 3`` or ``rows 3, 8, 9``; of many the first ten and how many more."""
    told = list(dict.fromkeys(int(row) for row in rows))
    more = f" and {len(told) - _ROWS} more" if len(told) > _ROWS else ""
    return f"row{'s' if len(told) > 1 else ''} {', '.join(map(str, told[:_ROWS]))}{more}"


def nearest(name: object, names: Sequence[str]) -> str:
    """Return ``; did you mean ...?`` where a known name is like the given one, else nothing."""
    plain = {known.casefold(): known for known in reversed(names) if known}
    found = difflib.get_close_matches(str(name).casefold(), plain, n=1)
    return f"; did you mean {quoted(plain[found[0]])}?" if found else ""


def unknown(what: str, name: object, names: Sequence[str]) -> OptionError:
    """Return the error of a name that is none of those there are; ``what`` begins the line."""
    there = ", ".join(names) or "none"
    return OptionError(f"{what} {quoted(name)}; there are: {there}{nearest(name, names)}")
