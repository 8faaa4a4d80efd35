"""``qamro-evaluate``: how well predictions agree with listeners."""

from pathlib import Path
from typing import Any

import click

from qamro_cache.evaluation.options import EvaluateOptions

from .common import OneLine, notices_to_stderr, version_option, wrapped
from .options import BY, File, option_of, request_options
from .report import page_of, page_to_make
from .scores import SYSTEM_COLUMNS, begin, far_words, show_scores, show_systems, show_words


@click.command(cls=OneLine, stopped="nothing is written by this command; give it again")
@click.option(
    "--predictions",
    type=File,
    required=True,
    multiple=True,
    help="predictions.csv or the folder of its run, or a challenge's answer.txt; of several the "
    "first is held against the others.",
)
@click.option("--labels", type=File, help="The truth: a CSV of clips and scores, or a cache (.h5).")
@request_options(EvaluateOptions)
@option_of(BY)
@click.option("--report", type=File, metavar="FILE", help="Also make a page of it.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout.")
@version_option
def main(
    predictions: tuple[Path, ...],
    labels: Path | None,
    by: str | None,
    report: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Score predictions against listeners' mean opinion scores.

    Figures are those of the AudioMOS challenge, clip and system level, and within groups, each with
    a 95 % interval over systems and groups (or prompts), and the raters' own agreement beside them
    where single ratings are known.
    """
    notices_to_stderr()
    from qamro_cache.evaluation.request import evaluate_request

    first, *others = predictions
    options["baseline"] = [*others, *(options["baseline"] or ())] or None
    request = evaluate_request(first, labels, options)
    page = page_to_make(Path(), str(report)) if report else None
    from qamro_cache.evaluation.evaluate import run_evaluate

    result = run_evaluate(request)
    if as_json:
        from qamro_cache.files import json_text

        click.echo(json_text(result))
    else:
        _show(result, first, by)
    if page:
        from qamro_cache.reports.evaluation import evaluation_page

        page_of(evaluation_page(request, result), page)


def _show(result: dict[str, Any], predictions: Path, by: str | None) -> None:
    """Print a table an axis, with what must be known of its figures."""
    from qamro_cache.heads.trained import known_words

    held_out = [result["split"] or f"predictions of {predictions}", result["chosen"]]
    origin = {**result, "split": "; judged: ".join(filter(None, held_out))}
    for place, (axis, scored) in enumerate(result["axes"].items()):
        if place:
            click.echo()
        models = {scored["model"]: scored}
        if others := scored["without_trained"]:
            models["not trained on"] = others
        show_scores(axis, origin, {**models, **scored["baselines"]}, scored["ceiling"])
        show_words(begin(axis, result["axes"]), scored)
        if by == "system":
            show_systems(axis, scored["by_system"], SYSTEM_COLUMNS)
        if scored["trained_on"]:
            known, near = scored["trained_on"], scored["trained_on_near"]
            said = known_words(known, near, f"{scored['clips']} clips")
            said = f"{axis}: {said}; figures of these are no sign of how good it is"
            click.echo(said, err=True)
        if scored["published_systems"]:
            click.echo(
                f"{axis}: the truth of {scored['published_systems']} systems is their published "
                "score, not the mean over these clips",
                err=True,
            )
        if scored["ood"]:
            of_folds = bool(result["split"])
            said = far_words(scored["ood"], {"": scored}, of_folds=of_folds)
            click.echo(wrapped(f"{axis}: {said}"), err=True)
    missing = "were not judged in the run" if result["split"] else "have no prediction"
    for name, why in (("unpredicted", missing), ("unlabeled", "have no label")):
        if result[name]:
            click.echo(f"{result[name]} clips {why} and are not counted", err=True)
