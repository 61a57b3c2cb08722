"""Checkpoints that share components, and those of the first layout."""

import json
import shutil

import jax.numpy as jnp
import pytest
from flax.traverse_util import flatten_dict

from helios_jax.checkpoint import (
    CheckpointError,
    component_digest,
    load_params,
    load_tokenizer,
    rewrite,
    save,
)
from helios_jax.checkpoint.directory import open_checkpoint
from helios_jax.checkpoint.export_lora import merge_into_checkpoint
from helios_jax.checkpoint.files import write_digests
from helios_jax.checkpoint.names import COMPONENTS

from .first_layout import save_first_layout
from .test_directory import assert_equal_trees, flip_bit, rewrite_config
from .tiny import CONFIG, random_params


def shared_checkpoint(folder, params, saved):
    """A checkpoint with another transformer that names the VAE and the rest of ``saved``."""
    own = random_params(CONFIG, "transformer", jnp.bfloat16, seed=1)
    tokenizer = saved / "tokenizer"
    save(folder / "whole", CONFIG, params | {"transformer": own}, tokenizer)
    rewrite(folder / "whole", folder / "shared", shared_with=saved)
    return folder / "shared", own


def test_what_two_checkpoints_have_in_common_is_named_and_stored_once(copy, params):
    shared, own = shared_checkpoint(copy.parent, params, copy)
    values = json.loads((shared / "config.json").read_text())
    assert values["shared"] == dict.fromkeys(("vae", "text_encoder", "tokenizer"), "../copy")
    files = {str(file.relative_to(shared)) for file in shared.rglob("*") if file.is_file()}
    assert files == {"config.json", "digests.json", "transformer/params.safetensors"}
    assert_equal_trees(load_params(shared, "transformer"), own)
    assert_equal_trees(load_params(shared, "vae"), params["vae"])
    assert load_tokenizer(shared).vocab_size == load_tokenizer(copy).vocab_size


def test_a_shared_file_that_was_altered_or_is_away_is_named(copy, params):
    shared, _ = shared_checkpoint(copy.parent, params, copy)
    flip_bit(copy / "vae/params.safetensors")
    write_digests(copy)  # so that its owner takes it for its own
    with pytest.raises(CheckpointError, match=r"copy/vae/params\.safetensors is altered"):
        load_params(shared, "vae")
    shutil.rmtree(copy)
    with pytest.raises(
        CheckpointError, match=r"is missing \(config\.json says vae is in \.\./copy"
    ):
        load_params(shared, "vae")


@pytest.mark.parametrize("place", ["/etc", 3, None])
def test_a_place_of_shared_files_that_is_none_is_refused(copy, place):
    rewrite_config(copy, shared={"vae": place})
    with pytest.raises(CheckpointError, match="shared must give for any of transformer, vae"):
        load_params(copy, "vae")


@pytest.fixture
def first_layout(tmp_path, params):
    """Two checkpoints of format version 1, the second with links to the VAE of the first."""
    flat = {name: flatten_dict(tree, sep="/") for name, tree in params.items()}
    save_first_layout(tmp_path / "one", CONFIG, flat, {})
    save_first_layout(
        tmp_path / "two", CONFIG, {"transformer": flat["transformer"]}, {"vae": "../one/vae"}
    )
    return tmp_path


def test_the_first_layout_is_still_read(first_layout, params):
    assert (first_layout / "one/transformer/blocks.attn1.qkv.kernel/2.0.1.0.0").is_file()
    for component in COMPONENTS:
        assert_equal_trees(load_params(first_layout / "one", component), params[component])
    assert_equal_trees(load_params(first_layout / "two", "vae"), params["vae"])


def test_damage_to_a_chunk_of_the_first_layout_is_found(first_layout):
    chunk = first_layout / "one/transformer/blocks.ffn.up.kernel/1.0.0"
    flip_bit(chunk)
    with pytest.raises(CheckpointError, match=r"kernel/1\.0\.0 is altered"):
        load_params(first_layout / "one", "transformer")
    chunk.unlink()
    write_digests(first_layout / "one")
    with pytest.raises(CheckpointError, match=r"cannot read.* is missing"):
        load_params(first_layout / "one", "transformer")


def test_a_rewritten_checkpoint_has_the_same_values_and_is_known_as_the_same(first_layout, params):
    for name, other in (("one", None), ("two", first_layout / "new/one")):
        rewrite(first_layout / name, first_layout / "new" / name, shared_with=other)
        for component in ("transformer", "vae"):
            assert_equal_trees(
                load_params(first_layout / "new" / name, component), params[component]
            )
            digests = {
                component_digest(first_layout / folder, component)
                for folder in (name, f"new/{name}")
            }
            assert len(digests) == 1
    assert not list((first_layout / "new/two").glob("vae"))
    assert list((first_layout / "new/one/transformer").iterdir()) == [
        first_layout / "new/one/transformer/params.safetensors"
    ]


def test_what_is_merged_into_a_checkpoint_that_shares_is_whole_by_itself(copy, tmp_path, params):
    shared, own = shared_checkpoint(tmp_path, params, copy)
    merge_into_checkpoint(shared, {}, tmp_path / "elsewhere/merged")
    shutil.rmtree(shared)
    shutil.rmtree(copy)
    merged = tmp_path / "elsewhere/merged"
    open_checkpoint(merged).files.check()
    assert_equal_trees(load_params(merged, "transformer"), own)
    for component in ("vae", "text_encoder"):
        assert_equal_trees(load_params(merged, component), params[component])


def test_what_is_merged_into_the_first_layout_is_read_whole(first_layout, params):
    bias = {"proj_out": {"bias": params["transformer"]["proj_out"]["bias"] * 2}}
    merge_into_checkpoint(first_layout / "two", bias, first_layout / "merged")
    open_checkpoint(first_layout / "merged").files.check()
    expected = params["transformer"] | {
        "proj_out": params["transformer"]["proj_out"] | bias["proj_out"]
    }
    assert_equal_trees(load_params(first_layout / "merged", "transformer"), expected)
    assert_equal_trees(load_params(first_layout / "merged", "vae"), params["vae"])
    digests = {component_digest(first_layout / name, "vae") for name in ("two", "merged")}
    assert len(digests) == 1
