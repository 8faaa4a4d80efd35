"""Prompts to embeddings, and the refusal of prompts that come out alike."""

import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from qamro_cache.encoders.precision import computing_in
from qamro_cache.errors import QamroError

#: Prompts that are embedded at once.
TEXT_BATCH = 64

logger = logging.getLogger("qamro_cache")


def embed_prompts(
    tokenizer: Any,
    prompts: Sequence[str],
    length: int,
    embed: Callable[[Tensor, Tensor], Tensor],
    width: int,
    device: torch.device,
) -> Tensor:
    """Return embeddings [P, width] of unit length, computed in float32.

    Args:
        tokenizer: of the text tower.
        prompts: P of them.
        length: tokens at which a prompt is cut.
        embed: (tokens, attention mask), each [B, length] on the device -> [B, width].
        width: of an embedding.
        device: of the text tower.

    Raises:
        QamroError: two different prompts get the same tokens or the same embedding.
    """
    tokens, mask = tokenize(tokenizer, prompts, length)
    rows = [torch.zeros(0, width, device=device)]
    with computing_in("float32", device):
        for start in range(0, len(prompts), TEXT_BATCH):
            ids, attended = (x[start : start + TEXT_BATCH].to(device) for x in (tokens, mask))
            rows.append(F.normalize(embed(ids, attended), dim=-1))
        text = torch.cat(rows)
    refuse_alike(prompts, tokens, text, int(tokenizer.pad_token_id))
    return text


def tokenize(tokenizer: Any, prompts: Sequence[str], length: int) -> tuple[Tensor, Tensor]:
    """Return tokens and attention mask [P, length]; a notice says how many prompts are cut."""
    if not prompts:
        empty = torch.zeros(0, length, dtype=torch.int64)
        return empty, empty
    whole = tokenizer(list(prompts), padding=False, truncation=False)["input_ids"]
    cut = sum(len(ids) > length for ids in whole)
    if cut:
        logger.warning("%d of %d prompts are cut at %d tokens", cut, len(prompts), length)
    batch = tokenizer(
        list(prompts), padding="max_length", truncation=True, max_length=length, return_tensors="pt"
    )
    return batch["input_ids"], batch["attention_mask"]


def refuse_alike(prompts: Sequence[str], tokens: Tensor, text: Tensor, padding: int) -> None:
    """Raise a QamroError for two different prompts with the same tokens or embedding.

    An empty vocabulary gives every prompt the same tokens, and broken weights the same embedding.
    Prompts that differ only beyond the cut have the same tokens by right; they are let through,
    the notice of the cut having been given.

    Args:
        prompts: P of them.
        tokens: [P, length].
        text: [P, D] embeddings of unit length.
        padding: token that fills up; where it comes last, nothing was cut.
    """
    first: dict[bytes, str] = {}
    distinct = []
    for row, (prompt, ids) in enumerate(zip(prompts, tokens.numpy(), strict=True)):
        key = ids.tobytes()
        if key not in first:
            first[key] = prompt
            distinct.append(row)
        elif first[key] != prompt and ids[-1] == padding:
            raise QamroError(
                f"prompts {first[key]!r} and {prompt!r} get the same tokens; check the tokenizer"
            )
    rows = text[distinct].double().cpu()
    # Alike rows are neighbors when sorted along any one direction that tells rows apart.
    direction = torch.linspace(-1, 1, text.shape[1], dtype=torch.float64).cos()
    order = torch.argsort(rows @ direction)
    alike = (rows[order[1:]] - rows[order[:-1]]).abs().amax(1) < 1e-6
    if alike.any():
        at = int(alike.nonzero()[0])
        a, b = (prompts[distinct[int(order[at + i])]] for i in (0, 1))
        raise QamroError(f"prompts {a!r} and {b!r} get the same embedding; check the checkpoint")
