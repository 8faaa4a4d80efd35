"""What can be wrong with the user's input, and with one clip."""


class QamroError(Exception):
    """Something the user can mend; the message is one line: what, where, what to do."""


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
