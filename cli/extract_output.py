"""What qamro-extract prints: encoders and their checks, findings about a set, a run's summary."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .common import fail, printable, short
from .report import page_of, page_to_make
from .tables import show_fields, show_lines, show_table

if TYPE_CHECKING:
    from qamro_cache.encoders.protocol import EncoderOptions
    from qamro_cache.extraction.extract import Summary
    from qamro_cache.extraction.request import ExtractRequest

_FAILURES_SHOWN = 10


def show_encoders(options: "EncoderOptions", as_json: bool) -> None:
    """List the encoders and what each still lacks here."""
    from qamro_cache.encoders.registry import list_encoders

    rows = []
    for info in list_encoders():
        missing = list(info.missing("", options))
        rows.append((info.name, info.summary, info.dims, info.source, info.license, missing))
    if as_json:
        names = ("name", "summary", "features", "source", "license", "missing")
        click.echo(json.dumps([dict(zip(names, row, strict=True)) for row in rows], indent=2))
        return
    for name, summary, dims, source, license, missing in rows:
        click.echo(printable(name))
        fields = {"what": summary, "features": dims, "source": source, "license": license}
        show_fields([*fields.items(), ("missing", "; ".join(missing) or "nothing")], indent=2)


def show_encoder_check(name: str, request: "ExtractRequest", as_json: bool) -> None:
    """Show the doctor's findings as they come; exit code 1 if one is not as it must be."""
    from dataclasses import asdict

    from qamro_cache.devices import usable_device
    from qamro_cache.encoders.doctor import check_encoder
    from qamro_cache.encoders.registry import find_encoder

    find_encoder(name)
    found = []
    device = usable_device(request.device)
    for check in check_encoder(name, request.encoder_options, device):
        found.append(check)
        if not as_json:
            mark = {True: "ok  ", False: "FAIL", None: "    "}[check.ok]
            click.echo(printable(f"{mark} {check.name}: {check.detail}"))
    if as_json:
        click.echo(json.dumps([asdict(check) for check in found], indent=2))
    if any(check.ok is False for check in found):
        fail(f"encoder {name} is not ready")


def show_findings(
    dataset: str | None,
    manifest: Path | None,
    request: "ExtractRequest",
    page: Path | None,
    as_json: bool,
) -> None:
    """Check a set and show what it holds and what is wrong with it, as a page too."""
    from qamro_cache.datasets.checks import check_dataset
    from qamro_cache.datasets.report import report_tables
    from qamro_cache.extraction.extract import load_clips

    if page:
        page_to_make(Path(), str(page))
    clips = load_clips(dataset, manifest, request)
    report = check_dataset(clips)
    if page:
        from qamro_cache.reports.dataset import dataset_page

        page_of(dataset_page(clips, report), page)
    if as_json:
        click.echo(json.dumps(report, indent=2))
        return
    for place, table in enumerate(report_tables(report)):
        if place:
            click.echo()
        if table.left < len(table.columns):
            show_table(table.columns, table.rows, title=table.title, left=table.left)
        else:  # sentences
            show_lines(table.title)
            show_fields([(what, said) for what, said in table.rows], indent=2)


def show_summary(summary: "Summary", as_json: bool) -> None:
    """Show what a run came to, and the first failures."""
    from qamro_cache.cache.reader import open_cache

    cache = open_cache(summary.out)
    failed = cache.clips[cache.clips["status"] != "ok"]
    if as_json:
        columns = ["clip_id", "status", "reason"]
        record = summary.record() | {
            "identity_sha256": cache.identity_sha256,
            "failed_clips": failed[columns].to_dict("records"),
        }
        click.echo(json.dumps(record, indent=2))
        return
    for row in failed[["clip_id", "status", "reason"]].head(_FAILURES_SHOWN).to_numpy():
        click.echo(short(f"failed: {row[0]}: {row[1]}: {row[2]}"), err=True)
    if len(failed) > _FAILURES_SHOWN:
        click.echo(f"failed: and {len(failed) - _FAILURES_SHOWN} more", err=True)
    stats = summary.stats
    figures = stats.figures()
    kind = "synthetic " if summary.synthetic else ""
    show_lines(
        f"{summary.out}: {summary.ok} {kind}clips, {summary.failures} failed, "
        f"{summary.windows} windows, computed in {summary.precision}",
        hang=2,
    )
    if stats.clips_done:
        show_lines(
            f"{stats.clips_done} clips in {stats.elapsed:.1f} s ({stats.clips_per_second:.1f}/s), "
            f"{stats.clips_reused} were there; decoding "
            f"{figures['decode_clips_per_second_per_worker']:.1f} clips/s on each of "
            f"{stats.workers} threads, encoder "
            f"{figures['encode_windows_per_second_per_encoder']:.1f} windows/s, waiting for audio "
            f"{100 * stats.wait_share:.0f} % of its time",
            hang=2,
        )
