"""Diffusers folders become checkpoints and come back bit for bit; what does not fit is named."""

import importlib.util
import json
import shutil
import weakref

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from flax.traverse_util import flatten_dict
from safetensors.torch import load_file, save_file

from helios_jax.checkpoint import (
    CheckpointError,
    load_config,
    load_params,
    safetensors_files,
    save,
)
from helios_jax.checkpoint.convert import cast_tensors, from_torch, to_diffusers
from helios_jax.checkpoint.names import transformer_slots
from helios_jax.checkpoint.safetensors_files import TorchTensor
from helios_jax.config import HeliosConfig, SampleConfig, SchedulerConfig, TransformerConfig
from helios_jax.models.transformer import keeps_float32

from .test_directory import assert_equal_trees
from .tiny import CONFIG, random_params
from .torch_models import assert_same_tensors, save_pipeline

CLASSES = {
    "transformer": diffusers.HeliosTransformer3DModel,
    "vae": diffusers.AutoencoderKLWan,
    "text_encoder": transformers.UMT5EncoderModel,
}
KINDS = {
    "base": (
        SchedulerConfig(stages=1, stage_range=(0.0, 1.0)),
        SampleConfig(num_frames=99, steps=(50,)),
    ),
    "mid": (
        SchedulerConfig(),
        SampleConfig(num_frames=99, steps=(20, 20, 20), cfg_zero_star=True, zero_init_steps=2),
    ),
    "distilled": (
        SchedulerConfig(solver="dmd", time_shift_type="linear"),
        SampleConfig(num_frames=240, steps=(2, 2, 2), guidance_scale=1.0, amplify_first_chunk=True),
    ),
}
HAS_ACCELERATE = importlib.util.find_spec("accelerate") is not None
pytestmark = pytest.mark.filterwarnings("ignore:.*:DeprecationWarning", "ignore:.*:FutureWarning")


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    """A toy Distilled as it would be downloaded: float32, one file a component."""
    folder = tmp_path_factory.mktemp("released") / "distilled"
    save_pipeline(folder)
    return folder


@pytest.fixture
def copy(released, tmp_path):
    """A folder that a test may damage."""
    return shutil.copytree(released, tmp_path / "copy")


def load_with_torch(model, folder, dtype):
    """``from_pretrained``, or the same by hand where it cannot run: for this transformer, diffusers
    insists on accelerate.
    """
    if model is diffusers.HeliosTransformer3DModel and not HAS_ACCELERATE:
        loaded = model.from_config(model.load_config(folder)).to(dtype)
        loaded.load_state_dict(tensors_of(folder), strict=True)
        return loaded
    return model.from_pretrained(folder, torch_dtype=dtype)


def tensors_of(folder):
    tensors = {}
    for file in folder.glob("*.safetensors"):
        tensors |= load_file(file)
    return tensors


def rewrite(folder, change):
    """Save the one safetensors file of a component again with ``change`` made to its tensors."""
    (file,) = folder.glob("*.safetensors")
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, {"format": "pt"})


@pytest.mark.parametrize(
    ("kind", "dtype", "shard"),
    [
        ("base", torch.float32, "10GB"),
        ("mid", torch.bfloat16, "10KB"),
        ("distilled", torch.bfloat16, "10GB"),
        ("distilled", torch.float32, "20KB"),
    ],
)
def test_there_and_back_is_equal_bit_for_bit_and_diffusers_loads_it(tmp_path, kind, dtype, shard):
    states = save_pipeline(tmp_path / "torch", kind, dtype, shard)
    from_torch(tmp_path / "torch", tmp_path / "ours")
    assert load_config(tmp_path / "ours") == HeliosConfig(
        transformer=CONFIG.transformer,
        vae=CONFIG.vae,
        text_encoder=CONFIG.text_encoder,
        scheduler=KINDS[kind][0],
        sample=KINDS[kind][1],
    )
    to_diffusers(tmp_path / "ours", tmp_path / "back", max_shard_bytes=10**4)
    for component, model in CLASSES.items():
        assert_same_tensors(
            tensors_of(tmp_path / "back" / component), tensors_of(tmp_path / "torch" / component)
        )
        dtype_here = next(iter(states[component].values())).dtype
        loaded = load_with_torch(model, tmp_path / "back" / component, dtype_here)
        expected = load_with_torch(model, tmp_path / "torch" / component, dtype_here)
        assert_same_tensors(loaded.state_dict(), expected.state_dict())
        ignored = {"_name_or_path", "_diffusers_version", "dtype", "transformers_version"}
        for key in (
            set(expected.config) - ignored
            if component != "text_encoder"
            else ("d_kv", "feed_forward_proj", "layer_norm_epsilon")
        ):
            assert getattr(loaded.config, key) == getattr(expected.config, key), key


