"""--lora FILE[:STRENGTH], repeated, in convert and sample."""

import shutil

import numpy as np
import pytest
from safetensors.numpy import save_file

from helios_jax import HeliosPipeline, checkpoint
from helios_jax.checkpoint.adapter_files import AdapterFile
from helios_jax.checkpoint.convert import to_diffusers
from helios_jax.commands import convert, sample
from helios_jax.sampling.state import load_state
from tests.sampling.conftest import TOY
from tests.toy_adapters import save_adapter

PROMPT = "--prompt=a red ball rolls over green grass"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A toy checkpoint, the Diffusers folder of it, and two adapters."""
    folder = tmp_path_factory.mktemp("lora")
    pipeline = HeliosPipeline.random(TOY)
    checkpoint.save(folder / "toy", TOY, pipeline.params, pipeline.tokenizer)
    to_diffusers(folder / "toy", folder / "torch", progress=False)
    save_adapter(folder / "paint.safetensors", TOY)
    save_adapter(folder / "grain.safetensors", TOY, rank=3, seed=1)
    return folder


@pytest.fixture
def here(made, tmp_path, monkeypatch):
    """A folder with links to all of it, which is the working directory."""
    for path in made.iterdir():
        (tmp_path / path.name).symlink_to(path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(made.parent / "cache"))
    return tmp_path


def kernel(path):
    params = checkpoint.load_params(path, "transformer")
    return np.asarray(params["blocks"]["ffn"]["up"]["kernel"])


def test_convert_merges_adapters_in_their_order(here, capsys):
    arguments = ["--source=torch", "--out=both", "--lora=paint.safetensors:0.5"]
    assert convert.main(["convert", *arguments, "--lora", "grain.safetensors:-1"]) == 0
    assert convert.main(["convert", "--source=torch", "--out=one", "--lora=paint.safetensors"]) == 0
    half = 0.5 * (kernel("one") - kernel("toy"))
    whole = HeliosPipeline.from_checkpoint("toy").with_adapter("grain.safetensors", strength=-1.0)
    rest = np.asarray(whole.params["transformer"]["blocks"]["ffn"]["up"]["kernel"])
    np.testing.assert_allclose(kernel("both"), rest + half, atol=1e-6)
    assert capsys.readouterr().err == ""  # the adapter has the history patches


def test_a_partial_that_is_left_out_is_named(here, capsys):
    folder = here / "trained"
    folder.mkdir()
    kept = ("transformer.blocks.0.attn1.to_q.lora_A", "transformer.blocks.0.attn1.to_q.lora_B")
    shapes = ((2, 24), (24, 2))
    save_file(
        {f"{key}.weight": np.ones(shape, np.float32) for key, shape in zip(kept, shapes)},
        folder / "pytorch_lora_weights.safetensors",
    )
    command = ["convert", "--source=torch", "--lora=trained"]
    assert convert.main([*command, "--out=first"]) == 0
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "--lora without a transformer_partial: the history patches stay the base's" in said
    partial = folder / "transformer_partial.safetensors"
    save_file({"patch_short.bias": np.ones(24, np.float32)}, partial)
    assert convert.main([*command, "--out=second"]) == 0
    said = capsys.readouterr().err
    assert "trained/transformer_partial.safetensors lies beside trained and is not merged" in said
    assert convert.main([*command, "--out=third", f"--partial={partial}"]) == 0
    assert capsys.readouterr().err == ""


def test_a_video_is_resumed_with_the_adapters_it_was_begun_with(here, capsys):
    begin = ["sample", "--checkpoint=toy", "--out=a.mp4"]
    lora = "--lora=paint.safetensors:0.5"
    short = ["--live", "--num_frames=33", "--noamplify_first_chunk"]
    assert sample.main([*begin, PROMPT, *short, lora]) == 0
    said = capsys.readouterr().out
    assert "adapters, merged in this order: paint.safetensors:0.5 (" in said
    assert len(load_state("a.mp4.state").request.adapters) == 1
    go_on = [*begin, "--resume", "--num_frames=66"]
    for other, named in (([], "no adapter"), (["--lora=paint.safetensors"], "paint.safetensors:1")):
        assert sample.main([*go_on, *other]) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        assert "a.mp4.state was made with paint.safetensors:0.5" in said
        assert f"and this model has {named}" in said
    assert sample.main([*go_on, lora]) == 0
    assert load_state("a.mp4.state").chunk == 2


def test_an_adapter_that_does_not_fit_is_refused_before_anything_is_made(here, capsys):
    arguments = ["sample", "--checkpoint=toy", PROMPT, "--out=b.mp4"]
    for given, said in (("none.safetensors", "is not there"), ("toy", "has no adapter")):
        for more in ([], ["--plan"]):
            assert sample.main([*arguments, *more, f"--lora={given}"]) == 2
            assert said in capsys.readouterr().err
    assert not (here / "b.mp4").exists()


@pytest.mark.parametrize(
    ("text", "path", "strength"),
    [
        ("paint.safetensors", "paint.safetensors", 1.0),
        ("paint.safetensors:0.8", "paint.safetensors", 0.8),
        ("paint.safetensors:-1e-1", "paint.safetensors", -0.1),
        ("C:\\loras\\paint.safetensors", "C:\\loras\\paint.safetensors", 1.0),
        ("C:/loras/paint.safetensors:2", "C:/loras/paint.safetensors", 2.0),
        ("style:2", "style:2", 1.0),
        ("style:2:0.5", "style:2", 0.5),
        ("a:b.safetensors", "a:b.safetensors", 1.0),
    ],
)
def test_a_strength_is_what_stands_after_the_last_colon(here, text, path, strength):
    shutil.copy("paint.safetensors", "style:2")
    file = AdapterFile.parse(text)
    assert (str(file.path), file.strength) == (path, strength)
