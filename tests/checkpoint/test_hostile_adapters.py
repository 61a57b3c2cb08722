"""Adapters whose settings or names are made to take time, to overflow, or to be misread."""

import json
import time

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from helios_jax.checkpoint import CheckpointError
from helios_jax.checkpoint.adapter_files import AdapterFile
from helios_jax.checkpoint.adapters import read_adapter

Q = "blocks.0.attn1.to_q"
PAIR = {
    f"transformer.{Q}.lora_A.weight": torch.ones(4, 24),
    f"transformer.{Q}.lora_B.weight": torch.ones(24, 4),
}


def scale(path) -> float:
    """By which the factors are multiplied."""
    [[change]] = read_adapter(AdapterFile(path)).changes.values()
    return change.scale


def with_settings(folder, text):
    save_file(PAIR, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(text)
    return folder


@pytest.mark.parametrize(
    "pattern", ["(.*)*(.*)*(.*)*y", ".*.*.*.*.*.*y", "((a|b|.)*)*x", "a" * 501]
)
def test_a_pattern_that_takes_time_is_refused_at_once(tmp_path, pattern):
    began = time.process_time()
    folder = with_settings(tmp_path, json.dumps({"r": 4, "rank_pattern": {pattern: 4}}))
    with pytest.raises(CheckpointError, match="cannot be told"):
        read_adapter(AdapterFile(folder))
    assert time.process_time() - began < 1


def test_the_patterns_that_peft_writes_are_read(tmp_path):
    pattern = {r"blocks\.\d+\.attn1\.to_q": 16, "to_q": 2}
    assert scale(with_settings(tmp_path, json.dumps({"r": 4, "alpha_pattern": pattern}))) == 4


@pytest.mark.parametrize(
    "settings",
    ['{"r": 4, "lora_alpha": 1e39}', f'{{"r": 4, "lora_alpha": {"9" * 400}}}',
     '{"r": 4, "lora_alpha": NaN}', '{"r": 4, "lora_alpha": true}', '{"r": 4.5, "lora_alpha": 8}',
     '{"r": 4, "use_rslora": "false"}', '{"r": 4, "use_something": true}'],
)  # fmt: skip
def test_settings_that_say_no_scale_are_one_line(tmp_path, settings):
    with pytest.raises(CheckpointError) as error:
        read_adapter(AdapterFile(with_settings(tmp_path, settings)))
    assert len(str(error.value)) < 300


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"state_dict": PAIR, "network_alphas": {f"transformer.{Q}.alpha": 8.0}}, 2),
        ({**PAIR, "network_alphas": {f"transformer.{Q}": 2.0}}, 0.5),
        ({"state_dict": PAIR, "peft_config": {"default": {"r": 4, "lora_alpha": 12}}}, 3),
        ({"state_dict": PAIR, "config": {"r": 4, "lora_alpha": 4}}, 1),
    ],
)
def test_alphas_beside_the_tensors_of_a_pickle_count(tmp_path, content, expected):
    torch.save(content, tmp_path / "a.pt")
    assert scale(tmp_path / "a.pt") == expected


@pytest.mark.parametrize("name", ["scale", "lora_scaling", "strength"])
def test_a_number_that_may_scale_a_pickle_is_not_passed_over(tmp_path, name):
    torch.save({"state_dict": PAIR, name: 2.0}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=f"{name}=2.0 stands beside its tensors"):
        read_adapter(AdapterFile(tmp_path / "a.pt"))


@pytest.mark.parametrize("alpha", [torch.tensor(1e300, dtype=torch.float64), torch.tensor(True)])
def test_an_alpha_that_is_no_scale_is_refused(tmp_path, alpha):
    save_file({**PAIR, f"transformer.{Q}.alpha": alpha}, tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError):
        read_adapter(AdapterFile(tmp_path / "a.safetensors"))


@pytest.mark.parametrize("key", ["transformer." * 80_000, "." * 10**6, "blocks." * 150_000])
def test_a_key_of_a_megabyte_is_refused_within_a_second(tmp_path, key):
    save_file({f"{key}lora_A.weight": torch.ones(2)}, tmp_path / "a.safetensors")
    began = time.process_time()
    with pytest.raises(CheckpointError, match="match nothing"):
        read_adapter(AdapterFile(tmp_path / "a.safetensors"))
    assert time.process_time() - began < 1


@pytest.mark.parametrize(
    "change",
    ["_fsdp_wrapped_module.{}", "blocks.0._checkpoint_wrapped_module.attn1.to_q.{}",
     "pipe.transformer.blocks.0._orig_mod.attn1.to_q.{}", f"net.{Q}.{{}}"],
)  # fmt: skip
def test_what_training_puts_into_names_is_taken_out(tmp_path, change):
    change = change if "to_q" in change else change.format(f"{Q}.{{}}")
    named = {change.format(key.split(f"{Q}.")[1]): value for key, value in PAIR.items()}
    save_file(named, tmp_path / "a.safetensors")
    adapter = read_adapter(AdapterFile(tmp_path / "a.safetensors"))
    weight = adapter.apply(f"{Q}.weight", np.zeros((24, 24), np.float32))
    np.testing.assert_array_equal(weight, 4)


@pytest.mark.parametrize(
    "names",
    [("a/adapter_model.safetensors", "b/adapter_model.safetensors"),
     ("adapter_model.safetensors", "pytorch_lora_weights.safetensors"),
     ("step-1/pytorch_lora_weights.safetensors", "step-2/pytorch_lora_weights.safetensors")],
)  # fmt: skip
def test_a_folder_of_several_adapters_asks_which(tmp_path, names):
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        save_file(PAIR, tmp_path / name)
    with pytest.raises(CheckpointError, match=r"has 2 files that may be one .*: name it"):
        read_adapter(AdapterFile(tmp_path))
