"""Which transformer is taken, what completes it, and what is refused rather than left out."""

import json
import shutil

import ml_dtypes
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from helios_jax.checkpoint import CheckpointError, load_config, load_params
from helios_jax.checkpoint.convert import from_torch
from helios_jax.checkpoint.source import Selection

from .test_convert import set_json, tensors_of
from .test_directory import assert_equal_trees
from .torch_models import save_pipeline, transformer

pytestmark = pytest.mark.filterwarnings("ignore:.*:DeprecationWarning", "ignore:.*:FutureWarning")

OWN_CLASS = {
    "image_dim": None,
    "restrict_self_attn": False,
    "is_train_restrict_lora": False,
    "restrict_lora": False,
    "restrict_lora_rank": 128,
    "is_use_gan": False,
    "is_use_gan_hooks": False,
    "is_use_gan_final": False,
    "gan_cond_map_dim": 768,
    "gan_hooks": [5, 15, 25, 35],
    "rope_max_seq_len": 1024,
}
"""What the original implementation's class saves beside what Diffusers knows."""


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    """A toy Distilled with the transformer that its last stage began on."""
    folder = tmp_path_factory.mktemp("released") / "distilled"
    save_pipeline(folder)
    transformer().save_pretrained(folder / "transformer_ode")
    return folder


@pytest.fixture
def copy(released, tmp_path):
    return shutil.copytree(released, tmp_path / "copy")


@pytest.fixture(scope="module")
def converted(released, tmp_path_factory):
    out = tmp_path_factory.mktemp("converted") / "ours"
    from_torch(released, out)
    return out


def converts_to(tmp_path, expected, *selection, **options):
    """Convert a selection; its transformer must be that of ``expected``. Returns the summary."""
    summary = from_torch(Selection(*selection), tmp_path / "out", **options)
    assert_equal_trees(
        load_params(tmp_path / "out", "transformer"), load_params(expected, "transformer")
    )
    return summary


def single_file(released, path, prefix="", change=lambda tensors: None, folder="transformer"):
    tensors = {f"{prefix}{name}": tensor for name, tensor in tensors_of(released / folder).items()}
    change(tensors)
    save_file(tensors, path)
    return path


def test_a_config_of_the_original_class_is_accepted_where_nothing_is_switched_on(
    copy, converted, tmp_path
):
    set_json(copy / "transformer/config.json", **OWN_CLASS)
    assert converts_to(tmp_path, converted, copy).notes == ()


def test_a_discriminators_heads_are_left_out_with_a_line(copy, converted, tmp_path):
    (file,) = (copy / "transformer").glob("*.safetensors")
    heads = {
        "gan_heads.5.head3d.0.weight": torch.zeros(3),
        "gan_final_head.head3d.0.bias": torch.zeros(1),
    }
    save_file(load_file(file) | heads, file)
    set_json(copy / "transformer/config.json", **OWN_CLASS | {"is_use_gan": True})
    (note,) = converts_to(tmp_path, converted, copy).notes
    assert note.startswith("left out: gan_final_head.head3d.0.bias, gan_heads.5.head3d.0.weight")
    assert "the discriminator's heads, which take no part in sampling" in note


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("restrict_self_attn", True, "restrict_self_attn=True lets the history attend to itself"),
        ("restrict_lora", True, "restrict_lora=True adds adapters"),
        ("image_dim", 1280, "image_dim=1280 adds the tokens of an image encoder"),
        ("added_kv_proj_dim", 5120, "added_kv_proj_dim=5120 is not supported"),
        ("use_moe", True, "unknown option use_moe=True"),
        ("quantization_config", {"load_in_4bit": True}, "says that the weights are quantised"),
    ],
)
def test_an_option_that_changes_the_result_is_refused_by_name(copy, tmp_path, option, value, says):
    set_json(copy / "transformer/config.json", **OWN_CLASS | {option: value})
    with pytest.raises(CheckpointError, match=says):
        from_torch(copy, tmp_path / "out")


def test_a_starting_point_of_the_recipes_is_chosen_by_name(released, tmp_path):
    from_torch(Selection(released, "transformer_ode"), tmp_path / "ode")
    kernel = load_params(tmp_path / "ode", "transformer")["proj_out"]["kernel"]
    expected = tensors_of(released / "transformer_ode")["proj_out.weight"].T
    np.testing.assert_array_equal(kernel, expected)
    with pytest.raises(CheckpointError, match=r"no transformer_init: .* one of transformer, trans"):
        from_torch(Selection(released, "transformer_init"), tmp_path / "init")


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model.", "diffusion_model.", "module."])
def test_a_transformer_in_one_file_is_completed_by_the_rest(released, converted, tmp_path, prefix):
    file = single_file(released, tmp_path / "one.safetensors", prefix)
    for rest in (released, converted):
        converts_to(tmp_path, converted, file, None, rest)
        assert load_config(tmp_path / "out") == load_config(converted)
        for component in ("vae", "text_encoder"):
            assert_equal_trees(
                load_params(tmp_path / "out", component), load_params(converted, component)
            )
        shutil.rmtree(tmp_path / "out")


