"""AMT-S (Li et al. 2023): the frame between two frames, by all-pairs correlation and many flows.

Flows from the middle to both frames are estimated at 1/8, 1/4 and 1/2 of the size, each time
corrected by what the correlation says at their ends; at full size there are three of each, and
their warped frames are combined.
"""

import flax.linen as nn
import jax.numpy as jnp

from helios_jax.evaluation.bench.networks.amt_correlation import Pyramid, correlation, look_up
from helios_jax.evaluation.bench.networks.amt_layers import (
    Conv,
    ConvPReLU,
    SideResidual,
    Upsample,
    instance_norm,
    leaky_relu,
    resize,
    resize_flow,
    warp,
)
from helios_jax.types import Array, DTypeLike, Float

MIDDLE = 0.5
"""The time of the frame that is made, between 0 and 1."""

FLOWS = 3
"""Pairs of flows at full size."""

LEAST_SIDE = 128
"""Pixels that a side must have: below, the coarsest correlation is a single row or column."""

PYRAMID = (20, 32, 44, 56)
"""Channels at 1/2, 1/4, 1/8 and 1/16 of the size."""


class AMT(nn.Module):
    """Two frames to the one between them.

    Attributes:
      dtype: of the convolutions; flows, correlation and warped frames are float32 regardless.
    """

    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, first: Float[Array, "B Y X 3"], second: Float[Array, "B Y X 3"]
    ) -> Float[Array, "B Y X 3"]:
        """The middle frame, float32 in 0..1.

        Args:
          first, second: in 0..1; sides are multiples of 16 and at least 128.
        """
        both = jnp.stack([first, second], axis=1)
        mean = both.mean(axis=(1, 2, 3, 4), keepdims=True)
        batch = len(first)
        both = both - mean
        images = jnp.concatenate([both[:, 0], both[:, 1]])
        features = FeatureEncoder(self.dtype, name="feat_encoder")(images.astype(self.dtype))
        forward = correlation(features[:batch], features[batch:])
        backward = correlation(features[batch:], features[:batch])
        levels = ContextEncoder(self.dtype, name="encoder")(images.astype(self.dtype))
        maps = [(level[:batch], level[batch:]) for level in levels]

        coarsest = maps[3]
        time = jnp.full((*coarsest[0].shape[:-1], 1), MIDDLE, self.dtype)
        decoder = Decoder(112, 4 + PYRAMID[2], self.dtype, name="decoder4")
        flows, feature = _split(decoder(jnp.concatenate([*coarsest, time], axis=-1)))
        for level, width in ((3, 132), (2, 96)):
            update = Update(2 ** (3 - level), self.dtype, name=f"update{level + 1}")
            flows, feature = update(flows, feature, forward, backward)
            decoder = Decoder(width, 4 + PYRAMID[level - 2], self.dtype, name=f"decoder{level}")
            change, feature = _split(decoder(_warped(feature, maps[level - 1], flows)))
            flows = resize_flow(flows, 2) + change
        flows, feature = Update(4, self.dtype, name="update2")(flows, feature, forward, backward)
        decoder = Decoder(60, 8 * FLOWS, self.dtype, name="decoder1")
        x = decoder(_warped(feature, maps[0], flows))
        return self._combine(both, mean, flows, x.astype(jnp.float32))

    def _combine(
        self,
        both: Float[Array, "B 2 Y X 3"],
        mean: Float[Array, "B 1 1 1 1"],
        flows: Float[Array, "B y x 4"],
        x: Float[Array, "B Y X C"],
    ) -> Float[Array, "B Y X 3"]:
        """The middle frame from three warped ones."""
        batch, height, width, _ = x.shape
        changes = x[..., : 4 * FLOWS].reshape(batch, height, width, 2, FLOWS, 2)
        mask = nn.sigmoid(x[..., 4 * FLOWS : 5 * FLOWS])[..., None]
        residual = x[..., 5 * FLOWS :].reshape(batch, height, width, FLOWS, 3)
        coarse = resize_flow(flows, 2).reshape(batch, height, width, 2, 1, 2)
        fine = coarse + changes
        frames = []
        for k in range(FLOWS):
            before = warp(both[:, 0], fine[..., 0, k, :])
            after = warp(both[:, 1], fine[..., 1, k, :])
            share = mask[..., k, :]
            frames.append(share * before + (1 - share) * after + residual[..., k, :])
        stacked = jnp.concatenate(frames, axis=-1) + mean[:, 0]
        mixed = ConvPReLU(6 * FLOWS, dtype=self.dtype, name="comb_block_0")(
            stacked.astype(self.dtype)
        )
        mixed = Conv(3, dtype=self.dtype, name="comb_block_2")(mixed).astype(jnp.float32)
        average = sum(frames) / FLOWS + mean[:, 0]
        return jnp.clip(average + mixed, 0, 1)


class FeatureEncoder(nn.Module):
    """Images to 84 channels at 1/8 of the size, for the correlation."""

    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Float[Array, "B Y X 3"]) -> Float[Array, "B y x 84"]:
        x = Conv(32, kernel=7, stride=2, dtype=self.dtype, name="conv1")(x)
        x = nn.relu(instance_norm(x))
        for layer, (width, stride) in enumerate(((32, 1), (64, 2), (96, 2)), start=1):
            for index in range(2):
                step = 1 if index else stride
                x = Bottleneck(width, step, self.dtype, name=f"layer{layer}_{index}")(x)
        return Conv(84, kernel=1, dtype=self.dtype, name="conv2")(x)


