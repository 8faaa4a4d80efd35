"""Audiobox-Aesthetics with random weights, in both published forms of its checkpoint."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from clap_reference import stir

AXES = ("CE", "CU", "PC", "PQ")
HEAD = {
    "proj_num_layer": 3,
    "proj_ln": True,
    "proj_act_fn": "gelu",
    "proj_dropout": 0,
    "nth_layer": 13,
    "use_weighted_layer_sum": True,
    "normalize_embed": True,
    "output_dim": 1,
}


@dataclass(frozen=True)
class Reference:
    """``predictor`` is upstream's own, loaded from ``file``; ``folder`` is the hub's form."""

    predictor: Any
    file: Path
    folder: Path


def make_reference(folder: Path) -> Reference:
    """Build upstream's model without a network and save it in both forms."""
    from audiobox_aesthetics.infer import AesPredictor
    from audiobox_aesthetics.model.aes import AesMultiOutput

    torch.manual_seed(0)
    scales = {axis: {"mean": 5.0 + i, "std": 1.0 + i / 10} for i, axis in enumerate(AXES)}
    model = AesMultiOutput(**HEAD, precision="32", target_transform=scales)
    stir(model)
    with torch.no_grad():
        for weights in model.layer_weights.values():
            weights.normal_()
        for layer in model.wavlm_model.encoder.layers:
            layer.self_attn.grep_a.normal_(1, 0.5)
        model.wavlm_model.encoder.layers[0].self_attn.relative_attention_bias.weight.normal_()
    state = {f"model.{name}": value for name, value in model.state_dict().items()}
    file = folder / "checkpoint.pt"
    config = HEAD | {"precision": "bf16"}
    torch.save({"state_dict": state, "model_cfg": config, "target_transform": scales}, file)
    model.save_pretrained(folder / "hub")
    return Reference(AesPredictor(checkpoint_pth=str(file)), file, folder / "hub")
