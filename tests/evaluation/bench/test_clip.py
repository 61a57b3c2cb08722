"""CLIP's image encoder and ViCLIP compute what PyTorch computes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from helios_jax.evaluation.bench.networks import names
from helios_jax.evaluation.bench.networks.clip import AestheticHead, ImageEncoder, VisionConfig
from helios_jax.evaluation.bench.networks.viclip import TextConfig, TextEncoder, VideoEncoder
from helios_jax.evaluation.bench.networks.weights import build_params
from tests.evaluation.bench import torch_networks
from tests.evaluation.bench.golden import (
    as_tensors,
    assert_golden,
    random_input,
    random_tensors,
    shapes_of,
)

VISION = VisionConfig(image_size=56, width=64, layers=2, heads=4, features=32, frames=4)
TEXT = TextConfig(width=64, layers=2, heads=4, features=32)
PROMPT_2 = [49406, 320, 3769, 4734, 268, 2716, 5727, 8853, 593, 320, 1042, 3934, 6946, 267]
PROMPT_2 += [17036, 5560, 4687, 9967, 344, 4404, 29086, 83, 2337, 1417, 320, 14191, 17195]
PROMPT_2 += [269, 911, 1538, 267, 49407]
"""The 32 tokens of the benchmark's second prompt."""


def params(slots, seed):
    return build_params("random", slots, as_tensors(random_tensors(shapes_of(slots), seed)))


def channels_last(array):
    return jnp.asarray(np.moveaxis(array, -3, -1))


def test_images_give_the_features_of_openais_encoder():
    weights = params(names.clip_slots(VISION), seed=1)
    images = channels_last(random_input(11, 2, 3, 56, 56))
    features = ImageEncoder(VISION).apply({"params": weights}, images)
    first = (-2.178965, 0.271535, 1.094977, 2.962716)
    assert_golden(features, first, -0.0900806, 1.3348246, 10.702886)


def test_videos_give_the_features_of_viclip():
    weights = params(names.viclip_vision_slots(VISION), seed=2)
    videos = channels_last(random_input(12, 1, 4, 3, 56, 56))
    features = VideoEncoder(VISION).apply({"params": weights}, videos)
    first = (-0.676188, -1.572943, -3.345068, 0.788103)
    assert_golden(features, first, -0.2749595, 1.5731822, 9.034166)


@pytest.mark.parametrize(
    ("ids", "first", "mean", "std", "norm"),
    [
        (PROMPT_2, (2.228189, 1.61914, 0.609985, 0.59537), 0.3055378, 1.5266557, 8.807326),
        (
            [49406, 320, 2368, 49407] + [0] * 28,
            (0.610581, 1.137706, 1.010051, 0.028076),
            -0.1763073,
            1.5923833,
            9.062925,
        ),
    ],
    ids=["full", "padded"],
)
def test_texts_give_the_features_of_viclip(ids, first, mean, std, norm):
    weights = params(names.viclip_text_slots(TEXT), seed=3)
    features = TextEncoder(TEXT).apply({"params": weights}, jnp.asarray([ids], jnp.int32))
    assert_golden(features, first, mean, std, norm)


def load(model, slots, seed):
    """A PyTorch module with random weights."""
    arrays = random_tensors(shapes_of(slots), seed)
    model.load_state_dict({name: torch.from_numpy(array) for name, array in arrays.items()})
    return model.eval()


def test_videos_give_the_features_of_pytorch():
    slots = names.viclip_vision_slots(VISION)
    model = load(torch_networks.VideoEncoder(VISION), slots, seed=6)
    videos = random_input(7, 2, 4, 3, 56, 56)
    with torch.no_grad():
        expected = model(torch.from_numpy(videos)).numpy()
    weights = {"params": params(slots, seed=6)}
    found = VideoEncoder(VISION).apply(weights, channels_last(videos))
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()


