"""Weights of Transformers' UMT5EncoderModel as our parameters."""

import numpy as np

from helios_jax.config import TextEncoderConfig


def umt5_params_from_torch(state_dict, config: TextEncoderConfig):
    """The parameter tree of :class:`~helios_jax.models.umt5.UMT5Encoder`, float32."""
    heads = (config.num_heads, config.d_kv)

    def tensor(name):
        return state_dict[name].detach().float().numpy()

    def stack(name, convert=lambda w: w):
        layers = []
        for i in range(config.num_layers):
            layers.append(convert(tensor(f"encoder.block.{i}.layer.{name}.weight")))
        return np.stack(layers)

    qkv = [stack(f"0.SelfAttention.{n}", lambda w: w.T.reshape(-1, *heads)) for n in "qkv"]
    return {
        "token_embedding": {"embedding": tensor("shared.weight")},
        "blocks": {
            "attention": {
                "qkv": {"kernel": np.stack(qkv, axis=2)},
                "out": {"kernel": stack("0.SelfAttention.o", lambda w: w.T.reshape(*heads, -1))},
                "relative_attention_bias": {
                    "embedding": stack("0.SelfAttention.relative_attention_bias")
                },
            },
            "attention_norm": {"scale": stack("0.layer_norm")},
            "ffn_norm": {"scale": stack("1.layer_norm")},
            "ffn": {
                n: {"kernel": stack(f"1.DenseReluDense.{n}", np.transpose)}
                for n in ("wi_0", "wi_1", "wo")
            },
        },
        "final_norm": {"scale": tensor("encoder.final_layer_norm.weight")},
    }
