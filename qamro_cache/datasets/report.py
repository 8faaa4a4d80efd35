"""The report of ``check_dataset`` as tables for a person."""

from collections.abc import Mapping
from typing import Any, NamedTuple


class Table(NamedTuple):
    """A table to print; the first ``left`` columns are text, the others numbers."""

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]
    left: int


def report_tables(report: Mapping[str, Any]) -> list[Table]:
    """Turn the report of ``check_dataset`` into tables: of splits, axes and, last, problems."""
    name = report["dataset"] + (" (synthetic)" if report["synthetic"] else "")
    records, kinds = report["splits"], ("systems", "groups", "prompts", "audio")
    splits = [
        (
            split or "(none)",
            *(str(record[key]) for key in ("clips", "labeled", "missing_audio")),
            *(str(record[key]) for key in ("systems", "groups", "prompts")),
        )
        for split, record in records.items()
    ]
    shared = [
        (split or "(none)", other or "(none)", *(str(counts.get(kind, "-")) for kind in kinds))
        for split, record in records.items()
        for other, counts in record["shared"].items()
    ]
    axes = [
        (
            axis,
            f"{record['low']:g} to {record['high']:g}",
            *(_text(record[key]) for key in ("mean", "std", "min", "max")),
            str(record["clips"]),
            str(record["ratings"]),
            _text(record["ratings_a_clip"]),
            _text(record["stderr"]),
        )
        for axis, record in report["axes"].items()
    ]
    scores = ("mean", "std", "min", "max")
    ratings = ("clips", "ratings", "a clip", "std error")
    return [
        Table(
            f"{name}: splits",
            ("split", "clips", "labeled", "no audio", "systems", "groups", "prompts"),
            splits,
            1,
        ),
        *(
            [Table(f"{name}: shared by splits", ("split", "with", *kinds), shared, 2)]
            * bool(shared)
        ),
        Table(f"{name}: axes", ("axis", "scale", *scores, *ratings), axes, 1),
        Table(
            f"{name}: problems and notes",
            ("problem", "what"),
            [
                *((problem["code"], problem["message"]) for problem in report["problems"]),
                *_opened(report["audio"]),
                *(("note", note) for note in report["notes"]),
                *((key, report[key]) for key in ("license", "source") if report[key]),
            ],
            2,
        ),
    ]


def _opened(audio: Mapping[str, int] | None) -> list[tuple[str, str]]:
    if audio is None:
        return [("note", "no audio file was opened")]
    of = f" (a random sample of {audio['files']})" if audio["opened"] < audio["files"] else ""
    opened = f"{audio['opened']} audio files were opened{of}, {audio['unreadable']} cannot be read"
    return [("note", opened)]


def _text(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"
