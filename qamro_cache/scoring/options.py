"""The options of `predict` beside the head and the cache."""

from dataclasses import dataclass
from pathlib import Path

from qamro_cache.datasets.options import ColumnOptions
from qamro_cache.encoders.protocol import WeightsOptions
from qamro_cache.settings import setting


@dataclass(frozen=True, kw_only=True)
class PredictOptions(ColumnOptions, WeightsOptions):
    """What `predict` takes beside the head."""

    audio: Path | None = setting(None, "A folder of audio (or one file), embedded on the fly.")
    manifest: Path | None = setting(
        None, "Clips with prompts, embedded likewise: a table with path, clip_id, prompt."
    )
    device: str = setting("cpu", "Torch device: cpu, cuda or cuda:N.")
    out: Path | None = setting(None, "predictions.csv to write.")
    answer: Path | None = setting(None, "Also write the AudioMOS challenge's answer.txt.")
    answer_list: Path | None = setting(None, "The challenge's list of clips, for --answer.")