def test_texts_give_the_features_of_pytorch():
    slots = names.viclip_text_slots(TEXT)
    model = load(torch_networks.TextEncoder(TEXT), slots, seed=8)
    ids = np.array([PROMPT_2, [49406, 320, 2368, 49407] + [0] * 28], np.int32)
    with torch.no_grad():
        expected = model(torch.from_numpy(ids)).numpy()
    found = TextEncoder(TEXT).apply({"params": params(slots, seed=8)}, jnp.asarray(ids))
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()


def transformers_encoder():
    """Transformers' encoder of the same sizes, with weights drawn wider than it would draw them."""
    torch.manual_seed(0)
    sizes = CLIPVisionConfig(
        image_size=VISION.image_size,
        patch_size=VISION.patch_size,
        hidden_size=VISION.width,
        intermediate_size=4 * VISION.width,
        num_hidden_layers=VISION.layers,
        num_attention_heads=VISION.heads,
        projection_dim=VISION.features,
        hidden_act="quick_gelu",
    )
    model = CLIPVisionModelWithProjection(sizes).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * (parameter[0].numel() ** -0.5))
    return model


def test_images_give_the_features_of_transformers():
    model = transformers_encoder()
    arrays = {name: value.numpy() for name, value in model.state_dict().items()}
    arrays.pop("vision_model.embeddings.position_ids", None)
    weights = build_params("random", names.clip_hf_slots(VISION), as_tensors(arrays))
    images = random_input(5, 3, 3, 56, 56)
    with torch.no_grad():
        expected = model(torch.from_numpy(images)).image_embeds.numpy()
    found = ImageEncoder(VISION).apply({"params": weights}, channels_last(images))
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()


def test_bfloat16_is_close_to_float32():
    weights = params(names.clip_slots(VISION), seed=1)
    images = channels_last(random_input(11, 2, 3, 56, 56))
    exact = ImageEncoder(VISION).apply({"params": weights}, images)
    rounded = ImageEncoder(VISION, jnp.bfloat16).apply({"params": weights}, images)
    assert rounded.dtype == jnp.float32
    assert 0 < np.abs(rounded - exact).max() < 0.05 * np.abs(exact).max()


def test_the_head_is_linear_in_the_direction_of_the_features():
    config = dataclasses.replace(VISION, features=2)
    arrays = {"weight": np.array([[3.0, 4.0]], np.float32), "bias": np.array([1.0], np.float32)}
    weights = build_params("head", names.aesthetic_slots(config), as_tensors(arrays))
    features = jnp.asarray([[2.0, 0.0], [3.0, 4.0]], jnp.float32)
    ratings = AestheticHead().apply({"params": weights}, features)
    np.testing.assert_allclose(ratings, [0.4, 0.6], rtol=1e-6)


def test_the_tables_count_the_published_parameters():
    def count(slots):
        return sum(int(np.prod(slot.shape)) for slot in slots)

    assert count(names.clip_slots(VisionConfig())) == 303_966_208
    assert count(names.clip_hf_slots(VisionConfig())) == 303_966_208
    assert count(names.viclip_vision_slots(VisionConfig())) == 303_974_400
    assert count(names.viclip_text_slots(TextConfig())) == 123_615_744


def test_modules_have_the_parameters_of_the_tables():
    image, video = jnp.zeros((1, 56, 56, 3)), jnp.zeros((1, 4, 56, 56, 3))
    ids = jnp.zeros((1, TEXT.context), jnp.int32)
    for module, argument, slots in (
        (ImageEncoder(VISION), image, names.clip_slots(VISION)),
        (VideoEncoder(VISION), video, names.viclip_vision_slots(VISION)),
        (TextEncoder(TEXT), ids, names.viclip_text_slots(TEXT)),
    ):
        made = jax.eval_shape(module.init, jax.random.key(0), argument)["params"]
        read = jax.eval_shape(lambda slots=slots: params(slots, 0))
        assert jax.tree.map(lambda leaf: leaf.shape, made) == jax.tree.map(
            lambda leaf: leaf.shape, read
        )
