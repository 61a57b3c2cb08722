"""Everything that makes a training run what it is, as one frozen record.

A file of ``configs/train/`` returns the ``ConfigDict`` of a :class:`TrainConfig`;
:func:`~helios_jax.config.from_dict` reads it back, strictly.
"""

import dataclasses
from typing import Literal

from helios_jax.config import ConfigError, HeliosConfig
from helios_jax.data.batches import DataConfig
from helios_jax.diffusion.corruption import CorruptionConfig, TaskConfig
from helios_jax.models.lora import LINEARS
from helios_jax.training.levels import LevelConfig
from helios_jax.training.optimizer import OptimizerConfig
from helios_jax.training.targets import TimestepConfig
from helios_jax.world.clips import ClipConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainableConfig:
    """Which parameters train; everything else is frozen.

    Attributes:
      rank: of adapters (LoRA); 0 for none.
      lora: regular expression of the modules that get one, by path: ``blocks/attn1/qkv``,
        ``time_proj``, ``patch_embedding``.
      lora_exclude: of those among them that do not.
      full: regular expression of the leaves that train in full: ``patch_(short|mid|long)/.*``, or
        ``.*`` for all.
    """

    rank: int = 128
    lora: str = LINEARS
    lora_exclude: str = ""
    full: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class EMAConfig:
    """Moving average of what trains; ``decay`` 0 for none, ``start`` the number of updates before
    which it is a plain copy.
    """

    decay: float = 0.0
    start: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class ValidationConfig:
    """What is looked at while training goes on.

    Attributes:
      every: steps between validations; the first is before the first step. 0 for none.
      batches: of the validation data on which the loss is measured, always with the same draws.
      prompts: of the videos that are sampled with the averaged weights, where there are any.
      videos_every: steps between them; 0 for none.
    """

    every: int = 0
    batches: int = 4
    prompts: tuple[str, ...] = ()
    videos_every: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class CriticConfig:
    """The critic of a distillation, which begins as the teacher: the checkpoint of both, of one
    resolution, and how the critic learns.
    """

    checkpoint: str = ""
    trainable: TrainableConfig = TrainableConfig(rank=256)
    optimizer: OptimizerConfig = OptimizerConfig(learning_rate=4e-7, b1=0.0, weight_decay=1e-3)


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdversarialConfig:
    """The discriminator of a distillation; see :mod:`~helios_jax.training.adversarial`.

    Attributes:
      width: channels of its heads, a multiple of 32; 0 for no discriminator.
      hooks: blocks of the critic after which it looks, ascending from 0; it looks at the velocity
        in any case.
      start: step from which on it learns and teaches.
      student_weight, critic_weight, penalty_weight: of the three losses.
      penalty_sigma: how far data are moved for the penalty.
    """

    width: int = 0
    hooks: tuple[int, ...] = ()
    start: int = 1000
    student_weight: float = 0.05
    critic_weight: float = 0.01
    penalty_weight: float = 100.0
    penalty_sigma: float = 0.1

    def __post_init__(self):
        if self.width % 32 or self.width < 0:
            raise ConfigError(
                f"distillation.adversarial.width={self.width} must be a multiple of 32, or 0 for no discriminator"
            )
        if list(self.hooks) != sorted(set(self.hooks)):
            raise ConfigError(f"distillation.adversarial.hooks={self.hooks} must be ascending")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DistillationConfig:
    """How a student learns from its teacher.

    Attributes:
      guidance_scale: of the teacher; the published ``real_guidance_scale`` of 3 is 4 here, 1 being
        none.
      student_every: steps of the critic to one of the student.
      last_step_only: rollouts leave each stage at its last step, not at a random one.
      levels: at which the two are compared.
      adversarial: the discriminator, if there is one.
      regression_weight: of the loss of the objective ``"ode"``.
    """

    guidance_scale: float = 4.0
    student_every: int = 5
    last_step_only: bool = False
    levels: LevelConfig = LevelConfig()
    adversarial: AdversarialConfig = AdversarialConfig()
    regression_weight: float = 80.0

    def __post_init__(self):
        if self.student_every < 1:
            raise ConfigError(f"distillation.student_every={self.student_every} must be at least 1")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """A training run.

    Attributes:
      objective: ``"flow"``, one resolution (stage 1), ``"pyramid"``, every level of the pyramid
        (stage 2), ``"ode"``, the ends of a teacher's stages, and ``"distillation"``, its
        distribution (stage 3), ``"reconstruction"``, of clips by the VAE, or ``"reading"``, of
        captions by the text encoder; see :mod:`~helios_jax.training.objectives`.
      checkpoint: directory of the weights it starts from; empty for random weights of ``model``.
      model: geometry, which must be the checkpoint's, and the scheduler and sampling defaults of
        the model that comes out.
      history: show the frames before the section; without, the model is a plain text-to-video
        model, as Wan 2.1 is, of single sections.
      pyramid_items: questions asked of each level for every sample, coarsest first; one step
        answers them all.
      task, corruption: of the history.
      timesteps: noise levels that are learned.
      caption_dropout: share of samples that see no text.
      trainable, optimizer, ema, data, validation: see there.
      steps: of the whole run.
      seed: of everything random.
      accumulate: parts in which a batch passes through the model one after another.
      dtype: of frozen weights and of activations; what trains is float32.
      offload: keep frozen blocks in host memory, from where each layer is copied as it is needed.
      clips: of the procedural world, for the objective ``"reconstruction"``.
      kl_weight: how much the posterior's divergence from the standard normal counts there.
      distillation, critic: of a student, which takes ``model.sample.steps``.
      data_parallel, fsdp: devices over which batches, and parameters, are spread; ``data_parallel``
        0 takes all there are.
      log_every, save_every: steps.
      keep: newest checkpoints that are kept.
      max_skipped: steps without a finite loss and gradient, one after another, at which the run
        stops.
    """

    objective: Literal["flow", "pyramid", "ode", "distillation", "reconstruction", "reading"] = (
        "flow"
    )
    checkpoint: str = ""
    model: HeliosConfig = HeliosConfig()
    history: bool = True
    pyramid_items: tuple[int, ...] = (1, 1, 1)
    task: TaskConfig = TaskConfig()
    corruption: CorruptionConfig = CorruptionConfig()
    timesteps: TimestepConfig = TimestepConfig()
    caption_dropout: float = 0.0
    trainable: TrainableConfig = TrainableConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    ema: EMAConfig = EMAConfig()
    data: DataConfig = DataConfig()
    validation: ValidationConfig = ValidationConfig()
    steps: int = 1000
    seed: int = 0
    accumulate: int = 1
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    offload: bool = False
    clips: ClipConfig = ClipConfig()
    kl_weight: float = 0.0
    distillation: DistillationConfig = DistillationConfig()
    critic: CriticConfig = CriticConfig()
    data_parallel: int = 0
    fsdp: int = 1
    log_every: int = 1
    save_every: int = 500
    keep: int = 3
    max_skipped: int = 10

    def __post_init__(self):
        scheduler = self.model.scheduler
        if self.objective == "pyramid" and len(self.pyramid_items) != scheduler.stages:
            raise ConfigError(
                f"pyramid_items needs a number for each of the {scheduler.stages} stages of model.scheduler"
            )
        if self.objective == "pyramid" and (
            not any(self.pyramid_items) or min(self.pyramid_items) < 0
        ):
            raise ConfigError(
                f"pyramid_items={self.pyramid_items} must be whole numbers that are not all 0"
            )
        if self.objective in ("reconstruction", "reading") and (
            self.trainable.rank or self.offload or self.validation.videos_every
        ):
            what = "trainable.rank, offload and validation.videos_every are for the transformer"
            raise ConfigError(f"{what}; the objective is {self.objective!r}")
        if self.objective == "pyramid" and self.timesteps.dynamic_shift:
            raise ConfigError(
                "timesteps.dynamic_shift is for the objective 'flow': pyramid levels have ranges of time of their own"
            )
        if self.timesteps.dynamic_shift and not scheduler.use_dynamic_shifting:
            raise ConfigError(
                "timesteps.dynamic_shift needs model.scheduler.use_dynamic_shifting: it is the scheduler's shift"
            )
        if self.objective == "flow" and scheduler.stages != 1:
            raise ConfigError(
                f"the objective 'flow' trains one resolution, but model.scheduler.stages is {scheduler.stages}"
            )
        if self.objective in ("ode", "distillation") and scheduler.solver != "dmd":
            raise ConfigError(
                f"a student's model.scheduler.solver is 'dmd', not {scheduler.solver!r}"
            )
        if self.objective == "distillation" and self.accumulate > 1:
            raise ConfigError("accumulate is not for the objective 'distillation'")
        hooks, layers = self.distillation.adversarial.hooks, self.model.transformer.num_layers
        if hooks and not 0 <= hooks[0] <= hooks[-1] < layers:
            raise ConfigError(
                f"distillation.adversarial.hooks={hooks} must be among the blocks 0 to {layers - 1}"
            )
        if self.data.batch_size % self.accumulate:
            raise ConfigError(
                f"data.batch_size={self.data.batch_size} does not divide into accumulate={self.accumulate} parts"
            )
        if self.trainable.rank == 0 and not self.trainable.full:
            raise ConfigError("nothing trains: set trainable.rank or trainable.full")
        for name in (
            "steps",
            "accumulate",
            "fsdp",
            "log_every",
            "save_every",
            "keep",
            "max_skipped",
        ):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)} must be at least 1")
        if not 0 <= self.caption_dropout < 1:
            raise ConfigError(
                f"caption_dropout={self.caption_dropout} must be at least 0 and less than 1"
            )

    @property
    def items(self) -> int:
        """Questions to the network for every sample."""
        return {"pyramid": sum(self.pyramid_items), "ode": self.model.scheduler.stages}.get(
            self.objective, 1
        )
