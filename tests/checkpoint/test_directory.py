"""A checkpoint directory gives back what was saved, whole, or one clear line."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flax.traverse_util import flatten_dict, unflatten_dict

from helios_jax.checkpoint import (
    CheckpointError,
    load_config,
    load_params,
    load_tokenizer,
    save,
)
from helios_jax.checkpoint.files import write_digests
from helios_jax.checkpoint.finite import is_finite
from helios_jax.checkpoint.names import COMPONENTS

from .tiny import CONFIG, random_params


def assert_equal_trees(found, expected):
    found = flatten_dict(found, sep="/")
    expected = flatten_dict(expected, sep="/")
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


def test_two_public_libraries_read_a_component_in_two_lines(saved, params):
    flat = safetensors.numpy.load_file(saved / "transformer/params.safetensors")
    assert_equal_trees(unflatten_dict(flat, sep="/"), params["transformer"])


def test_a_component_is_one_file_and_a_large_one_is_cut_between_leaves(monkeypatch, tmp_path):
    monkeypatch.setattr("helios_jax.checkpoint.component.FILE_BYTES", 1000)
    params = random_params(CONFIG, "text_encoder")
    save(tmp_path / "cut", CONFIG, {"text_encoder": params})
    files = sorted((tmp_path / "cut/text_encoder").glob("*.safetensors"))
    assert files[0].name == f"params-00001-of-{len(files):05d}.safetensors"
    assert len(files) > 3
    assert_equal_trees(load_params(tmp_path / "cut", "text_encoder"), params)


def test_no_array_is_a_view_of_a_file(saved, copy, params):
    loaded = load_params(copy, "vae")
    for file in (copy / "vae").iterdir():
        with open(file, "r+b") as data:
            data.write(bytes(file.stat().st_size))
    assert_equal_trees(loaded, params["vae"])


def test_leaves_are_converted_to_the_dtype_asked_for_each_path(saved, params):
    loaded = load_params(
        saved, "vae", dtypes=lambda path: jnp.bfloat16 if path.endswith("kernel") else jnp.float32
    )
    expected = {
        path: leaf.astype(jnp.bfloat16 if path.endswith("kernel") else np.float32)
        for path, leaf in flatten_dict(params["vae"], sep="/").items()
    }
    assert_equal_trees(loaded, expected)


def test_leaves_are_placed_with_the_sharding_asked_for(saved, params):
    mesh = jax.make_mesh((1,), ("data",))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    loaded = load_params(saved, "vae", sharding=lambda path: sharding)
    assert_equal_trees(loaded, params["vae"])
    assert all(leaf.sharding == sharding for leaf in jax.tree.leaves(loaded))


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
@pytest.mark.parametrize("file", ["transformer/params.safetensors", "config.json"])
def test_damage_is_found_and_the_file_named(copy, damage, says, file):
    damage(copy / file)
    with pytest.raises(CheckpointError, match=f"{file}.*{says}") as error:
        load_params(copy, "transformer")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("place", [3, 20, 200])
def test_damage_to_a_header_is_told_as_an_altered_file(copy, place):
    file = copy / "vae/params.safetensors"
    data = bytearray(file.read_bytes())
    data[place] ^= 1
    file.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"vae/params\.safetensors is altered"):
        load_params(copy, "vae")


@pytest.mark.parametrize("damage", [flip_bit, lambda file: file.unlink()])
def test_damage_to_the_tokenizer_is_found(copy, damage):
    damage(copy / "tokenizer/tokenizer.json")
    with pytest.raises(CheckpointError, match=r"tokenizer/tokenizer\.json is (altered|missing)"):
        load_tokenizer(copy)


def test_a_file_beside_those_of_the_checkpoint_is_not_read(copy):
    values = json.loads((copy / "digests.json").read_text())
    del values["files"]["tokenizer/tokenizer.json"]
    (copy / "digests.json").write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match=r"has no tokenizer/tokenizer\.json that its digests"):
        load_tokenizer(copy)


@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_weights_that_are_not_finite_are_refused_unless_asked_for(tmp_path, params, value):
    flat = flatten_dict(params["vae"], sep="/")
    broken = dict(flat)
    for path in ("quant_conv/bias", "decoder/conv_in/kernel"):
        broken[path] = flat[path].copy()
        broken[path].reshape(-1)[-1] = value
    save(tmp_path / "broken", CONFIG, {"vae": unflatten_dict(broken, sep="/")})
    with pytest.raises(
        CheckpointError, match=r"NaN or infinite values in .*quant_conv/bias.*--noverify"
    ) as error:
        load_params(tmp_path / "broken", "vae")
    assert "decoder/conv_in/kernel" in str(error.value)
    assert_equal_trees(load_params(tmp_path / "broken", "vae", verify=False), broken)


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, jnp.bfloat16, np.int32])
def test_values_are_finite_up_to_the_largest(dtype):
    values = np.ones(100_000, dtype)
    if dtype != np.int32:
        values[:2] = jnp.finfo(dtype).max, jnp.finfo(dtype).min
    assert is_finite(values)
    for place in (0, 70_000, 99_999) if dtype != np.int32 else ():
        for value in (np.nan, np.inf, -np.inf):
            damaged = values.copy()
            damaged[place] = value
            assert not is_finite(damaged.reshape(100, 1000))


def test_damage_to_another_component_does_not_matter(copy, params):
    flip_bit(copy / "transformer/params.safetensors")
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
        match=r"of another shape: .*blocks/scale_shift_table is \[3, 6, 24\], not \[4, 6, 24\]",
    ):
        load_params(copy, "transformer")


def test_an_absent_component_is_named_with_those_present(tmp_path, params):
    save(tmp_path / "vae_only", CONFIG, {"vae": params["vae"]})
    with pytest.raises(CheckpointError, match=r"has no transformer; it has: vae$"):
        load_params(tmp_path / "vae_only", "transformer")
    with pytest.raises(CheckpointError, match="unknown component 'unet'"):
        load_params(tmp_path / "vae_only", "unet")


def test_a_folder_that_is_no_checkpoint_is_one_clear_line(tmp_path):
    with pytest.raises(CheckpointError, match="no checkpoint there"):
        load_config(tmp_path / "nowhere")
    (tmp_path / "model_index.json").write_text("{}")
    with pytest.raises(CheckpointError, match="convert it first with helios-jax convert"):
        load_config(tmp_path)


def test_a_tree_that_does_not_fit_its_configuration_is_not_saved(tmp_path, params):
    wrong = dict(
        params["transformer"],
        extra=np.zeros(3, np.float32),
        proj_out={"kernel": np.zeros((2, 2), np.float32)},
    )
    with pytest.raises(
        CheckpointError,
        match=r"missing: proj_out/bias; unexpected: extra; of another shape: proj_out/kernel is",
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

    monkeypatch.setattr("helios_jax.checkpoint.saving.write_digests", interrupted)
    with pytest.raises(stop):
        save(tmp_path / "never", CONFIG, params)
    assert not list(tmp_path.iterdir())
