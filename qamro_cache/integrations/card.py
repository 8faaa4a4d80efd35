"""A model card by the hub's conventions, made of a head's own record."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from qamro_cache.encoders.registry import find_encoder
from qamro_cache.errors import OptionError, QamroError
from qamro_cache.heads.hub import refuse_missing_hub, refuse_name
from qamro_cache.heads.info import head_info, scale_words
from qamro_cache.heads.names import HEAD_FILE, list_heads
from qamro_cache.paths import PathLike

#: Identifiers of the hub by what licenses are called here, the strictest first.
_LICENSES = {
    "cc-by-nc-sa-4.0": r"CC.BY.NC.SA 4",
    "cc-by-nc-4.0": r"CC.BY.NC 4",
    "cc-by-sa-4.0": r"CC.BY.SA 4",
    "cc-by-4.0": r"CC.BY 4",
    "apache-2.0": r"Apache.2",
    "bsd-2-clause": r"simplified BSD|BSD.2",
    "mit": r"\bMIT\b",
    "cc0-1.0": r"CC0",
}
#: Figures of a card, with their names.
_FIGURES = {
    "clip_mse": "MSE over clips",
    "clip_lcc": "Pearson correlation over clips",
    "clip_srcc": "Spearman correlation over clips",
    "group_srcc": "Spearman correlation within groups",
    "system_srcc": "Spearman correlation over systems",
}
#: What the hub calls them.
_METRICS = {"mse": "mse", "lcc": "pearsonr", "srcc": "spearmanr"}
_HUB_MODEL = re.compile(r"[\w.-]+/[\w.-]+")


def model_card(head: PathLike, name: str = "") -> str:
    """Return a head's model card: metadata in YAML, then what a reader must know, in Markdown.

    Args:
        head: as `load_head` takes it.
        name: ``owner/name`` that it is to have; empty: the name of a head of `list_heads`, or a
            word for one.

    Raises:
        OptionError: ``name`` is no name of a repository.
        QamroError: as `load_head`; huggingface_hub, which knows the conventions, is not installed.
    """
    refuse_missing_hub()
    if name:
        refuse_name(name)
    from huggingface_hub import ModelCardData

    info = head_info(head)
    name = name or (str(head) if str(head) in list_heads() else "qamro-head")
    try:
        metadata = ModelCardData(
            library_name="qamro_cache",
            base_model=_base_models(info) or None,
            datasets=[info["dataset"]] if info["dataset"] else None,
            metrics=list(_METRICS.values()),
            model_name=name.rpartition("/")[2],
            eval_results=_results(info) or None,
            pipeline_tag="audio-classification",
            tags=["qamro", "mean-opinion-score", "audio-quality"],
            **_license(info["licenses"]),
        ).to_yaml()
        return f"---\n{metadata}\n---\n\n{_body(info, name)}"
    except (IndexError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise QamroError(
            f"{info['file']}: its record has figures that qamro-train never wrote, so there is no "
            "card of it"
        ) from error


def is_card(path: Path) -> bool:
    """Return whether a file is a card of `model_card`."""
    start = path.read_text(encoding="utf-8")[:4000]
    return start.startswith("---\n") and "\nlibrary_name: qamro_cache\n" in start


def _base_models(info: Mapping[str, Any]) -> list[str]:
    """Return the encoders that are models of the hub."""
    found = []
    for name in info["encoders"]:
        key, _, argument = name.partition(":")
        if key == "hf" and _HUB_MODEL.fullmatch(argument):
            found.append(argument)
            continue
        try:
            source = find_encoder(key if not argument else f"{key}:{argument}")[0].source
        except OptionError:
            continue
        found += re.findall(r"https://huggingface\.co/([\w.-]+/[\w.-]+)", source)
    return found


def _license(licenses: Mapping[str, str]) -> dict[str, Any]:
    """Return the strictest of the licenses; nothing where that of the data is not known."""
    if "data" not in licenses:
        return {}
    parts = [part for text in licenses.values() for part in text.split(";")]
    found = [
        next((name for name, like in _LICENSES.items() if re.search(like, part)), "other")
        for part in parts
    ]
    if "other" in found:
        return {"license": "other", "license_name": "of-its-encoder-and-data"}
    return {"license": min(found, key=list(_LICENSES).index)}


def _judged(info: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """Yield each axis, the name of its heads among the models, and what was found of it."""
    for axis, found in ((info["figures"] or {}).get("axes") or {}).items():
        yield axis, found["head"], found


def _results(info: Mapping[str, Any]) -> list[Any]:
    """Return the figures of the held-out clips as the hub's model index has them."""
    from huggingface_hub import EvalResult

    results = []
    for axis, ours, found in _judged(info):
        for figure, (value, low, high) in _figures(
            found["models"][ours], judged=info["axes"][axis]["judged"]
        ).items():
            between = None if low is None else {"confidence": 0.95, "low": low, "high": high}
            results.append(
                EvalResult(
                    task_type="audio-classification",
                    task_name=f"mean opinion score: {axis}",
                    dataset_type=info["dataset"],
                    dataset_name=info["dataset"],
                    dataset_split=info["figures"]["split"],
                    metric_type=_METRICS[figure.rpartition("_")[2]],
                    metric_name=f"{axis}: {_FIGURES[figure]}{_words(low, high)}",
                    metric_value=value,
                    metric_args=between,
                )
            )
    return results


