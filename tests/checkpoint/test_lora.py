"""A LoRA and a partial file are merged into the transformer as the original implementation does."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from helios_jax.checkpoint import CheckpointError, load_config
from helios_jax.checkpoint.adapter_files import AdapterFile
from helios_jax.checkpoint.convert import from_torch, to_diffusers

from .test_convert import tensors_of
from .torch_models import save_pipeline

WIDTH = 24
FFN = 20
RANK = 4
Q = "blocks.1.attn1.to_q"
UP = "blocks.0.ffn.net.0.proj"
MID = "patch_mid"


@pytest.fixture(scope="module", params=[torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def base(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("base") / "helios"
    save_pipeline(folder, dtype=request.param)
    return folder


def factors(module, out, *ins, prefix="transformer.", names=("lora_A", "lora_B"), seed=0):
    generator = torch.Generator().manual_seed(seed)
    down = torch.randn(RANK, *ins, generator=generator)
    up = torch.randn(out, RANK, *[1] * (len(ins) - 1), generator=generator)
    return {f"{prefix}{module}.{names[0]}.weight": down, f"{prefix}{module}.{names[1]}.weight": up}


def change(lora, shape, scale):
    down, up = (tensor.double() for tensor in lora.values())
    return scale * (up.flatten(1) @ down.flatten(1)).reshape(shape)


def merged(base, tmp_path, lora=None, partial=None, metadata=None):
    """The transformer's tensors after conversion with the files, and the base's."""
    if lora is not None:
        save_file(lora, tmp_path / "lora.safetensors", metadata)
    if partial is not None:
        torch.save(partial, tmp_path / "transformer_partial.pth")
    from_torch(
        base,
        tmp_path / "ours",
        adapters=[AdapterFile(tmp_path / "lora.safetensors")] if lora is not None else [],
        partial=tmp_path / "transformer_partial.pth" if partial is not None else None,
    )
    to_diffusers(tmp_path / "ours", tmp_path / "back")
    return tensors_of(tmp_path / "back/transformer"), tensors_of(base / "transformer")


def assert_changed(found, before, expected):
    """Tensors named in ``expected`` have its values, rounded to the base's dtype once; the others
    are as before.
    """
    for name, tensor in before.items():
        assert found[name].dtype == tensor.dtype
        if name in expected:
            tolerance = 1e-5 if tensor.dtype == torch.float32 else 2**-8
            np.testing.assert_allclose(
                found[name].double(), expected[name].double(), rtol=tolerance, atol=tolerance
            )
        else:
            assert torch.equal(found[name], tensor), name


@pytest.mark.parametrize(
    ("settings", "scale"),
    [
        (None, 1.0),
        ({"transformer.r": RANK, "transformer.lora_alpha": 2 * RANK}, 2.0),
        ({"transformer.lora_alpha": RANK, "transformer.alpha_pattern": {"attn1.to_q": 12}}, 3.0),
        ({"transformer.lora_alpha": 6, "transformer.use_rslora": True}, 3.0),
    ],
)
def test_a_linear_weight_gains_alpha_over_rank_times_b_a(base, tmp_path, settings, scale):
    lora = factors(Q, WIDTH, WIDTH)
    metadata = {"format": "pt"} | (
        {"lora_adapter_metadata": json.dumps(settings)} if settings else {}
    )
    found, before = merged(base, tmp_path, lora, metadata=metadata)
    weight = before[f"{Q}.weight"]
    assert_changed(
        found, before, {f"{Q}.weight": weight.double() + change(lora, weight.shape, scale)}
    )


def test_a_convolution_is_adapted_in_its_own_kernel(base, tmp_path):
    lora = factors(MID, WIDTH, 4, 2, 4, 4)
    found, before = merged(base, tmp_path, lora)
    weight = before[f"{MID}.weight"]
    assert_changed(
        found, before, {f"{MID}.weight": weight.double() + change(lora, weight.shape, 1)}
    )


@pytest.mark.parametrize(
    ("prefix", "ffn", "attention"),
    [
        ("diffusion_model.", "blocks.0.ffn.0", "blocks.1.self_attn.q"),
        ("lora_unet_", "blocks_0_ffn_0", "blocks_1_self_attn_q"),
    ],
)
def test_wan_names_and_alphas_are_understood(base, tmp_path, prefix, ffn, attention):
    lora = factors(ffn, FFN, WIDTH, prefix=prefix, names=("lora_down", "lora_up"))
    other = factors(attention, WIDTH, WIDTH, prefix=prefix, names=("lora_down", "lora_up"), seed=1)
    alpha = {f"{prefix}{ffn}.alpha": torch.tensor(2.0)}
    found, before = merged(base, tmp_path, lora | other | alpha)
    up = before[f"{UP}.weight"]
    q = before[f"{Q}.weight"]
    expected = {
        f"{UP}.weight": up.double() + change(lora, up.shape, 0.5),
        f"{Q}.weight": q.double() + change(other, q.shape, 1),
    }
    assert_changed(found, before, expected)


def test_norms_stored_in_full_replace_the_bases(base, tmp_path):
    norm = torch.randn(WIDTH)
    found, before = merged(
        base,
        tmp_path,
        factors(Q, WIDTH, WIDTH) | {"transformer.blocks.2.attn2.norm_k.weight": norm},
    )
    dtype = before["blocks.2.attn2.norm_k.weight"].dtype
    assert torch.equal(found["blocks.2.attn2.norm_k.weight"], norm.to(dtype))


def test_a_partial_file_replaces_and_the_discriminator_is_left_out(base, tmp_path):
    partial = {
        "patch_short.bias": torch.randn(WIDTH),
        "patch_long.weight": torch.randn(WIDTH, 4, 4, 8, 8),
        "gan_heads.3.head3d.0.w": torch.zeros(2),
    }
    found, before = merged(base, tmp_path, partial=partial)
    assert_changed(
        found,
        before,
        {
            name: tensor.to(before[name].dtype)
            for name, tensor in partial.items()
            if "gan" not in name
        },
    )


def test_first_the_partial_file_replaces_then_the_lora_adds_but_of_a_patch_only_the_lora_counts(
    base, tmp_path
):
    lora = factors(Q, WIDTH, WIDTH)
    patch = factors(MID, WIDTH, 4, 2, 4, 4)
    partial = {
        f"{Q}.weight": torch.randn(WIDTH, WIDTH),
        f"{MID}.weight": torch.randn(WIDTH, 4, 2, 4, 4),
        f"{MID}.bias": torch.randn(WIDTH),
        "patch_long.bias": torch.randn(WIDTH),
    }
    found, before = merged(base, tmp_path, lora | patch, partial)
    q = partial[f"{Q}.weight"].to(before[f"{Q}.weight"].dtype)
    mid = before[f"{MID}.weight"]
    expected = {
        f"{Q}.weight": q.double() + change(lora, q.shape, 1),
        f"{MID}.weight": mid.double() + change(patch, mid.shape, 1),
        "patch_long.bias": partial["patch_long.bias"].to(q.dtype),
    }
    assert_changed(found, before, expected)


def test_history_scales_of_a_partial_file_switch_the_option_on(base, tmp_path):
    partial = {
        f"blocks.{layer}.attn1.history_key_scale": torch.full((2,), float(layer))
        for layer in range(3)
    }
    found, before = merged(base, tmp_path, partial=partial)
    assert load_config(tmp_path / "ours").transformer.is_amplify_history
    assert load_config(tmp_path / "ours").transformer.history_scale_mode == "per_head"
    assert_changed({name: found[name] for name in before}, before, {})
    assert all(torch.equal(found[name], tensor) for name, tensor in partial.items())


BAD_FILES = {
    "restrict_lora": (
        {"partial": {"blocks.0.attn1.q_loras.down.weight": torch.zeros(2)}},
        "q_loras.* no place in the base; .*restrict_lora",
    ),
    "shape": (
        {"partial": {"patch_mid.bias": torch.zeros(2)}},
        r"patch_mid.bias is \[2\], the base's is \[24\]",
    ),
    "scales": (
        {"partial": {"blocks.0.attn1.history_key_scale": torch.ones(2)}},
        r"missing: blocks\.\{1-2\}\.attn1\.history_key_scale",
    ),
    "other model": (
        {"lora": factors("unet.mid", 4, 4)},
        "match nothing in the transformer, 2 of 2: transformer.unet.mid.lora_A.weight",
    ),
    "other width": (
        {"lora": factors(Q, 48, WIDTH)},
        r"is an adapter of a model \(width 48\), and this is a model \(width 24\)",
    ),
    "half": (
        {"lora": dict(list(factors(Q, WIDTH, WIDTH).items())[:1])},
        r"1 key without the other half of the pair: .*to_q\.lora_A",
    ),
    "dora": (
        {
            "lora": factors(Q, WIDTH, WIDTH),
            "metadata": {"lora_adapter_metadata": '{"transformer.use_dora": true}'},
        },
        "this is a DoRA adapter, which is not merged",
    ),
    "metadata": (
        {"lora": factors(Q, WIDTH, WIDTH), "metadata": {"lora_adapter_metadata": "["}},
        "not a JSON dictionary",
    ),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_what_cannot_be_merged_is_one_clear_line(base, tmp_path, case):
    files, says = BAD_FILES[case]
    with pytest.raises(CheckpointError, match=says) as error:
        merged(base, tmp_path, **files)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "ours").exists()
