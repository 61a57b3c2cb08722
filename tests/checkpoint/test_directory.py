"""A checkpoint directory gives back what was saved, whole, or one clear line."""

import json
import shutil
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from helios_jax.checkpoint import CheckpointError, load_config, load_params, save
from helios_jax.checkpoint.directory import flatten
from helios_jax.checkpoint.files import write_digests
from helios_jax.checkpoint.names import COMPONENTS

from .tiny import CONFIG, random_params


@pytest.fixture(scope="module")
def params():
    dtypes = {"transformer": jnp.bfloat16, "vae": np.float32, "text_encoder": jnp.bfloat16}
    return {
        component: random_params(CONFIG, component, dtype) for component, dtype in dtypes.items()
    }


@pytest.fixture(scope="module")
def saved(params, tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoint") / "tiny"
    (path.parent / "tokenizer.json").write_text("{}")
    save(path, CONFIG, params, path.parent / "tokenizer.json")
    return path


@pytest.fixture
def copy(saved, tmp_path):
    """A checkpoint that a test may damage."""
    return shutil.copytree(saved, tmp_path / "copy")


def assert_equal_trees(found, expected):
    found, expected = flatten(found), flatten(expected)
    assert found.keys() == expected.keys()
    for path, leaf in expected.items():
        assert found[path].dtype == leaf.dtype, path
        np.testing.assert_array_equal(
            np.asarray(found[path], np.float32), np.asarray(leaf, np.float32), err_msg=path
        )


@pytest.mark.parametrize("component", COMPONENTS)
def test_what_is_loaded_is_what_was_saved(saved, params, component):
    assert load_config(saved) == CONFIG
    assert_equal_trees(load_params(saved, component), params[component])


@pytest.mark.parametrize("component", COMPONENTS)
def test_orbax_restores_each_component(saved, params, component):
    abstract = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), params[component]
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert_equal_trees(
            ocp.StandardCheckpointer().restore(saved / component, abstract), params[component]
        )
        assert_equal_trees(ocp.PyTreeCheckpointer().restore(saved / component), params[component])


def test_a_chunk_holds_one_layer_and_one_projection(saved):
    layers, projections = CONFIG.transformer.num_layers, 3
    chunks = {file.name for file in (saved / "transformer/blocks.attn1.qkv.kernel").iterdir()} - {
        ".zarray"
    }
    assert chunks == {
        f"{layer}.0.{projection}.0.0"
        for layer in range(layers)
        for projection in range(projections)
    }


def test_large_tensors_are_cut_into_chunks_and_come_back_whole(monkeypatch, tmp_path):
    monkeypatch.setattr("helios_jax.checkpoint.arrays.CHUNK_BYTES", 1000)
    params = random_params(CONFIG, "text_encoder")
    save(tmp_path / "cut", CONFIG, {"text_encoder": params})
    chunks = list((tmp_path / "cut/text_encoder/token_embedding.embedding").glob("[0-9]*"))
    assert len(chunks) == 3  # 40 rows of 64 bytes in pieces of at most 1000
    assert_equal_trees(load_params(tmp_path / "cut", "text_encoder"), params)


def test_leaves_are_converted_to_the_dtype_asked_for_each_path(saved, params):
    loaded = load_params(
        saved, "vae", dtypes=lambda path: jnp.bfloat16 if path.endswith("kernel") else jnp.float32
    )
    expected = {
        path: leaf.astype(jnp.bfloat16 if path.endswith("kernel") else np.float32)
        for path, leaf in flatten(params["vae"]).items()
    }
    assert_equal_trees(loaded, expected)


def test_leaves_are_placed_with_the_sharding_asked_for(saved, params):
    mesh = jax.make_mesh((1,), ("data",))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    loaded = load_params(saved, "vae", sharding=lambda path: sharding)
    assert_equal_trees(loaded, params["vae"])
    assert all(leaf.sharding == sharding for leaf in jax.tree.leaves(loaded))


def some_chunk(root):
    return root / "transformer/blocks.ffn.up.kernel/1.0.0"


def flip_bit(file):
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (flip_bit, "is altered"),
        (lambda file: file.write_bytes(file.read_bytes()[:-1]), "is truncated"),
        (lambda file: file.unlink(), "is missing"),
    ],
)
@pytest.mark.parametrize("file", ["transformer/blocks.ffn.up.kernel/1.0.0", "config.json"])
def test_damage_is_found_and_the_file_named(copy, damage, says, file):
    damage(copy / file)
    with pytest.raises(CheckpointError, match=f"{file}.*{says}") as error:
        load_params(copy, "transformer")
    assert "\n" not in str(error.value)


def test_a_chunk_that_no_digest_tells_of_is_missed_all_the_same(copy):
    some_chunk(copy).unlink()
    write_digests(copy)
    with pytest.raises(CheckpointError, match=r"cannot read .*blocks/ffn/up/kernel.* is missing"):
        load_params(copy, "transformer")


