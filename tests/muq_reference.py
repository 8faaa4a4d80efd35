"""The authors' own MuQ with random weights, saved in the published form."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

#: w2v2_config of the published configuration, as far as the Conformer reads it.
CONFORMER = {
    "activation_dropout": 0.1,
    "attention_dropout": 0.1,
    "conformer_conv_dropout": 0.1,
    "conv_depthwise_kernel_size": 31,
    "feat_extract_activation": "gelu",
    "feat_proj_dropout": 0.1,
    "final_dropout": 0.1,
    "hidden_act": "swish",
    "hidden_dropout": 0.1,
    "initializer_range": 0.02,
    "intermediate_size": 4096,
    "layer_norm_eps": 1e-5,
    "layerdrop": 0.0,
    "max_source_positions": 5000,
    "model_type": "wav2vec2-conformer",
    "num_attention_heads": 16,
    "num_conv_pos_embedding_groups": 16,
    "num_conv_pos_embeddings": 128,
    "num_hidden_layers": 24,
    "position_embeddings_type": "rotary",
    "rotary_embedding_base": 10000,
}
STAT = {"melspec_2048_mean": 6.768444971712967, "melspec_2048_std": 18.417922652295623}


@dataclass
class Reference:
    folder: Path
    network: Any


def make_reference(folder: Path, **changes: Any) -> Reference:
    """Make the published architecture, or a smaller one by ``changes`` of its configuration."""
    from muq import MuQ, MuQConfig

    torch.manual_seed(0)
    small = {"intermediate_size": 4 * changes["encoder_dim"]} if changes else {}
    config = MuQConfig(stat=STAT, w2v2_config=CONFORMER | small, use_rvq_target=True, **changes)
    network = MuQ(config).eval()
    with torch.no_grad():  # a fresh normalization is the identity
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 1.5)
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(asdict(config)))
    state = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    save_file(state, folder / "model.safetensors")
    return Reference(folder, network)


def hidden_states(network: Any, wave: torch.Tensor) -> list[torch.Tensor]:
    """What upstream's forward gave with transformers 4: the input of each layer, then the output.

    Everything before the Conformer is upstream's own; its layers are called one by one.
    """
    model = network.model
    mel = model.normalize(model.preprocessing(wave, ["melspec_2048"]))["melspec_2048"]
    x = model.conv(mel)
    states, positions = [x], model.conformer.embed_positions(x)
    for layer in model.conformer.layers:
        x = layer(x, attention_mask=None, relative_position_embeddings=positions)
        x = x[0] if isinstance(x, tuple) else x
        states.append(x)
    return [*states[:-1], model.conformer.layer_norm(x)]
