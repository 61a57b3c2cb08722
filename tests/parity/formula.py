"""A formula in the place of our network and of PyTorch's, so that everything around a network can
be compared in seconds.
"""

import jax.numpy as jnp
import numpy as np

from helios_jax.models.transformer import HeliosTransformer, HistoryTokens, TimeEmbedding


class Formula(HeliosTransformer):
    """gain(text) x + t / 1000 + sum of history means and positions, each frame weighted by the
    cosine of its index.
    """

    def setup(self):
        pass

    def embed_history(self, history, indices):
        past = 0
        for part, frames in zip(history, map(np.array, indices[1:])):
            past += jnp.mean(part, (2, 3, 4)) @ np.cos(frames, dtype=np.float32)
        return HistoryTokens(past[:, None, None], None, None, None)

    def embed_time(self, timesteps):
        return TimeEmbedding(timesteps[:, None] / 1000, timesteps[:, None, None])

    def denoise(self, latents, time, text, history, frames):
        per_sample = jnp.mean(text.value, (0, 2, 3, 4)), history.tokens[:, 0, 0]
        gain, past = (x[:, None, None, None, None] for x in per_sample)
        time = time.temb[:, :, None, None, None]
        position = np.cos(frames, dtype=np.float32)[None, :, None, None, None]
        return gain * latents + time + past + position


def torch_formula(hidden_states, timestep, encoder_hidden_states, indices_hidden_states, **history):
    """The same, with the arguments of Diffusers' transformer."""
    past = 0
    for part in ("short", "mid", "long"):
        means = history[f"latents_history_{part}"].mean((1, 3, 4))
        past = past + (means * history[f"indices_latents_history_{part}"].float().cos()).sum(1)
    per_sample = encoder_hidden_states.mean((1, 2)), timestep.float() / 1000 + past
    gain, offset = (x[:, None, None, None, None] for x in per_sample)
    position = indices_hidden_states.float().cos()[:, None, :, None, None]
    return (gain * hidden_states + offset + position,)
