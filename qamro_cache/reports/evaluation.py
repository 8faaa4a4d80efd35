"""The page of ``qamro-evaluate``: anybody's predictions, held against listeners."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from qamro_cache.evaluation.files import name_of, read_predictions
from qamro_cache.evaluation.judged import group_word
from qamro_cache.evaluation.matched import Found, match
from qamro_cache.evaluation.request import EvaluateRequest
from qamro_cache.heads.trained import known_words
from qamro_cache.reports.clips import Predicted, predicted_of
from qamro_cache.reports.looks import by_system, looks
from qamro_cache.reports.page import Block, Facts, Page, Scale, Section, Words, figures_first
from qamro_cache.reports.scores import headline, score_blocks, source_words


def evaluation_page(request: EvaluateRequest, result: Mapping[str, Any]) -> Page:
    """Return the page of what `qamro_cache.evaluation.evaluate.run_evaluate` found."""
    file = name_of(request.predictions)
    table = read_predictions(request.predictions, request.options.answer_list)
    found = match(table, request.truth, request.options, file)
    lead, sections = [], []
    for axis, scored in result["axes"].items():
        lead.append(headline(axis, scored))
        lead += [f"{axis}: {one['words']}." for one in scored["verdicts"]]
        models = {scored["model"]: scored}
        if scored["without_trained"]:
            models["not trained on"] = scored["without_trained"]
        models |= scored["baselines"]
        blocks = _warnings(scored) + source_words(scored["error_sources"])
        noun = request.truth.group_kind or scored["group_word"]
        blocks += score_blocks(axis, models, scored["ceiling"], scored["model"], noun)
        scale = Scale(axis, *scored["scale"])
        systems = by_system(axis, scored["by_system"], scale)
        of = _predicted(request, found, axis, scored)
        blocks += [*systems[:1], *looks(axis, of, noun, scale), *systems[1:]]
        sections.append(Section(axis, figures_first(blocks)))
    facts = {
        "predictions": str(file),
        "labels": f"{result['dataset']}{' (synthetic)' if result['synthetic'] else ''}",
        "clips judged": result["chosen"] or "all",
        "without a prediction": f"{result['unpredicted']} clips",
        "without a label": f"{result['unlabeled']} clips",
    }
    sections.append(Section("What was judged", [Facts(list(facts.items()))]))
    title = f"{file.name} against {result['dataset']}"
    return Page(title, lead, sections, bool(result["synthetic"]), "evaluation of predictions")


def _warnings(scored: Mapping[str, Any]) -> list[Block]:
    of = f"of {scored['clips']} clips"
    lines = []
    if scored["trained_on"]:
        known, near = scored["trained_on"], scored["trained_on_near"]
        said = known_words(known, near, f"{scored['clips']} clips")
        lines.append(
            f"{said[0].upper()}{said[1:]}; figures of these are no sign of how good it is."
        )
    if scored["ood"]:
        lines.append(
            f"{scored['ood']} {of} are out of the distribution of the head's training set; do not "
            "rely on their predictions."
        )
    if "clip_mse" not in scored["metrics"]:
        lines.append(
            "The predictions are on another scale than the ratings: in figures of clips and in "
            "errors they stand after the best straight line."
        )
    return [Words(lines, "warning")] if lines else []


def _predicted(
    request: EvaluateRequest, found: Found, axis: str, scored: Mapping[str, Any]
) -> Predicted:
    """Return the clips of an axis that were chosen and have a label and all predictions."""
    truth = request.truth
    clips, theirs = truth.clips, scored["predicted_axis"]
    there = found.table["axis"]
    part = found.table[there.isin([theirs] if theirs in set(there) else [""])]
    rows = found.rows[found.places(part)]
    known = clips.iloc[rows]
    index = truth.labels.axis_index(axis)
    frame = pd.DataFrame(
        {
            "clip_id": known["clip_id"].to_numpy(),
            "system": known["system"].to_numpy(),
            "group": known[group_word(clips)].to_numpy(),
            "seed": part["seed"].to_numpy(),
            "prediction": part["prediction"].to_numpy(np.float64),
            "target": truth.labels.mean[rows, index],
        }
    )
    if "clip_mse" not in scored["metrics"] and len(frame) > 1:
        both = frame[["prediction", "target"]].dropna()
        slope, intercept = np.polyfit(both["prediction"], both["target"], 1)
        frame["prediction"] = slope * frame["prediction"] + intercept
    paths = clips["path"] if "path" in clips else pd.Series("", clips.index)
    return predicted_of(frame, dict(zip(clips["clip_id"], paths, strict=True)))
