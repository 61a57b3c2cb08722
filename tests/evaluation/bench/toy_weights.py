"""Small random networks in the files in which the real ones are published."""

import torch

from helios_jax.evaluation.bench.networks import names
from helios_jax.evaluation.bench.networks.clip import VisionConfig
from helios_jax.evaluation.bench.networks.viclip import TextConfig
from tests.evaluation.bench.golden import amt_arrays, random_tensors, shapes_of
from tests.evaluation.bench.merges import merges

VISION = VisionConfig(image_size=56, width=64, layers=2, heads=1, features=32, frames=8)
TEXT = TextConfig(width=64, layers=2, heads=1, features=32)


class Node(torch.nn.Module):
    """Something for TorchScript to save."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def as_module(state):
    """A module with the tensors of a state dictionary under their names."""
    root = Node()
    for name, tensor in state.items():
        *folders, leaf = name.split(".")
        node = root
        for folder in folders:
            if folder not in dict(node.named_children()):
                node.add_module(folder, Node())
            node = dict(node.named_children())[folder]
        node.register_parameter(leaf, torch.nn.Parameter(tensor, requires_grad=False))
    return root


def state(slots, seed, prefix=""):
    arrays = random_tensors(shapes_of(slots), seed)
    return {f"{prefix}{name}": torch.from_numpy(array) for name, array in arrays.items()}


def clip_state():
    """OpenAI's names; the file holds a text encoder too."""
    vision = state(names.clip_slots(VISION), 1, names.CLIP_PREFIX)
    return {**vision, "logit_scale": torch.ones(1), "token_embedding.weight": torch.ones(3, 2)}


def write_head(path):
    weight = state(names.aesthetic_slots(VISION), 5)["weight"]
    torch.save({"weight": weight, "bias": torch.tensor([5.0])}, path)
    return path


def write_viclip(path):
    vision, text = names.VICLIP_PREFIXES
    model = {
        **state(names.viclip_vision_slots(VISION), 2, vision),
        **state(names.viclip_text_slots(TEXT), 3, text),
        "temp": torch.tensor(0.07),
    }
    torch.save({"model": model}, path)
    return path


def write_vocabulary(path):
    lines = ["#version: 0.2", *(" ".join(merge) for merge in merges())]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def write_amt(path):
    arrays = amt_arrays()
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    torch.save({"state_dict": tensors}, path)
    return path