def _figures(model: Mapping[str, Any], *, judged: bool) -> dict[str, tuple[Any, Any, Any]]:
    """Return value, low and high of the card's figures of a model, those that are defined.

    Not ``judged``: of scores on another scale than the head's, so without their errors.
    """
    found = model["metrics"]
    ends = ("value", "low", "high")
    names = [name for name in _FIGURES if name in found and (judged or name != "clip_mse")]
    taken = {name: tuple(found[name][end] for end in ends) for name in names}
    return {name: one for name, one in taken.items() if one[0] is not None}


def _words(low: Any, high: Any) -> str:
    return "" if low is None else f" (95 % interval {low:.3g} to {high:.3g})"


def _body(info: Mapping[str, Any], name: str) -> str:
    """Return what follows the metadata."""
    example = name in list_heads()
    call = name if example or "/" in name else HEAD_FILE
    fetch = f"qamro-head pull {name} --out {HEAD_FILE}\n" if "/" in name else ""
    given = HEAD_FILE if fetch else call
    encoders = " + ".join(info["encoders"])
    axes = ", ".join(f"`{axis}` ({scale_words(one)})" for axis, one in info["axes"].items())
    lines = [
        f"# {name}",
        "",
        f"A head of qamro_cache ([QAMRO](https://arxiv.org/abs/2508.08957)): it predicts the mean "
        f"opinion score that listeners would give a clip of audio on {axes}, from "
        f"`{info['feature']}` of the frozen encoder {encoders}.",
        "",
    ]
    if example:
        lines += ["It comes with the package as an **example**, not as a measure to rely on.", ""]
    if info["synthetic"]:
        lines += ["**It was trained on synthetic data**, and says nothing about listeners.", ""]
    lines += ["```sh", f"{fetch}qamro-predict --head {given} --audio FOLDER --out scores.csv"]
    lines += ["```", "", "## How good it is", "", *_verdicts(info), "", "## Limits", ""]
    lines += [f"- {one}" for one in _limits(info)]
    lines += ["", "## Licenses and attribution", "", *_licenses(info), "", "## Training", ""]
    lines += [f"- {one}" for one in _training(info)]
    return "\n".join(lines) + "\n"


