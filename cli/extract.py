"""qamro-extract: audio, prompts and ratings to a cache."""

import json
import signal
import sys
from contextlib import closing
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import click

from .common import (
    fail,
    notices_to_stderr,
    one_line_errors,
    printable,
    show_fields,
    show_table,
    usable_device,
    version_option,
    weights_options,
)
from .extraction_bar import ExtractionBar

if TYPE_CHECKING:
    from qamro_cache.datasets.records import Dataset
    from qamro_cache.encoders.protocol import EncoderOptions
    from qamro_cache.extraction.extract import Summary

_NO_FAILURES_SHOWN = 10


def _shard(
    context: click.Context, option: click.Parameter, value: str | None
) -> tuple[int, int] | None:
    """Read ``i/n``, counted from 1."""
    if value is None:
        return None
    index, _, count = value.partition("/")
    if not (index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count)):
        raise click.BadParameter(f"{value!r} is not i/n with i from 1 to n, for example 3/8")
    return int(index), int(count)


@click.command()
@click.option("--dataset", metavar="NAME", help="A known set (demo, ...) or a description (.toml).")
@click.option(
    "--manifest",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Your own clips: a CSV with clip_id, path and, if known, system, group, prompt, split, "
    "rater and a column an axis.",
)
@click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of the set's release, or that a manifest's paths start from.",
)
@click.option("--encoder", metavar="NAME", help="See --list-encoders; demo uses distillmos.")
@weights_options
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Cache file to make.")
@click.option(
    "--shard",
    metavar="I/N",
    callback=_shard,
    help="Only the I-th of N parts; then qamro-cache merge.",
)
@click.option(
    "--device",
    callback=usable_device,
    default="",
    help="Torch device; default: a GPU if there is one.",
)
@click.option("--batch-size", default=0, help="Most windows a batch [8; on a GPU 64].")
@click.option("--workers", default=0, help="Decoding threads; default: one a processor.")
@click.option(
    "--dtype",
    type=click.Choice(["float32", "float16"]),
    default="float32",
    show_default=True,
    help="Type in which features are stored.",
)
@click.option(
    "--precision",
    type=click.Choice(["float32", "tf32", "bfloat16", "float16"]),
    default="float32",
    show_default=True,
    help="What the encoder computes in.",
)
@click.option(
    "--rate-policy",
    type=click.Choice(["resample", "as-is"]),
    default="resample",
    show_default=True,
    help="as-is feeds samples of any rate unchanged, as some published code does.",
)
@click.option("--no-int16", is_flag=True, help="Leave out clap's truncation to 16 bits.")
@click.option(
    "--max-failures", default=0, show_default=True, help="Failed clips beyond which to exit with 3."
)
@click.option("--retry-failed", is_flag=True, help="Try clips again that failed before.")
@click.option("--ray", metavar="ADDRESS", help="Encode on a Ray cluster; local: on this machine.")
@click.option("--num-workers", default=1, show_default=True, help="Encoders at once, with --ray.")
@click.option("--gpus-per-worker", default=0.0, help="GPUs of each, or a part; 0: processors only.")
@click.option("--dry-run", is_flag=True, help="Only check the set; no encoder, no output.")
@click.option("--list-encoders", is_flag=True, help="Show the encoders and what they lack.")
@click.option("--check", is_flag=True, help="Test --encoder here and say what it lacks.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@version_option
@one_line_errors
def main(
    dataset: str | None,
    manifest: Path | None,
    data_dir: Path | None,
    encoder: str | None,
    checkpoint: str,
    tokenizer: str,
    out: Path | None,
    shard: tuple[int, int] | None,
    device: str,
    batch_size: int,
    workers: int,
    dtype: str,
    precision: str,
    rate_policy: str,
    no_int16: bool,
    allow_pickle: bool,
    max_failures: int,
    retry_failed: bool,
    ray: str | None,
    num_workers: int,
    gpus_per_worker: float,
    dry_run: bool,
    list_encoders: bool,
    check: bool,
    as_json: bool,
) -> None:
    """Encode every clip of a set once, into one cache file.

    Stopped at any moment, the same command goes on where it was. Exit code 3: the cache is
    complete and usable, but more clips failed than --max-failures allows.
    """
    notices_to_stderr()
    from qamro_cache.encoders.protocol import EncoderOptions

    options = EncoderOptions(
        checkpoint, tokenizer, precision, rate_policy, allow_pickle, int16=not no_int16
    )
    if list_encoders:
        _show_encoders(options, as_json)
        return
    if check:
        if encoder is None:
            raise click.UsageError("give --encoder NAME with --check (--list-encoders shows them)")
        _check_encoder(encoder, options, device or _default_device(), as_json)
        return
    if (dataset is None) == (manifest is None):
        raise click.UsageError("give either --dataset NAME or --manifest FILE")
    if encoder is None and dataset == "demo":
        encoder = "distillmos"
    if not dry_run and (out is None or encoder is None):
        raise click.UsageError("give --out FILE and --encoder NAME (--list-encoders shows them)")
    if min(batch_size, workers, max_failures, num_workers - 1, gpus_per_worker) < 0:
        raise click.UsageError(
            "--num-workers starts at 1, --batch-size, --workers, --gpus-per-worker and "
            "--max-failures at 0"
        )
    if ray is None and (num_workers != 1 or gpus_per_worker):
        raise click.UsageError("--num-workers and --gpus-per-worker need --ray ADDRESS")
    rated = _load(dataset, manifest, data_dir)
    if dry_run:
        _show_checks(rated, as_json)
        return
    assert out is not None
    assert encoder is not None
    signal.signal(signal.SIGTERM, _stop)
    from qamro_cache.encoders.registry import load_encoder
    from qamro_cache.extraction.extract import extract, run_extraction

    with ExtractionBar() as bar:
        if ray is None:
            device = device or _default_device()
            summary = extract(
                rated,
                out,
                load_encoder(encoder, options, device),
                device=device,
                batch_size=batch_size,
                workers=workers,
                dtype=dtype,
                shard=shard,
                retry_failed=retry_failed,
                progress=bar.show,
            )
        else:
            from qamro_cache.extraction.ray_engine import RayEngine

            engine = RayEngine(
                partial(load_encoder, encoder, options),
                address=ray,
                num_workers=num_workers,
                paths=rated.clips["path"].tolist(),
                gpus_per_worker=gpus_per_worker,
                batch_size=batch_size,
                workers=workers,
                dtype=dtype,
            )
            with closing(engine):
                summary = run_extraction(
                    rated,
                    out,
                    engine,
                    unit=engine.batch_size,
                    dtype=dtype,
                    shard=shard,
                    retry_failed=retry_failed,
                    progress=bar.show,
                    provenance={"ray_workers": num_workers, "batch_size": engine.batch_size},
                )
    _show_summary(summary, rated.synthetic, as_json)
    if summary.failures > max_failures:
        click.echo(
            f"{summary.failures} clips failed, more than --max-failures {max_failures}; "
            f"{summary.out} is complete and holds the other {summary.ok}",
            err=True,
        )
        sys.exit(3)


def _stop(number: int, frame: FrameType | None) -> None:
    # A batch system's polite request to end is treated as Ctrl-C: finished clips are kept.
    raise KeyboardInterrupt


def _load(dataset: str | None, manifest: Path | None, data_dir: Path | None) -> "Dataset":
    if manifest is not None:
        from qamro_cache.datasets.manifest import load_manifest

        return load_manifest(manifest, data_dir)
    from qamro_cache.datasets.registry import load_dataset

    return load_dataset(dataset or "", data_dir)


def _default_device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _show_encoders(options: "EncoderOptions", as_json: bool) -> None:
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


def _check_encoder(name: str, options: "EncoderOptions", device: str, as_json: bool) -> None:
    """Show the doctor's findings as they come; exit code 1 if one is not as it must be."""
    from dataclasses import asdict

    from qamro_cache.encoders.doctor import check_encoder

    found = []
    for check in check_encoder(name, options, device):
        found.append(check)
        if not as_json:
            mark = {True: "ok  ", False: "FAIL", None: "    "}[check.ok]
            click.echo(printable(f"{mark} {check.name}: {check.detail}"))
    if as_json:
        click.echo(json.dumps([asdict(check) for check in found], indent=2))
    if any(check.ok is False for check in found):
        fail(f"encoder {name} is not ready")


def _show_checks(rated: "Dataset", as_json: bool) -> None:
    from qamro_cache.datasets.checks import check_dataset
    from qamro_cache.datasets.report import report_tables

    report = check_dataset(rated)
    if as_json:
        click.echo(json.dumps(report, indent=2))
        return
    for table in report_tables(report):
        show_table(table.columns, table.rows, title=table.title, left=table.left)


def _show_summary(summary: "Summary", synthetic: bool, as_json: bool) -> None:
    from qamro_cache.cache.reader import open_cache

    cache = open_cache(summary.out)
    failed = cache.clips[cache.clips["status"] != "ok"]
    if as_json:
        columns = ["clip_id", "status", "reason"]
        record = summary.record() | {
            "synthetic": synthetic,
            "identity_sha256": cache.identity_sha256,
            "failed_clips": failed[columns].to_dict("records"),
        }
        click.echo(json.dumps(record, indent=2))
        return
    for row in failed[["clip_id", "status", "reason"]].head(_NO_FAILURES_SHOWN).to_numpy():
        click.echo(
            f"failed: {printable(str(row[0]))}: {row[1]}: {printable(str(row[2]))}", err=True
        )
    if len(failed) > _NO_FAILURES_SHOWN:
        click.echo(f"failed: and {len(failed) - _NO_FAILURES_SHOWN} more", err=True)
    stats = summary.stats
    figures = stats.figures()
    kind = "synthetic " if synthetic else ""
    click.echo(
        f"{summary.out}: {summary.ok} {kind}clips, {summary.failures} failed, "
        f"{summary.windows} windows"
    )
    if stats.clips_done:
        click.echo(
            f"{stats.clips_done} clips in {stats.elapsed:.1f} s ({stats.clips_per_second:.1f}/s), "
            f"{stats.clips_reused} were there; decoding "
            f"{figures['decode_clips_per_second_per_worker']:.1f} clips/s on each of "
            f"{stats.workers} threads, encoder "
            f"{figures['encode_windows_per_second_per_encoder']:.1f} windows/s, waiting for audio "
            f"{100 * stats.wait_share:.0f} % of its time"
        )
