"""``qamro-evaluate``: how well predictions agree with listeners."""

from pathlib import Path

import click

from .common import notices_to_stderr, one_line_errors, show_scores, version_option

File = click.Path(path_type=Path)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--predictions", type=File, required=True, help="predictions.csv, or a challenge's answer.txt."
)
@click.option("--labels", type=File, help="The truth: a CSV of clips and scores, or a cache (.h5).")
@click.option("--dataset", default="", help="The truth: a data set by name, with --data-dir.")
@click.option("--data-dir", type=File, help="The folder of the data set.")
@click.option(
    "--axis-map",
    multiple=True,
    metavar="PREDICTED=LABEL",
    help="Compare axes of different names; rank and linear-fit figures only. May repeat.",
)
@click.option("--split", default="", help="Only the clips of this split.")
@click.option("--answer-list", type=File, help="The challenge's list, which answer.txt must match.")
@click.option(
    "--resamples",
    default=1000,
    show_default=True,
    type=click.IntRange(min=0),
    help="Bootstrap draws.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout.")
@version_option
@one_line_errors
def main(
    predictions: Path,
    labels: Path | None,
    dataset: str,
    data_dir: Path | None,
    axis_map: tuple[str, ...],
    split: str,
    answer_list: Path | None,
    resamples: int,
    as_json: bool,
) -> None:
    """Score predictions against listeners' mean opinion scores.

    Figures are those of the AudioMOS challenge, clip and system level, each with the 95 % interval
    of a bootstrap over systems, and the raters' own agreement beside them where single ratings are
    known.
    """
    from qamro_cache.datasets.registry import load_dataset
    from qamro_cache.evaluation.evaluate import evaluate

    if (labels is None) == (not dataset):
        raise click.UsageError("name the truth with either --labels or --dataset")
    pairs = dict(pair.partition("=")[::2] for pair in axis_map)
    if not all(pairs.values()):
        raise click.UsageError("--axis-map takes PREDICTED=LABEL")
    if len(pairs) < len(axis_map):
        raise click.UsageError("--axis-map names a predicted axis twice; map it once a run")
    notices_to_stderr()
    truth = labels if labels is not None else load_dataset(dataset, data_dir)
    result = evaluate(
        predictions,
        truth,
        axis_map=pairs,
        split=split,
        answer_list=answer_list,
        resamples=resamples,
    )
    if as_json:
        from qamro_cache.evaluation.score import json_text

        click.echo(json_text(result))
        return
    for axis, scored in result["axes"].items():
        title = f"{axis} ({'synthetic, ' if result['synthetic'] else ''}{result['dataset']})"
        show_scores(title, {scored["predicted_axis"]: scored}, scored["ceiling"])
        if scored["published_systems"]:
            click.echo(
                f"{axis}: the truth of {scored['published_systems']} systems is their published "
                "score, not the mean over these clips",
                err=True,
            )
        if scored["ood"]:
            click.echo(
                f"{axis}: {scored['ood']} of {scored['clips']} clips are out of the distribution "
                "of the head's training set; do not rely on their predictions",
                err=True,
            )
    for name, why in (("unpredicted", "have no prediction"), ("unlabeled", "have no label")):
        if result[name]:
            click.echo(f"{result[name]} clips {why} and are not counted", err=True)
