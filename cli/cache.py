"""qamro-cache: look at cache files, verify, join, relabel and export them; look at the machine."""

import json
from pathlib import Path
from typing import Any

import click

from qamro_cache.datasets.options import RelabelOptions
from qamro_cache.devices import refuse_device
from qamro_cache.extraction.request import VerifyOptions
from qamro_cache.settings import Setting

from .common import (
    OneLineGroup,
    notices_to_stderr,
    printable,
    version_option,
)
from .doctor_output import show_doctor
from .options import File, PlainFile, option_of, request_options
from .tables import show_fields

_FORMAT = Setting(
    "format", str, "safetensors", "How arrays are written.", choices=("safetensors", "npy")
)


@click.group(cls=OneLineGroup)
@version_option
def main() -> None:
    """Look at cache files, verify, join, relabel and export them."""


@main.command()
@click.argument("files", nargs=-1, required=True, type=PlainFile)
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def info(files: tuple[Path, ...], as_json: bool) -> None:
    """Show what one cache holds, in one file or several."""
    notices_to_stderr()
    from qamro_cache.cache.info import cache_info

    record = cache_info(list(files))
    if as_json:
        click.echo(json.dumps(record, indent=2))
        return
    _show_info(record)


def _show_info(record: dict[str, Any]) -> None:
    """Print what ``info --json`` holds for a person to read."""
    synthetic = " (synthetic: clips or ratings were made by a program)"
    status = [f"{count} {code}" for code, count in record["status"].items()]
    axes = [
        f"{name} {axis['low']:g} to {axis['high']:g}{' (guessed)' if axis['guessed'] else ''} "
        f"({axis['rated_clips']} clips rated)"
        for name, axis in record["axes"].items()
    ]
    features = {
        which: ", ".join(
            f"{name} {' x '.join(map(str, shape))}" for name, shape in record[which].items()
        )
        for which in ("features", "text_features")
    }
    show_fields(
        [
            ("files", " ".join(record["files"])),
            ("size", f"{record['bytes']:,} bytes"),
            ("dataset", record["dataset"] + (synthetic if record["synthetic"] else "")),
            ("clips", f"{record['clips']} ({', '.join(status)}), {record['hours']:.2f} hours"),
            ("windows", str(record["windows"])),
            ("systems", str(record["systems"])),
            ("splits", _words(record["splits"])),
            ("features", features["features"]),
            ("text features", features["text_features"] or "none"),
            ("axes", "; ".join(axes) or "none"),
            ("single ratings", str(record["ratings"])),
            ("known of clips", _words(record["known"])),
            ("licenses", _words(record["licenses"])),
        ]
    )
    click.echo("identity (what a head's clips must share)")
    show_fields(
        [("sha256", record["identity_sha256"])]
        + [(key, _words(value)) for key, value in record["identity"].items()],
        indent=2,
    )
    click.echo("provenance (recorded, never compared)")
    show_fields([(key, _words(value)) for key, value in record["provenance"].items()], indent=2)


def _words(value: Any) -> str:
    """Return a JSON value in words: ``{"a": [2, 3]}`` is ``a 2 x 3``; - for nothing."""
    if isinstance(value, dict):
        return ", ".join(f"{key or '(none)'} {_words(item)}" for key, item in value.items()) or "-"
    if isinstance(value, list):
        return " x ".join(map(str, value)) or "-"
    return str(value) or "-"


@main.command()
@click.argument("files", nargs=-1, required=True, type=PlainFile)
@click.option("--deep", is_flag=True, help="Also encode a random sample of clips again.")
@request_options(VerifyOptions)
def verify(files: tuple[Path, ...], deep: bool, **options: Any) -> None:
    """Read files in full: checksums, shapes, offsets, identity, finite numbers."""
    notices_to_stderr()
    if deep:
        refuse_device(options["device"] or "")
    from qamro_cache.cache.verify import verify_cache

    for path in files:
        found = verify_cache(path)
        click.echo(
            f"{printable(str(path))}: good: {found['clips']} clips ({found['failed']} failed), "
            f"{found['windows']} windows, {found['arrays']} arrays, {found['bytes']} bytes"
        )
        if not deep:
            continue
        from qamro_cache.extraction.deep import verify_deep

        again = verify_deep(path, **options)
        click.echo(
            f"{printable(str(path))}: {again['clips']} clips encoded again: the same to "
            f"{again['largest_difference']:.1e} of a feature's largest value"
        )


@main.command()
@click.argument("files", nargs=-1, required=True, type=PlainFile)
@click.option("--out", required=True, type=PlainFile, help="Cache file to make.")
def merge(files: tuple[Path, ...], out: Path) -> None:
    """Join files of one identity, in the order given (a run's shards by their numbers)."""
    notices_to_stderr()
    from qamro_cache.cache.merge import merge_caches

    count = merge_caches(files, out)
    click.echo(f"{printable(str(out))}: {count} clips of {len(files)} files")


@main.command()
@click.argument("file", type=PlainFile)
@click.option("--labels", type=PlainFile, help="Table: clip_id, [rater], axes ...")
@click.option("--out", type=PlainFile, help="Cache file to make; default: replace FILE.")
@request_options(RelabelOptions)
def relabel(file: Path, labels: Path | None, out: Path | None, **options: Any) -> None:
    """Replace ratings, their scales, systems, groups, splits and test; no feature changes."""
    notices_to_stderr()
    from qamro_cache.cache.edit import relabel_cache

    rated = relabel_cache(file, labels, out, **options)
    click.echo(f"{printable(str(out or file))}: {rated} clips have ratings")


@main.command()
@click.argument("sources", nargs=-1, required=True, type=PlainFile, metavar="SOURCE...")
@click.option("--out", required=True, type=PlainFile, help="Table to make, for --pairs.")
@click.option("--data-dir", type=File, help="Folder of a description's files.")
def pairs(sources: tuple[Path, ...], out: Path, data_dir: Path | None) -> None:
    """Write preferences: of a cache's raters within trials, or of described battles (TOML)."""
    notices_to_stderr()
    from qamro_cache.cache.pairs import write_pairs

    found = write_pairs(list(sources), out, data_dir)
    counts = ", ".join(f"{count:,} {name}" for name, count in found.items())
    click.echo(f"{printable(str(out))}: {counts}")


@main.command()
@click.argument("files", nargs=-1, required=True, type=PlainFile)
@click.option("--out", required=True, type=File, help="Folder to make.")
@option_of(_FORMAT)
def export(files: tuple[Path, ...], out: Path, format: str | None) -> None:
    """Write arrays, tables and a manifest for other programs."""
    notices_to_stderr()
    from qamro_cache.cache.edit import export_cache

    names = export_cache(list(files), out, format or _FORMAT.default)
    click.echo(f"{printable(str(out))}: {', '.join(names)}")


@main.command()
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def doctor(as_json: bool) -> None:
    """Measure this machine in half a minute, and say what is slow and what to do about it."""
    notices_to_stderr()
    from qamro_cache.doctor.examine import doctor as examine
    from qamro_cache.files import json_text

    record = examine()
    click.echo(json_text(record)) if as_json else show_doctor(record)
