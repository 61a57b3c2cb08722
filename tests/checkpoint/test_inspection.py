"""What a place is, what it can become, and by which command; refusals end with the first."""

import json
import shutil

import pytest
import torch
from safetensors.torch import save_file

from helios_jax.checkpoint import CheckpointError
from helios_jax.checkpoint.convert import from_torch
from helios_jax.checkpoint.inspection import inspect
from helios_jax.checkpoint.source import Selection
from helios_jax.commands import convert as command

from .test_convert import set_json
from .torch_models import save_pipeline, transformer

pytestmark = pytest.mark.filterwarnings("ignore:.*:DeprecationWarning", "ignore:.*:FutureWarning")


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    folder = tmp_path_factory.mktemp("released") / "distilled"
    save_pipeline(folder)
    transformer().save_pretrained(folder / "transformer_ode")
    return folder


@pytest.fixture
def copy(released, tmp_path):
    return shutil.copytree(released, tmp_path / "copy")


def run(*arguments):
    return command.main(["helios-jax convert", *map(str, arguments)])


def test_a_pipeline_is_described_and_its_commands_convert_it(released, tmp_path, monkeypatch):
    found = inspect(released)
    assert found.found.model == "Helios Distilled of width 24"
    assert found.found.layout == "Diffusers folder (HeliosPyramidPipeline)"
    names = [part.name for part in found.found.parts]
    assert names == ["transformer", "vae", "text_encoder", "transformer_ode"]
    assert found.found.parts[0].tensors == 102
    assert found.found.parts[0].dtypes == ("float32",)
    assert found.found.sampler.startswith("HeliosDMDScheduler, stages 3")
    assert found.becomes == "a checkpoint of Helios Distilled of width 24"
    monkeypatch.chdir(tmp_path)
    assert len(found.commands) == 2
    for line in found.commands:
        program, name, *arguments = line.split()
        assert (program, name) == ("helios-jax", "convert")
        assert run(*arguments) == 0
    made = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert made == ["distilled", "distilled-transformer_ode"]


@pytest.mark.parametrize(("kind", "stage"), [("base", "Base"), ("mid", "Mid")])
def test_stages_are_told_by_the_sampler(tmp_path, kind, stage):
    save_pipeline(tmp_path / "torch", kind, torch.bfloat16)
    found = inspect(tmp_path / "torch").found
    assert (found.stage, found.parts[0].dtypes) == (stage, ("bfloat16",))


def test_a_checkpoint_of_ours_is_described(released, tmp_path):
    from_torch(released, tmp_path / "ours")
    found = inspect(tmp_path / "ours")
    assert found.found.model == "Helios Distilled of width 24"
    assert [part.parameters for part in found.found.parts] == [
        part.parameters for part in inspect(released).found.parts[:3]
    ]
    assert "helios-jax sample --checkpoint" in found.commands[0]


def test_a_transformer_alone_asks_for_the_rest(released):
    found = inspect(released / "transformer")
    assert "with VAE, text encoder and tokenizer FROM another source" in found.becomes
    assert "--rest FROM" in found.commands[0]
    assert len(inspect(released / "transformer_ode").commands) == 1
    selection = Selection(released / "transformer", None, released)
    assert f"--rest {released}" in inspect(selection.source, selection).commands[0]


def test_two_transformers_come_with_a_command_for_each(copy):
    shutil.copytree(copy / "transformer", copy / "transformer_2")
    set_json(
        copy / "model_index.json",
        _class_name="WanPipeline",
        transformer_2=["diffusers", "WanTransformer3DModel"],
        boundary_ratio=0.875,
    )
    found = inspect(copy)
    assert found.becomes.startswith("nothing as it is: ")
    assert [line.split("--transformer ")[1].split()[0] for line in found.commands] == [
        "transformer",
        "transformer_2",
    ]


def test_an_adapter_is_described_by_names_and_rank(tmp_path):
    factors = {"lora_A": torch.zeros(4, 24), "lora_B": torch.zeros(24, 4)}
    tensors = {f"transformer.blocks.0.attn1.to_q.{k}.weight": v for k, v in factors.items()}
    save_file(tensors, tmp_path / "pytorch_lora_weights.safetensors")
    for place in (tmp_path, tmp_path / "pytorch_lora_weights.safetensors"):
        found = inspect(place)
        assert found.found.layout == "adapter"
        assert found.found.adapter.startswith("Diffusers names, rank 4, tensors changed: 1")
        assert "--source BASE --lora" in found.commands[0]


def test_what_cannot_be_used_says_why(tmp_path):
    (tmp_path / "model.gguf").write_bytes(b"GGUF" + bytes(20))
    assert "is a GGUF file" in inspect(tmp_path / "model.gguf").becomes
    assert "holds GGUF files (model.gguf)" in inspect(tmp_path).becomes


def test_a_refusal_ends_with_what_the_place_is(copy, tmp_path):
    (copy / "vae/diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(CheckpointError) as error:
        from_torch(copy, tmp_path / "out")
    message = str(error.value)
    assert "\n" not in message
    assert message.endswith(
        "[Helios Distilled of width 24, Diffusers folder (HeliosPyramidPipeline): transformer of "
        "53K parameters in float32, text_encoder of 5K parameters in float32, transformer_ode of "
        "53K parameters in float32]"
    )


def test_the_command_prints_a_screen_or_json_and_writes_nothing(released, tmp_path, capsys):
    assert run("--inspect", released) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 24
    assert all(len(line) <= 100 for line in lines if not line.startswith("command"))
    columns = {
        len(line) - len(line[line.index("  ") :].lstrip()) for line in lines if line[0] != " "
    }
    assert len(columns) == 1
    assert run("--inspect", released, "--json") == 0
    values = json.loads(capsys.readouterr().out)
    assert values["stage"] == "Distilled"
    assert values["parts"][0]["tensors"] == 102
    assert list(tmp_path.iterdir()) == []
    assert run("--inspect", tmp_path / "nowhere") == 2
    assert "is not there" in capsys.readouterr().err
