"""A random Helios transformer in PyTorch and the same parameters as our tree."""

import jax
import jax.numpy as jnp
import numpy as np
import torch
from diffusers import HeliosTransformer3DModel

from helios_jax.config import TransformerConfig

TINY = dict(
    num_attention_heads=2,
    attention_head_dim=12,
    in_channels=4,
    out_channels=4,
    text_dim=16,
    freq_dim=256,
    ffn_dim=32,
    num_layers=3,
    rope_dim=(4, 4, 4),
)


def random_transformer(seed: int = 0, **config) -> HeliosTransformer3DModel:
    """A model whose parameters all matter: norms and biases are random, too."""
    torch.manual_seed(seed)
    model = HeliosTransformer3DModel(**config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                parameter += torch.randn_like(parameter) * 0.3
            elif "scale_shift_table" in name:
                parameter.copy_(torch.randn_like(parameter) * 0.3)
            else:
                fan_in = parameter[0].numel()
                parameter.copy_(torch.randn_like(parameter) * fan_in**-0.5)
    return model.requires_grad_(False)


def config_from_torch(model: HeliosTransformer3DModel) -> TransformerConfig:
    fields = {}
    for name, value in model.config.items():
        if name in TransformerConfig.__dataclass_fields__:
            fields[name] = tuple(value) if isinstance(value, list) else value
    return TransformerConfig(**fields)


def params_from_torch(model: HeliosTransformer3DModel) -> dict:
    """The parameter tree, not by the library's converter, which it also checks."""
    cfg = config_from_torch(model)
    D = cfg.width
    heads = (cfg.num_attention_heads, cfg.attention_head_dim)
    state = {name: _numpy(value) for name, value in model.state_dict().items()}

    def linear(name):
        return {"kernel": state[f"{name}.weight"].T, "bias": state[f"{name}.bias"]}

    def conv(name):
        return {
            "kernel": state[f"{name}.weight"].transpose(2, 3, 4, 1, 0),
            "bias": state[f"{name}.bias"],
        }

    def joint(block, names):
        parts = [linear(f"{block}.{name}") for name in names]
        return {
            "kernel": np.stack([part["kernel"].reshape(D, *heads) for part in parts], axis=1),
            "bias": np.stack([part["bias"].reshape(heads) for part in parts]),
        }

    def attention(block, joint_name, names):
        out = linear(f"{block}.to_out.0")
        return {
            joint_name: joint(block, names),
            "norm_q": {"scale": state[f"{block}.norm_q.weight"]},
            "norm_k": {"scale": state[f"{block}.norm_k.weight"]},
            "out": {"kernel": out["kernel"].reshape(*heads, D), "bias": out["bias"]},
        }

    def block(i):
        name = f"blocks.{i}"
        query = linear(f"{name}.attn2.to_q")
        cross_attention = attention(f"{name}.attn2", "kv", ("to_k", "to_v"))
        cross_attention["q"] = {
            "kernel": query["kernel"].reshape(D, *heads),
            "bias": query["bias"].reshape(heads),
        }
        tree = {
            "scale_shift_table": state[f"{name}.scale_shift_table"][0],
            "attn1": attention(f"{name}.attn1", "qkv", ("to_q", "to_k", "to_v")),
            "attn2": cross_attention,
            "norm2": {"scale": state[f"{name}.norm2.weight"], "bias": state[f"{name}.norm2.bias"]},
            "ffn": {"up": linear(f"{name}.ffn.net.0.proj"), "down": linear(f"{name}.ffn.net.2")},
        }
        if cfg.is_amplify_history:
            tree["attn1"]["history_key_scale"] = state[f"{name}.attn1.history_key_scale"]
        return tree

    def mlp(name):
        parts = ("linear_1", "linear_2")
        return {part: linear(f"condition_embedder.{name}.{part}") for part in parts}

    time_proj = linear("condition_embedder.time_proj")
    patches = ("patch_embedding", "patch_short", "patch_mid", "patch_long")
    tree = {name: conv(name) for name in patches}
    tree |= {
        "time_embedder": mlp("time_embedder"),
        "text_embedder": mlp("text_embedder"),
        "time_proj": {
            "kernel": time_proj["kernel"].reshape(D, 6, D),
            "bias": time_proj["bias"].reshape(6, D),
        },
        "norm_out": {"scale_shift_table": state["norm_out.scale_shift_table"][0]},
        "proj_out": linear("proj_out"),
        "blocks": _stack([block(i) for i in range(cfg.num_layers)]),
    }
    return jax.tree.map(jnp.asarray, tree)


def _numpy(tensor: torch.Tensor) -> np.ndarray:
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.uint16).numpy().view(jnp.bfloat16)
    return tensor.numpy()


def _stack(trees):
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)
