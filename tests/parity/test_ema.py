"""The moving average against that of `diffusers`, over updates before and after it begins."""

import jax.numpy as jnp
import numpy as np
import torch
from diffusers.training_utils import EMAModel

from helios_jax.training import ema


def test_the_average_goes_where_the_one_of_diffusers_goes():
    generator = np.random.default_rng(0)
    values = generator.standard_normal((12, 5)).astype(np.float32)
    parameter = torch.nn.Parameter(torch.zeros(5))
    theirs = EMAModel([parameter], decay=0.6, update_after_step=4)
    ours = {"a": jnp.zeros(5)}
    for n, value in enumerate(values, start=1):
        with torch.no_grad():
            parameter.copy_(torch.from_numpy(value))
        theirs.step([parameter])
        ours = ema.update(ours, {"a": jnp.asarray(value)}, ema.decay(n, 4, 0.6))
        np.testing.assert_allclose(ours["a"], theirs.shadow_params[0], rtol=1e-6, atol=1e-7)
