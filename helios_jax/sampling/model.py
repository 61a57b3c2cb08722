"""A checkpoint in memory: how it is loaded and changed, and what its text encoder and VAE make."""

import dataclasses
import functools
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from helios_jax import checkpoint, nano
from helios_jax.checkpoint import AdapterFile
from helios_jax.checkpoint.adapted import adapt_params
from helios_jax.checkpoint.adapters import read_adapter
from helios_jax.checkpoint.names import transformer_slots
from helios_jax.checkpoint.params import blocks_in_host_memory, random_params
from helios_jax.compile_cache import use_compile_cache
from helios_jax.config import HeliosConfig
from helios_jax.models.block import TextCache
from helios_jax.models.quantization import Quantization, quantize_transformer
from helios_jax.models.tokenizer import Tokenizer, clean_prompt, toy_tokenizer
from helios_jax.models.transformer import HeliosTransformer
from helios_jax.models.umt5 import UMT5Encoder, encode_text
from helios_jax.models.vae import VAE
from helios_jax.models.vae_layers import kernels_by_output
from helios_jax.sampling.decoding import CONVOLUTION, Output, decode
from helios_jax.sampling.fields import show
from helios_jax.sampling.loading import (
    ComponentLoader,
    default_dtype,
    separates_blocks,
    turns_kernels,
)
from helios_jax.sampling.prompts import to_schedule
from helios_jax.sampling.request import RequestError, make_request
from helios_jax.sampling.text import Features, PromptTexts, embed_text
from helios_jax.types import Array, DTypeLike, Float, Params

