"""The name table of AMT-S: 213 tensors in the names of ``amt-s.pth`` and in ours."""

from helios_jax.checkpoint.layout import Slot, conv, tensor
from helios_jax.evaluation.bench.networks.amt import FLOWS, PYRAMID
from helios_jax.evaluation.bench.networks.amt_layers import SIDE


def amt_slots() -> list[Slot]:
    """All tensors of the published file."""
    two, three, four = PYRAMID[1:]
    decoders = (
        *_decoder("decoder4", 2 * four + 1, 112, 4 + three),
        *_decoder("decoder3", 3 * three + 4, 132, 4 + two),
        *_decoder("decoder2", 3 * two + 4, 96, 4 + PYRAMID[0]),
        *_decoder("decoder1", 3 * PYRAMID[0] + 4, 60, 8 * FLOWS),
    )
    updates = (
        *_update("update4", three),
        *_update("update3", two),
        *_update("update2", PYRAMID[0]),
    )
    return [
        *_feature_encoder(),
        *_context_encoder(),
        *decoders,
        *updates,
        *_conv("comb_block.0", "comb_block_0/conv", 6 * FLOWS, 3 * FLOWS, 3),
        *_slope("comb_block.1", "comb_block_0", 6 * FLOWS),
        *_conv("comb_block.2", "comb_block_2", 3, 6 * FLOWS, 3),
    ]


def _conv(name: str, path: str, outs: int, ins: int, side: int) -> list[Slot]:
    return conv(name, f"{path}/conv", outs, ins, side, side)


def _slope(name: str, path: str, width: int) -> list[Slot]:
    return tensor(f"{name}.weight", f"{path}/prelu/slope", (width,))


def _conv_prelu(name: str, path: str, outs: int, ins: int) -> list[Slot]:
    slots = _conv(f"{name}.0", f"{path}/conv", outs, ins, 3)
    return [*slots, *_slope(f"{name}.1", path, outs)]


def _feature_encoder() -> list[Slot]:
    name = "feat_encoder"
    slots = _conv(f"{name}.conv1", f"{name}/conv1", 32, 3, 7)
    ins = 32
    for layer, width in enumerate((32, 64, 96), start=1):
        for index in range(2):
            torch = f"{name}.layer{layer}.{index}"
            ours = f"{name}/layer{layer}_{index}"
            narrow = width // 4
            slots += _conv(f"{torch}.conv1", f"{ours}/conv1", narrow, ins, 1)
            slots += _conv(f"{torch}.conv2", f"{ours}/conv2", narrow, narrow, 3)
            slots += _conv(f"{torch}.conv3", f"{ours}/conv3", width, narrow, 1)
            if ins != width:
                slots += _conv(f"{torch}.downsample.0", f"{ours}/downsample", width, ins, 1)
            ins = width
    return [*slots, *_conv(f"{name}.conv2", f"{name}/conv2", 84, ins, 1)]


def _context_encoder() -> list[Slot]:
    slots = []
    ins = 3
    for level, width in enumerate(PYRAMID, start=1):
        for index in range(2):
            torch = f"encoder.pyramid{level}.{index}"
            ours = f"encoder/pyramid{level}_{index}"
            slots += _conv_prelu(torch, ours, width, ins)
            ins = width
    return slots


def _decoder(name: str, ins: int, width: int, outs: int) -> list[Slot]:
    block = f"{name}.convblock"
    path = f"{name}/convblock"
    sides = [(number, SIDE if number in (2, 4) else width) for number in (1, 2, 3, 4)]
    residual = []
    for number, channels in sides:
        source = f"{block}.1.conv{number}"
        residual += _conv_prelu(source, f"{path}_1/conv{number}", channels, channels)
    # torch keeps a transposed convolution as [in, out, *kernel]
    kernel = (width, outs, 4, 4)
    axes = (2, 3, 0, 1)
    return [
        *_conv_prelu(f"{block}.0", f"{path}_0", width, ins),
        *residual,
        *_conv(f"{block}.1.conv5", f"{path}_1/conv5", width, width, 3),
        *_slope(f"{block}.1.prelu", f"{path}_1", width),
        *tensor(f"{block}.2.weight", f"{path}_2/kernel", kernel, (4, 4, width, outs), axes),
        *tensor(f"{block}.2.bias", f"{path}_2/bias", (outs,)),
    ]


def _update(name: str, feature: int) -> list[Slot]:
    correlation = 2 * 4 * 49
    shapes = {
        "convc1": (64, correlation, 1),
        "convf1": (40, 4, 7),
        "convf2": (20, 40, 3),
        "conv": (68, 84, 3),
        "gru.0": (76, 68 + 4 + feature, 3),
        "gru.2": (76, 76, 3),
        "feat_head.0": (76, 76, 3),
        "feat_head.2": (feature, 76, 3),
        "flow_head.0": (76, 76, 3),
        "flow_head.2": (4, 76, 3),
    }
    slots = []
    for part, shape in shapes.items():
        slots += _conv(f"{name}.{part}", f"{name}/{part.replace('.', '_')}", *shape)
    return slots
