"""``qamro-predict``: scores for new clips from a head file."""

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .common import (
    fail,
    notices_to_stderr,
    one_line_errors,
    printable,
    show_table,
    usable_device,
    version_option,
    weights_options,
)
from .extraction_bar import ExtractionBar

if TYPE_CHECKING:
    from qamro_cache.datasets.records import Dataset

File = click.Path(path_type=Path)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--head", type=File, required=True, help="head.safetensors of a qamro-train run.")
@click.option("--cache", type=File, multiple=True, help="Embeddings of the clips; may repeat.")
@click.option("--audio", type=File, help="A folder of audio (or one file), embedded on the fly.")
@click.option(
    "--manifest",
    type=File,
    help="Clips with prompts, embedded likewise: a CSV with clip_id, path, prompt.",
)
@weights_options
@click.option(
    "--device",
    callback=usable_device,
    default="cpu",
    show_default=True,
    help="cpu, cuda or cuda:N.",
)
@click.option("--out", type=File, required=True, help="predictions.csv to write.")
@click.option("--answer", type=File, help="Also write the AudioMOS challenge's answer.txt.")
@click.option("--answer-list", type=File, help="The challenge's list of clips, for --answer.")
@version_option
@one_line_errors
def main(
    head: Path,
    cache: tuple[Path, ...],
    audio: Path | None,
    manifest: Path | None,
    checkpoint: str,
    tokenizer: str,
    allow_pickle: bool,
    device: str,
    out: Path,
    answer: Path | None,
    answer_list: Path | None,
) -> None:
    """Predict mean opinion scores with a trained head.

    Clips come from a cache (--cache), or from a folder of audio (--audio) or a manifest
    (--manifest), which are embedded with the encoder that the head was trained on.
    """
    from qamro_cache.cache.reader import open_cache

    if sum(bool(given) for given in (cache, audio, manifest)) != 1:
        raise click.UsageError("name one of --cache, --audio and --manifest")
    if answer_list is not None and answer is None:
        raise click.UsageError("--answer-list needs --answer FILE")
    notices_to_stderr()
    for path in (head, *([audio] if audio else [])):
        if not path.exists():
            fail(printable(f"{path}: no such file"))
    opened = open_cache(list(cache)) if cache else None
    clips: Path | Dataset | None = audio
    if manifest is not None:
        from qamro_cache.datasets.manifest import load_manifest

        clips = load_manifest(manifest)
    # Loads torch, which takes seconds: a wrong name has been refused by now.
    from qamro_cache.heads.file import load_head
    from qamro_cache.scoring.predict import predict, refuse_other_file, write_predictions

    refuse_other_file(out)
    loaded = load_head(head)
    with nullcontext() if opened is not None else ExtractionBar() as bar:
        table = predict(
            loaded,
            cache=opened,
            audio=clips,
            checkpoint=checkpoint,
            tokenizer=tokenizer,
            allow_pickle=allow_pickle,
            device=device,
            progress=None if bar is None else bar.show,
        )
    write_predictions(table, out)
    rows = []
    for axis, part in table.groupby("axis", sort=False):
        known = part["prediction"].notna()
        rows.append(
            [
                str(axis),
                f"{known.sum()}",
                f"{(~known).sum()}",
                *(
                    f"{mean:.3f}" if mean == mean else "-"
                    for mean in (part["prediction"].mean(), part["std"].mean())
                ),
                f"{part['ood'].sum()}",
                str(part["scale"].iloc[0]),
            ]
        )
    synthetic = " (trained on synthetic data)" if loaded.training.get("synthetic") else ""
    failed = table.drop_duplicates("clip_id")
    failed = failed[failed["reason"] != ""]
    for clip_id, reason in list(zip(failed["clip_id"], failed["reason"], strict=True))[:5]:
        click.echo(f"no prediction for {printable(f'{clip_id}: {reason}')}", err=True)
    if len(failed) > 5:
        click.echo(f"and {len(failed) - 5} more; {out} has the reasons", err=True)
    if len(failed) and len(failed) == table["clip_id"].nunique():
        fail("no clip could be used")
    show_table(
        ["axis", "clips", "without", "mean", "seeds' std", "out of distribution", "scale"],
        rows,
        title=f"predictions of {head}{synthetic}",
    )
    click.echo(f"wrote {out}", err=True)
    if answer is not None:
        from qamro_cache.scoring.predict import write_answer_file

        write_answer_file(table, answer, answer_list)
        click.echo(f"wrote {answer}", err=True)