Own = TypeVar("Own", bound="Model")
"""A model, or a pipeline."""


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Model:
    """The networks of a checkpoint, their parameters and the tokenizer.

    A model is never changed: :meth:`replace`, :meth:`quantized` and the like return another, which
    shares what they leave as it is.

    Attributes:
      config: of the checkpoint.
      params: trees of the transformer, the VAE and, until it is released, the text encoder.
      tokenizer: of the text encoder.
      dtype: of the transformer's and the text encoder's activations.
      vae_dtype: of the VAE's.
      encoded: features of prompts that were encoded before the text encoder was released.
      adapters: records of the adapters that are merged into the transformer, in order: name,
        strength and digits of the content.
    """

    config: HeliosConfig
    params: Mapping[str, Params]
    tokenizer: Tokenizer
    _: dataclasses.KW_ONLY
    dtype: DTypeLike = jnp.float32
    vae_dtype: DTypeLike = jnp.float32
    encoded: Mapping[str, Features] = dataclasses.field(default_factory=dict)
    adapters: tuple[str, ...] = ()

    def __repr__(self) -> str:
        own = make_request(self.config)
        sizes = []
        for name, tree in self.params.items():
            count = sum(leaf.size for leaf in jax.tree.leaves(tree))
            sizes.append(f"{name} {count / 1e6:.3g} M")
        parts = [
            f"parameters: {', '.join(sizes)}",
            f"{own.width}x{own.height}, {own.frames_per_chunk} frames a chunk, "
            f"{self.config.sample.fps} frames/s",
            f"{own.solver}, steps {show(own.steps)}, guidance {own.guidance_scale:g}",
            jnp.dtype(self.dtype).name,
        ]
        return f"{type(self).__name__}({'; '.join(parts)})"

    @functools.cached_property
    def transformer(self) -> HeliosTransformer:
        """The module that ``params["transformer"]`` are of."""
        return HeliosTransformer(self.config.transformer, self.dtype)

    @functools.cached_property
    def text_encoder(self) -> UMT5Encoder:
        """The module that ``params["text_encoder"]`` are of."""
        return UMT5Encoder(self.config.text_encoder, self.dtype)

    @functools.cached_property
    def vae(self) -> VAE:
        """The module that ``params["vae"]`` are of."""
        kernels = self.config.transformer.kernels
        return VAE(self.config.vae, self.vae_dtype, convolution=CONVOLUTION, kernels=kernels)

    @classmethod
    def from_checkpoint(
        cls: type[Own],
        path: str | os.PathLike = nano.CHECKPOINT,
        *,
        dtype: DTypeLike | None = None,
        vae_dtype: DTypeLike | None = None,
        verify: bool = True,
        prompts: Sequence[str] | None = None,
        stream_blocks: bool = False,
        adapters: Sequence[AdapterFile] = (),
        compile_cache: str | None = None,
    ) -> Own:
        """Load a checkpoint directory, as ``helios-jax convert`` writes it.

        Args:
          path: the directory; by default helios-nano Base's, which ships with the package, as do
            "nano", the distilled one, and "nano-mid".
          dtype: of weights and activations; bfloat16 by default where there is an accelerator,
            float32 on a CPU.
          vae_dtype: the VAE's; likewise.
          verify: compare every file with its digest.
          prompts: the only ones that will be asked for, negative ones included: they are encoded
            and the text encoder is let go before the transformer is loaded. None keeps it.
          stream_blocks: as :meth:`with_streamed_blocks`, without the blocks ever being on the
            device together.
          adapters: merged into the transformer while it is read, in their order: no more memory
            than without.
          compile_cache: folder of compiled programs, which the next process then finds; "" for
            none. By default the one that JAX has been given, or one in the user's cache folder; see
            :func:`~helios_jax.compile_cache.use_compile_cache`.

        Raises:
          CheckpointError: if anything is missing, altered, or of another format.
        """
        read = [read_adapter(file) for file in adapters]
        use_compile_cache(compile_cache)
        path = nano.find_checkpoint(path)
        dtype = default_dtype() if dtype is None else dtype
        vae_dtype = default_dtype() if vae_dtype is None else vae_dtype
        with ComponentLoader(path, dtype, vae_dtype, verify=verify) as load:
            tokenizer = checkpoint.load_tokenizer(path, verify)
            text_encoder = {"text_encoder": load("text_encoder")}
            pipeline = cls(load.config, text_encoder, tokenizer, dtype=dtype, vae_dtype=vae_dtype)
            del text_encoder
            if prompts is not None:
                pipeline = pipeline.with_text_encoder_released(prompts)
            transformer = load("transformer", blocks_on_host=stream_blocks, adapters=read)
            rest = {"transformer": transformer, "vae": load("vae")}
        return dataclasses.replace(
            pipeline,
            params={**rest, **pipeline.params},
            adapters=tuple(adapter.record for adapter in read),
        )

    @classmethod
    def for_decoding(
        cls: type[Own],
        path: str | os.PathLike,
        *,
        vae_dtype: DTypeLike | None = None,
        verify: bool = True,
    ) -> Own:
        """A model that can decode latents and nothing else: of the checkpoint, only the VAE is
        loaded. Arguments as above.
        """
        vae_dtype = default_dtype() if vae_dtype is None else vae_dtype
        with ComponentLoader(path, vae_dtype, vae_dtype, verify=verify) as load:
            params = {"vae": load("vae")}
        tokenizer = checkpoint.load_tokenizer(path, verify)
        return cls(load.config, params, tokenizer, vae_dtype=vae_dtype)

    @classmethod
    def random(
        cls: type[Own], config: HeliosConfig, seed: int = 0, *, dtype: DTypeLike | None = None
    ) -> Own:
        """Random weights, and a tokenizer trained on a few words: everything runs, and what comes
        out is noise.

        Args:
          config: geometry, schedule and defaults.
          seed: of the weights.
          dtype: of weights and activations, save the VAE's; bfloat16 by default where there is an
            accelerator, float32 on a CPU, as the VAE's are.
        """
        dtype = default_dtype() if dtype is None else dtype
        vae_dtype = default_dtype()
        params = random_params(config, seed, dtype, vae_dtype, separates_blocks())
        if turns_kernels():
            params["vae"] = kernels_by_output(params["vae"])
        tokenizer = toy_tokenizer(config.text_encoder.vocab_size)
        return cls(config, params, tokenizer, dtype=dtype, vae_dtype=vae_dtype)

    def replace(
        self: Own, *, config: HeliosConfig | None = None, params: Mapping[str, Params] | None = None
    ) -> Own:
        """Another one, with other parameters, another configuration, or both.

        A configuration of the same geometry may compute or sample differently: another kernel,
        other defaults of requests.
        """
        config = self.config if config is None else config
        params = self.params if params is None else params
        return dataclasses.replace(self, config=config, params=params)

    def quantized(self: Own, quantization: Quantization, *, round_activations: bool = False) -> Own:
        """The transformer's large weights in eight bits; see
        :mod:`~helios_jax.models.quantization`.
        """
        transformer = dataclasses.replace(
            self.config.transformer, round_activations=round_activations
        )
        rounded = quantize_transformer(self.params["transformer"], quantization)
        return self.replace(
            config=dataclasses.replace(self.config, transformer=transformer),
            params={**self.params, "transformer": rounded},
        )

    def with_adapter(self: Own, path: str | os.PathLike, *, strength: float = 1.0) -> Own:
        """The transformer with an adapter merged in, ``W + strength (alpha / r) B A``, and whatever
        else the file changes; of the checkpoint nothing is read again.

        It is merged, and not kept apart, because a step then costs nothing more, every kernel and
        :meth:`quantized` serve it, and it makes the frames of a checkpoint that was converted with
        the adapter. The price is memory: the leaves that it changes, up to all 26.7 GiB of the 14B
        model in bfloat16, exist twice as long as this one is held. For several strengths hold
        this one and take each from it::

            for strength in (0.5, 1.0):
                frames = base.with_adapter("paint.safetensors", strength=strength).generate(prompt)

        Args:
          path: a file, or a folder that holds one, in any style of ``docs/adapters.md``.
          strength: what every change is multiplied by; 0 changes nothing, and it may be negative.

        Raises:
          CheckpointError: if the adapter cannot be read or does not fit, or the transformer is
            quantized.
        """
        adapter = read_adapter(AdapterFile(Path(path), strength))
        slots = transformer_slots(self.config.transformer)
        transformer = adapt_params(self.params["transformer"], slots, [adapter])
        return dataclasses.replace(
            self,
            params={**self.params, "transformer": transformer},
            adapters=(*self.adapters, adapter.record),
        )

    def with_text_encoder_released(self: Own, prompts: Sequence[str]) -> Own:
        """Prompts encoded and the text encoder gone, 10.6 GiB of the 14B model, once nobody holds
        this one any more: these are all the prompts, negative ones included.
        """
        encoded = {clean_prompt(prompt): self.encode_prompt(prompt) for prompt in prompts}
        params = {name: tree for name, tree in self.params.items() if name != "text_encoder"}
        return dataclasses.replace(self, params=params, encoded={**self.encoded, **encoded})

    def with_streamed_blocks(self: Own) -> Own:
        """The transformer's blocks, 26.2 of the 14B model's 26.7 GiB, in host memory; each step
        copies them to the device layer by layer.
        """
        moved = blocks_in_host_memory(self.params["transformer"])
        return self.replace(params={**self.params, "transformer": moved})

    def decode(self, latents: Float[Array, "B T H W C"], output: Output = "uint8") -> Array:
        """The frames of one chunk of latents in model space, on the device; each chunk is a clip of
        its own.

        Raises:
          RequestError: if there are none.
        """
        if not latents.size:
            raise RequestError(f"latents of shape {list(latents.shape)} are empty: nothing to show")
        return decode(self.vae, self.params["vae"], latents, output)

    def decode_video(
        self, latents: Float[np.ndarray, "B T H W C"], output: Output = "uint8"
    ) -> Iterator[np.ndarray]:
        """Yield the frames of saved latents chunk by chunk, the same that :meth:`stream` yielded.

        Raises:
          RequestError: if they are not whole chunks of this model's latents.
        """
        T = self.config.sample.latent_frames_per_chunk
        C = self.config.vae.z_dim
        if not latents.size or latents.shape[1] % T or latents.shape[4] != C:
            raise RequestError(
                f"latents of shape {list(latents.shape)} are not whole chunks: "
                f"[B, a multiple of {T}, H, W, {C}] is needed"
            )
        starts = range(0, latents.shape[1], T)
        return (
            np.asarray(self.decode(jnp.asarray(latents[:, start : start + T]), output))
            for start in starts
        )

    def encode_prompt(self, prompt: str) -> Features:
        """Text features of one prompt, cleaned and tokenized, and its number of tokens.

        Raises:
          RequestError: if the text encoder was released, and the prompt not encoded before.
        """
        text = clean_prompt(prompt)
        if text in self.encoded:
            return self.encoded[text]
        if "text_encoder" not in self.params:
            raise RequestError(
                f"the text encoder was released, and {prompt!r} is not among the prompts that were "
                "encoded before"
            )
        ids, lengths = self.tokenizer([text], self.config.text_encoder.max_sequence_length)
        return encode_text(self.text_encoder, self.params["text_encoder"], ids, lengths)

    def encode_prompts(self, prompts: Sequence[str], negatives: Sequence[str] = ()) -> TextCache:
        """Cross-attention keys and values of prompts, then of negative ones, which may be empty."""
        return self.prompt_texts(negatives)(to_schedule(prompts, None), 0)

    def prompt_texts(self, negatives: Sequence[str] = (), rows: int = 0) -> PromptTexts:
        """What makes keys and values of schedules of prompts; see
        :class:`~helios_jax.sampling.text.PromptTexts`.
        """
        total = self.config.text_encoder.max_sequence_length
        embed = functools.partial(embed_text, self.transformer, total, self.params["transformer"])
        return PromptTexts(self.encode_prompt, embed, tuple(negatives), rows)
