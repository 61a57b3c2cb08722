"""Wan 2.1, from either of its layouts, becomes a Helios to start training from."""

import json
import re

import diffusers
import pytest
import torch
import torch.nn.functional as F
import transformers
from diffusers.loaders.single_file_utils import (
    convert_wan_transformer_to_diffusers,
    convert_wan_vae_to_diffusers,
)
from safetensors.torch import save_file

from helios_jax.checkpoint import CheckpointError, load_config, load_params, wan
from helios_jax.checkpoint.convert import from_torch, to_diffusers
from helios_jax.checkpoint.names import text_encoder_slots, transformer_slots, vae_slots
from helios_jax.config import (
    SampleConfig,
    SchedulerConfig,
    TextEncoderConfig,
    TransformerConfig,
    VAEConfig,
)

from .test_convert import tensors_of
from .test_directory import assert_equal_trees
from .torch_models import assert_same_tensors, randomised, tokenizer

GEOMETRY = {
    "num_attention_heads": 2,
    "attention_head_dim": 12,
    "in_channels": 16,
    "out_channels": 16,
    "text_dim": 16,
    "freq_dim": 8,
    "ffn_dim": 20,
    "num_layers": 2,
}

# Diffusers' names back to the original ones, by the modules of the Wan 2.1 repository.
ORIGINAL_TRANSFORMER = {
    "condition_embedder.time_embedder.linear_1": "time_embedding.0",
    "condition_embedder.time_embedder.linear_2": "time_embedding.2",
    "condition_embedder.text_embedder.linear_1": "text_embedding.0",
    "condition_embedder.text_embedder.linear_2": "text_embedding.2",
    "condition_embedder.time_proj": "time_projection.1",
    r"^scale_shift_table": "head.modulation",
    r"^proj_out": "head.head",
    r"\.scale_shift_table": ".modulation",
    r"ffn\.net\.0\.proj": "ffn.0",
    r"ffn\.net\.2": "ffn.2",
    r"\.norm2\.": ".norm3.",
    r"attn1\.to_out\.0": "self_attn.o",
    r"attn2\.to_out\.0": "cross_attn.o",
    r"attn1\.(to_)?": "self_attn.",
    r"attn2\.(to_)?": "cross_attn.",
}
ORIGINAL_TEXT_ENCODER = {
    r"^shared": "token_embedding",
    r"encoder\.final_layer_norm": "norm",
    r"encoder\.block": "blocks",
    r"layer\.0\.layer_norm": "norm1",
    r"layer\.1\.layer_norm": "norm2",
    r"layer\.0\.SelfAttention\.relative_attention_bias": "pos_embedding.embedding",
    r"layer\.0\.SelfAttention": "attn",
    r"layer\.1\.DenseReluDense\.wi_0": "ffn.gate.0",
    r"layer\.1\.DenseReluDense\.wi_1": "ffn.fc1",
    r"layer\.1\.DenseReluDense\.wo": "ffn.fc2",
}
ORIGINAL_VAE = {
    r"^quant_conv": "conv1",
    r"^post_quant_conv": "conv2",
    "conv_in": "conv1",
    r"coder\.norm_out": "coder.head.0",
    "conv_out": "head.2",
    r"mid_block\.resnets\.0": "middle.0",
    r"mid_block\.attentions\.0": "middle.1",
    r"mid_block\.resnets\.1": "middle.2",
    r"(\d)\.norm1": r"\1.residual.0",
    r"(\d)\.conv1": r"\1.residual.2",
    r"(\d)\.norm2": r"\1.residual.3",
    r"(\d)\.conv2": r"\1.residual.6",
    "conv_shortcut": "shortcut",
    "down_blocks": "downsamples",
}


def original_name(name, table):
    for pattern, original in table.items():
        name = re.sub(pattern, original, name)
    name = re.sub(
        r"up_blocks\.(\d)\.resnets\.(\d)",
        lambda match: f"upsamples.{4 * int(match[1]) + int(match[2])}",
        name,
    )
    return re.sub(
        r"up_blocks\.(\d)\.upsamplers\.0", lambda match: f"upsamples.{4 * int(match[1]) + 3}", name
    )


@pytest.fixture(scope="module")
def models():
    text = transformers.UMT5Config(
        vocab_size=40,
        d_model=16,
        d_kv=6,
        d_ff=18,
        num_layers=2,
        num_heads=3,
        relative_attention_num_buckets=8,
    )
    return {
        "transformer": randomised(diffusers.WanTransformer3DModel(**GEOMETRY)).to(torch.bfloat16),
        "vae": randomised(diffusers.AutoencoderKLWan(base_dim=2)),
        "text_encoder": randomised(transformers.UMT5EncoderModel(text)).to(torch.bfloat16),
    }


