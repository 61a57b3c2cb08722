"""Kernels whose batch is spread over several devices."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from helios_jax.kernels.attention import attention
from helios_jax.kernels.batch import batch_over
from helios_jax.kernels.norm_rope import norm_rope
from helios_jax.kernels.residual_norm import Norm, gated_residual_norm, modulated_layer_norm
from helios_jax.memory import compiler as deviceless

ROOT = Path(__file__).parents[2]
AXES = ("data", "fsdp")


def block(x, y, rows, angles, scales, implementation=None):
    """Something of every fused operation, of tokens [B, N, K d] and heads of 64 channels."""
    eps = 1e-6
    fused = dict(history=2, implementation=implementation)
    normed = modulated_layer_norm(x, rows, rows, eps=eps, **fused)
    qkv = jnp.stack([normed, y, x], axis=2)
    qkv = qkv.reshape(*qkv.shape[:3], -1, 64)
    query, key, value = norm_rope(qkv, scales, angles, None, eps=eps, **fused)
    attended = attention(query, key, value).reshape(x.shape)
    affine = (1 + rows, rows[:1])
    norm = Norm(eps=eps)
    added, normed = gated_residual_norm(x, attended, rows, affine, norm=norm, **fused)
    return added + normed


def arguments(batch, dtype):
    """Random arrays of :func:`block`: of each sample, rows too; angles and scales of all."""
    rng = np.random.default_rng(0)

    def normal(*shape, dtype=jnp.float32):
        return jnp.asarray(rng.standard_normal(shape), dtype)

    x, y = (normal(batch, 8, 512, dtype=dtype) for _ in range(2))
    rows = normal(batch, 2, 512)
    angles = normal(8, 32), normal(8, 32)
    return x, y, rows, angles, (normal(512), normal(512))


def gradient(*arrays, implementation=None):
    def loss(*arrays):
        return jnp.sum(jnp.sin(block(*arrays, implementation=implementation).astype(jnp.float32)))

    return jax.grad(loss, argnums=range(5))(*arrays)


def spread(arrays, mesh):
    """Shapes of the first three arrays with their samples over the mesh, of the others
    everywhere.
    """
    places = [PartitionSpec(AXES)] * 3 + [PartitionSpec()] * 2
    return [
        jax.tree.map(
            lambda x, spec=spec: jax.ShapeDtypeStruct(
                x.shape, x.dtype, sharding=NamedSharding(mesh, spec)
            ),
            array,
        )
        for array, spec in zip(arrays, places, strict=True)
    ]


@pytest.mark.skipif(
    deviceless.unavailable() is not None,
    reason=f"cannot compile for a GPU: {deviceless.unavailable()}",
)
@pytest.mark.parametrize("implementation", ["triton", "pallas"])
def test_each_gpu_computes_its_own_samples(implementation):
    """Kernels forward and backward, and attention, of one of two samples; none is gathered."""
    if implementation == "triton":
        pytest.importorskip("jax_triton")
    mesh = Mesh(np.array(deviceless.devices("h100", 2)).reshape(2, 1), AXES)

    def run(*arrays):
        with batch_over(mesh, AXES):
            return gradient(*arrays, implementation=implementation)

    arrays = spread(arguments(2, jnp.bfloat16), mesh)
    text = deviceless.compile_for(run, *arrays, mesh=mesh).as_text()
    call = {"triton": "triton_kernel_call", "pallas": "mosaic_gpu"}[implementation]
    assert text.count(f'custom_call_target="{call}') == 5  # three forward, two backward
    assert "fmhaSoftmaxBackward" in text
    assert "all-gather" not in text
    assert "bf16[2,8,512]" not in text


def compare() -> list[float]:
    """For each array, how far its gradient over four devices is from that on one, in parts of the
    largest number. Plain functions stand in for the kernels of a GPU, and fail where they get more
    than one device's samples.
    """
    from helios_jax.kernels import dispatch
    from helios_jax.kernels.norm_rope import reference as plain_norm_rope
    from helios_jax.kernels.norm_rope import triton as norm_rope_kernel
    from helios_jax.kernels.residual_norm import reference, triton, triton_backward

    def residual_norm(x, y, gate, scale, shift, fusion):
        assert len(x) == 2, x.shape
        history = fusion.history
        if y is None:
            normed = reference.modulated_layer_norm(
                x, shift, scale - 1, history=history, eps=fusion.eps
            )
            return None, normed
        norm = Norm(eps=fusion.eps)
        return reference.gated_residual_norm(x, y, gate, (scale, shift), history=history, norm=norm)

    def residual_norm_backward(arrays, gradients, fusion):
        x, y, *weights = arrays

        def own(weight):
            return None if weight is None else jnp.broadcast_to(weight, (len(x), 2, x.shape[-1]))

        arrays = (x, y, *map(own, weights))
        _, pullback = jax.vjp(lambda *arrays: residual_norm(*arrays, fusion), *arrays)
        d_x, d_y, *sums = pullback(gradients)
        return d_x, d_y, tuple(sums)

    def norm_rope_of_two(qkv, *arrays, **static):
        assert len(qkv) == 2, qkv.shape
        return plain_norm_rope.norm_rope(qkv, *arrays, **static)

    arrays = arguments(8, jnp.float32)
    alone = jax.jit(gradient)(*arrays)
    triton.residual_norm = residual_norm
    triton_backward.residual_norm_backward = residual_norm_backward
    norm_rope_kernel.norm_rope = norm_rope_of_two
    dispatch.target = lambda: dispatch.Target("cuda", "NVIDIA H100 80GB HBM3", (9, 0))
    mesh = Mesh(np.array(jax.devices()).reshape(2, 2), AXES)

    def run(*arrays):
        with batch_over(mesh, AXES):
            return gradient(*arrays, implementation="triton")

    placed = jax.tree.map(
        lambda x, like: jax.device_put(x, like.sharding), list(arrays), spread(arrays, mesh)
    )
    found = jax.jit(run)(*placed)
    distances = []
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(alone), strict=True):
        largest = np.abs(theirs).max()
        assert largest > 0
        distances.append(float(np.abs(np.asarray(ours) - theirs).max() / largest))
    return distances


def test_gradients_over_four_devices_are_those_on_one():
    """Of activations, of what each sample has of its own and of what all share."""
    pytest.importorskip("jax_triton")
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=4"
    script = (
        "import json; from tests.kernels.test_batch import compare; print(json.dumps(compare()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    distances = json.loads(done.stdout.splitlines()[-1])
    assert len(distances) == 7
    assert max(distances) <= 1e-5
