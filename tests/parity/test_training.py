"""Loss and gradients are those of PyTorch's network with the same weights, the same draws and
adapters put together by hand.
"""

import dataclasses
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers import HeliosTransformer3DModel
from flax.traverse_util import flatten_dict

from helios_jax.checkpoint.names import transformer_slots
from helios_jax.diffusion.corruption import TaskDraws
from helios_jax.diffusion.history import frame_indices
from helios_jax.models.lora import combine
from helios_jax.models.transformer import HeliosTransformer
from helios_jax.training import flow, pyramid
from helios_jax.training.config import TrainableConfig
from helios_jax.training.denoising import denoising_batch, denoising_losses, draw_denoising
from helios_jax.training.objectives import OBJECTIVES
from helios_jax.training.targets import TimestepConfig
from helios_jax.training.trainable import frozen, init_trainable
from tests import toys
from tests.toys import toy_batch, toy_config, warm

from .compare import channels_first
from .torch_transformer import params_from_torch, random_transformer

# Of three layers, the fewest, one is run by the scan.
TRANSFORMER = dataclasses.replace(toys.TRANSFORMER, num_layers=3)
SAMPLE_TARGETS = {"flow": flow.sample_targets, "pyramid": pyramid.sample_targets}
RECIPES = {
    "stage 1's": {},
    "adapters everywhere": {"trainable": TrainableConfig(rank=3, lora=".*")},
    "all in full": {"trainable": TrainableConfig(rank=0, full=".*")},
    "no history": {
        "trainable": TrainableConfig(rank=0, full="(?!patch_(short|mid|long)).*"),
        "history": False,
    },
}
CASES = [
    pytest.param("flow", "stage 1's", marks=pytest.mark.slow),
    pytest.param("flow", "all in full", marks=pytest.mark.slow),
    pytest.param("flow", "no history", marks=pytest.mark.slow),
    pytest.param("pyramid", "adapters everywhere", marks=pytest.mark.slow),
    pytest.param("pyramid", "all in full", marks=pytest.mark.slow),
]


def effective(trained, config):
    """The torch tensors that training replaces, by name, from leaves in our axes: whole, or what an
    adapter ``A B`` adds to them.
    """
    whole = {}
    added = {}
    for slot in transformer_slots(config):
        if slot.path in trained:
            whole[slot.name] = in_torchs_axes(trained[slot.path][slot.index], slot)
        module = slot.path.removesuffix("/kernel")
        if slot.path != module and f"{module}/lora_a" in trained:
            # Factors have the axes of layers and parts, but those of inputs or outputs only.
            picked = tuple(at for at in slot.index if isinstance(at, int))
            a = trained[f"{module}/lora_a"][slot.index]
            b = trained[f"{module}/lora_b"][picked]
            added[slot.name] = in_torchs_axes(
                a.reshape(-1, a.shape[-1]) @ b.reshape(len(b), -1), slot
            )
    return whole, added


def in_torchs_axes(part, slot):
    """What :meth:`Slot.to_torch` does, of a torch tensor with a gradient."""
    return part.reshape([slot.shape[axis] for axis in slot.axes]).permute(
        tuple(np.argsort(slot.axes).tolist())
    )


