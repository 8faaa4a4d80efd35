"""The packages of encoders' authors, called through their own interface; none is needed here."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from qamro_cache.audio.windows import Samples
from qamro_cache.encoders.protocol import Encoder, EncoderOptions
from qamro_cache.encoders.weights import read_checkpoint, state_dict_of

PROMPTS = ("a slow piano piece", "Loud and fast drums, 180 bpm!", "a")

Features = dict[str, Tensor]


@dataclass(frozen=True)
class Upstream:
    """The package of an encoder's authors.

    Attributes:
        module: as imported.
        package: as installed.
        features: (files of a window each, encoder, options) -> what their interface makes of
            them: ``waveform`` [C, window], which enters their network, and features by our names.
    """

    module: str
    package: str
    features: Callable[[Sequence[Path], Encoder, EncoderOptions], Features]


def read(file: Path) -> tuple[Samples, int]:
    """Return a file's samples [N] and rate."""
    import soundfile

    samples, rate = soundfile.read(file, dtype="float32")
    return samples, rate


@contextmanager
def replaced(owner: type, name: str, value: Any) -> Iterator[None]:
    """Give a class another attribute for a while; one that it inherits comes back too."""
    before = vars(owner).get(name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        delattr(owner, name)
        if before is not None:
            setattr(owner, name, before)


# ------------------------------------------------------------------------------- laion_clap


def laion_clap(files: Sequence[Path], encoder: Encoder, options: EncoderOptions) -> Features:
    """``embedding``, ``pooled`` and, with a tokenizer, ``text`` by ``laion_clap.CLAP_Module``."""
    tokenizer = getattr(encoder, "tokenizer", None)
    module = clap_module(encoder.spec.options["architecture"], tokenizer, options)
    taken: Features = {}

    def take(branch: Any, inputs: Any, out: Any) -> None:
        taken["waveform"], taken["pooled"] = inputs[0]["waveform"], out["embedding"]

    module.model.audio_branch.register_forward_hook(take)
    embedding = module.get_audio_embedding_from_filelist([str(file) for file in files])
    taken["embedding"] = torch.from_numpy(embedding)
    if encoder.spec.text_features:
        taken["text"] = torch.from_numpy(module.get_text_embedding(list(PROMPTS)))
    return taken


def clap_module(
    architecture: str, tokenizer: Any, options: EncoderOptions, device: str = "cpu"
) -> Any:
    """Build ``CLAP_Module`` without a hub, and load the checkpoint without running code in it.

    Its import fetches three tokenizers, of which we want one, and its constructor roberta-base,
    whose weights are in the checkpoint.
    """
    import transformers

    from qamro_cache.encoders.roberta import roberta_base

    instead: dict[str, Callable[..., Any]] = {
        "BertTokenizer": lambda *_, **__: None,
        "BartTokenizer": lambda *_, **__: None,  # may be another name of RobertaTokenizer
        "RobertaTokenizer": lambda *_, **__: tokenizer,
        "RobertaModel": lambda *_, **__: roberta_base(),
    }
    with ExitStack() as patches:
        for name, make in instead.items():
            kind = getattr(transformers, name)
            patches.enter_context(replaced(kind, "from_pretrained", make))
        from laion_clap import CLAP_Module

        module = CLAP_Module(amodel=architecture, device=device)
    path = Path(options.checkpoint)
    state = state_dict_of(read_checkpoint(path, options.allow_pickle), path)
    # Of older versions of transformers; laion_clap's own loading takes it away likewise.
    state.pop("text_branch.embeddings.position_ids", None)
    module.model.load_state_dict(state)
    return module


# --------------------------------------------------------------------- audiobox-aesthetics


def audiobox_aesthetics(
    files: Sequence[Path], encoder: Encoder, options: EncoderOptions
) -> Features:
    """``layers`` inside ``AesPredictor.forward``: their masked means over time."""
    predictor = aes_predictor(Path(options.checkpoint), "cpu")
    # Their reading of files ended with torchaudio 2.9; samples they take still.
    sounds = [read(file) for file in files]
    batch = [
        {"path": torch.from_numpy(samples)[None], "sample_rate": rate} for samples, rate in sounds
    ]
    with layers_of(predictor) as taken:
        predictor.forward(batch)
    return taken


def aes_predictor(path: Path, device: str) -> Any:
    """Load ``AesPredictor`` from either published form, without a hub."""
    from audiobox_aesthetics.infer import AesMultiOutput, AesPredictor

    published = AesMultiOutput.from_pretrained
    with replaced(AesMultiOutput, "from_pretrained", lambda name: published(path)):
        predictor = AesPredictor(checkpoint_pth=None if path.is_dir() else str(path))
    predictor.device = torch.device(device)
    predictor.model.to(device)
    return predictor


@contextmanager
def layers_of(predictor: Any) -> Iterator[Features]:
    """Take what enters the network, and its ``layers``, as the predictor runs."""
    network = predictor.model.wavlm_model
    extract, taken = network.extract_features, Features()

    def take(source: Tensor, padding_mask: Tensor, **more: Any) -> Any:
        (x, layers), padding = extract(source=source, padding_mask=padding_mask, **more)
        inside = (~padding).float().T[..., None]  # [T, B, 1]
        means = [(layer * inside).sum(0) / inside.sum(0) for layer, _ in layers]
        taken["waveform"], taken["layers"] = source, torch.stack(means, 1)
        return (x, layers), padding

    network.extract_features = take
    try:
        yield taken
    finally:
        del network.extract_features


# ------------------------------------------------------------------------------- distillmos


def distillmos(files: Sequence[Path], encoder: Encoder, options: EncoderOptions) -> Features:
    """``mos`` by the package's own model, fed as its command feeds it."""
    import distillmos as package
    import torchaudio

    model = package.ConvTransformerSQAModel().eval()
    rate = encoder.spec.audio.sample_rate
    waves = []
    for file in files:
        samples, own = read(file)
        waves.append(torchaudio.transforms.Resample(own, rate)(torch.from_numpy(samples)[None]))
    padded = [F.pad(wave, (0, encoder.spec.audio.window - wave.shape[1])) for wave in waves]
    return {"waveform": torch.cat(padded), "mos": torch.cat([model(wave) for wave in waves])}


# ------------------------------------------------------------------------------ resemblyzer


def resemblyzer(files: Sequence[Path], encoder: Encoder, options: EncoderOptions) -> Features:
    """``states`` and ``embedding`` of whole clips, by the package's own front end and network."""
    import librosa
    from resemblyzer import VoiceEncoder
    from resemblyzer.audio import normalize_volume, wav_to_mel_spectrogram

    network = VoiceEncoder("cpu", verbose=False).eval()
    waves, states, embeddings = [], [], []
    for file in files:
        samples, rate = read(file)
        wave = librosa.resample(samples, orig_sr=rate, target_sr=encoder.spec.audio.sample_rate)
        waves.append(F.pad(torch.from_numpy(wave), (0, encoder.spec.audio.window - len(wave))))
        raised = normalize_volume(wave, -30, increase_only=True)
        mels = torch.from_numpy(wav_to_mel_spectrogram(raised))[None]
        heard = network.lstm(mels)[0][0]  # [T, 256]
        states.append(torch.cat([heard.mean(0), heard.std(0, correction=0), heard[-1]]))
        embeddings.append(network(mels)[0])
    rows = {"waveform": waves, "states": states, "embedding": embeddings}
    return {name: torch.stack(values) for name, values in rows.items()}


UPSTREAMS = {
    "clap": Upstream("laion_clap", "laion-clap", laion_clap),
    "audiobox": Upstream("audiobox_aesthetics", "audiobox-aesthetics", audiobox_aesthetics),
    "distillmos": Upstream("distillmos", "distillmos", distillmos),
    "resemblyzer": Upstream("resemblyzer", "Resemblyzer", resemblyzer),
}
