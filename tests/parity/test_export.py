"""Trained parameters are exported as files that Diffusers loads, or merged into a checkpoint, and
give the same velocities there.
"""

import dataclasses
import importlib.util
import shutil
from pathlib import Path

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors.torch import load_file

from helios_jax.checkpoint import CheckpointError, load_config, load_params
from helios_jax.checkpoint.adapter_files import AdapterFile
from helios_jax.checkpoint.convert import from_torch, to_diffusers
from helios_jax.checkpoint.directory import open_checkpoint
from helios_jax.checkpoint.export_lora import LORA, PARTIAL, export_lora, merge_into_checkpoint
from helios_jax.config import SchedulerConfig
from helios_jax.models.lora import LINEARS, adaptable, combine, init_adapters, merge
from helios_jax.models.transformer import HeliosTransformer
from helios_jax.types import History

from ..checkpoint.tiny import CONFIG
from ..checkpoint.torch_models import save_pipeline
from .compare import relative_error
from .test_transformer import INDICES, inputs, torch_velocity
from .torch_transformer import TINY, config_from_torch, params_from_torch, random_transformer

RECIPES = {
    "linears, and history patches in full": (LINEARS, ("patch_short", "patch_mid", "patch_long")),
    "linears and convolutions, and norms in full": (rf"{LINEARS}|patch_.*", ("norm_q", "norm_k")),
}
needs_peft = pytest.mark.skipif(
    importlib.util.find_spec("peft") is None,
    reason="diffusers loads a LoRA only where peft is installed",
)
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*:DeprecationWarning", "ignore:.*:FutureWarning", "ignore:.*:UserWarning"
)


def make_trainable(params, recipe, rank=3):
    """Adapters with random factors on the recipe's modules, and fresh values for the leaves it
    trains in full.
    """
    include, full = RECIPES[recipe]
    generator = np.random.default_rng(0)
    flat = flatten_dict(
        init_adapters(jax.random.key(0), params, adaptable(params, include), rank), sep="/"
    )
    for path, leaf in flatten_dict(params, sep="/").items():
        if set(full) & set(path.split("/")):
            flat[path] = leaf
    for path, leaf in flat.items():
        flat[path] = jnp.asarray(generator.standard_normal(leaf.shape) * 0.2, jnp.float32)
    return unflatten_dict(flat, sep="/")