@pytest.fixture(scope="module")
def diffusers_folder(models, tmp_path_factory):
    folder = tmp_path_factory.mktemp("wan") / "diffusers"
    for name, model in models.items():
        model.save_pretrained(folder / name)
    tokenizer().save_pretrained(folder / "tokenizer")
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "WanPipeline"}))
    return folder


@pytest.fixture(scope="module")
def original_folder(models, tmp_path_factory):
    folder = tmp_path_factory.mktemp("wan") / "original"
    tokenizer().save_pretrained(folder / "google/umt5-xxl")
    transformer = {
        original_name(name, ORIGINAL_TRANSFORMER): tensor
        for name, tensor in models["transformer"].state_dict().items()
    }
    names = sorted(transformer)
    for part, shard in enumerate((names[::2], names[1::2])):
        save_file(
            {name: transformer[name].contiguous() for name in shard},
            folder / f"diffusion_pytorch_model-{part}.safetensors",
        )
    index = {
        name: f"diffusion_pytorch_model-{position % 2}.safetensors"
        for position, name in enumerate(names)
    }
    (folder / "diffusion_pytorch_model.safetensors.index.json").write_text(
        json.dumps({"weight_map": index})
    )
    vae = {
        original_name(name, ORIGINAL_VAE): tensor
        for name, tensor in models["vae"].state_dict().items()
    }
    torch.save(vae, folder / "Wan2.1_VAE.pth")
    text = {
        original_name(name, ORIGINAL_TEXT_ENCODER): tensor
        for name, tensor in models["text_encoder"].state_dict().items()
    }
    text.pop("encoder.embed_tokens.weight", None)
    torch.save(text, folder / "models_t5_umt5-xxl-enc-bf16.pth")
    config = {
        "model_type": "t2v",
        "dim": 24,
        "num_heads": 2,
        "num_layers": 2,
        "ffn_dim": 20,
        "freq_dim": 8,
        "in_dim": 16,
        "out_dim": 16,
    }
    (folder / "config.json").write_text(
        json.dumps(config | {"eps": 1e-6, "text_dim": 16, "text_len": 512})
    )
    return folder


def test_original_names_are_those_that_diffusers_converts(models):
    """The names this file makes are right: diffusers' own converters turn them into its names, and
    so do our tables.
    """
    names = [
        original_name(name, ORIGINAL_TRANSFORMER) for name in models["transformer"].state_dict()
    ]
    theirs = convert_wan_transformer_to_diffusers(
        {name: torch.tensor(float(i)) for i, name in enumerate(names)}
    )
    ours = {wan.rename(name, wan.TRANSFORMER): i for i, name in enumerate(names)}
    ours["scale_shift_table"] = ours.pop("norm_out.scale_shift_table")
    assert {name: int(tensor) for name, tensor in theirs.items()} == ours
    names = [original_name(name, ORIGINAL_VAE) for name in models["vae"].state_dict()]
    theirs = convert_wan_vae_to_diffusers(
        {name: torch.tensor(float(i)) for i, name in enumerate(names)}
    )
    assert {name: int(tensor) for name, tensor in theirs.items()} == {
        wan.rename(name, wan.VAE): i for i, name in enumerate(names)
    }


def test_both_layouts_of_wan_give_the_same_helios(diffusers_folder, original_folder, tmp_path):
    from_torch(diffusers_folder, tmp_path / "a", init_from_wan=True)
    from_torch(original_folder, tmp_path / "b", init_from_wan=True)
    config = load_config(tmp_path / "a")
    assert load_config(tmp_path / "b").transformer == config.transformer.__class__(
        **GEOMETRY, rope_dim=(4, 4, 4)
    )
    assert (
        config.scheduler
        == load_config(tmp_path / "b").scheduler
        == SchedulerConfig(stages=1, stage_range=(0.0, 1.0))
    )
    assert (
        config.sample
        == load_config(tmp_path / "b").sample
        == SampleConfig(num_frames=99, steps=(50,))
    )
    assert config.text_encoder == load_config(tmp_path / "b").text_encoder
    assert config.vae == load_config(tmp_path / "b").vae == VAEConfig(base_dim=2)
    for component in ("transformer", "vae", "text_encoder"):
        assert_equal_trees(
            load_params(tmp_path / "b", component), load_params(tmp_path / "a", component)
        )


