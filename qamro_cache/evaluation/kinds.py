"""The kinds of 95 % interval by name, and where each is. Imports nothing heavy."""

from collections.abc import Mapping
from typing import Any, NamedTuple

#: A new kind is a class in a file, and its line here; ``--interval`` offers it.
KINDS: Mapping[str, str] = {
    "jackknife": "qamro_cache.evaluation.jackknife:Jackknife",
    "bootstrap": "qamro_cache.evaluation.bootstrap:Bootstrap",
}


#: What an interval may be over, of those ways alone that `Kind.over` names.
OVER = ("system", "group")


class Kind(NamedTuple):
    """A kind of 95 % interval.

    Attributes:
        name: of `KINDS`.
        draws: of one that draws.
        over: of `OVER` the one way that it is over, the other stays as it is; empty for both.
    """

    name: str = "jackknife"
    draws: int = 0
    over: str = ""

    @property
    def words(self) -> str:
        """The kind in words: ``jackknife over groups``."""
        if self.name != JACKKNIFE.name:
            return f"{self.name} over systems, {self.draws} draws"
        return f"{self.name} over {f'{self.over}s' if self.over else 'systems and groups'}"

    @classmethod
    def of_record(cls, record: Mapping[str, Any]) -> "Kind":
        """Return the kind that ``metrics.json`` or ``best.json`` says."""
        kept = record["interval"]
        return cls(str(kept["name"]), int(kept["draws"]), str(kept["over"]))


#: Where none is named.
JACKKNIFE = Kind()
