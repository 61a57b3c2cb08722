"""PyTorch pipelines of toy size with random weights, saved as the releases are."""

import json

import diffusers
import tokenizers
import torch
import transformers

from .tiny import CONFIG

SCHEDULERS = {
    "base": lambda: diffusers.HeliosScheduler(
        stages=1, stage_range=[0, 1], use_dynamic_shifting=True
    ),
    "mid": lambda: diffusers.HeliosScheduler(use_dynamic_shifting=True),
    "distilled": lambda: diffusers.HeliosDMDScheduler(use_dynamic_shifting=True),
}


def transformer(**changes):
    """A ``HeliosTransformer3DModel`` with the geometry of ``CONFIG``."""
    ours = CONFIG.transformer
    names = (
        "num_attention_heads",
        "attention_head_dim",
        "in_channels",
        "out_channels",
        "text_dim",
        "freq_dim",
        "ffn_dim",
        "num_layers",
        "rope_dim",
    )
    return randomised(
        diffusers.HeliosTransformer3DModel(
            **({name: getattr(ours, name) for name in names} | changes)
        )
    )


def vae():
    """An ``AutoencoderKLWan`` with the geometry of ``CONFIG``."""
    ours = CONFIG.vae
    return randomised(
        diffusers.AutoencoderKLWan(
            base_dim=ours.base_dim,
            z_dim=ours.z_dim,
            dim_mult=list(ours.dim_mult),
            num_res_blocks=ours.num_res_blocks,
            latents_mean=list(ours.latents_mean),
            latents_std=list(ours.latents_std),
        )
    )


def text_encoder():
    """A ``UMT5EncoderModel`` with the geometry of ``CONFIG``."""
    ours = CONFIG.text_encoder
    names = (
        "vocab_size",
        "d_model",
        "d_kv",
        "d_ff",
        "num_layers",
        "num_heads",
        "relative_attention_num_buckets",
    )
    return randomised(
        transformers.UMT5EncoderModel(
            transformers.UMT5Config(**{name: getattr(ours, name) for name in names})
        )
    )


def tokenizer():
    """A tokenizer that knows the letters."""
    pieces = [
        ("<pad>", 0.0),
        ("</s>", 0.0),
        ("<unk>", 0.0),
        ("▁", -1.0),
        *((letter, -2.0) for letter in "abcdefghijklmnopqrstuvwxyz"),
    ]
    backend = tokenizers.Tokenizer(tokenizers.models.Unigram(pieces, unk_id=2))
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )


def randomised(model):
    """The model with every parameter drawn anew, so that none is zero or one by initialisation."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    return model


def save_pipeline(folder, kind="distilled", dtype=torch.float32, max_shard_size="10GB", **changes):
    """Save a toy pipeline; returns the state dictionary of each component as it was saved."""
    scheduler = SCHEDULERS[kind]()
    models = {
        "transformer": transformer(**changes).to(dtype),
        "vae": vae(),
        "text_encoder": text_encoder().to(dtype),
    }
    for name, model in models.items():
        model.save_pretrained(folder / name, max_shard_size=max_shard_size)
    scheduler.save_pretrained(folder / "scheduler")
    tokenizer().save_pretrained(folder / "tokenizer")
    index = {
        "_class_name": "HeliosPipeline" if kind == "base" else "HeliosPyramidPipeline",
        "scheduler": ["diffusers", type(scheduler).__name__],
        "text_encoder": ["transformers", "UMT5EncoderModel"],
        "tokenizer": ["transformers", "PreTrainedTokenizerFast"],
        "transformer": ["diffusers", "HeliosTransformer3DModel"],
        "vae": ["diffusers", "AutoencoderKLWan"],
    }
    if kind != "base":
        index |= {"is_cfg_zero_star": kind == "mid", "is_distilled": kind == "distilled"}
    (folder / "model_index.json").write_text(json.dumps(index))
    return {name: model.state_dict() for name, model in models.items()}


def assert_same_tensors(found, expected):
    """Equal names, dtypes and bits."""
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype, name
        assert torch.equal(found[name].view(torch.uint8), tensor.contiguous().view(torch.uint8)), (
            name
        )