def torch_losses(model, trained, batch, config):
    """Mean squared error of each item, weighted: over all elements, then over the batch."""
    whole, added = effective(trained, config.model.transformer)
    weights = dict(model.named_parameters())
    weights |= whole | {name: weights[name] + change for name, change in added.items()}
    chunk = batch.targets[0].noisy.shape[1]
    conditioning = batch.conditioning
    frames = frame_indices(config.model.sample.history_sizes, chunk)
    missing = config.model.text_encoder.max_sequence_length - conditioning.text.shape[1]
    given = {
        "encoder_hidden_states": torch.from_numpy(
            np.pad(conditioning.text, ((0, 0), (0, missing), (0, 0)))
        ),
        "indices_hidden_states": torch.tensor(
            [frames.noisy if config.history else tuple(range(chunk))]
        ),
    }
    for name in ("short", "mid", "long") if config.history else ():
        given[f"latents_history_{name}"] = channels_first(getattr(conditioning.history, name))
        given[f"indices_latents_history_{name}"] = torch.tensor([getattr(frames, name)])
    found = []
    for target in batch.targets:
        inputs = {
            "hidden_states": channels_first(target.noisy),
            "timestep": torch.tensor(np.array(target.timestep)),
            "return_dict": False,
        }
        velocity = torch.func.functional_call(model, weights, kwargs=given | inputs)[0]
        error = (velocity - channels_first(target.velocity)) ** 2
        found.append((torch.tensor(np.array(target.weight)) * error.mean((1, 2, 3, 4))).mean())
    return torch.stack(found)


@pytest.mark.parametrize(("objective", "recipe"), CASES)
def test_losses_and_gradients_of_every_leaf_equal_pytorchs(objective, recipe):
    """Losses of all items to 1e-5; the gradient of their mean to 1e-4 of each leaf's norm. Guards
    the loss, the adapters and what is frozen.
    """
    config = toy_config(objective, timesteps=TimestepConfig(weighting="cosmap"), **RECIPES[recipe])
    config = dataclasses.replace(
        config, model=dataclasses.replace(config.model, transformer=TRANSFORMER)
    )
    accepted = inspect.signature(HeliosTransformer3DModel.__init__).parameters
    model = random_transformer(
        **{
            name: value
            for name, value in dataclasses.asdict(TRANSFORMER).items()
            if name in accepted
        }
    )
    params = jax.tree.map(jnp.asarray, params_from_torch(model))
    trainable = warm(init_trainable(params, config.trainable, jax.random.key(0)))
    batch = jax.tree.map(jnp.asarray, toy_batch(config))

    @jax.jit
    def ours(trainable, base, batch):
        # A whole history and a cut one, a text and none: whatever is drawn, every leaf has its part
        # in it.
        task = TaskDraws(jnp.array([0, 3]), jnp.array([0, 1]))
        draws = draw_denoising(config, batch, OBJECTIVES[objective].items(config))
        draws = draws._replace(task=task, text=jnp.array([True, False]))
        targets = denoising_batch(batch, draws, config, SAMPLE_TARGETS[objective])

        def mean(trainable):
            each = denoising_losses(
                combine(base, trainable),
                targets,
                HeliosTransformer(config.model.transformer),
                config,
            )
            return each.mean(), each

        return jax.value_and_grad(mean, has_aux=True)(trainable), targets

    ((_, each), gradient), targets = ours(trainable, frozen(params, config.trainable), batch)

    trained = {
        path: torch.tensor(np.array(leaf), requires_grad=True)
        for path, leaf in flatten_dict(trainable, sep="/").items()
    }
    expected = torch_losses(model, trained, targets, config)
    expected.mean().backward()

    loss_error = np.abs(np.asarray(each) / expected.detach().numpy() - 1).max()
    errors = {
        path: leaf_error(leaf, trained[path].grad)
        for path, leaf in flatten_dict(gradient, sep="/").items()
    }
    worst = max(errors, key=errors.get)
    print(
        f"{objective}, {recipe}: losses {loss_error:.1e}; "
        f"gradients of {len(errors)} leaves {errors[worst]:.1e} ({worst})"
    )
    assert errors.keys() == trained.keys()
    assert loss_error <= 1e-5
    assert errors[worst] <= 1e-4


def leaf_error(ours, theirs):
    """Norm of the difference, relative to PyTorch's norm, which is not 0."""
    theirs = theirs.numpy().astype(np.float64)
    assert np.linalg.norm(theirs) > 0
    return np.linalg.norm(np.asarray(ours, np.float64) - theirs) / np.linalg.norm(theirs)