def _verdicts(info: Mapping[str, Any]) -> list[str]:
    """Return a table an axis: the heads, the baselines and the ceiling; and the verdicts."""
    lines = []
    for axis, ours, found in _judged(info):
        about = found["models"][ours]
        lines += [
            f"`{axis}` of {info['dataset']}: {about['clips']} clips, {about['systems']} systems, "
            f"{about['groups']} groups; {info['figures']['split']}. Intervals are of 95 %, "
            f"{about['population'] or 'not known'}. {_since(info, axis)}",
            "",
        ]
        judged = info["axes"][axis]["judged"]
        names = list(_figures(about, judged=judged))
        lines.append(f"| | {' | '.join(_FIGURES[one] for one in names)} |")
        lines.append(f"|---|{'---|' * len(names)}")
        for model in sorted(found["models"], key=lambda one: one != ours):
            scored = found["models"][model]
            figures = _figures(scored, judged=judged)
            cells = [
                f"{figures[one][0]:.3g}{_words(*figures[one][1:]).replace('95 % interval ', '')}"
                if one in figures
                else ""
                for one in names
            ]
            lines.append(f"| {model} | {' | '.join(cells)} |")
        if found["ceiling"]:
            cells = [_number(found["ceiling"].get(one)) for one in names]
            lines.append(f"| a perfect predictor | {' | '.join(cells)} |")
        lines += ["", *map(_verdict, found["verdicts"]), ""]
    return lines[:-1] or ["Its file holds no figures: nobody knows."]


def _since(info: Mapping[str, Any], axis: str) -> str:
    """Say what the head in the file is to the one that was judged."""
    words = "The head in this file was trained on all of these clips afterwards."
    if info["unseen"]:
        words = "The head in this file learned from none of these clips."
    if not info["axes"][axis]["judged"]:
        words += " It was calibrated since: the figures are of its scores before."
    return words


def _verdict(verdict: Mapping[str, Any]) -> str:
    """Say whether the head is better than a baseline: over all clips, and within groups."""
    better = [one["beats"] for one in (verdict, verdict["within"]) if one]
    words = "**better**" if all(better) else "better in part" if any(better) else "**not better**"
    return f"- Against {verdict['baseline']}, as far as can be told, {words}: {verdict['words']}"


def _number(value: Any) -> str:
    return "" if value is None else f"{value:.3g}"


def _limits(info: Mapping[str, Any]) -> Sequence[str]:
    clips = "clips" if info["clips"] is None else f"{info['clips']} clips"
    return (
        f"It learned from {clips} of {info['dataset'] or 'a set without a name'} alone; of other "
        "kinds of sound, languages and listeners it knows nothing.",
        "Each prediction has `ood`: the clip is unlike those that it learned from, and the number "
        "is not to be relied on; and `std`, over its members, which is no error of the prediction.",
        *(
            ["It compares a clip with its company, and must be given that."]
            if info["context"] != "none"
            else []
        ),
    )


def _licenses(info: Mapping[str, Any]) -> list[str]:
    names = {"encoder": "Encoder's weights", "data": f"Audio and ratings of {info['dataset']}"}
    lines = [f"- {names.get(what, what)}: {text}" for what, text in info["licenses"].items()]
    lines.append(
        "- This file holds no sound: weights, and of each clip that was learned from its vector, "
        "hashes and a coarse fingerprint."
    )
    name = str(_license(info["licenses"]).get("license", ""))
    if name.startswith("cc-"):
        kind, _, version = name.removeprefix("cc-").rpartition("-")
        lines.append(f"- https://creativecommons.org/licenses/{kind}/{version}/")
    if "data" not in info["licenses"]:
        lines.append("- Audio and ratings: not stated in the head; say it before you pass it on.")
    return lines


def _training(info: Mapping[str, Any]) -> list[str]:
    about = info["architecture"]
    members = {one["members"] for one in info["axes"].values()}
    numbers = sum(one["parameters"] for one in info["axes"].values())
    recipe = ", ".join(f"{key} {value}" for key, value in info["recipe"].items())
    versions = ", ".join(f"{key} {value}" for key, value in info["versions"].items())
    widths = " ".join(map(str, about.get("widths", ())))
    if about["kind"] == "ensemble":
        recipe = "of each member its own"
    return [
        f"{about['kind']}{f', widths {widths}' if widths else ''}; {max(members)} member(s) an "
        f"axis, {numbers:,} parameters, {info['bytes']:,} bytes",
        *(f"encoder {name}, identity {sha256[:16]}" for name, sha256 in info["encoders"].items()),
        f"context {info['context']}",
        f"recipe: {recipe or 'not known'}",
        f"versions: {versions or 'not known'}",
        f"sha256 of the file: {info['sha256']}",
    ]
