"""What PyTorch's configurations may say beside the fields that we share with them.

Three tables: keys with a single supported value, fields of ours that PyTorch does not keep, and
options that do nothing as long as they have certain values. Whatever stands in none of them and is
switched on is refused, since it may change the model.
"""

import dataclasses
from pathlib import Path
from typing import Any

from helios_jax.checkpoint.errors import CheckpointError
from helios_jax.config import (
    RUNTIME_FIELDS,
    SchedulerConfig,
    TextEncoderConfig,
    TransformerConfig,
    VAEConfig,
)

FIXED: dict[type, dict[str, Any]] = {
    TransformerConfig: {
        "cross_attn_norm": True,
        "qk_norm": "rms_norm_across_heads",
        "added_kv_proj_dim": None,
        "has_multi_term_memory_patch": True,
    },
    VAEConfig: {
        "attn_scales": [],
        "is_residual": False,
        "in_channels": 3,
        "out_channels": 3,
        "patch_size": None,
        "dropout": 0.0,
    },
    TextEncoderConfig: {
        "feed_forward_proj": "gated-gelu",
        "model_type": "umt5",
    },
    SchedulerConfig: {
        "thresholding": False,
        "prediction_type": "flow_prediction",
        "solver_order": 2,
        "predict_x0": True,
        "solver_type": "bh2",
        "lower_order_final": True,
        "disable_corrector": [],
        "solver_p": None,
        "use_flow_sigmas": True,
    },
}
"""Keys that have one supported value; they are written, too."""

DMD_ONLY_KEYS = ("prediction_type", "use_flow_sigmas")
"""The fixed keys that ``HeliosDMDScheduler`` has too."""

OUR_OWN = {
    TransformerConfig: RUNTIME_FIELDS,
    VAEConfig: (),
    # UMT5Config keeps what it does not know: max_sequence_length, which Diffusers' pipelines are
    # told when they are called.
    TextEncoderConfig: (),
    SchedulerConfig: ("solver", "shift_tokens"),
}
"""Fields of ours that PyTorch's configurations do not keep."""


@dataclasses.dataclass(frozen=True)
class Option:
    """An option that we do not have.

    Attributes:
      name: its key.
      idle: values at which it does nothing; None: it does nothing at any.
      changes: what it does at other values.
    """

    name: str
    idle: tuple[Any, ...] | None = None
    changes: str = ""


OPTIONS: dict[type, tuple[Option, ...]] = {
    TransformerConfig: (
        Option("image_dim", (None,), "adds the tokens of an image encoder (image to video)"),
        Option("restrict_self_attn", (False, None), "lets the history attend to itself alone"),
        Option("restrict_lora", (False, None), "adds adapters for the history's q, k and v"),
        # The next two say how those adapters are trained, and nothing where there are none.
        Option("is_train_restrict_lora"),
        Option("restrict_lora_rank"),
        # The discriminator's heads look at the blocks' outputs and change none of them.
        Option("is_use_gan"),
        Option("is_use_gan_hooks"),
        Option("is_use_gan_final"),
        Option("gan_cond_map_dim"),
        Option("gan_hooks"),
        Option("rope_max_seq_len"),  # the length of a table that is computed here as needed
        Option("pos_embed_seq_len", (None,), "adds positions of two images (first and last frame)"),
        Option("inject_sample_info", (False, None), "adds the frame rate to the time embedding"),
        Option("num_frame_per_block", (1, None), "makes the attention causal, block by block"),
        Option("vace_layers", (None, []), "adds the blocks of VACE, which read a control video"),
        Option("vace_in_channels", (None,), "adds the blocks of VACE, which read a control video"),
    ),
    VAEConfig: (
        Option("clip_output", (True, None), "leaves pixels beyond the range that is shown"),
    ),
    SchedulerConfig: (Option("scheduler_type"),),  # read as the solver, or left over
}
"""Options by section. Of a text encoder every key that is no field of ours changes nothing:
Transformers writes some sixty.
"""


ORIGINAL_OPTIONS = (
    Option("model_type"),  # named by its kind where it is read
    *map(Option, ("dim", "num_heads", "ffn_dim", "freq_dim", "num_layers", "eps", "text_dim")),
    *map(Option, ("in_dim", "out_dim", "text_len")),
    Option("patch_size", ([1, 2, 2],), "cuts other patches"),
    Option("window_size", ([-1, -1],), "limits attention to a window"),
    Option("qk_norm", (True,), "leaves out the norms of queries and keys"),
    Option("cross_attn_norm", (True,), "leaves out the norm before cross-attention"),
    Option("inject_sample_info", (False, None), "adds the frame rate to the time embedding"),
    Option("num_frame_per_block", (1, None), "makes the attention causal, block by block"),
    # VideoX-Fun's other names of the same, and switches that are off with what goes with them.
    *map(Option, ("hidden_size", "in_channels", "in_dim_ref_conv", "in_dim_control_adapter")),
    Option("downscale_factor_control_adapter"),
    Option("cross_attn_type", ("cross_attn", "t2v_cross_attn"), "reads an image, too"),
    Option("add_ref_conv", (False, None), "adds a reference image"),
    Option("add_control_adapter", (False, None), "adds the control of a camera"),
)
"""Keys of an original Wan's ``config.json``: those that are read, and options."""


ABOUT_THE_FILE = (
    "architectures", "auto_map", "dtype", "gradient_checkpointing", "torch_dtype",
    "transformers_version", "use_gradient_checkpointing",
)  # fmt: skip
"""Keys of any configuration that say how weights were saved or trained, and not what is computed:
dtypes are those of the tensors.
"""


def check_option(path: Path, section: type, key: str, value: Any) -> None:
    """Refuse an option that is no field of ours if it may change the model.

    Raises:
      CheckpointError: naming the option, and what it does where that is known.
    """
    if key == "quantization_config" and value:
        raise CheckpointError(
            f"{path}: {key} says that the weights are quantised, which is not read: take the "
            "release in bfloat16 or float32"
        )
    if section in OPTIONS:
        check_known(path, OPTIONS[section], key, value)


def check_known(path: Path, options: tuple[Option, ...], key: str, value: Any) -> None:
    """Refuse what is switched on and in no table, or at a value at which it does something.

    Raises:
      CheckpointError: as :func:`check_option`.
    """
    if key.startswith("_") or key in ABOUT_THE_FILE:
        return
    known = {option.name: option for option in options}
    if key not in known:
        if value:
            raise CheckpointError(
                f"{path}: unknown option {_short(key)}={_short(value)}, which may change the "
                "model: it is not supported"
            )
        return
    option = known[key]
    if option.idle is not None and value not in option.idle:
        raise CheckpointError(
            f"{path}: {key}={_short(value)} {option.changes}: it is not supported, only "
            f"{option.idle[0]!r} is"
        )


def _short(value: Any) -> str:
    """A key or a value as a message shows it."""
    text = value if isinstance(value, str) and value.isidentifier() else repr(value)
    return text if len(text) <= 100 else f"{text[:100]}..."
