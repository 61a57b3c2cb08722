"""The configuration of a training run, as one frozen record.

A recipe of ``configs/train/`` returns the ``ConfigDict`` of a :class:`TrainConfig`;
:func:`~helios_jax.config.from_dict` reads it back, strictly. What an objective asks of it is
checked by :func:`~helios_jax.training.objectives.find_objective`.
"""

import dataclasses
from typing import Literal

from helios_jax.config import HeliosConfig
from helios_jax.data.batches import DataConfig
from helios_jax.diffusion.corruption import CorruptionConfig, TaskConfig
from helios_jax.fields import Checked, ConfigError, Count, Finite, Natural, NonNegative, Share
from helios_jax.models.lora import LINEARS
from helios_jax.training.levels import LevelConfig
from helios_jax.training.optimizer import OptimizerConfig
from helios_jax.training.targets import TimestepConfig
from helios_jax.world.clips import ClipConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainableConfig(Checked):
    """Which parameters train; everything else is frozen.

    Attributes:
      rank: of adapters (LoRA); 0 for none.
      lora: regular expression of the modules that get one, by path: ``blocks/attn1/qkv``,
        ``time_proj``, ``patch_embedding``.
      lora_exclude: regular expression of those among them that do not.
      full: regular expression of the leaves that train in full: ``patch_(short|mid|long)/.*``, or
        ``.*`` for all.
    """

    section = "trainable"

    rank: Natural = 128
    lora: str = LINEARS
    lora_exclude: str = ""
    full: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class EMAConfig(Checked):
    """Moving average of what trains.

    Attributes:
      decay: what the decay rises to; 0 for no average.
      start: updates before the average begins; until then it is a copy.
    """

    section = "ema"

    decay: Share = 0.0
    start: Natural = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class ValidationConfig(Checked):
    """What is measured while training goes on.

    Attributes:
      every: steps between validations; the first is before the first step. 0 for none.
      batches: of the validation data on which the loss is measured, always with the same draws.
      prompts: of the videos that are sampled with the averaged weights, where there are any.
      videos_every: steps between them; 0 for none.
    """

    section = "validation"

    every: Natural = 0
    batches: Natural = 4
    prompts: tuple[str, ...] = ()
    videos_every: Natural = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class CriticConfig:
    """The critic of a distillation, which starts as the teacher.

    Attributes:
      checkpoint: of the teacher and the critic; of one resolution.
      trainable, optimizer: how the critic learns.
    """

    checkpoint: str = ""
    trainable: TrainableConfig = TrainableConfig(rank=256)
    optimizer: OptimizerConfig = OptimizerConfig(learning_rate=4e-7, b1=0.0, weight_decay=1e-3)


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdversarialConfig(Checked):
    """The discriminator of a distillation; see :mod:`~helios_jax.training.adversarial`.

    Attributes:
      width: channels of its heads, a multiple of 32; 0 for no discriminator.
      hooks: blocks of the critic whose outputs it sees, ascending from 0; it sees the velocity in
        any case.
      start: step from which on it learns and teaches.
      student_weight, critic_weight, penalty_weight: of the three losses.
      penalty_sigma: standard deviation by which data are moved for the penalty.
    """

    section = "distillation.adversarial"

    width: Natural = 0
    hooks: tuple[Natural, ...] = ()
    start: Natural = 1000
    student_weight: NonNegative = 0.05
    critic_weight: NonNegative = 0.01
    penalty_weight: NonNegative = 100.0
    penalty_sigma: NonNegative = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.width % 32:
            raise ConfigError(
                f"distillation.adversarial.width={self.width} must be a multiple of 32, or 0 for "
                "no discriminator"
            )
        if list(self.hooks) != sorted(set(self.hooks)):
            raise ConfigError(f"distillation.adversarial.hooks={self.hooks} must be ascending")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DistillationConfig(Checked):
    """How a student learns from its teacher.

    Attributes:
      guidance_scale: of the teacher; the published ``real_guidance_scale`` of 3 is 4 here, 1 being
        none.
      student_every: steps of the critic to one of the student.
      last_step_only: rollouts leave each stage at its last step, not at a random one.
      levels: noise levels at which the real and the fake score are compared.
      adversarial: the discriminator, if there is one.
      regression_weight: of the loss of the objective ``"ode"``.
    """

    section = "distillation"

    guidance_scale: Finite = 4.0
    student_every: Count = 5
    last_step_only: bool = False
    levels: LevelConfig = LevelConfig()
    adversarial: AdversarialConfig = AdversarialConfig()
    regression_weight: NonNegative = 80.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig(Checked):
    """A training run.

    Attributes:
      objective: what is learned, a key of :data:`~helios_jax.training.objectives.OBJECTIVES`:
        ``"flow"``, one resolution (stage 1); ``"pyramid"``, every level of the pyramid (stage 2);
        ``"ode"``, the ends of a teacher's stages, and ``"distillation"``, its distribution (stage
        3); ``"reconstruction"``, of clips by the VAE; ``"reading"``, of captions by the text
        encoder.
      checkpoint: directory of the weights it starts from; empty for random weights of ``model``.
      model: geometry, which must be the checkpoint's, and the scheduler and sampling defaults of
        the model that comes out.
      history: show the frames before the section; without, the model is a plain text-to-video
        model, as Wan 2.1 is, of single sections.
      pyramid_items: for the objective ``"pyramid"``, targets of each level for every sample,
        coarsest first; one step learns them all.
      task, corruption: of the history.
      timesteps: noise levels that are learned.
      caption_dropout: share of samples without their caption.
      trainable: which parameters train.
      optimizer: how they move.
      ema: their moving average.
      data: what is trained on.
      validation: what is measured on the way.
      steps: of the whole run.
      seed: of everything random.
      accumulate: parts in which a batch passes through the model one after another.
      dtype: of frozen weights and of activations; what trains is float32.
      offload: keep frozen blocks in host memory, from where each layer is copied as it is needed.
      clips: of the procedural world, for the objective ``"reconstruction"``.
      kl_weight: weight there of the posterior's divergence from the standard normal.
      equivariance_weight: weight there of half-size clips, decoded from means of 2 x 2 latents.
      distillation, critic: of a student, which takes ``model.sample.steps``.
      data_parallel, fsdp: devices over which batches, and parameters, are spread; ``data_parallel``
        0 takes all there are.
      log_every, save_every: steps.
      keep: newest checkpoints that are kept.
      max_skipped: steps without a finite loss and gradient, one after another, at which the run
        stops.
    """

    objective: str = "flow"
    checkpoint: str = ""
    model: HeliosConfig = HeliosConfig()
    history: bool = True
    pyramid_items: tuple[int, ...] = (1, 1, 1)
    task: TaskConfig = TaskConfig()
    corruption: CorruptionConfig = CorruptionConfig()
    timesteps: TimestepConfig = TimestepConfig()
    caption_dropout: NonNegative = 0.0
    trainable: TrainableConfig = TrainableConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    ema: EMAConfig = EMAConfig()
    data: DataConfig = DataConfig()
    validation: ValidationConfig = ValidationConfig()
    steps: Count = 1000
    seed: Natural = 0
    accumulate: Count = 1
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    offload: bool = False
    clips: ClipConfig = ClipConfig()
    kl_weight: NonNegative = 0.0
    equivariance_weight: NonNegative = 0.0
    distillation: DistillationConfig = DistillationConfig()
    critic: CriticConfig = CriticConfig()
    data_parallel: Natural = 0
    fsdp: Count = 1
    log_every: Count = 1
    save_every: Count = 500
    keep: Count = 3
    max_skipped: Count = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.timesteps.dynamic_shift and not self.model.scheduler.use_dynamic_shifting:
            raise ConfigError(
                "timesteps.dynamic_shift needs model.scheduler.use_dynamic_shifting: it is the "
                "scheduler's shift"
            )
        if self.data.batch_size % self.accumulate:
            raise ConfigError(
                f"data.batch_size={self.data.batch_size} does not divide into "
                f"accumulate={self.accumulate} parts"
            )
        if self.trainable.rank == 0 and not self.trainable.full:
            raise ConfigError("nothing trains: set trainable.rank or trainable.full")
        if self.caption_dropout >= 1:
            raise ConfigError(f"caption_dropout={self.caption_dropout} must be less than 1")