def test_history_patches_see_an_enlarged_picture_as_the_patch_embedding_sees_the_picture(
    models, diffusers_folder, tmp_path
):
    from_torch(diffusers_folder, tmp_path / "ours", init_from_wan=True)
    to_diffusers(tmp_path / "ours", tmp_path / "helios")
    tensors = {
        name: tensor.double()
        for name, tensor in tensors_of(tmp_path / "helios/transformer").items()
        if name.startswith("patch_")
    }
    picture = torch.randn(1, 16, 2, 4, 6, dtype=torch.float64)
    expected = F.conv3d(
        picture,
        tensors["patch_embedding.weight"],
        tensors["patch_embedding.bias"],
        stride=(1, 2, 2),
    )
    for name, factor in {"patch_short": 1, "patch_mid": 2, "patch_long": 4}.items():
        enlarged = picture
        for axis in (2, 3, 4):
            enlarged = enlarged.repeat_interleave(factor, axis)
        found = F.conv3d(
            enlarged,
            tensors[f"{name}.weight"],
            tensors[f"{name}.bias"],
            stride=(factor, 2 * factor, 2 * factor),
        )
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    kept = {
        name: tensor
        for name, tensor in tensors_of(tmp_path / "helios/transformer").items()
        if not re.match("patch_(short|mid|long)", name)
    }
    wan_tensors = dict(models["transformer"].state_dict())
    wan_tensors["norm_out.scale_shift_table"] = wan_tensors.pop("scale_shift_table")
    assert_same_tensors(kept, wan_tensors)


def test_a_wan_goes_back_to_the_folder_it_came_from(models, diffusers_folder, tmp_path):
    """Diffusers loads what is written, every tensor is Wan's own, and reading it again gives the
    same Helios.
    """
    from_torch(diffusers_folder, tmp_path / "ours", init_from_wan=True)
    to_diffusers(tmp_path / "ours", tmp_path / "wan", as_wan=True)
    found, problems = diffusers.WanTransformer3DModel.from_pretrained(
        tmp_path / "wan/transformer", output_loading_info=True
    )
    assert not any(problems.values())
    assert_same_tensors(found.to(torch.bfloat16).state_dict(), models["transformer"].state_dict())
    assert {**found.config}.items() >= GEOMETRY.items()
    assert (
        json.loads((tmp_path / "wan/model_index.json").read_text())["_class_name"] == "WanPipeline"
    )
    from_torch(tmp_path / "wan", tmp_path / "again", init_from_wan=True)
    assert load_config(tmp_path / "again") == load_config(tmp_path / "ours")
    assert_equal_trees(
        load_params(tmp_path / "again", "transformer"),
        load_params(tmp_path / "ours", "transformer"),
    )


@pytest.mark.parametrize(
    ("geometry", "tensors", "parameters"),
    [
        ({}, 1101, 14_312_427_584),
        ({"num_attention_heads": 12, "ffn_dim": 8960, "num_layers": 30}, 831, 1_426_177_600),
    ],
)
def test_the_released_geometries_have_the_known_number_of_tensors(geometry, tensors, parameters):
    slots = transformer_slots(TransformerConfig(**geometry))
    assert len(slots) == tensors
    assert sum(torch.Size(slot.shape).numel() for slot in slots) == parameters
    assert len(vae_slots(VAEConfig())) == 194
    assert len(text_encoder_slots(TextEncoderConfig())) == 242


def test_the_flag_must_agree_with_the_folder(diffusers_folder, original_folder, tmp_path):
    for folder in (diffusers_folder, original_folder):
        with pytest.raises(CheckpointError, match="is a Wan folder: pass --init_from_wan"):
            from_torch(folder, tmp_path / "ours")
    from_torch(diffusers_folder, tmp_path / "ours", init_from_wan=True)
    to_diffusers(tmp_path / "ours", tmp_path / "helios")
    with pytest.raises(CheckpointError, match="has its history patches: leave out --init_from_wan"):
        from_torch(tmp_path / "helios", tmp_path / "again", init_from_wan=True)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            {"model_type": "i2v"},
            r"'i2v', Wan I2V \(image to video\)\. Helios starts from text-to-v",
        ),
        ({"dim": "24"}, r"config\.json is not the config\.json of a Wan 2\.1 model"),
        ({"eps": "small"}, "eps='small' must be of type float"),
        ({"text_dim": 8}, r"transformer\.text_dim=8 is not text_encoder\.d_model=16"),
        ({"num_layers": 3}, r"missing: blocks\.2\..* A shard may be missing"),
    ],
)
def test_an_original_folder_of_another_model_is_refused(original_folder, tmp_path, change, says):
    folder = tmp_path / "copy"
    folder.mkdir()
    for file in original_folder.iterdir():
        (folder / file.name).symlink_to(file)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").unlink()
    (folder / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(CheckpointError, match=says):
        from_torch(folder, tmp_path / "ours", init_from_wan=True)


def test_an_original_folder_without_its_text_encoder_says_so(original_folder, tmp_path):
    folder = tmp_path / "copy"
    folder.mkdir()
    for file in original_folder.iterdir():
        if file.name != "models_t5_umt5-xxl-enc-bf16.pth":
            (folder / file.name).symlink_to(file)
    with pytest.raises(CheckpointError, match=r"original Wan 2\.1 folder, but has no models_t5"):
        from_torch(folder, tmp_path / "ours", init_from_wan=True)
