"""A page as Markdown or LaTeX: a paper's tables with intervals, and its figures."""

import math
import re
from collections.abc import Mapping, Sequence

from qamro_cache.reports.numbers import number
from qamro_cache.reports.page import Estimate, Facts, Figure, Page, Sound, Table, Value, Words
from qamro_cache.version import __version__

#: What every file says of itself, early.
MADE_BY = f"made by qamro_cache {__version__}"

#: Columns of a table of LaTeX that fit a page's width as they are.
_NARROW = 4

_TEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#",
    "%": r"\%", "_": r"\_", "^": r"\textasciicircum{}", "~": r"\textasciitilde{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", "±": r"$\pm$",
}  # fmt: skip


def text_of(value: Value) -> str:
    """Return a value of a table as text."""
    if isinstance(value, Estimate):
        between = f" [{number(value.low)}, {number(value.high)}]"
        return number(value.value) + (between if math.isfinite(value.low) else "")
    if isinstance(value, Sound):
        return value.clip_id
    if value is None:
        return ""
    return number(value) if isinstance(value, float) else value


def cells_of(row: Sequence[Value]) -> list[str]:
    """Return the values of a row as text."""
    return [text_of(value) for value in row]


def markdown_of(page: Page, files: Mapping[int, str]) -> str:
    """Return a page as Markdown.

    Args:
        page: what it says.
        files: of each figure, by its ``id``: the file beside the text; without one it is not there.
    """
    parts = [f"<!-- {MADE_BY} -->", f"# {_md(page.title)}"]
    if page.synthetic:
        parts.append("**Synthetic data: the clips or their ratings were made by a program.**")
    parts.append("\n".join(f"- {_md(line)}" for line in page.lead))
    for section in page.sections:
        parts.append(f"## {_md(section.title)}")
        for block in section.blocks:
            if isinstance(block, Words):
                code = block.kind == "code"
                parts += [f"    {_flat(line)}" if code else _md(line) for line in block.lines]
            elif isinstance(block, Facts):
                parts.append(_md_table(["what", ""], [list(row) for row in block.rows], 2))
            elif isinstance(block, Table):
                rows = [cells_of(row) for row in block.rows]
                parts.append(f"**{_md(block.title)}**" + (f" {_md(block.note)}" * bool(block.note)))
                parts.append(_md_table(block.columns, rows, block.left))
            elif isinstance(block, Figure) and id(block) in files:
                parts.append(f"![{_md(block.title)}](<{files[id(block)]}>)\n\n{_md(block.about)}")
    return "\n\n".join(parts) + "\n"


def _flat(words: str) -> str:
    return " ".join(words.split())


def _md(words: str) -> str:
    return re.sub(r"([\\`*_{}\[\]<>#|~&$])", r"\\\1", _flat(words))


def _md_table(columns: Sequence[str], rows: Sequence[Sequence[str]], left: int) -> str:
    rule = ["---" if k < left else "---:" for k in range(len(columns))]
    lines = [[_md(name) for name in columns], rule, *([_md(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def tex_of(page: Page, files: Mapping[int, str]) -> str:
    """Return a page's tables for a paper and its figures as LaTeX, to be put into a document."""
    parts = [
        f"% {MADE_BY}: {_flat(page.title)}",
        "% needs \\usepackage{booktabs,graphicx}",
        *(f"% {_flat(line)}" for line in page.lead),
    ]
    synthetic = " Synthetic data." if page.synthetic else ""
    for table in page.tables():
        kinds = "".join("l" if k < table.left else "r" for k in range(len(table.columns)))
        wide = len(table.columns) > _NARROW
        lines = [
            r"\begin{table}\centering\small",
            rf"\caption{{{tex(table.title)}. 95\,\% intervals in brackets.{synthetic}}}",
            r"\resizebox{\linewidth}{!}{%" if wide else "%",
            rf"\begin{{tabular}}{{{kinds}}}\toprule",
            " & ".join(map(tex, table.columns)) + r" \\ \midrule",
            *(" & ".join(map(tex, cells_of(row))) + r" \\" for row in table.rows),
            r"\bottomrule\end{tabular}" + "}" * wide,
            r"\end{table}",
        ]
        parts.append("\n".join(lines))
    for figure in (one for one in page.figures() if id(one) in files):
        lines = [
            r"\begin{figure}\centering",
            rf"\includegraphics[width=\linewidth]{{{files[id(figure)]}}}",
            rf"\caption{{{tex(figure.title)}. {tex(figure.about)}{synthetic}}}",
            r"\end{figure}",
        ]
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def tex(words: str) -> str:
    """Return text that LaTeX prints as it is."""
    return "".join(_TEX.get(letter, letter) for letter in _flat(words))