@pytest.mark.parametrize("wrapper", [None, "state_dict", "model"])
def test_a_transformer_of_torch_save_is_read(released, converted, tmp_path, wrapper):
    tensors = tensors_of(released / "transformer")
    torch.save({wrapper: tensors, "step": 3} if wrapper else tensors, tmp_path / "one.pt")
    converts_to(tmp_path, converted, tmp_path / "one.pt", None, released)


def test_a_lone_transformer_folder_needs_the_rest(released, converted, tmp_path):
    alone = shutil.copytree(released / "transformer", tmp_path / "alone")
    with pytest.raises(CheckpointError, match="is a transformer alone: pass --rest FROM"):
        from_torch(alone, tmp_path / "out")
    converts_to(tmp_path, converted, alone, None, converted)
    with pytest.raises(CheckpointError, match="has one transformer: leave out --transformer"):
        from_torch(Selection(alone, "transformer_ode", converted), tmp_path / "again")


def test_a_pipeline_completed_by_another_is_sampled_as_it_says_itself(copy, converted, tmp_path):
    save_pipeline(tmp_path / "base", "base")
    shutil.rmtree(copy / "text_encoder")
    summary = converts_to(tmp_path, converted, copy, None, tmp_path / "base")
    assert load_config(tmp_path / "out").scheduler == load_config(converted).scheduler
    assert summary.notes == ()


def test_a_shard_that_no_index_names_is_missed(copy, tmp_path):
    folder = copy / "transformer"
    shutil.rmtree(folder)
    transformer().save_pretrained(folder, max_shard_size="50KB")
    next(folder.glob("*.index.json")).unlink()
    lost = sorted(folder.glob("*.safetensors"))[-2]
    lost.unlink()
    with pytest.raises(CheckpointError, match=f"lacks 1 of . shards: {lost.name}"):
        from_torch(copy, tmp_path / "out")


def test_what_is_not_the_transformers_in_one_file_is_said(released, converted, tmp_path):
    def add(tensors):
        tensors["vae.decoder.conv1.weight"] = torch.zeros(2)

    file = single_file(released, tmp_path / "one.safetensors", "model.diffusion_model.", add)
    note, sampling = converts_to(tmp_path, converted, file, None, released).notes
    assert sampling == f"it is sampled as {released} is: dmd, 2+2+2 steps"
    assert note == "left out: vae (1 in all), which are not the transformer's"


@pytest.mark.parametrize(
    ("scale", "marks"),
    [
        ("scale_weight", {"scaled_fp8": torch.zeros(2, dtype=torch.float8_e4m3fn)}),
        ("weight_scale", {}),
        (None, {}),
    ],
)
@pytest.mark.parametrize("rows", [False, True])
def test_float8_is_dequantised_and_said(released, tmp_path, scale, marks, rows):
    name = "blocks.1.ffn.net.0.proj.weight"
    weight = tensors_of(released / "transformer")[name]
    factor = weight.abs().amax(1 if rows else None) / 448 if scale else torch.tensor(1.0)
    packed = (weight / factor.reshape(-1, 1)).to(torch.float8_e4m3fn)
    expected = packed.float().numpy() * factor.reshape(-1, 1).numpy()

    def pack(tensors):
        module = "diffusion_model.blocks.1.ffn.net.0.proj"
        tensors[f"{module}.weight"] = packed
        if scale:
            tensors[f"{module}.{scale}"] = factor
            tensors[f"{module}.scale_input"] = torch.ones(())
        tensors |= {f"diffusion_model.{mark}": value for mark, value in marks.items()}

    file = single_file(released, tmp_path / "one.safetensors", "diffusion_model.", pack)
    note, _ = from_torch(Selection(file, None, released), tmp_path / "out").notes
    assert note == "float8 weights (1 in all) are dequantised to float32"
    kernel = load_params(tmp_path / "out", "transformer")["blocks"]["ffn"]["up"]["kernel"]
    np.testing.assert_array_equal(kernel[1], expected.T)


def test_a_format_of_eight_bits_that_is_not_read_is_named(released, tmp_path):
    def pack(tensors):
        text = json.dumps({"format": "nvfp4"}).encode()
        tensors["proj_out.comfy_quant"] = torch.from_numpy(np.frombuffer(text, np.uint8).copy())

    file = single_file(released, tmp_path / "one.safetensors", "", pack)
    with pytest.raises(CheckpointError, match="says format 'nvfp4', which is not read"):
        from_torch(Selection(file, None, released), tmp_path / "out")
    assert np.dtype(ml_dtypes.float8_e4m3fn).itemsize == 1


