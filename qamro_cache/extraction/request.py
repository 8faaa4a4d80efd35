"""What an extraction, or a deep verification, is asked to do, checked before torch loads."""

import re
from dataclasses import dataclass, fields
from pathlib import Path

from qamro_cache.datasets.options import ColumnOptions, ScaleOptions, parse_columns, parse_scales
from qamro_cache.encoders.protocol import EncoderOptions, WeightsOptions
from qamro_cache.errors import OptionError
from qamro_cache.settings import setting


@dataclass(frozen=True)
class ExtractRequest(ColumnOptions, ScaleOptions, EncoderOptions):
    """The options of ``extract`` and of qamro-extract; those of the encoder come first.

    Raises:
        OptionError: a value that its declaration does not allow, or two that do not go together.
    """

    data_dir: Path | None = setting(
        None, "Folder of the set's release, or that a manifest's paths start from."
    )
    axis: tuple[str, ...] = setting(
        (), "Axis to take from the ratings; may repeat.", default_help="all"
    )
    shard: str = setting("all", "Only the i-th of n parts, as i/n; then qamro-cache merge.")
    device: str = setting("", "Torch device.", default_help="a GPU if there is one")
    batch_size: int = setting(
        0,
        "Most windows a batch, and clips a unit of work.",
        low=0,
        high=4096,
        why="so many windows of 10 s fill 8 GB",
        default_help="8; on a GPU 64",
    )
    workers: int = setting(
        0,
        "Decoding threads.",
        low=0,
        high=256,
        why="each may hold 64 MB of decoded audio",
        default_help="one a processor",
    )
    dtype: str = setting(
        "float32", "Type in which features are stored.", choices=("float32", "float16")
    )
    max_failures: int = setting(0, "Failed clips beyond which to exit with 3.", low=0)
    retry_failed: bool = setting(False, "Try clips again that failed before.")
    ray: str = setting("", "Address of a Ray cluster to encode on; local: this machine.")
    num_workers: int = setting(
        1, "Encoders at once, with --ray.", low=1, high=1024, why="each is a process"
    )
    gpus_per_worker: float = setting(
        0.0,
        "GPUs of each, or a part of one; 0: processors only.",
        low=0,
        high=16,
        why="an encoder uses one GPU",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        parse_columns(self.columns)
        parse_scales(self.scale)
        # More digits than an int may have are a ValueError of Python's own.
        if self.shard != "all" and not (
            (found := re.fullmatch(r"(\d{1,9})/(\d{1,9})", self.shard, re.ASCII))
            and 1 <= int(found[1]) <= int(found[2])
        ):
            raise OptionError(
                f"shard {self.shard!r} is not i/n with i from 1 to n, for example 3/8"
            )
        if not self.ray and (self.num_workers != 1 or self.gpus_per_worker):
            raise OptionError("--num-workers and --gpus-per-worker need --ray ADDRESS")
        if self.ray and self.device:
            raise OptionError("--device does not go with --ray; use --gpus-per-worker")

    @property
    def part(self) -> tuple[int, int] | None:
        """(i, n) of ``shard``; None for all clips."""
        if self.shard == "all":
            return None
        index, count = self.shard.split("/")
        return int(index), int(count)

    @property
    def encoder_options(self) -> EncoderOptions:
        """Those of the encoder alone."""
        return EncoderOptions(**{f.name: getattr(self, f.name) for f in fields(EncoderOptions)})


@dataclass(frozen=True)
class VerifyOptions(WeightsOptions):
    """The options of `deep.verify_deep` and of ``qamro-cache verify --deep``."""

    sample: int = setting(16, "Clips of each file for --deep.", low=1)
    seed: int = setting(0, "Of the random choice for --deep.", low=0)
    device: str = setting("cpu", "Torch device, for --deep: cpu, cuda or cuda:N.")
