"""``qamro-evaluate``: how well predictions agree with listeners."""

from pathlib import Path

import click

from .common import notices_to_stderr, one_line_errors, show_scores

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
@click.option("--resamples", default=1000, show_default=True, help="Bootstrap draws.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout.")
@one_line_errors
def main(
    predictions: Path,
    labels: Path | None,
    dataset: str,
    data_dir: Path | None,
    axis_map: tuple[str, ...],
    split: str,
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
    notices_to_stderr()
    truth = labels if labels is not None else load_dataset(dataset, data_dir)
    result = evaluate(predictions, truth, axis_map=pairs, split=split, resamples=resamples)
    if as_json:
        from qamro_cache.evaluation.score import json_text

        click.echo(json_text(result))
        return
    for axis, scored in result["axes"].items():
        title = f"{axis} ({'synthetic, ' if result['synthetic'] else ''}{result['dataset']})"
        show_scores(title, {scored["predicted_axis"]: scored}, scored["ceiling"])
    for name, why in (("unpredicted", "have no prediction"), ("unlabelled", "have no label")):
        if result[name]:
            click.echo(f"{result[name]} clips {why} and are not counted", err=True)
