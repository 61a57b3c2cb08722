"""HeliosBench's networks in plain PyTorch, under the names of the published files.

Parts of ``torch.nn`` put together: what the Flax networks are compared with and timed against.
"""

import torch
from torch import nn
from torch.nn import functional as F

from helios_jax.evaluation.bench.networks.clip import VisionConfig
from helios_jax.evaluation.bench.networks.viclip import TextConfig


class QuickGELU(nn.Module):
    def forward(self, x):
        return x * torch.sigmoid(1.702 * x)


class Block(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.ln_1 = nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.ln_2 = nn.LayerNorm(width)
        self.mlp = nn.ModuleDict(
            {"c_fc": nn.Linear(width, 4 * width), "c_proj": nn.Linear(4 * width, width)}
        )
        self.gelu = QuickGELU()

    def forward(self, x, mask=None):
        y = self.ln_1(x)
        x = x + self.attn(y, y, y, need_weights=False, attn_mask=mask)[0]
        return x + self.mlp["c_proj"](self.gelu(self.mlp["c_fc"](self.ln_2(x))))


def resblocks(layers, width, heads):
    return nn.ModuleDict({"resblocks": nn.ModuleList([Block(width, heads) for _ in range(layers)])})


class VideoEncoder(nn.Module):
    """ViCLIP's video encoder."""

    def __init__(self, config: VisionConfig):
        super().__init__()
        width, patch = config.width, (1, config.patch_size, config.patch_size)
        self.conv1 = nn.Conv3d(3, width, patch, patch, bias=False)
        self.class_embedding = nn.Parameter(torch.zeros(width))
        self.positional_embedding = nn.Parameter(torch.zeros(1 + config.patches, width))
        self.temporal_positional_embedding = nn.Parameter(torch.zeros(1, config.frames, width))
        self.ln_pre = nn.LayerNorm(width)
        self.transformer = resblocks(config.layers, width, config.heads)
        self.ln_post = nn.LayerNorm(width)
        self.proj = nn.Parameter(torch.zeros(width, config.features))

    def forward(self, videos):
        patches = self.conv1(videos.transpose(1, 2)).flatten(3).permute(0, 2, 3, 1)
        times = self.temporal_positional_embedding[:, : patches.shape[1], None]
        patches = patches + self.positional_embedding[1:] + times
        first = (self.class_embedding + self.positional_embedding[0]).expand(len(videos), 1, -1)
        x = self.ln_pre(torch.cat([first, patches.flatten(1, 2)], dim=1))
        for block in self.transformer["resblocks"]:
            x = block(x)
        return self.ln_post(x[:, 0]) @ self.proj


class TextEncoder(nn.Module):
    """ViCLIP's text encoder."""

    def __init__(self, config: TextConfig):
        super().__init__()
        self.token_embedding = nn.Embedding(config.vocab_size, config.width)
        self.positional_embedding = nn.Parameter(torch.zeros(config.context, config.width))
        self.transformer = resblocks(config.layers, config.width, config.heads)
        self.ln_final = nn.LayerNorm(config.width)
        self.text_projection = nn.Parameter(torch.zeros(config.width, config.features))

    def forward(self, ids):
        x = self.token_embedding(ids) + self.positional_embedding
        mask = nn.Transformer.generate_square_subsequent_mask(ids.shape[1])
        for block in self.transformer["resblocks"]:
            x = block(x, mask)
        ends = self.ln_final(x)[torch.arange(len(ids)), ids.argmax(dim=1)]
        return ends @ self.text_projection


def conv(ins, outs, kernel=3, stride=1):
    return nn.Conv2d(ins, outs, kernel, stride, (kernel - 1) // 2)


def conv_prelu(ins, outs, stride=1):
    return nn.Sequential(conv(ins, outs, 3, stride), nn.PReLU(outs))


class Bottleneck(nn.Module):
    def __init__(self, ins, outs, stride):
        super().__init__()
        narrow = outs // 4
        self.conv1, self.conv2 = conv(ins, narrow, 1), conv(narrow, narrow, 3, stride)
        self.conv3 = conv(narrow, outs, 1)
        self.downsample = nn.Sequential(conv(ins, outs, 1, stride)) if stride > 1 else None

    def forward(self, x):
        y = x
        for layer in (self.conv1, self.conv2, self.conv3):
            y = F.relu(F.instance_norm(layer(y)))
        return F.relu((F.instance_norm(self.downsample(x)) if self.downsample else x) + y)


class FeatureEncoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = conv(3, 32, 7, 2), conv(96, 84, 1)
        for layer, (ins, outs, stride) in enumerate(((32, 32, 1), (32, 64, 2), (64, 96, 2)), 1):
            blocks = nn.Sequential(Bottleneck(ins, outs, stride), Bottleneck(outs, outs, 1))
            self.add_module(f"layer{layer}", blocks)

    def forward(self, x):
        x = F.relu(F.instance_norm(self.conv1(x)))
        return self.conv2(self.layer3(self.layer2(self.layer1(x))))


class ContextEncoder(nn.Module):
    def __init__(self):
        super().__init__()
        widths = (3, 20, 32, 44, 56)
        for level, (ins, outs) in enumerate(zip(widths, widths[1:]), 1):  # noqa: RUF007
            both = nn.Sequential(conv_prelu(ins, outs, 2), conv_prelu(outs, outs))
            self.add_module(f"pyramid{level}", both)

    def forward(self, x):
        maps = []
        for level in (self.pyramid1, self.pyramid2, self.pyramid3, self.pyramid4):
            x = level(x)
            maps.append(x)
        return maps


class SideResidual(nn.Module):
    def __init__(self, width, side=20):
        super().__init__()
        self.side = side
        self.conv1, self.conv2 = conv_prelu(width, width), conv_prelu(side, side)
        self.conv3, self.conv4 = conv_prelu(width, width), conv_prelu(side, side)
        self.conv5, self.prelu = conv(width, width), nn.PReLU(width)

    def forward(self, x):
        y = x
        for whole, part in ((self.conv1, self.conv2), (self.conv3, self.conv4)):
            y = whole(y)
            y = torch.cat([y[:, : -self.side], part(y[:, -self.side :])], dim=1)
        return self.prelu(x + self.conv5(y))


class Decoder(nn.Module):
    def __init__(self, ins, width, outs):
        super().__init__()
        self.convblock = nn.Sequential(
            conv_prelu(ins, width),
            SideResidual(width),
            nn.ConvTranspose2d(width, outs, 4, 2, 1),
        )

    def forward(self, x):
        return self.convblock(x)


class Update(nn.Module):
    def __init__(self, feature, scale):
        super().__init__()
        self.scale = scale
        self.convc1, self.conv = conv(392, 64, 1), conv(84, 68)
        self.convf1, self.convf2 = conv(4, 40, 7), conv(40, 20)
        self.gru = nn.Sequential(conv(72 + feature, 76), nn.LeakyReLU(0.1), conv(76, 76))
        self.feat_head = nn.Sequential(conv(76, 76), nn.LeakyReLU(0.1), conv(76, feature))
        self.flow_head = nn.Sequential(conv(76, 76), nn.LeakyReLU(0.1), conv(76, 4))

    def forward(self, flows, feature, pyramids):
        small, net = resize(flows, 1 / self.scale) / self.scale, resize(feature, 1 / self.scale)
        found = torch.cat(
            [look_up(pyramids[0], 2 * small[:, 2:]), look_up(pyramids[1], 2 * small[:, :2])], dim=1
        )
        cor, flo = leaky(self.convc1(found)), leaky(self.convf2(leaky(self.convf1(small))))
        motion = leaky(self.conv(torch.cat([cor, flo], dim=1)))
        x = self.gru(torch.cat([motion, small, net], dim=1))
        flow_change = self.scale * resize(self.flow_head(x), self.scale)
        return flows + flow_change, feature + resize(self.feat_head(x), self.scale)


class AMT(nn.Module):
    """AMT-S, for the middle frame."""

    def __init__(self):
        super().__init__()
        self.feat_encoder, self.encoder = FeatureEncoder(), ContextEncoder()
        self.decoder4, self.decoder3 = Decoder(113, 112, 48), Decoder(136, 132, 36)
        self.decoder2, self.decoder1 = Decoder(100, 96, 24), Decoder(64, 60, 24)
        self.update4, self.update3, self.update2 = Update(44, 1), Update(32, 2), Update(20, 4)
        self.comb_block = nn.Sequential(conv(9, 18), nn.PReLU(18), conv(18, 3))

    def forward(self, first, second):
        mean = torch.stack([first, second]).mean(dim=(0, 2, 3, 4))[:, None, None, None]
        images = first - mean, second - mean
        pyramids = correlation(*(self.feat_encoder(image) for image in images))
        maps = list(zip(*(self.encoder(image) for image in images)))
        time = torch.full_like(maps[3][0][:, :1], 0.5)
        flows, feature = split(self.decoder4(torch.cat([*maps[3], time], dim=1)))
        for level, decoder, update in (
            (2, self.decoder3, self.update4),
            (1, self.decoder2, self.update3),
        ):
            flows, feature = update(flows, feature, pyramids)
            change, feature = split(decoder(warped(feature, maps[level], flows)))
            flows = 2 * resize(flows, 2) + change
        flows, feature = self.update2(flows, feature, pyramids)
        x = self.decoder1(warped(feature, maps[0], flows))
        coarse = 2 * resize(flows, 2)
        made = []
        for k in range(3):
            before = warp(images[0], x[:, 2 * k : 2 * k + 2] + coarse[:, :2])
            after = warp(images[1], x[:, 6 + 2 * k : 8 + 2 * k] + coarse[:, 2:])
            mask = torch.sigmoid(x[:, 12 + k : 13 + k])
            residual = x[:, 15 + 3 * k : 18 + 3 * k]
            made.append(mask * before + (1 - mask) * after + mean + residual)
        return (sum(made) / 3 + self.comb_block(torch.cat(made, dim=1))).clamp(0, 1)


def leaky(x):
    return F.leaky_relu(x, 0.1)


def split(x):
    return x[:, :4], x[:, 4:]


def resize(x, scale):
    if scale == 1:
        return x
    return F.interpolate(x, scale_factor=scale, mode="bilinear", align_corners=False)


def positions(height, width):
    rows, columns = torch.meshgrid(
        torch.arange(float(height)), torch.arange(float(width)), indexing="ij"
    )
    return columns, rows


def sample(values, x, y, padding):
    """Bilinear samples of maps [N, C, H, W] at positions [N, h, w] in pixels."""
    height, width = values.shape[-2:]
    grid = torch.stack([2 * x / (width - 1) - 1, 2 * y / (height - 1) - 1], dim=-1)
    return F.grid_sample(values, grid, mode="bilinear", padding_mode=padding, align_corners=True)


def warp(x, flow):
    columns, rows = positions(*x.shape[-2:])
    return sample(x, columns + flow[:, 0], rows + flow[:, 1], "border")


def warped(feature, maps, flows):
    return torch.cat(
        [feature, warp(maps[0], flows[:, :2]), warp(maps[1], flows[:, 2:]), flows], dim=1
    )


def correlation(one, other):
    channels, height, width = one.shape[1:]
    pairs = torch.einsum("bcp,bcq->bpq", one.flatten(2), other.flatten(2)) / channels**0.5
    pyramids = []
    for values in (pairs, pairs.transpose(1, 2)):
        levels = [values.reshape(-1, 1, height, width)]
        for _ in range(3):
            levels.append(F.avg_pool2d(levels[-1], 2))
        pyramids.append(levels)
    return pyramids


def look_up(levels, flow):
    batch, _, height, width = flow.shape
    columns, rows = positions(height, width)
    x = (columns + flow[:, 0]).reshape(-1, 1, 1)
    y = (rows + flow[:, 1]).reshape(-1, 1, 1)
    offsets = torch.arange(-3.0, 4.0)
    found = []
    for level, values in enumerate(levels):
        at_x, at_y = torch.broadcast_tensors(
            x / 2**level + offsets[None, :, None], y / 2**level + offsets[None, None, :]
        )
        found.append(sample(values, at_x, at_y, "zeros").reshape(batch, height, width, 49))
    return torch.cat(found, dim=-1).permute(0, 3, 1, 2)
