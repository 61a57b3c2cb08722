"""The compiled programs of a request, and what each is called with."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from helios_jax.checkpoint.params import abstract_params, blocks_in_host_memory
from helios_jax.config import HeliosConfig, from_dict
from helios_jax.diffusion.history import start_history
from helios_jax.diffusion.noise import draw_chunk_noise
from helios_jax.memory.report import Program
from helios_jax.models.quantization import Quantization, quantize_transformer
from helios_jax.models.transformer import HeliosTransformer
from helios_jax.models.umt5 import UMT5Encoder, encode_ids
from helios_jax.models.vae import VAE
from helios_jax.sampling.chunk import sample_chunk
from helios_jax.sampling.pipeline import _decode, _embed_text
from helios_jax.sampling.request import Request, make_request
from helios_jax.types import DTypeLike


def request_programs(
    config: HeliosConfig,
    request: Request,
    dtype: DTypeLike,
    vae_dtype: DTypeLike,
    *,
    stream_blocks: bool = False,
    quantization: Quantization | None = None,
) -> dict[str, Program]:
    """The programs that take memory, in the order they run, with arrays of a shape and a dtype
    only, for prompts of any length.

    An amplified first chunk is left out: its loops are longer, and it needs the same memory. With
      ``stream_blocks`` the transformer's blocks are
    in host memory, with ``quantization`` in eight bits.
    """
    params = abstract_params(config, dtype, vae_dtype)
    if quantization:
        params["transformer"] = jax.eval_shape(
            functools.partial(quantize_transformer, quantization=quantization),
            params["transformer"],
        )
    if stream_blocks:
        params["transformer"] = blocks_in_host_memory(params["transformer"])
    samples, total = (
        request.batch * (2 if request.plan.guided else 1),
        config.text_encoder.max_sequence_length,
    )
    transformer, scheduler = HeliosTransformer(config.transformer, dtype), config.scheduler
    array = jax.ShapeDtypeStruct

    ids, lengths = array((samples, total), jnp.int32), array((samples,), jnp.int32)
    encode = jax.jit(functools.partial(encode_ids, UMT5Encoder(config.text_encoder, dtype)))
    features = array((samples, total, config.text_encoder.d_model), dtype)
    embed = jax.jit(functools.partial(_embed_text, transformer, total))
    text = jax.eval_shape(embed, params["transformer"], features, lengths)

    T, *cells = request.latent_shape
    state = jax.eval_shape(
        lambda: start_history((request.batch, *cells), request.plan.history_sizes)
    )
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), request.batch))
    noise = jax.eval_shape(
        lambda keys: draw_chunk_noise(
            keys, 0, request.latent_shape, scheduler.stages, scheduler.gamma
        ),
        keys,
    )

    sample = functools.partial(
        sample_chunk, model=transformer, scheduler=scheduler, plan=request.plan
    )
    chunk = (params["transformer"], state, noise, text, array((), jnp.float32))
    vae = VAE(config.vae, vae_dtype)
    frames = jax.jit(lambda params, latents: _decode(vae, params, latents, "uint8"))
    return {
        "text encoder": Program(encode, (params["text_encoder"], ids, lengths)),
        "text keys and values": Program(embed, (params["transformer"], features, lengths)),
        "chunk": Program(jax.jit(sample, donate_argnums=1), chunk),
        "VAE decoder": Program(
            frames, (params["vae"], array((request.batch, T, *cells), jnp.float32))
        ),
    }


def request_programs_from_json(
    config: dict[str, Any], request: dict[str, Any], dtype: str, vae_dtype: str, **held: Any
) -> dict[str, Program]:
    """:func:`request_programs` with arguments that another process can be sent."""
    config = from_dict(HeliosConfig, config)
    return request_programs(
        config, make_request(config, **request), jnp.dtype(dtype), jnp.dtype(vae_dtype), **held
    )
