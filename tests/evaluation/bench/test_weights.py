"""The networks' weights are read from the files in which they are published."""

import jax
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from helios_jax.checkpoint import CheckpointError
from helios_jax.evaluation.bench import BenchError, Models, find_weights
from helios_jax.evaluation.bench.networks import names
from helios_jax.evaluation.bench.networks.weights import (
    read_aesthetic_head,
    read_amt,
    read_clip,
    read_viclip,
)
from tests.evaluation.bench import toy_weights
from tests.evaluation.bench.toy_weights import TEXT, VISION, as_module, clip_state


def equal(one, other):
    return all(jax.tree.leaves(jax.tree.map(np.array_equal, one, other)))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_clip_is_read_alike_from_torchscript_a_dictionary_and_safetensors(tmp_path):
    state = clip_state()
    torch.jit.save(torch.jit.script(as_module(state)), tmp_path / "ViT-L-14.pt")
    torch.save(state, tmp_path / "clip.pth")
    save_file(state, tmp_path / "clip.safetensors")
    found = [read_clip(tmp_path / name) for name in ("ViT-L-14.pt", "clip.pth", "clip.safetensors")]
    for config, params in found:
        assert (config.width, config.layers, config.image_size) == (64, 2, 56)
        assert config.features == VISION.features
        assert equal(params, found[0][1])


def test_clip_is_read_from_the_folder_of_transformers(tmp_path):
    state = toy_weights.state(names.clip_hf_slots(VISION), 1)
    state["vision_model.embeddings.position_ids"] = torch.arange(17)[None]
    state["text_model.final_layer_norm.weight"] = torch.ones(3)
    save_file(state, tmp_path / "model.safetensors")
    config, params = read_clip(tmp_path)
    assert config == read_clip(tmp_path / "model.safetensors")[0]
    theirs = state["visual_projection.weight"].numpy()
    np.testing.assert_array_equal(params["trunk"]["proj"]["kernel"], theirs.T)


def test_viclip_is_read_from_its_nested_dictionary(tmp_path):
    vision, text, params = read_viclip(toy_weights.write_viclip(tmp_path / "viclip.pth"))
    assert (vision, text) == (VISION, TEXT)
    assert params["video"]["temporal_embedding"].shape == (8, 64)


def test_amt_and_the_head_are_read(tmp_path):
    params = read_amt(toy_weights.write_amt(tmp_path / "amt-s.pth"))
    assert params["feat_encoder"]["conv1"]["conv"]["kernel"].shape == (7, 7, 3, 32)
    head = read_aesthetic_head(toy_weights.write_head(tmp_path / "head.pth"), 32)
    assert head["linear"]["kernel"].shape == (32, 1)


def test_the_file_of_another_network_is_named(tmp_path):
    amt = toy_weights.write_amt(tmp_path / "amt-s.pth")
    with pytest.raises(CheckpointError, match=r"amt-s\.pth lacks .*patch_embedding"):
        read_clip(amt)
    with pytest.raises(CheckpointError, match=r"amt-s\.pth lacks token_embedding|lacks conv1"):
        read_viclip(amt)
    viclip = toy_weights.write_viclip(tmp_path / "viclip.pth")
    with pytest.raises(CheckpointError, match=r"viclip\.pth lacks feat_encoder\.conv1\.weight"):
        read_amt(viclip)
    with pytest.raises(CheckpointError, match=r"viclip\.pth lacks weight"):
        read_aesthetic_head(viclip, 32)


def test_a_tensor_that_is_missing_is_named(tmp_path):
    path = toy_weights.write_amt(tmp_path / "amt-s.pth")
    state = torch.load(path)["state_dict"]
    del state["update2.gru.0.bias"]
    torch.save(state, path)
    with pytest.raises(CheckpointError, match=r"missing: update2\.gru\.0\.bias"):
        read_amt(path)


def test_a_head_for_other_features_is_named(tmp_path):
    head = toy_weights.write_head(tmp_path / "head.pth")
    with pytest.raises(CheckpointError, match=r"weight is \[1, 32\], not \[1, 768\]"):
        read_aesthetic_head(head, 768)


def test_weights_are_found_where_the_benchmark_keeps_them(tmp_path):
    (tmp_path / "amt_model").mkdir()
    toy_weights.write_amt(tmp_path / "amt_model" / "amt-s.pth")
    assert find_weights(tmp_path) == {"amt": tmp_path / "amt_model" / "amt-s.pth"}


def test_missing_weights_are_named_with_their_licence(tmp_path):
    models = Models({"clip": tmp_path / "nowhere.pt"})
    assert models.reason_without("clip") == f"{tmp_path / 'nowhere.pt'} does not exist"
    assert "not for commercial use" in models.reason_without("amt")
    with pytest.raises(BenchError, match=r"nowhere\.pt does not exist"):
        len(models.aesthetic.params)
    with pytest.raises(BenchError, match=r"unknown weights \['raft'\]; known are clip"):
        Models({"raft": tmp_path})
