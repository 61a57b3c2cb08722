"""Configuration is strict."""

import json

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
