"""Configuration is strict."""

import json
import math

import pytest

from helios_jax.config import (
    ConfigError,
    HeliosConfig,
    SchedulerConfig,
    differences,
    from_dict,
    to_config_dict,
    to_dict,
)


def test_json_and_config_dict_round_trip():
    config = HeliosConfig(scheduler=SchedulerConfig(gamma=0.25))
    assert from_dict(HeliosConfig, json.loads(json.dumps(to_dict(config)))) == config
    assert from_dict(HeliosConfig, to_config_dict(config)) == config


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (
            {"scheduler": {"flavour": 1}},
            "unknown configuration field 'scheduler.flavour'; known here: num_train_timesteps",
        ),
        ({"transformer": {"num_layers": 2.5}}, "transformer.num_layers=2.5 must be of type int"),
        ({"transformer": {"num_layers": True}}, "transformer.num_layers=True must be of type int"),
        (
            {"scheduler": {"solver": "ddim"}},
            "scheduler.solver='ddim' must be one of 'unipc', 'euler', 'dmd', 'dpmpp_2m'",
        ),
        (
            {"transformer": {"patch_size": [1, 2]}},
            r"transformer.patch_size=\[1, 2\] must have 3 values",
        ),
        ({"sample": {"steps": [2, "2"]}}, r"sample.steps\[1\]='2' must be of type int"),
        (
            {"transformer": {"rope_dim": [44, 42, 40]}},
            "must be three even numbers that sum to attention_head_dim=128",
        ),
        (
            {"transformer": {"patch_size": [2, 2, 2]}},
            "must begin with 1: patches span one latent frame",
        ),
        ({"scheduler": {"stages": 2}}, "scheduler.stage_range needs 3 values for 2 stages"),
        (
            {"text_encoder": {"d_model": 64}},
            "transformer.text_dim=4096 is not text_encoder.d_model=64",
        ),
    ],
)
def test_unknown_and_ill_typed_fields_are_errors(values, says):
    """The message names the field and what it should be."""
    with pytest.raises(ConfigError, match=says):
        from_dict(HeliosConfig, values)


def test_differences_are_named_by_section_and_field():
    """Lists equal tuples, absent fields are said to be so, and ignored names may be sections."""
    there = {"a": {"x": 1, "y": (1, 2), "old": 3}, "b": {"z": 0}}
    here = {"a": {"x": 2, "y": [1, 2]}, "b": {"z": 1}}
    assert [str(found) for found in differences(there, here, ignore=("b",))] == [
        "Difference(name='a.old', there=3, here=absent)",
        "Difference(name='a.x', there=1, here=2)",
    ]
    assert differences(there, here, ignore=("a.x", "a.old", "b.z")) == []


OUT_OF_RANGE = [
    ("sample", "fps", 0),
    ("sample", "steps", ()),
    ("sample", "steps", (2, -1, 2)),
    ("sample", "guidance_scale", math.nan),
    ("sample", "guidance_interval", (-0.1, 1.0)),
    ("sample", "guidance_interval", (0.5, 1.5)),
    ("sample", "guidance_interval", (0.9, 0.1)),
    ("sample", "history_sizes", (0, 0, 0)),
    ("sample", "history_sizes", (16, -2, 1)),
    ("sample", "latent_frames_per_chunk", 0),
    ("sample", "zero_init_steps", -1),
    ("scheduler", "stage_range", (0.0, 0.7, 0.3, 1.0)),
    ("scheduler", "stage_range", (0.0, math.nan, 0.5, 1.0)),
    ("scheduler", "gamma", 0.0),
    ("scheduler", "num_train_timesteps", 0),
    ("scheduler", "max_image_seq_len", 256),
    ("scheduler", "base_shift", math.inf),
    ("transformer", "num_layers", 0),
    ("transformer", "num_attention_heads", -4),
    ("transformer", "ffn_dim", 0),
    ("transformer", "patch_size", (1, 0, 2)),
    ("transformer", "eps", 0.0),
    ("transformer", "rope_theta", -1.0),
    ("vae", "dim_mult", (1, 2, 0, 4)),
    ("vae", "latents_std", (0.0,) * 16),
    ("vae", "latents_mean", (math.nan,) * 16),
    ("text_encoder", "vocab_size", 0),
    ("text_encoder", "max_sequence_length", -1),
    ("text_encoder", "layer_norm_epsilon", 0.0),
]


@pytest.mark.parametrize(("section", "field", "value"), OUT_OF_RANGE)
def test_numbers_out_of_their_range_are_refused(section, field, value):
    """From a file and from Python alike; the message begins with the field's full name."""
    with pytest.raises(ConfigError, match=rf"^{section}\.{field}"):
        from_dict(HeliosConfig, {section: {field: value}})
    kind = type(getattr(HeliosConfig(), section))
    with pytest.raises(ConfigError, match=rf"^{section}\.{field}"):
        kind(**{field: value})


@pytest.mark.parametrize("digits", [309, 400, 5000])
@pytest.mark.parametrize(
    ("section", "field"),
    [("sample", "num_frames"), ("sample", "guidance_scale"), ("transformer", "num_layers"),
     ("scheduler", "shift"), ("scheduler", "gamma"), ("vae", "base_dim")],
)  # fmt: skip
def test_an_integer_that_no_float_holds_is_one_short_line(section, field, digits):
    with pytest.raises(ConfigError) as error:
        from_dict(HeliosConfig, {section: {field: -(10**digits)}})
    with pytest.raises(ConfigError) as error:
        from_dict(HeliosConfig, {section: {field: 10**digits}})
    assert len(str(error.value)) < 300