@pytest.mark.skipif(
    not HAS_ACCELERATE,
    reason="diffusers loads this transformer only where accelerate is installed",
)
@pytest.mark.parametrize("kind", ["base", "mid", "distilled"])
def test_diffusers_loads_the_whole_pipeline(tmp_path, kind):
    save_pipeline(tmp_path / "torch", kind)
    from_torch(tmp_path / "torch", tmp_path / "ours")
    to_diffusers(tmp_path / "ours", tmp_path / "back")
    loaded, original = (
        diffusers.DiffusionPipeline.from_pretrained(tmp_path / name) for name in ("back", "torch")
    )
    assert type(loaded) is type(original)
    assert type(loaded.scheduler) is type(original.scheduler)
    public = [key for key in original.scheduler.config if not key.startswith("_")]
    assert {key: loaded.scheduler.config[key] for key in public} == {
        key: original.scheduler.config[key] for key in public
    }
    assert loaded.tokenizer("a b")["input_ids"] == original.tokenizer("a b")["input_ids"]
    for switch in {"is_distilled", "is_cfg_zero_star"} & set(original.config):
        assert loaded.config[switch] == original.config[switch]


def test_our_tree_holds_torchs_tensors_in_the_agreed_axes(released, tmp_path):
    from_torch(released, tmp_path / "ours")
    torch_tensors = {component: tensors_of(released / component) for component in CLASSES}
    transformer = flatten_dict(load_params(tmp_path / "ours", "transformer"), sep="/")
    q, k, v = (
        torch_tensors["transformer"][f"blocks.1.attn1.to_{name}.weight"].numpy() for name in "qkv"
    )
    np.testing.assert_array_equal(transformer["blocks/attn1/qkv/kernel"][1, :, 1, 1, 5], k[12 + 5])
    np.testing.assert_array_equal(
        transformer["blocks/attn1/qkv/kernel"][1].reshape(24, 3, 24)[:, 0], q.T
    )
    np.testing.assert_array_equal(
        transformer["blocks/attn1/qkv/kernel"][1].reshape(24, 3, 24)[:, 2], v.T
    )
    out = torch_tensors["transformer"]["blocks.2.attn2.to_out.0.weight"].numpy()
    np.testing.assert_array_equal(transformer["blocks/attn2/out/kernel"][2, 1, 3], out[:, 12 + 3])
    time = torch_tensors["transformer"]["condition_embedder.time_proj.weight"].numpy()
    np.testing.assert_array_equal(transformer["time_proj/kernel"][:, 4, 7], time[4 * 24 + 7])
    patch = torch_tensors["transformer"]["patch_mid.weight"].numpy()
    np.testing.assert_array_equal(
        transformer["patch_mid/kernel"][1, 2, 3, 0, 5], patch[5, 0, 1, 2, 3]
    )
    vae = flatten_dict(load_params(tmp_path / "ours", "vae"), sep="/")
    conv = torch_tensors["vae"]["decoder.up_blocks.0.upsamplers.0.resample.1.weight"].numpy()
    np.testing.assert_array_equal(
        vae["decoder/up_blocks_0/upsamplers_0/resample/kernel"][0, 2, 1, 0], conv[0, 1, 0, 2]
    )
    assert vae["encoder/down_blocks_0/norm1/gamma"].shape == (3,)
    text = flatten_dict(load_params(tmp_path / "ours", "text_encoder"), sep="/")
    wi_0 = torch_tensors["text_encoder"][
        "encoder.block.1.layer.1.DenseReluDense.wi_0.weight"
    ].numpy()
    np.testing.assert_array_equal(text["blocks/ffn/wi_0/kernel"][1], wi_0.T)


