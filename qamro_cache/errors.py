"""What can be wrong with the user's input, and with one clip."""

import difflib
import os
from collections.abc import Sequence


class QamroError(Exception):
    """Something the user can mend; the message is one line: what, where, what to do."""


class OptionError(QamroError):
    """An option that cannot be right, whatever the files hold: wrong usage, exit code 2."""


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
    lines = str(error).splitlines()
    return lines[0][:200] if lines else type(error).__name__


def quoted(value: object) -> str:
    """Return a user's value as it stands in a message: quoted, in one line, and cut where long."""
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:90]}... ({len(text)} characters)"


def nearest(name: object, names: Sequence[str]) -> str:
    """Return ``; did you mean ...?`` where a known name is like the given one, else nothing."""
    plain = {known.casefold(): known for known in reversed(names) if known}
    found = difflib.get_close_matches(str(name).casefold(), plain, n=1)
    return f"; did you mean {quoted(plain[found[0]])}?" if found else ""


def unknown(what: str, name: object, names: Sequence[str]) -> OptionError:
    """Return the error of a name that is none of those there are; ``what`` begins the line."""
    there = ", ".join(names) or "none"
    return OptionError(f"{what} {quoted(name)}; there are: {there}{nearest(name, names)}")