TWO = {"transformer_2": ["diffusers", "WanTransformer3DModel"], "boundary_ratio": 0.875}
EXTRA = {
    "two transformers": (
        {"_class_name": "WanPipeline", **TWO},
        "has two transformers, .*boundary_ratio=0.875.*--transformer transformer_2",
    ),
    "image encoder": (
        {"image_encoder": ["transformers", "CLIPVisionModel"]},
        "has weights that are not read: image_encoder",
    ),
    "setting": ({"_class_name": "WanPipeline", "expand_timesteps": True}, "expand_timesteps=True"),
    "image to video": (
        {"_class_name": "WanImageToVideoPipeline"},
        r"Wan I2V \(image to video\)\. Helios starts from text-to-video",
    ),
    "vace": ({"_class_name": "WanVACEPipeline"}, "Wan VACE"),
    "skyreels": ({"_class_name": "SkyReelsV2DiffusionForcingPipeline"}, "SkyReels-V2 with diff"),
}


@pytest.mark.parametrize("case", EXTRA)
def test_a_pipeline_with_more_than_is_read_is_refused_by_name(copy, tmp_path, case):
    index, says = EXTRA[case]
    set_json(copy / "model_index.json", **index)
    with pytest.raises(CheckpointError, match=says):
        from_torch(copy, tmp_path / "out", init_from_wan=index.get("_class_name") == "WanPipeline")


def test_a_folder_of_weights_that_the_index_does_not_name_is_refused_too(copy, tmp_path):
    shutil.copytree(copy / "transformer", copy / "controlnet")
    with pytest.raises(CheckpointError, match="weights that are not read: controlnet"):
        from_torch(copy, tmp_path / "out")


def test_an_empty_part_of_an_index_is_no_part(copy, converted, tmp_path):
    set_json(copy / "model_index.json", transformer_2=[None, None], boundary_ratio=None)
    converts_to(tmp_path, converted, copy)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("vace_blocks.0.after_proj.bias", "Wan VACE"),
        ("img_emb.emb_pos", "Wan FLF2V"),
        ("blocks.0.cross_attn.k_img.weight", "Wan I2V"),
        ("ref_conv.weight", "Wan Fun-Control"),
        ("control_adapter.conv.weight", "Wan Fun-Camera"),
        ("blocks.0.attn1.to_q.weight.absmax", "bitsandbytes packed"),
        ("blocks.0.attn1.to_q.lora_A.weight", "is an adapter. Those are LoRA weights"),
    ],
)
def test_another_kind_of_model_in_one_file_is_named(released, tmp_path, name, says):
    def add(tensors):
        tensors[name] = torch.zeros(2)

    file = single_file(released, tmp_path / "one.safetensors", "", add)
    with pytest.raises(CheckpointError, match=says):
        from_torch(Selection(file, None, released), tmp_path / "out")


def test_files_of_other_formats_are_named(released, tmp_path):
    (tmp_path / "one.gguf").write_bytes(b"GGUF" + bytes(20))
    torch.save({"generator_ema": tensors_of(released / "transformer")}, tmp_path / "causal.pt")
    save_file(tensors_of(released / "vae"), tmp_path / "vae.safetensors")
    cases = {
        "one.gguf": "is a GGUF file, whose packed weights are not read",
        "causal.pt": "is a causal Wan",
        "vae.safetensors": "holds a VAE, not a transformer of Wan or Helios",
    }
    for name, says in cases.items():
        with pytest.raises(CheckpointError, match=says):
            from_torch(Selection(tmp_path / name, None, released), tmp_path / "out")


@pytest.mark.parametrize("name", ["/etc", "../copy", "vae", "transformer/../vae"])
def test_a_transformer_is_a_folder_of_its_name_in_the_pipeline(copy, tmp_path, name):
    with pytest.raises(CheckpointError, match=r"one of transformer, transformer_ode as --trans"):
        from_torch(Selection(copy, name), tmp_path / "out")


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.bool])
def test_integers_are_no_weights(released, tmp_path, dtype):
    def change(tensors):
        tensors["blocks.0.ffn.net.2.weight"] = tensors["blocks.0.ffn.net.2.weight"].to(dtype)

    file = single_file(released, tmp_path / "one.safetensors", change=change)
    with pytest.raises(CheckpointError, match="holds integers where weights belong"):
        from_torch(Selection(file, None, released), tmp_path / "out")