def test_a_checkpoint_that_was_never_pytorchs_makes_a_diffusers_folder_too(tmp_path, released):
    params = {component: random_params(CONFIG, component) for component in CLASSES}
    save(tmp_path / "ours", CONFIG, params, released / "tokenizer/tokenizer.json")
    to_diffusers(tmp_path / "ours", tmp_path / "folder")
    for component, model in CLASSES.items():
        load_with_torch(model, tmp_path / "folder" / component, torch.float32)
    from_torch(tmp_path / "folder", tmp_path / "again")
    for component in CLASSES:
        assert_equal_trees(load_params(tmp_path / "again", component), params[component])


def test_tensors_stream_one_by_one_in_both_directions(released, tmp_path, monkeypatch):
    """Memory does not grow with the checkpoint: when a tensor is read, no more than the one before
    it is still there.
    """
    alive = weakref.WeakSet()
    most = []

    class Tracked(np.ndarray):
        """An array that can be counted, by identity; plain ones take no weak references."""

        __hash__ = object.__hash__
        __eq__ = object.__eq__

    def tracking(read):
        def tracked(*arguments):
            array = read(*arguments).view(Tracked)
            alive.add(array)
            most.append(len(alive))
            return array

        return tracked

    monkeypatch.setattr(safetensors_files, "map_array", tracking(safetensors_files.map_array))
    from_torch(released, tmp_path / "ours")
    read_there = len(most)
    to_diffusers(tmp_path / "ours", tmp_path / "back")
    assert read_there >= 242
    assert len(most) >= 2 * read_there
    assert max(most) <= 2


def test_dtype_is_changed_for_all_but_the_vae_and_what_runs_in_float32(released, tmp_path):
    from_torch(released, tmp_path / "ours", dtype="bfloat16")
    expected = {"vae": {"float32"}, "text_encoder": {"bfloat16"}}
    for component, dtypes in expected.items():
        leaves = jax.tree.leaves(load_params(tmp_path / "ours", component))
        assert {leaf.dtype.name for leaf in leaves} == dtypes
    transformer = flatten_dict(load_params(tmp_path / "ours", "transformer"), sep="/")
    for path, leaf in transformer.items():
        assert leaf.dtype == (jnp.float32 if keeps_float32(path) else jnp.bfloat16), path


def test_at_14b_bfloat16_keeps_117_mb_in_float32():
    slots = transformer_slots(TransformerConfig())
    tensors = {}
    for slot in slots:
        tensors[slot.name] = TorchTensor(np.dtype(np.float32), slot.shape, lambda: np.zeros(()))
    stored = cast_tensors(tensors, "transformer", slots, "bfloat16")
    kept = [tensor.nbytes for tensor in stored.values() if tensor.dtype == np.float32]
    assert sum(kept) == 4 * 29_184_000
    assert sum(tensor.nbytes for tensor in stored.values()) == 2 * 14_312_427_584 + sum(kept) // 2


def test_mixed_dtypes_within_a_stack_come_back_as_they_were(copy, tmp_path):
    def mix(tensors):
        for name in ("blocks.0.attn1.to_q.weight", "blocks.2.norm2.bias"):
            tensors[name] = tensors[name].to(torch.bfloat16)

    rewrite(copy / "transformer", mix)
    from_torch(copy, tmp_path / "ours")
    to_diffusers(tmp_path / "ours", tmp_path / "back")
    assert_same_tensors(tensors_of(tmp_path / "back/transformer"), tensors_of(copy / "transformer"))


