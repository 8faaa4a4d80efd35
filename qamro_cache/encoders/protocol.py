"""What an encoder must offer, and how it is found."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from qamro_cache.identity import EncoderSpec
from qamro_cache.settings import check_settings, setting

if TYPE_CHECKING:
    from torch import Tensor


class Encoder(Protocol):
    """A frozen model: windows in, named features out. Pure: same input, same output.

    One that inherits from this needs no `encode_text` where it has no text tower.
    One whose `encode` keeps the gradient by the windows, within `precision.with_gradient`, says so
    by an attribute ``differentiable`` that is true.
    """

    spec: EncoderSpec

    def encode(self, windows: "Tensor", valid: "Tensor") -> "Mapping[str, Tensor]":
        """Encode a batch.

        Args:
            windows: [B, spec.audio.window] float32 in [-1, 1], padded by the audio policy, on the
                encoder's device.
            valid: [B] int64, the samples of each window that are audio and not padding.

        Returns:
            For each name of ``spec.features`` a tensor [B, *shape], in any float dtype.
        """
        ...

    def encode_text(self, prompts: Sequence[str]) -> "Mapping[str, Tensor]":
        """Return for each name of ``spec.text_features`` a tensor [P, *shape]; {} without any."""
        return {}


@dataclass(frozen=True)
class WeightsOptions:
    """Where an encoder's weights and vocabulary are on this machine.

    Attributes:
        checkpoint: file or folder with the weights; empty: the encoder's own default.
        tokenizer: folder with the text tower's vocabulary; empty: the local hub cache; ``none``:
            leave the text tower out.
        allow_pickle: load a checkpoint that needs unrestricted unpickling, which can run code.
    """

    checkpoint: str = setting("", "The encoder's weights, a file or a folder.")
    tokenizer: str = setting("", "Folder of the text tower's tokenizer; none: no text tower.")
    allow_pickle: bool = setting(False, "Load checkpoints that can run code.")

    def __post_init__(self) -> None:
        check_settings(self)


@dataclass(frozen=True)
class EncoderOptions(WeightsOptions):
    """What a user may set about an encoder, where the encoder takes it.

    Attributes:
        precision: ``float32``, ``tf32``, ``bfloat16`` or ``float16``; ``auto``: as
            `encoders.precision.choose_precision` has it.
        rate_policy: ``resample`` or ``as-is``.
        int16: truncate samples to 16 bits where the encoder's upstream does; False: nowhere.
        backend: whose network computes: ``ours``, or ``upstream``, the package of its authors.
    """

    precision: str = setting(
        "auto",
        "What the encoder computes in; auto: as in --out, else float16 on a GPU for clap, "
        "else float32.",
        choices=("auto", "float32", "tf32", "bfloat16", "float16"),
    )
    rate_policy: str = setting(
        "resample",
        "as-is feeds samples of any rate unchanged, as some published code does.",
        choices=("resample", "as-is"),
    )
    int16: bool = setting(True, "Truncate samples to 16 bits where clap's authors do.")
    backend: str = setting(
        "ours",
        "Whose network computes clap and audiobox; upstream: the package of its authors.",
        choices=("ours", "upstream"),
    )


@dataclass(frozen=True)
class EncoderInfo:
    """An entry of the registry; a plug-in's entry point names one of these.

    Attributes:
        name: as given to ``--encoder``; ``hf`` takes an argument after a colon.
        summary: one line.
        source: where code and weights come from.
        license: of the weights.
        dims: the features in a person's words, for example ``embedding 512, text 512``.
        missing: what is not here yet and how to get it, one line each; empty when ready.
        load: (argument after the colon, options, device) -> encoder in eval mode.
        argument: what comes after the colon, for example ``NAME-or-folder``; empty: nothing may.
        takes: names of the `EncoderOptions` that it honors; whoever gives another is refused.
        half: whether tests hold its error in float16 under 1 % of the distance between two clips.
    """

    name: str
    summary: str
    source: str
    license: str
    dims: str
    missing: Callable[[str, EncoderOptions], Sequence[str]]
    load: Callable[[str, EncoderOptions, str], Encoder]
    argument: str = ""
    takes: Collection[str] = ()
    half: bool = False