@pytest.mark.parametrize("name", ["blocks.1.attn1.to_q.bias", "proj_out.weight", "patch_mid.bias"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_broken_weights_are_not_converted_unless_asked_for(released, tmp_path, name, value):
    def change(tensors):
        tensors[name] = tensors[name].clone()
        tensors[name].view(-1)[0] = value

    file = single_file(released, tmp_path / "one.safetensors", change=change)
    with pytest.raises(CheckpointError, match=f"{name} has NaN or infinite values"):
        from_torch(Selection(file, None, released), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    from_torch(Selection(file, None, released, verify=False), tmp_path / "out")


def test_layers_of_two_narrow_dtypes_are_held_in_a_wide_one(released, tmp_path):
    """float16 and bfloat16 have no common dtype but float32, which holds both exactly."""

    def change(tensors):
        for number, name in enumerate(sorted(tensors)):
            tensors[name] = tensors[name].to((torch.float16, torch.bfloat16)[number % 2])

    file = single_file(released, tmp_path / "one.safetensors", change=change)
    from_torch(Selection(file, None, released), tmp_path / "out")
    found = load_params(tmp_path / "out", "transformer")["blocks"]["attn1"]["qkv"]["kernel"]
    assert found.dtype == np.float32
    stored = load_file(file)["blocks.1.attn1.to_k.weight"].float().numpy().T
    np.testing.assert_array_equal(np.asarray(found[1]).reshape(24, 3, 24)[:, 1], stored)


def test_a_scale_counts_beside_a_weight_that_is_not_float8(released, converted, tmp_path):
    def change(tensors):
        tensors["proj_out.weight"] = tensors["proj_out.weight"] / 4
        tensors["proj_out.scale_weight"] = torch.tensor(4.0)

    file = single_file(released, tmp_path / "one.safetensors", change=change)
    converts_to(tmp_path, converted, file, None, released)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_of_two_transformers_in_a_file_one_is_chosen(released, converted, tmp_path, suffix):
    """A trainer's weights and their average."""
    own = tensors_of(released / "transformer_ode")
    average = tensors_of(released / "transformer")
    file = tmp_path / f"one{suffix}"
    if suffix == ".pt":
        torch.save({"model": own, "ema": average, "step": 7}, file)
    else:
        entries = {"model": own, "ema": average}
        save_file({f"{key}.{n}": t for key, held in entries.items() for n, t in held.items()}, file)
    for chosen in (None, "other"):
        says = r"has 2 transformers: choose with --transformer \w+ or --transformer \w+"
        with pytest.raises(CheckpointError, match=says):
            from_torch(Selection(file, chosen, released), tmp_path / "out")
    converts_to(tmp_path, converted, file, "ema", released)


@pytest.mark.parametrize(
    "name", ["paint.safetensors", "transformer_partial.pth", "lora/a.safetensors",
             "transformer/paint/adapter_model.safetensors", "onnx/model.onnx"],
)  # fmt: skip
def test_weights_that_lie_about_a_pipeline_are_not_passed_over(copy, tmp_path, name):
    (copy / name).parent.mkdir(exist_ok=True)
    (copy / name).write_bytes(b"")
    with pytest.raises(CheckpointError, match="has weights that are not read"):
        from_torch(copy, tmp_path / "out")


def test_a_shard_that_the_index_does_not_name_is_said_to_be_left_out(converted, tmp_path):
    save_pipeline(tmp_path / "torch", max_shard_size="30KB")
    save_file({"a": torch.zeros(1)}, tmp_path / "torch/transformer/old-00009-of-00009.safetensors")
    [note] = from_torch(tmp_path / "torch", tmp_path / "out").notes
    assert note.startswith("left out: old-00009-of-00009.safetensors")


@pytest.mark.parametrize(
    "option", [{"torch_dtype": "bfloat16"}, {"dtype": "float16"}, {"gradient_checkpointing": True}]
)
def test_what_a_configuration_says_of_its_file_changes_nothing(copy, converted, tmp_path, option):
    set_json(copy / "transformer/config.json", **option)
    converts_to(tmp_path, converted, copy)


@pytest.mark.parametrize("value", [10**9, 10**40])
@pytest.mark.parametrize(
    ("file", "field"),
    [("transformer/config.json", "num_layers"), ("text_encoder/config.json", "num_layers"),
     ("scheduler/scheduler_config.json", "num_train_timesteps"),
     ("vae/config.json", "num_res_blocks")],
)  # fmt: skip
def test_a_number_that_would_take_all_memory_is_one_line(copy, tmp_path, file, field, value):
    set_json(copy / file, **{field: value})
    with pytest.raises(CheckpointError, match=f"{field}=10.* must be at least") as error:
        from_torch(copy, tmp_path / "out")
    assert len(str(error.value)) < 500