def test_damage_to_another_component_does_not_matter(copy, params):
    flip_bit(some_chunk(copy))
    assert_equal_trees(load_params(copy, "vae"), params["vae"])


def test_without_digests_the_checkpoint_is_unfinished(copy):
    (copy / "digests.json").unlink()
    with pytest.raises(
        CheckpointError, match=r"not a finished helios-jax checkpoint: digests\.json is missing"
    ):
        load_config(copy)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("[]", "not a JSON dictionary"),
        ('{"files": {"config.json": 3}}', "does not list"),
        ("{", "not valid JSON"),
        ('{"files": {}}', "no config.json"),
    ],
)
def test_damaged_digests_are_one_clear_line(copy, content, says):
    (copy / "digests.json").write_text(content)
    with pytest.raises(CheckpointError, match=says):
        load_config(copy)


def rewrite_config(root, **changes):
    """Change config.json and its digest, as a program with another idea of the format would."""
    values = json.loads((root / "config.json").read_text()) | changes
    (root / "config.json").write_text(json.dumps(values))
    write_digests(root)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"version": 9}, "format version 9"),
        ({"format": "other"}, 'does not say "format": "helios-jax"'),
        ({"sampler": {}}, "unknown configuration field 'sampler'"),
        ({"vae": {"base_dim": "3"}}, "vae.base_dim"),
    ],
)
def test_a_configuration_of_another_format_is_refused(copy, changes, says):
    rewrite_config(copy, **changes)
    with pytest.raises(CheckpointError, match=says):
        load_config(copy)


def test_a_configuration_that_does_not_fit_the_arrays_is_refused(copy):
    values = json.loads((copy / "config.json").read_text())["transformer"]
    rewrite_config(copy, transformer=values | {"num_layers": 4})
    with pytest.raises(
        CheckpointError,
        match=r"blocks/scale_shift_table has shape \[3, 6, 24\], config.json asks for \[4, 6, 24\]",
    ):
        load_params(copy, "transformer")


def test_an_absent_component_is_named_with_those_present(tmp_path, params):
    save(tmp_path / "vae_only", CONFIG, {"vae": params["vae"]})
    with pytest.raises(CheckpointError, match="has no transformer; it has: vae"):
        load_params(tmp_path / "vae_only", "transformer")
    with pytest.raises(CheckpointError, match="unknown component 'unet'"):
        load_params(tmp_path / "vae_only", "unet")


def test_a_folder_that_is_no_checkpoint_is_one_clear_line(tmp_path):
    with pytest.raises(CheckpointError, match="no checkpoint there"):
        load_config(tmp_path / "nowhere")
    (tmp_path / "model_index.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"convert it first with convert_torch_weights\.py"):
        load_config(tmp_path)


def test_a_tree_that_does_not_fit_its_configuration_is_not_saved(tmp_path, params):
    wrong = dict(
        params["transformer"],
        extra=np.zeros(3, np.float32),
        proj_out={"kernel": np.zeros((2, 2), np.float32)},
    )
    with pytest.raises(
        CheckpointError,
        match=r"missing: proj_out/bias; unexpected: extra; of another shape: proj_out/kernel is \[2, 2\]",
    ):
        save(tmp_path / "wrong", CONFIG, {"transformer": wrong})
    assert not list(tmp_path.iterdir())


def test_an_existing_directory_is_replaced_only_when_asked(tmp_path, params):
    save(tmp_path / "here", CONFIG, {"vae": params["vae"]})
    with pytest.raises(CheckpointError, match="exists already"):
        save(tmp_path / "here", CONFIG, {"text_encoder": params["text_encoder"]})
    save(tmp_path / "here", CONFIG, {"text_encoder": params["text_encoder"]}, overwrite=True)
    assert_equal_trees(load_params(tmp_path / "here", "text_encoder"), params["text_encoder"])
    assert [path.name for path in tmp_path.iterdir()] == ["here"]


def test_what_is_not_a_checkpoint_is_never_replaced(tmp_path, params):
    (tmp_path / "home").mkdir()
    (tmp_path / "home/thesis.txt").write_text("irreplaceable")
    with pytest.raises(CheckpointError, match=r"has no digests\.json, so it is something else"):
        save(tmp_path / "home", CONFIG, {"vae": params["vae"]}, overwrite=True)
    assert (tmp_path / "home/thesis.txt").read_text() == "irreplaceable"


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit, OSError])
def test_an_interrupted_save_leaves_nothing(monkeypatch, tmp_path, params, stop):
    def interrupted(*_):
        raise stop

    monkeypatch.setattr("helios_jax.checkpoint.directory.write_digests", interrupted)
    with pytest.raises(stop):
        save(tmp_path / "never", CONFIG, params)
    assert not list(tmp_path.iterdir())