@pytest.mark.parametrize(
    "names",
    [
        ["shared.weight"],
        ["encoder.embed_tokens.weight"],
        ["shared.weight", "encoder.embed_tokens.weight"],
    ],
)
def test_either_name_of_the_embedding_is_read_and_written_back(copy, tmp_path, names):
    def rename(tensors):
        embedding = tensors.pop("shared.weight", None)
        embedding = tensors.pop("encoder.embed_tokens.weight", embedding)
        tensors.update({name: embedding.clone() for name in names})

    rewrite(copy / "text_encoder", rename)
    from_torch(copy, tmp_path / "ours")
    to_diffusers(tmp_path / "ours", tmp_path / "back")
    assert_same_tensors(
        tensors_of(tmp_path / "back/text_encoder"), tensors_of(copy / "text_encoder")
    )
    loaded = transformers.UMT5EncoderModel.from_pretrained(tmp_path / "back/text_encoder")
    assert torch.equal(
        loaded.get_input_embeddings().weight, tensors_of(copy / "text_encoder")[names[0]]
    )


def test_earlier_names_are_understood(copy, released, tmp_path):
    def age(tensors):
        tensors["scale_shift_table"] = tensors.pop("norm_out.scale_shift_table")
        for new, old in {
            "patch_short": "clean_patch_embedding.proj",
            "patch_mid": "multi_term_memory_patch.proj_2x",
        }.items():
            for kind in ("weight", "bias"):
                tensors[f"{old}.{kind}"] = tensors.pop(f"{new}.{kind}")
        tensors["multi_term_memory_patch.patch_long.bias"] = tensors.pop("patch_long.bias")
        tensors["blocks.0.attn1.norm_added_q.weight"] = torch.zeros(3)

    rewrite(copy / "transformer", age)
    from_torch(copy, tmp_path / "ours")
    to_diffusers(tmp_path / "ours", tmp_path / "back")
    assert_same_tensors(
        tensors_of(tmp_path / "back/transformer"), tensors_of(released / "transformer")
    )


@pytest.mark.parametrize("mode", ["per_head", "scalar"])
def test_history_scales_are_converted_when_the_model_has_them(tmp_path, mode):
    save_pipeline(tmp_path / "torch", is_amplify_history=True, history_scale_mode=mode)
    from_torch(tmp_path / "torch", tmp_path / "ours")
    scale = load_params(tmp_path / "ours", "transformer")["blocks"]["attn1"]["history_key_scale"]
    assert scale.shape == (3, 2 if mode == "per_head" else 1)
    to_diffusers(tmp_path / "ours", tmp_path / "back")
    assert_same_tensors(
        tensors_of(tmp_path / "back/transformer"), tensors_of(tmp_path / "torch/transformer")
    )


def test_every_tensor_that_does_not_fit_is_named_at_once(copy, tmp_path):
    def spoil(tensors):
        for layer in (0, 1, 2):
            del tensors[f"blocks.{layer}.attn2.norm_k.weight"]
        del tensors["proj_out.bias"]
        tensors["patch_mid.bias"] = torch.zeros(5)
        tensors["blocks.1.attn1.q_loras.down.weight"] = torch.zeros(2, 2)

    rewrite(copy / "transformer", spoil)
    with pytest.raises(CheckpointError) as error:
        from_torch(copy, tmp_path / "ours")
    message = str(error.value)
    assert "\n" not in message
    assert "missing: blocks.{0-2}.attn2.norm_k.weight, proj_out.bias; " in message
    assert "; unexpected: blocks.1.attn1.q_loras.down.weight; " in message
    assert "; of another shape: patch_mid.bias is [5], not [24]. " in message
    assert "are artefacts of training with restrict_lora: use the merged release [" in message
    assert message.endswith("text_encoder of 5K parameters in float32]")
    assert not (tmp_path / "ours").exists()


def set_json(file, **changes):
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def drop_a_shard(folder):
    shutil.rmtree(folder / "vae")
    from .torch_models import vae

    vae().save_pretrained(folder / "vae", max_shard_size="5KB")
    sorted((folder / "vae").glob("*.safetensors"))[1].unlink()


def truncate(file, by=100):
    file.write_bytes(file.read_bytes()[:-by])


def add_old_name(tensors):
    tensors["scale_shift_table"] = tensors["norm_out.scale_shift_table"].clone()