@pytest.fixture(scope="module", params=[torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def base(request, tmp_path_factory):
    """A toy pipeline of PyTorch and the same as our checkpoint."""
    folder = tmp_path_factory.mktemp("base")
    save_pipeline(folder / "torch", dtype=request.param)
    from_torch(folder / "torch", folder / "ours", progress=False)
    return folder


def by_hand(params, trainable):
    """The merged tree in float64, kernel by kernel."""
    flat = flatten_dict(params, sep="/")
    trained = flatten_dict(trainable, sep="/")
    merged = {path: np.asarray(trained.get(path, leaf), np.float64) for path, leaf in flat.items()}
    for path in trained:
        if not path.endswith("/lora_a"):
            continue
        module = path.removesuffix("/lora_a")
        a, b = (
            np.asarray(trained[f"{module}/{name}"], np.float64) for name in ("lora_a", "lora_b")
        )
        layers = "l" if module.startswith("blocks/") else ""
        part = "p" if module.endswith(("qkv", "kv")) else ""
        ins = "abcde"[: a.ndim - 1 - len(layers + part)]
        outs = "xyz"[: b.ndim - 1 - len(layers + part)]
        merged[f"{module}/kernel"] += np.einsum(
            f"{layers}{ins}{part}r,{layers}{part}r{outs}->{layers}{ins}{part}{outs}", a, b
        )
    return merged


def assert_close(found, expected, dtype):
    """Equal to a rounding of the stored dtype."""
    tolerance = 2e-6 if dtype == jnp.float32 else 2**-8
    for path, leaf in flatten_dict(found, sep="/").items():
        assert leaf.dtype == dtype, path
        np.testing.assert_allclose(
            np.asarray(leaf, np.float64),
            expected[path],
            rtol=tolerance,
            atol=tolerance,
            err_msg=path,
        )


@needs_peft
@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES)
def test_diffusers_computes_with_the_files_what_our_model_computes_with_the_tree(recipe, tmp_path):
    """Unmerged on both sides, to 1e-5 of the largest value; and the adapters do change it."""
    model = random_transformer(**TINY | {"num_layers": 2})
    given = inputs(1, batch=1)
    config = config_from_torch(model)
    params = params_from_torch(model)
    timestep = np.array([385.1468], np.float32)
    before = torch_velocity(model, timestep=timestep, **given)
    trainable = make_trainable(params, recipe)
    export_lora(tmp_path / "out", config, trainable)
    ours = jax.jit(HeliosTransformer(config).apply, static_argnames="frame_indices")(
        {"params": combine(params, trainable)},
        jnp.asarray(given["latents"]),
        jnp.asarray(timestep),
        jnp.asarray(given["text"]),
        History(*map(jnp.asarray, given["history"])),
        frame_indices=INDICES,
    )
    assert (
        model.load_state_dict(load_file(tmp_path / "out" / PARTIAL), strict=False).unexpected_keys
        == []
    )
    model.load_lora_adapter(load_file(tmp_path / "out" / LORA))
    expected = torch_velocity(model, timestep=timestep, **given)
    assert relative_error(ours, expected) < 1e-5
    assert relative_error(before, expected) > 0.1


@needs_peft
@pytest.mark.slow
@pytest.mark.parametrize("base", [torch.float32], indirect=True)
def test_a_pipeline_of_diffusers_loads_and_fuses_the_lora(base, tmp_path):
    params = load_params(base / "ours", "transformer")
    trainable = init_adapters(jax.random.key(0), params, adaptable(params, LINEARS), 3)
    trainable = jax.tree.map(
        lambda leaf: jax.random.normal(jax.random.key(1), leaf.shape), trainable
    )
    export_lora(tmp_path / "out", CONFIG.transformer, trainable)
    pipeline = diffusers.DiffusionPipeline.from_pretrained(base / "torch")
    pipeline.load_lora_weights(tmp_path / "out")
    pipeline.fuse_lora()
    pipeline.unload_lora_weights()
    merge_into_checkpoint(base / "ours", trainable, tmp_path / "merged")
    to_diffusers(tmp_path / "merged", tmp_path / "diffusers", progress=False)
    (file,) = (tmp_path / "diffusers/transformer").glob("*.safetensors")
    for name, tensor in load_file(file).items():
        torch.testing.assert_close(
            pipeline.transformer.state_dict()[name].float(), tensor.float(), rtol=1e-5, atol=1e-5
        )


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_converter_reads_back_what_was_exported(base, recipe, tmp_path):
    params = load_params(base / "ours", "transformer")
    trainable = make_trainable(params, recipe)
    export_lora(tmp_path / "out", CONFIG.transformer, trainable)
    from_torch(
        base / "torch",
        tmp_path / "again",
        adapters=[AdapterFile(tmp_path / "out" / LORA)],
        partial=tmp_path / "out" / PARTIAL,
        progress=False,
    )
    dtype = flatten_dict(params, sep="/")["proj_out/kernel"].dtype
    assert_close(load_params(tmp_path / "again", "transformer"), by_hand(params, trainable), dtype)


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_merged_checkpoint_is_the_base_plus_a_b_rounded_once(base, recipe, tmp_path):
    params = load_params(base / "ours", "transformer")
    trainable = make_trainable(params, recipe)
    merge_into_checkpoint(base / "ours", trainable, tmp_path / "merged")
    found = load_params(tmp_path / "merged", "transformer")
    dtype = flatten_dict(params, sep="/")["proj_out/kernel"].dtype
    assert_close(found, by_hand(params, trainable), dtype)
    assert_close(
        merge(params, trainable),
        {path: np.asarray(leaf, np.float64) for path, leaf in flatten_dict(found, sep="/").items()},
        dtype,
    )


def test_a_merged_checkpoint_is_whole_and_keeps_the_other_components_files(base, tmp_path):
    ours = base / "ours"
    merged = tmp_path / "merged"
    params = load_params(ours, "transformer")
    trainable = make_trainable(params, "linears, and history patches in full")
    config = dataclasses.replace(
        load_config(ours), scheduler=SchedulerConfig(shift_tokens="own_stage")
    )
    merge_into_checkpoint(ours, trainable, merged, config=config)
    files = open_checkpoint(merged).files
    of_base = open_checkpoint(ours).files.digests
    assert files.digests.keys() == of_base.keys()
    files.check()
    assert {str(file.relative_to(merged)) for file in merged.rglob("*") if file.is_file()} == {
        *files.digests,
        "digests.json",
    }
    for name in of_base:
        if name.startswith(("vae/", "text_encoder/", "tokenizer/")):
            assert files.digests[name] == of_base[name]
            assert (merged / name).stat().st_ino == (ours / name).stat().st_ino
    assert load_config(merged) == config
    with pytest.raises(CheckpointError, match="exists already"):
        merge_into_checkpoint(ours, trainable, merged)


def test_history_scales_of_a_model_that_begins_to_amplify_are_added(base, tmp_path):
    config = load_config(base / "ours")
    config = dataclasses.replace(
        config, transformer=dataclasses.replace(config.transformer, is_amplify_history=True)
    )
    scales = {
        "blocks": {
            "attn1": {"history_key_scale": np.linspace(1, 2, 6, dtype=np.float32).reshape(3, 2)}
        }
    }
    merge_into_checkpoint(base / "ours", scales, tmp_path / "merged", config=config)
    found = load_params(tmp_path / "merged", "transformer")
    np.testing.assert_array_equal(
        found["blocks"]["attn1"]["history_key_scale"],
        scales["blocks"]["attn1"]["history_key_scale"],
    )
    with pytest.raises(CheckpointError, match="missing: blocks/attn1/history_key_scale"):
        merge_into_checkpoint(base / "ours", {}, tmp_path / "none", config=config)


A = np.zeros((24, 3), np.float32)
B = np.zeros((3, 16), np.float32)
BAD_TREES = {
    "no place": ({"head": {"kernel": A}}, "head/kernel has no place"),
    "half": ({"proj_out": {"lora_a": A}}, "proj_out/lora_a is without the other factor"),
    "shape": (
        {"proj_out": {"lora_a": A[:7], "lora_b": B}},
        r"proj_out/lora_a is \[7, 3\], not \[24, 3\]",
    ),
    "twice": (
        {"proj_out": {"lora_a": A, "lora_b": B, "kernel": A @ B}},
        "proj_out/kernel is trained in full and adapted, too",
    ),
    "full": ({"proj_out": {"bias": A}}, r"proj_out/bias is \[24, 3\], not \[16\]"),
    "many": (
        {f"head_{number}": {"kernel": A} for number in range(400)},
        "head_2/kernel has no place in the transformer; and 397 more$",
    ),
}


@pytest.mark.parametrize("case", BAD_TREES)
def test_a_tree_that_does_not_fit_is_refused_and_nothing_is_written(base, case, tmp_path):
    tree, says = BAD_TREES[case]
    for write in (
        lambda: export_lora(tmp_path / "out", CONFIG.transformer, tree),
        lambda: merge_into_checkpoint(base / "ours", tree, tmp_path / "out"),
    ):
        with pytest.raises(CheckpointError, match=says):
            write()
    assert not list(Path(tmp_path).iterdir())


def test_a_damaged_base_is_refused(base, tmp_path):
    copy = shutil.copytree(base / "ours", tmp_path / "copy")
    file = copy / "transformer/params.safetensors"
    file.write_bytes(bytes(len(file.read_bytes())))
    with pytest.raises(CheckpointError, match=r"transformer/params\.safetensors is altered"):
        merge_into_checkpoint(copy, {}, tmp_path / "out")
