"""A page as one HTML file that needs no other: words, tables, figures, styles and script."""

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from qamro_cache.reports.draw import draw
from qamro_cache.reports.numbers import number, span
from qamro_cache.reports.page import (
    Estimate,
    Facts,
    Figure,
    Page,
    Scatter,
    Sound,
    Table,
    Value,
    Words,
)
from qamro_cache.reports.sounds import Sounds
from qamro_cache.version import __version__

#: Points beyond which what they say is put together where the page is read.
_MANY = 300


def html_of(page: Page, folder: Path, audio: str = "link") -> str:
    """Return a page as HTML.

    Args:
        page: what it says.
        folder: where it will lie: links to audio start there.
        audio: ``link`` players to the files, ``embed`` the sounds, or ``none``.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("qamro_cache.reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    shared = _Shared()
    sounds = Sounds(audio, folder)
    environment.filters |= {"cell": _cell, "script": json_for_script}
    text = environment.get_template("page.html").render(
        page=page,
        parts=[(part, [_block(block, shared) for block in part.blocks]) for part in page.sections],
        player=sounds.player,
        shared=shared,
        sounds=sounds,
        anchors=list(_anchors(page)),
        version=__version__,
    )
    # A name may hold bytes that are no text.
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


class _Shared:
    """Lists that several figures of a page name their points by, each kept once."""

    def __init__(self) -> None:
        self.lists: list[tuple[str, ...]] = []

    def number(self, names: tuple[str, ...]) -> int:
        if names not in self.lists:
            self.lists.append(names)
        return self.lists.index(names)


def _block(block: Any, shared: _Shared) -> dict[str, Any]:
    """Return what the template takes of a block."""
    if isinstance(block, Figure):
        drawing = draw(block)
        data: dict[str, Any] = {"marks": drawing.marks}
        series: list[str] = []
        if isinstance(block, Scatter):
            series = list(block.series_names) if len(block.series_names) > 1 else []
            if len(block.points) > _MANY:
                data = {
                    "names": shared.number(block.names),
                    "x": [float(f"{a:.4g}") for a, _ in block.points],
                    "y": [float(f"{b:.4g}") for _, b in block.points],
                    "labels": [block.x.label, block.y.label],
                    "at": [[round(u, 1), round(v, 1)] for u, v, _ in drawing.marks],
                }
        else:
            data = {"marks": [[round(u, 1), round(v, 1), words] for u, v, words in drawing.marks]}
        return {"kind": "figure", "figure": block, "svg": drawing.svg, "data": data,
                "series": series}  # fmt: skip
    kinds = {Table: "table", Words: "words", Facts: "facts"}
    return {"kind": kinds[type(block)], kinds[type(block)]: block}


def _anchors(page: Page) -> Iterator[tuple[str, str]]:
    """Yield each section's anchor and title; an anchor is letters of the title, and a number."""
    for place, part in enumerate(page.sections):
        yield (
            f"{re.sub(r'[^a-z0-9]+', '-', part.title.lower()).strip('-')[:40]}-{place}",
            part.title,
        )


def _cell(value: Value) -> dict[str, Any]:
    """Return what a cell shows: ``text``, a smaller ``more``, a ``sound``; ``sort`` it by."""
    if isinstance(value, Sound):
        return {"text": value.clip_id, "more": "", "sound": value, "sort": None}
    if isinstance(value, Estimate):
        more = span(value.low, value.high, like=value.value) if math.isfinite(value.low) else ""
        return {"text": number(value.value), "more": more, "sound": None, "sort": value.value}
    if value is None or isinstance(value, float):
        text = "" if value is None else number(value)
        return {"text": text, "more": "", "sound": None, "sort": None}
    return {"text": str(value), "more": "", "sound": None, "sort": None}


def json_for_script(value: Any) -> Any:
    """Return JSON that stands in a page's script as it is: no ``</script>`` within can end it."""
    from markupsafe import Markup

    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c"))
