"""Any audio model of transformers: ``hf:NAME`` from the local hub cache, or ``hf:FOLDER``.

Nothing is downloaded here and nothing is asked of a hub. The model's own feature extractor
prepares each window from the samples that are audio alone, so padding is the family's own rule,
which the identity names.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from qamro_cache.encoders.hub_folder import (
    find_folder,
    how_to_get,
    load_model,
    quietly,
    weight_files,
    weights_sha256,
)
from qamro_cache.encoders.precision import computing_in
from qamro_cache.encoders.prompts import embed_prompts
from qamro_cache.encoders.protocol import EncoderInfo, EncoderOptions
from qamro_cache.encoders.roberta import tokenizer_sha256
from qamro_cache.encoders.support import file_sha256, missing_packages
from qamro_cache.errors import QamroError
from qamro_cache.identity import AudioPolicy, EncoderSpec

SECONDS = 10  # of a window, where the model does not fix it
FILES = ("config.json", "preprocessor_config.json")


class HfEncoder:
    """``layers``: the mean of every hidden layer over the time that is audio, [L + 1, D].

    Of transformers' CLAP instead ``embedding`` (normalized), ``pooled`` before the projection,
    and ``text`` for prompts.
    """

    def __init__(self, argument: str, options: EncoderOptions, device: str) -> None:
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
        from transformers import AutoFeatureExtractor

        folder = find_folder(argument, options)
        if folder is None:
            raise QamroError(f"hf:{argument} is not on this machine; {how_to_get(argument)}")
        self.device = torch.device(device)
        self.extractor = quietly(
            folder, AutoFeatureExtractor.from_pretrained, trust_remote_code=options.allow_pickle
        )
        self.model = load_model(folder, options.allow_pickle).to(self.device)
        self.kind = kind_of(self.model, self.extractor, folder)
        self.tokenizer: Any = None
        config, rate = self.model.config, int(self.extractor.sampling_rate)
        features: dict[str, tuple[int, ...]]
        text: dict[str, tuple[int, ...]] = {}
        if self.kind == "clap":
            window = int(self.extractor.nb_max_samples)
            projection = config.projection_dim
            features = {"embedding": (projection,), "pooled": (config.audio_config.hidden_size,)}
            self._load_tokenizer(folder, options)
            text = {"text": (projection,)} if self.tokenizer is not None else {}
        else:
            window = int(getattr(self.extractor, "n_samples", SECONDS * rate))
            depth = getattr(config, "encoder_layers", None) or config.num_hidden_layers
            width = getattr(config, "d_model", None) or config.hidden_size
            features = {"layers": (depth + 1, width)}
        self.spec = EncoderSpec(
            name=f"hf:{folder.name if Path(argument).is_dir() else argument}",
            version="1",
            audio=AudioPolicy(
                rate,
                window,
                window,
                min_tail=rate,
                min_clip=rate // 10,
                rate_policy=options.rate_policy,
            ),
            features=features,
            text_features=text,
            checkpoint_sha256=weights_sha256(folder),
            tokenizer_sha256=tokenizer_sha256(self.tokenizer) if text else "",
            text_length=self.text_length if text else 0,
            precision=options.precision,
            options={
                "model": str(config.model_type),
                "revision": folder.name if folder.parent.name == "snapshots" else "",
                "padding": self._padding_rule(),
                **{f"{Path(n).stem}_sha256": file_sha256(folder / n) for n in FILES},
            },
        )

    def encode(self, windows: Tensor, valid: Tensor) -> Mapping[str, Tensor]:
        """Return ``layers`` [B, L + 1, D], or CLAP's ``embedding`` and ``pooled``, float32."""
        inputs = self.prepare(windows, valid)
        with computing_in(self.spec.precision, self.device):
            if self.kind == "clap":
                pooled = self.model.audio_model(**inputs).pooler_output
                embedding = self.model.audio_projection(pooled).float()
                return {"embedding": F.normalize(embedding, dim=-1), "pooled": pooled.float()}
            if self.kind == "whisper":
                out = self.model.encoder(**inputs, output_hidden_states=True)
            else:
                out = self.model(**inputs, output_hidden_states=True)
            share = self._shares(valid, out.hidden_states[0].shape[1])  # [B, T]
            means = [torch.einsum("bt,btd->bd", share, x.float()) for x in out.hidden_states]
            return {"layers": torch.stack(means, 1)}

    def prepare(self, windows: Tensor, valid: Tensor) -> dict[str, Tensor]:
        """Call the model's own feature extractor on each window's audio."""
        clips = [w[:n].numpy() for w, n in zip(windows.cpu(), valid.tolist(), strict=True)]
        rate = self.spec.audio.sample_rate
        if self.kind == "wave":
            inputs = self.extractor(
                clips,
                sampling_rate=rate,
                padding="max_length",
                max_length=self.spec.audio.window,
                return_tensors="pt",
            )
        else:
            inputs = self.extractor(clips, sampling_rate=rate, return_tensors="pt")
        return {name: value.to(self.device) for name, value in inputs.items()}

    def encode_text(self, prompts: Sequence[str]) -> Mapping[str, Tensor]:
        """Return CLAP's ``text`` [P, D], normalized; {} for other models."""
        if self.tokenizer is None:
            return {}
        model, (width,) = self.model, self.spec.text_features["text"]

        def embed(ids: Tensor, mask: Tensor) -> Tensor:
            pooled = model.text_model(input_ids=ids, attention_mask=mask).pooler_output
            return model.text_projection(pooled)  # type: ignore[no-any-return]

        text = embed_prompts(self.tokenizer, prompts, self.text_length, embed, width, self.device)
        return {"text": text}

    def _load_tokenizer(self, folder: Path, options: EncoderOptions) -> None:
        from transformers import AutoTokenizer

        if options.tokenizer == "none":
            return
        where = Path(options.tokenizer) if options.tokenizer else folder
        self.tokenizer = quietly(where, AutoTokenizer.from_pretrained)
        wanted = self.model.config.text_config
        if len(self.tokenizer.get_vocab()) != wanted.vocab_size:
            raise QamroError(
                f"tokenizer in {where} has {len(self.tokenizer.get_vocab()):,} tokens, the model "
                f"{wanted.vocab_size:,}; fetch it again, or use --tokenizer none"
            )
        # RoBERTa counts positions from the padding's index on.
        positions = wanted.max_position_embeddings - wanted.pad_token_id - 1
        self.text_length = min(int(self.tokenizer.model_max_length), positions)

    def _padding_rule(self) -> str:
        if self.kind == "clap":
            return f"{self.extractor.padding} by the extractor"
        if self.kind == "wave":
            masked = bool(self.extractor.return_attention_mask)
            return "zeros, masked in attention" if masked else "zeros, seen by attention"
        return "the extractor's, seen by attention"

    def _shares(self, valid: Tensor, tokens: int) -> Tensor:
        """Return weights [B, T] of the tokens: equal over those that hold audio, summing to 1."""
        if self.kind == "wave":
            count = self.model._get_feat_extract_output_lengths(valid)
            inside = torch.arange(tokens, device=valid.device) < count.clamp(min=1)[:, None]
        elif self.kind == "whisper":
            samples = self.spec.audio.window // tokens
            inside = torch.arange(tokens, device=valid.device) * samples < valid[:, None]
        else:
            inside = self._patches_inside(valid, tokens)
        shares: Tensor = inside / inside.sum(1, keepdim=True)
        return shares

    def _patches_inside(self, valid: Tensor, tokens: int) -> Tensor:
        """AST: patches [B, tokens] that begin in the audio; its two class tokens count too."""
        config = self.model.config
        time = (config.max_length - config.patch_size) // config.time_stride + 1
        # Kaldi's filter bank: a frame of 25 ms every 10 ms.
        rate = self.spec.audio.sample_rate
        frames = (valid - rate // 40) // (rate // 100) + 1
        starts = torch.arange(time, device=valid.device) * config.time_stride
        inside = (starts < frames[:, None]) | (starts == 0)
        bands = (tokens - 2) // time
        classes = torch.ones(len(valid), 2, dtype=torch.bool, device=valid.device)
        return torch.cat([classes, inside.repeat(1, bands)], 1)


def kind_of(model: Any, extractor: Any, folder: Path) -> str:
    """Return how a model wants its input: ``wave``, ``ast``, ``whisper`` or ``clap``."""
    kind = str(model.config.model_type)
    if kind == "clap":
        if getattr(model.config.audio_config, "enable_fusion", False):
            raise QamroError(f"{folder} is a fused CLAP, whose features depend on chance")
        return "clap"
    if kind == "whisper":
        return "whisper"
    if kind == "audio-spectrogram-transformer":
        return "ast"
    names = getattr(extractor, "model_input_names", ())
    if "input_values" in names and hasattr(model, "_get_feat_extract_output_lengths"):
        return "wave"
    raise QamroError(
        f"{folder} is a {kind} model, which is not supported; supported are HuBERT, WavLM, "
        "wav2vec 2.0, AST, Whisper and CLAP, and models that take a waveform as they do"
    )


def missing(argument: str, options: EncoderOptions) -> list[str]:
    """Say what a model still needs on this machine, a line each."""
    lines = missing_packages(["transformers"], "hf")
    if lines or not argument:
        return lines
    folder = find_folder(argument, options)
    if folder is None:
        return [f"{options.checkpoint or argument} is not on this machine; {how_to_get(argument)}"]
    lines = [
        f"{folder} lacks {name}; fetch it again" for name in FILES if not (folder / name).is_file()
    ]
    if not weight_files(folder):
        lines.append(f"{folder} lacks model.safetensors; {how_to_get(argument)}")
    return lines


INFO = EncoderInfo(
    name="hf",
    summary="any audio model of transformers: HuBERT, WavLM, wav2vec 2.0, AST, Whisper, CLAP",
    source="transformers; weights from the local hub cache or a folder",
    license="the model's own",
    dims="layers (L + 1) x D; CLAP: embedding, pooled, text",
    missing=missing,
    load=HfEncoder,
    argument="NAME-or-folder",
    takes=("checkpoint", "tokenizer", "precision", "rate_policy", "allow_pickle"),
)
