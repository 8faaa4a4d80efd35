"""What an extraction, or a deep verification, is asked to do, checked before torch loads."""

from dataclasses import dataclass, fields
from pathlib import Path

from qamro_cache.datasets.options import ColumnOptions, ScaleOptions, parse_columns, parse_scales
from qamro_cache.encoders.protocol import EncoderOptions, WeightsOptions
from qamro_cache.settings import setting
from qamro_cache.spread import RayOptions, parse_shard


@dataclass(frozen=True)
class ExtractRequest(ColumnOptions, ScaleOptions, EncoderOptions, RayOptions):
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

    def __post_init__(self) -> None:
        super().__post_init__()
        parse_columns(self.columns)
        parse_scales(self.scale)
        parse_shard(self.shard)
        self.refuse_without_ray(self.device)

    @property
    def part(self) -> tuple[int, int] | None:
        """(i, n) of ``shard``; None for all clips."""
        return parse_shard(self.shard)

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
