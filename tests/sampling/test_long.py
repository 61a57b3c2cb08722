"""A minute of video costs no more per chunk, in memory or in time, than its beginning."""

import ctypes
import gc
import time

import imageio_ffmpeg
import psutil
import pytest

from helios_jax.media import open_video_writer
from helios_jax.sampling.prompts import PromptEntry, PromptSchedule
from helios_jax.sampling.statistics import chunk_rows

from .test_pipeline import count_compilations

CHUNKS = 44


@pytest.mark.slow
def test_forty_four_chunks_cost_what_the_first_ones_cost(pipeline, tmp_path):
    """1452 frames, six prompts blended into one another, one chunk ahead, with statistics: resident
    memory after the last chunk is within 2 % of that after the fourth, nothing compiles after the
    second, no chunk takes longer for being late, and every frame is in the file.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        # Return large buffers when they are freed: what glibc keeps of them comes and goes in steps
        # of 20 MB.
        libc.mallopt(-3, 2**16)  # M_MMAP_THRESHOLD
    prompts = [
        "a red ball",
        "two blue squares",
        "the quick brown fox",
        "green grass",
        "a lazy dog",
        "a ball rolls over grass",
    ]
    schedule = PromptSchedule.of([PromptEntry(prompt, 7, 1) for prompt in prompts])
    rows = []
    memory = []
    seconds = []
    record = lambda record: rows.extend(chunk_rows(record.index, record.latents, record.frames))
    stream = pipeline.stream(schedule, num_frames=33 * CHUNKS, lookahead=1, on_chunk=record)

    def receive():
        began = time.process_time()
        writer.write(next(stream)[0])
        seconds.append(time.process_time() - began)
        gc.collect()
        memory.append(psutil.Process().memory_info().rss)

    with open_video_writer(tmp_path / "minute.mp4", 24) as writer:
        receive()
        receive()
        assert count_compilations(lambda: [receive() for _ in range(CHUNKS - 2)]) == 0
    assert imageio_ffmpeg.count_frames_and_secs(tmp_path / "minute.mp4") == (
        33 * CHUNKS,
        pytest.approx(33 * CHUNKS / 24, abs=0.05),
    )
    assert len(rows) == CHUNKS
    assert abs(memory[-1] - memory[3]) <= 0.02 * memory[3]
    # If it grew with the chunk's index, late would be several times early.
    early = min(seconds[3:23])
    late = min(seconds[23:-1])
    assert late <= 1.5 * early
    print(
        f"{memory[3] / 2**20:.1f} MiB after chunk 4, {memory[-1] / 2**20:.1f} after {CHUNKS}; "
        f"CPU seconds a chunk {early:.2f} early, {late:.2f} late"
    )