WEIGHTS = "diffusion_pytorch_model.safetensors"
BAD_FOLDERS = {
    "no folder": (lambda folder: shutil.rmtree(folder), "is not there: no such file or directory"),
    "empty folder": (
        lambda folder: [shutil.rmtree(folder), folder.mkdir()],
        "neither a Diffusers folder .* nor an original Wan",
    ),
    "no vae": (
        lambda folder: shutil.rmtree(folder / "vae"),
        "has no vae: give the folder of a whole pipeline",
    ),
    "no weights": (
        lambda folder: (folder / "vae" / WEIGHTS).unlink(),
        r"vae has no \.safetensors files",
    ),
    "missing shard": (drop_a_shard, "vae lacks 1 of [0-9]+ shards: .* interrupted"),
    "truncated": (
        lambda folder: truncate(folder / "transformer" / WEIGHTS),
        f"transformer/{WEIGHTS} is truncated: ",
    ),
    "almost nothing": (
        lambda folder: (folder / "vae" / WEIGHTS).write_bytes(b"abc"),
        f"vae/{WEIGHTS} is not a safetensors file: it is a text",
    ),
    "not safetensors": (
        lambda folder: (folder / "vae" / WEIGHTS).write_bytes(b"\1" + bytes(9)),
        "its header cannot be read",
    ),
    "other pipeline": (
        lambda folder: set_json(folder / "model_index.json", _class_name="FluxPipeline"),
        "FluxPipeline is not a Helios",
    ),
    "wan": (
        lambda folder: set_json(folder / "model_index.json", _class_name="WanPipeline"),
        "is a Wan folder: pass --init_from_wan",
    ),
    "other scheduler": (
        lambda folder: set_json(folder / "scheduler/scheduler_config.json", _class_name="DDIM"),
        "'DDIM' is not a Helios sch",
    ),
    "new option": (
        lambda folder: set_json(folder / "transformer/config.json", use_moe=True),
        "unknown option use_moe=True",
    ),
    "option": (
        lambda folder: set_json(folder / "vae/config.json", is_residual=True),
        "is_residual=True is not supported, only False",
    ),
    "ill-typed": (
        lambda folder: set_json(folder / "vae/config.json", base_dim="x"),
        "base_dim='x' must be of type int",
    ),
    "misfit": (
        lambda folder: set_json(folder / "text_encoder/config.json", d_model=8),
        "text_dim=16 is not text_encoder.d_model=8",
    ),
    "not json": (
        lambda folder: (folder / "vae/config.json").write_text("{"),
        "vae/config.json is not valid JSON",
    ),
    "list": (
        lambda folder: (folder / "model_index.json").write_text("[]"),
        "model_index.json is not a JSON dictionary",
    ),
    "both names": (
        lambda folder: rewrite(folder / "transformer", add_old_name),
        "two tensors are norm_out.scale_shift_table",
    ),
    "no tokenizer": (
        lambda folder: (folder / "tokenizer/tokenizer.json").unlink(),
        r"tokenizer has no tokenizer\.json",
    ),
}


@pytest.mark.parametrize("case", BAD_FOLDERS)
def test_a_bad_folder_is_one_clear_line_and_nothing_is_written(copy, tmp_path, case):
    damage, says = BAD_FOLDERS[case]
    damage(copy)
    with pytest.raises(CheckpointError, match=says) as error:
        from_torch(copy, tmp_path / "ours")
    assert "\n" not in str(error.value)
    assert [path.name for path in tmp_path.iterdir() if path.name != "copy"] == []


def test_a_component_or_a_checkpoint_in_place_of_the_folder_is_recognised(released, tmp_path):
    with pytest.raises(
        CheckpointError,
        match="holds one AutoencoderKLWan only: give the folder of the whole pipeline",
    ):
        from_torch(released / "vae", tmp_path / "ours")
    from_torch(released, tmp_path / "ours")
    with pytest.raises(
        CheckpointError, match="is a helios-jax checkpoint already: pass --to_diffusers"
    ):
        from_torch(tmp_path / "ours", tmp_path / "again")


def test_a_damaged_checkpoint_is_not_turned_into_a_diffusers_folder(released, tmp_path):
    from_torch(released, tmp_path / "ours")
    file = tmp_path / "ours/vae/params.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\x55")
    with pytest.raises(CheckpointError, match=r"vae/params\.safetensors is altered"):
        to_diffusers(tmp_path / "ours", tmp_path / "back")
    assert not (tmp_path / "back").exists()
