"""A model of transformers as files on this machine: found, hashed and loaded without a network."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from qamro_cache.encoders.protocol import EncoderOptions
from qamro_cache.encoders.support import file_sha256
from qamro_cache.errors import QamroError

#: What a model may lack without a change of its output: it is for training.
FOR_TRAINING = ("masked_spec_embed",)


def load_model(folder: Path, run_its_code: bool) -> Any:
    """Load a model's weights; a tensor that would be left random is an error."""
    from transformers import AutoModel

    model, found = quietly(
        folder,
        AutoModel.from_pretrained,
        trust_remote_code=run_its_code,
        output_loading_info=True,
        dtype=torch.float32,
    )
    lost = [n for n in sorted(found["missing_keys"]) if not n.endswith(FOR_TRAINING)]
    lost += [str(m) for m in found.get("mismatched_keys", ())]
    if lost:
        raise QamroError(f"{folder}: {len(lost)} tensors missing ({', '.join(lost[:3])}, ...)")
    return model.eval().requires_grad_(False)


def quietly(folder: Path, load: Callable[..., Any], **options: Any) -> Any:
    """Call a ``from_pretrained`` without a network, as a QamroError where it fails."""
    try:
        return load(str(folder), local_files_only=True, **options)
    except Exception as error:  # transformers raises many kinds
        if "trust_remote_code" in str(error):
            raise QamroError(
                f"{folder} brings code of its own; if you trust it, allow it with --allow-pickle"
            ) from error
        reason = " ".join(str(error).split())[:300]
        raise QamroError(f"{folder} cannot be loaded ({reason})") from error


def find_folder(argument: str, options: EncoderOptions) -> Path | None:
    """Return the folder of the model: ``--checkpoint``, a folder so named, or the hub cache's."""
    for given in (options.checkpoint, argument):
        if given and Path(given).is_dir():
            return Path(given).resolve()
    if options.checkpoint:
        return None
    from huggingface_hub import try_to_load_from_cache

    try:
        found = try_to_load_from_cache(argument, "config.json")
    except ValueError:  # not the form of a repository's name
        return None
    return Path(found).parent if isinstance(found, str) else None


def weight_files(folder: Path) -> list[Path]:
    """Return the files of the weights, safetensors where there are both forms."""
    for pattern in ("model*.safetensors", "pytorch_model*.bin"):
        if files := sorted(folder.glob(pattern)):
            return files
    return []


def weights_sha256(folder: Path) -> str:
    """Return the sha256 of the one file of weights, or of the hashes of several."""
    hashes = [file_sha256(file) for file in weight_files(folder)]
    if len(hashes) == 1:
        return hashes[0]
    return hashlib.sha256("\n".join(hashes).encode("ascii")).hexdigest()


def how_to_get(argument: str) -> str:
    """Return the command that brings a model to this machine."""
    return f"run: hf download {argument}, or give a folder: --encoder hf:FOLDER"
