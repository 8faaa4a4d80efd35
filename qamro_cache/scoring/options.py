"""The options of `predict` and `calibrate` beside the head and the cache."""

from dataclasses import dataclass
from pathlib import Path

from qamro_cache.datasets.options import ColumnOptions, ScaleOptions
from qamro_cache.encoders.protocol import WeightsOptions
from qamro_cache.settings import setting


@dataclass(frozen=True, kw_only=True)
class PredictOptions(ColumnOptions, WeightsOptions):
    """What `predict` takes beside the head."""

    audio: Path | None = setting(
        None,
        "A folder of audio, a file, a tar of WebDataset, or - for a list of files on stdin: "
        "embedded on the fly.",
    )
    manifest: Path | None = setting(
        None, "Clips with prompts, embedded likewise: a table with path, clip_id, prompt."
    )
    group_by: str = setting(
        "",
        "Groups of --audio, for a head that compares: folder, or a regular expression whose first "
        "group is found in a clip's name.",
    )
    company: tuple[Path, ...] = setting(
        (),
        "More clips that those are heard beside, without predictions; may repeat: a cache with "
        "--cache, one for each encoder, else a manifest or a folder.",
    )
    strict: bool = setting(
        False,
        "Refuse clips that are alone, or with a number of others that the head never learned.",
    )
    source: str = setting(
        "",
        "Listening test on whose scale a head of several scores.",
        default_help="that of the most training clips",
    )
    device: str = setting("cpu", "Torch device: cpu, cuda or cuda:N.")
    out: Path | None = setting(None, "predictions.csv to write; JSON lines if it ends in .jsonl.")
    answer: Path | None = setting(
        None, "Also write the AudioMOS challenge's answer.txt, or a .zip with it."
    )
    answer_list: Path | None = setting(None, "The challenge's list of clips, for --answer.")


@dataclass(frozen=True, kw_only=True)
class CalibrateOptions(ColumnOptions, ScaleOptions, WeightsOptions):
    """What `calibrate` takes beside the head, the labels and the cache."""

    audio: Path | None = setting(
        None, "A folder with the labeled clips: those of the label file are embedded."
    )
    axis: tuple[str, ...] = setting(
        (), "Axis to calibrate; may repeat.", default_help="all that both have"
    )
    device: str = setting("cpu", "Torch device: cpu, cuda or cuda:N.")
    out: Path | None = setting(None, "Head file to write.", default_help="the head's own")
