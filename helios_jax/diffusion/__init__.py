"""The mathematics of sampling and training: schedules, solvers, pyramid, guidance, noise, history.

Everything is numpy and jnp; nothing here knows a model.
"""

from typing import TYPE_CHECKING

from helios_jax.lazy import lazy_names

if TYPE_CHECKING:
    from helios_jax.diffusion.corruption import (
        CorruptionConfig,
        TaskConfig,
        apply_corruption,
        apply_task,
    )
    from helios_jax.diffusion.drift import DriftControl
    from helios_jax.diffusion.guidance import guide, guide_zero_star
    from helios_jax.diffusion.history import (
        HistoryState,
        append_chunk,
        split_history,
        start_history,
    )
    from helios_jax.diffusion.noise import ChunkNoise, draw_chunk_noise, mix, stage_start
    from helios_jax.diffusion.pyramid import (
        block_noise,
        downsample,
        renoise,
        stage_tokens,
        upsample,
    )
    from helios_jax.diffusion.schedules import (
        Schedule,
        dynamic_shift,
        make_noise_schedule,
        stage_tables,
    )
    from helios_jax.diffusion.solvers import (
        SOLVERS,
        SolverState,
        SolverTable,
        solver_step,
        solver_table,
        start_solver,
    )

_HOMES = {
    "ChunkNoise": "noise",
    "CorruptionConfig": "corruption",
    "DriftControl": "drift",
    "HistoryState": "history",
    "SOLVERS": "solvers",
    "Schedule": "schedules",
    "SolverState": "solvers",
    "SolverTable": "solvers",
    "TaskConfig": "corruption",
    "append_chunk": "history",
    "apply_corruption": "corruption",
    "apply_task": "corruption",
    "block_noise": "pyramid",
    "downsample": "pyramid",
    "draw_chunk_noise": "noise",
    "dynamic_shift": "schedules",
    "guide": "guidance",
    "guide_zero_star": "guidance",
    "make_noise_schedule": "schedules",
    "mix": "noise",
    "renoise": "pyramid",
    "solver_step": "solvers",
    "solver_table": "solvers",
    "split_history": "history",
    "stage_start": "noise",
    "stage_tables": "schedules",
    "stage_tokens": "pyramid",
    "start_history": "history",
    "start_solver": "solvers",
    "upsample": "pyramid",
}
"""The module of each public name."""

__all__ = [
    "SOLVERS",
    "ChunkNoise",
    "CorruptionConfig",
    "DriftControl",
    "HistoryState",
    "Schedule",
    "SolverState",
    "SolverTable",
    "TaskConfig",
    "append_chunk",
    "apply_corruption",
    "apply_task",
    "block_noise",
    "downsample",
    "draw_chunk_noise",
    "dynamic_shift",
    "guide",
    "guide_zero_star",
    "make_noise_schedule",
    "mix",
    "renoise",
    "solver_step",
    "solver_table",
    "split_history",
    "stage_start",
    "stage_tables",
    "stage_tokens",
    "start_history",
    "start_solver",
    "upsample",
]

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