class Bottleneck(nn.Module):
    """Convolutions of 1, 3 and 1 through a quarter of the channels, on a residual stream."""

    features: int
    stride: int
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Float[Array, "B Y X C"]) -> Float[Array, "B y x O"]:
        narrow = self.features // 4

        def step(x: Array, features: int, kernel: int, stride: int, name: str) -> Array:
            return instance_norm(Conv(features, kernel, stride, self.dtype, name=name)(x))

        y = nn.relu(step(x, narrow, 1, 1, "conv1"))
        y = nn.relu(step(y, narrow, 3, self.stride, "conv2"))
        y = nn.relu(step(y, self.features, 1, 1, "conv3"))
        if self.stride != 1:
            x = step(x, self.features, 1, self.stride, "downsample")
        return nn.relu(x + y)


class ContextEncoder(nn.Module):
    """Images to four maps, each half the size of the one before."""

    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Float[Array, "B Y X 3"]) -> list[Float[Array, "B _ _ C"]]:
        levels = []
        for level, width in enumerate(PYRAMID, start=1):
            for index, stride in enumerate((2, 1)):
                name = f"pyramid{level}_{index}"
                x = ConvPReLU(width, stride=stride, dtype=self.dtype, name=name)(x)
            levels.append(x)
        return levels


class Decoder(nn.Module):
    """Maps of one size to ``outs`` channels at twice the size."""

    width: int
    outs: int
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Float[Array, "B Y X C"]) -> Float[Array, "B y x O"]:
        x = ConvPReLU(self.width, dtype=self.dtype, name="convblock_0")(x.astype(self.dtype))
        x = SideResidual(self.dtype, name="convblock_1")(x)
        return Upsample(self.outs, self.dtype, name="convblock_2")(x)


class Update(nn.Module):
    """Corrects flows and feature by what the correlation says; works at 1/8 of the size.

    Attributes:
      scale: how many times larger the flows are.
      dtype: of the convolutions.
    """

    scale: int
    dtype: DTypeLike

    @nn.compact
    def __call__(
        self,
        flows: Float[Array, "B Y X 4"],
        feature: Float[Array, "B Y X C"],
        forward: Pyramid,
        backward: Pyramid,
    ) -> tuple[Float[Array, "B Y X 4"], Float[Array, "B Y X C"]]:
        channels = feature.shape[-1]
        small = flows
        net = feature
        if self.scale > 1:
            small = resize_flow(flows, 1 / self.scale)
            net = resize(feature, 1 / self.scale)
        height, width = small.shape[1:3]
        grid = jnp.stack(jnp.meshgrid(jnp.arange(width), jnp.arange(height)), axis=-1).astype(
            jnp.float32
        )[None]
        found = jnp.concatenate(
            [
                look_up(forward, grid + small[..., 2:] / MIDDLE),
                look_up(backward, grid + small[..., :2] / MIDDLE),
            ],
            axis=-1,
        ).astype(self.dtype)
        small = small.astype(self.dtype)

        def conv(x: Array, features: int, name: str, kernel: int = 3) -> Array:
            return leaky_relu(Conv(features, kernel, dtype=self.dtype, name=name)(x))

        cor = conv(found, 64, "convc1", kernel=1)
        flo = conv(conv(small, 40, "convf1", kernel=7), 20, "convf2")
        motion = conv(jnp.concatenate([cor, flo], axis=-1), 68, "conv")
        x = conv(jnp.concatenate([motion, small, net], axis=-1), 76, "gru_0")
        x = Conv(76, dtype=self.dtype, name="gru_2")(x)
        change = {}
        for head, outs in (("feat_head", channels), ("flow_head", 4)):
            y = conv(x, 76, f"{head}_0")
            change[head] = Conv(outs, dtype=self.dtype, name=f"{head}_2")(y)
        flow_change = change["flow_head"].astype(jnp.float32)
        if self.scale > 1:
            flow_change = resize_flow(flow_change, self.scale)
            change["feat_head"] = resize(change["feat_head"], self.scale)
        return flows + flow_change, feature + change["feat_head"]


def _split(x: Float[Array, "B Y X C"]) -> tuple[Float[Array, "B Y X 4"], Float[Array, "B Y X c"]]:
    """Both flows, float32, and the feature that a decoder gives."""
    return x[..., :4].astype(jnp.float32), x[..., 4:]


def _warped(
    feature: Float[Array, "B Y X C"],
    maps: tuple[Float[Array, "B Y X C"], Float[Array, "B Y X C"]],
    flows: Float[Array, "B Y X 4"],
) -> Float[Array, "B Y X c"]:
    """What a decoder takes: feature, both maps where the flows lead, and the flows."""
    warped = [warp(maps[0], flows[..., :2]), warp(maps[1], flows[..., 2:])]
    parts = [feature, *warped, flows.astype(feature.dtype)]
    return jnp.concatenate(parts, axis=-1)
