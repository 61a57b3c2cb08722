"""What an objective is: all in which one way of training differs from another.

Each objective is an :class:`Objective` at the end of its own file; the table of them is in
:mod:`~helios_jax.training.objectives`.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

from helios_jax.config import ConfigError
from helios_jax.data.loading import Batches, LoaderOptions
from helios_jax.models.tokenizer import Tokenizer
from helios_jax.training import step
from helios_jax.training.config import TrainConfig
from helios_jax.training.denoising import MakeTargets
from helios_jax.training.flops import StepCost
from helios_jax.training.trainable import frozen
from helios_jax.types import Params

Split = Literal["train", "validation"]


class Objective(NamedTuple):
    """An objective of :class:`~helios_jax.training.config.TrainConfig`.

    Attributes:
      component: the part of the model that learns; the others are not loaded.
      load: ``(config, split, options) -> batches``; refuses what the model cannot learn from.
      abstract_batch: ``config -> batch`` of shapes, at the size of ``model.sample``.
      make_step: ``config -> ((state, frozen, batch) -> (state, metrics))``.
      make_validation: ``(config, sharding) -> ((trainable, frozen, batches) -> metrics)``; the
        metrics lie where ``sharding`` says.
      cost: ``(config, trainable, batch) -> StepCost`` of one sample of a batch.
      make_targets: ``(batch, config) -> targets`` of an objective that matches flows.
      items: ``config ->`` losses of a step.
      levels: ``config ->`` noisy inputs of a sample at each level of the pyramid, coarsest first.
      check: ``config -> None``; raises ConfigError where the run cannot be.
      init_params: ``params -> params``, what is done to random parameters before they are trained.
      extra_params: ``config -> params`` that train beside the component's and are thrown away with
        the run.
      export_params: ``(config, params) -> params``, what is done to the component when a run
        becomes a checkpoint.
      tokenizer: ``config -> tokenizer`` that the component was trained with, where the data do not
        come with one.
      init_state: ``(config, params) -> state`` before the first step.
      frozen_params: ``(config, params) -> params`` that steps read and do not change.
      student_key: name of the student's parameters among those of a run that has others beside
        them; else empty.
      scheduler_fields: fields of the scheduler in which the recipe must agree with the checkpoint.
    """

    component: Literal["transformer", "vae", "text_encoder"]
    load: Callable[[TrainConfig, Split, LoaderOptions], Batches]
    abstract_batch: Callable[[TrainConfig], Any]
    make_step: Callable[[TrainConfig], step.Step]
    make_validation: Callable[..., Callable[..., dict[str, Any]]]
    cost: Callable[[TrainConfig, Params, Any], StepCost]
    make_targets: MakeTargets | None = None
    items: Callable[[TrainConfig], int] = lambda config: 1
    levels: Callable[[TrainConfig], tuple[int, ...]] = lambda config: (1,)
    check: Callable[[TrainConfig], None] = lambda config: None
    init_params: Callable[[Params], Params] = lambda params: params
    extra_params: Callable[[TrainConfig], Params] = lambda config: {}
    export_params: Callable[[TrainConfig, Params], Params] = lambda config, params: params
    tokenizer: Callable[[TrainConfig], Tokenizer | None] = lambda config: None
    init_state: Callable[[TrainConfig, Params], step.TrainState] = step.init_state
    frozen_params: Callable[[TrainConfig, Params], Params] = lambda config, params: frozen(
        params, config.trainable
    )
    student_key: str = ""
    scheduler_fields: tuple[str, ...] = ()

    def student(self, tree: Params) -> Params:
        """The student's part of what trains or is frozen; all of it where there is no teacher."""
        return tree[self.student_key] if self.student_key else tree


def refuse_transformer_settings(config: TrainConfig) -> None:
    """Check a run that trains another part of the model.

    Raises:
      ConfigError: if settings are made that are for the transformer.
    """
    if config.trainable.rank or config.offload or config.validation.videos_every:
        raise ConfigError(
            "trainable.rank, offload and validation.videos_every are for the transformer; the "
            f"objective is {config.objective!r}"
        )
