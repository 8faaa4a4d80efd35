"""CLAP's text tower: RoBERTa-base and its vocabulary, from this machine alone.

The tower's weights are in CLAP's checkpoint; only the vocabulary comes from elsewhere. Without
a network some versions of transformers build a tokenizer of five tokens and say nothing, and
every prompt gets the same embedding; so its size and its special tokens are checked here.
"""

import hashlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qamro_cache.errors import QamroError, words_of

if TYPE_CHECKING:
    from torch import nn

VOCABULARY = 50_265
SPECIAL = {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3, "<mask>": 50_264}
REPOSITORIES = ("roberta-base", "FacebookAI/roberta-base")
HOW_TO_GET = (
    "give --tokenizer a folder with roberta-base's vocab.json and merges.txt "
    "(https://huggingface.co/FacebookAI/roberta-base), or --tokenizer none for audio alone"
)


def find_tokenizer(folder: str) -> Path | None:
    """Return the folder of the vocabulary: ``folder`` itself, or the local hub cache's."""
    if folder:
        return Path(folder) if _has_vocabulary(Path(folder)) else None
    from huggingface_hub import try_to_load_from_cache

    for repository in REPOSITORIES:
        for name in ("vocab.json", "tokenizer.json"):
            found = try_to_load_from_cache(repository, name)
            if isinstance(found, str) and _has_vocabulary(Path(found).parent):
                return Path(found).parent
    return None


def _has_vocabulary(folder: Path) -> bool:
    both = (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file()
    return both or (folder / "tokenizer.json").is_file()


def load_tokenizer(folder: Path) -> Any:
    """Load the tokenizer of ``folder`` without a network.

    Raises:
        QamroError: it cannot be read, or is not RoBERTa's vocabulary of 50,265 tokens.
    """
    from transformers import RobertaTokenizerFast

    try:
        tokenizer = RobertaTokenizerFast.from_pretrained(str(folder), local_files_only=True)
    except Exception as error:  # transformers raises many kinds
        raise QamroError(
            f"tokenizer in {folder} cannot be read ({words_of(error)}); {HOW_TO_GET}"
        ) from error
    vocabulary = tokenizer.get_vocab()
    if len(vocabulary) != VOCABULARY:
        raise QamroError(
            f"tokenizer in {folder} has {len(vocabulary):,} tokens, not RoBERTa's {VOCABULARY:,}; "
            f"{HOW_TO_GET}"
        )
    wrong = [token for token, index in SPECIAL.items() if vocabulary.get(token) != index]
    if wrong:
        raise QamroError(f"tokenizer in {folder}: {', '.join(wrong)} not in place; {HOW_TO_GET}")
    return tokenizer


def tokenizer_sha256(tokenizer: Any) -> str:
    """Return a hash of the vocabulary and the merges, however the files spell them."""
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
    text = json.dumps([model["vocab"], merges], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def roberta_base() -> "nn.Module":
    """Make RoBERTa-base (Liu et al. 2019) with a pooling layer; its weights are not loaded."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    from transformers import RobertaConfig, RobertaModel

    config = RobertaConfig(
        vocab_size=VOCABULARY,
        hidden_size=768,
        num_hidden_layers=12,
        num_attention_heads=12,
        intermediate_size=3072,
        max_position_embeddings=514,
        type_vocab_size=1,
        layer_norm_eps=1e-5,
        pad_token_id=1,
        bos_token_id=0,
        eos_token_id=2,
    )
    model: nn.Module = RobertaModel(config, add_pooling_layer=True)
    return model
