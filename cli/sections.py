"""Options of the larger commands under headings, in ``--help``."""

from collections.abc import Mapping, Sequence

import click

#: Commands of fewer options have one list.
_FEW = 15

_REST = "Results"

#: Heading -> names of options, whatever command they are of; what stands in none is in `_REST`.
SECTIONS: Mapping[str, Sequence[str]] = {
    "Clips and ratings": (
        "dataset", "manifest", "data_dir", "cache", "predictions", "audio", "labels", "pairs",
        "axis", "axis_map", "only", "without", "split", "columns", "scale", "source", "group_by",
        "company", "strict",
    ),
    "Labels by raters": ("rater_model", "rater_weights", "screen"),
    "What heads read": ("feature", "text_feature", "context", "inputs", "pooling", "layers"),
    "How heads are judged": (
        "cv", "keep_together", "baselines", "baseline", "onto", "nested", "interval", "over",
        "resamples", "include_trained",
    ),
    "The grid": ("grid", "list_grids", "clips", "systems", "raters"),
    "The loss": (
        "loss", "alpha", "beta", "normalize", "bins", "width", "temperature", "delta",
    ),
    "The head": ("head", "widths", "activation", "layer_norm", "output", "init", "calibrate"),
    "The training": (
        "seeds", "epochs", "stop", "patience", "lr", "optimizer", "momentum", "weight_decay",
        "dropout", "batch_size", "batches", "refit",
    ),
    "The encoder": (
        "encoder", "list_encoders", "check", "checkpoint", "tokenizer", "allow_pickle",
        "rate_policy", "int16", "backend", "dtype", "max_failures", "retry_failed",
    ),
    "The machine": (
        "device", "precision", "no_kernels", "workers", "shard", "ray", "num_workers",
        "gpus_per_worker",
    ),
}  # fmt: skip

#: Where a name means something else than in other commands: (command, name) -> heading.
_APART = {("extract", "batch_size"): "The machine"}


def section_of(command: str, name: str) -> str:
    """Return the heading that an option stands under."""
    if found := _APART.get((command.removeprefix("qamro-"), name)):
        return found
    return next((heading for heading, names in SECTIONS.items() if name in names), _REST)


def write_options(
    command: click.Command, context: click.Context, formatter: click.HelpFormatter
) -> bool:
    """Write the options of a command by sections; return whether it has enough for that."""
    shown = [(one.name or "", record) for one in command.get_params(context)
             if (record := one.get_help_record(context)) is not None]  # fmt: skip
    if len(shown) < _FEW:
        return False
    by_section: dict[str, list[tuple[str, str]]] = {heading: [] for heading in (*SECTIONS, _REST)}
    name = context.info_name or ""
    places = {one: place for names in SECTIONS.values() for place, one in enumerate(names)}
    for one, record in sorted(shown, key=lambda pair: places.get(pair[0], 0)):
        by_section[section_of(name, one)].append(record)
    for heading, records in by_section.items():
        if records:
            with formatter.section(heading):
                formatter.write_dl(records)
    return True
