"""sample.py as a user runs it: videos on disk, or one clear line and nothing on disk."""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from absl import flags
from PIL import Image

from helios_jax import HeliosPipeline, checkpoint
from helios_jax.commands import main
from helios_jax.commands.sample_flags import define_flags
from helios_jax.media import live_frames, load_latents, open_video_writer
from tests.sampling.conftest import TOY

ROOT = Path(__file__).parents[2]
PROMPT = "--prompt=a red ball rolls over green grass"
TINY = f"--config={ROOT / 'configs' / 'tiny.py'}"

# ml_collections loads recipes so.
pytestmark = pytest.mark.filterwarnings("ignore:.*load_module.*:DeprecationWarning")


def sample(*flags: str, folder: Path, text: bool = True) -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / "sample.py"), *flags]
    return subprocess.run(
        command,
        cwd=folder,
        capture_output=True,
        text=text,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        check=False,
    )


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory):
    """Compiled programs are shared by these tests, and not with whoever runs them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
        yield


@pytest.fixture(scope="module")
def toy_checkpoint(tmp_path_factory):
    """A complete checkpoint directory of toy size."""
    path = tmp_path_factory.mktemp("checkpoints") / "toy"
    pipeline = HeliosPipeline.random(TOY)
    checkpoint.save(path, pipeline.config, pipeline.params, pipeline.tokenizer)
    return path


@pytest.mark.slow
def test_without_times_nothing_waits_and_the_video_is_the_same(toy_checkpoint, tmp_path):
    """A chunk is one program and begins before the one before it is written, as on a GPU; what is
    made of it is the same, and no stage is told.
    """
    flags = (PROMPT, f"--checkpoint={toy_checkpoint}", "--num_frames=66")
    made = []
    for name, times in (("plain", "--times"), ("fast", "--notimes")):
        latents = f"{name}.safetensors"
        result = sample(*flags, f"--out={latents}", times, folder=tmp_path)
        assert result.returncode == 0, result.stderr
        assert ("stage 0" in result.stdout) == (times == "--times")
        assert "compile" in result.stdout
        made.append(load_latents(str(tmp_path / latents), True)[0])
    assert made[0].shape[1] == 18
    np.testing.assert_allclose(made[0], made[1], atol=1e-4)


@pytest.mark.slow
def test_every_prompt_of_a_file_becomes_a_batch_of_videos(toy_checkpoint, tmp_path):
    """Two prompts, two seeds each: four folders of exactly the frames asked for, a plan before and
    a table of times after.
    """
    (tmp_path / "prompts.txt").write_text("a red ball\n\ntwo blue squares\n")
    result = sample(
        "--prompt_file=prompts.txt",
        "--batch=2",
        "--num_frames=35",
        f"--checkpoint={toy_checkpoint}",
        "--out=clip",
        folder=tmp_path,
    )
    assert result.returncode == 0, result.stderr
    folders = sorted(path for path in tmp_path.iterdir() if path.is_dir())
    assert [folder.name for folder in folders] == ["clip_0", "clip_1", "clip_2", "clip_3"]
    clips = [
        np.stack([np.asarray(Image.open(frame)) for frame in sorted(folder.glob("*.png"))])
        for folder in folders
    ]
    assert all(clip.shape == (35, 64, 128, 3) for clip in clips)
    assert len({clip.tobytes() for clip in clips}) == 4
    assert (
        "4 video(s) of 35 frames, 128x64, 1.5 s at 24 frames/s: 2 chunk(s) of 33 frames, "
        "steps 1-1-1, 2-2-2 in the first chunk" in result.stdout
    )
    assert "memory of the CPU, estimated" in result.stdout
    for part in (
        "text",
        "transformer",
        "stage 0",
        "stage 1",
        "stage 2",
        "vae",
        "media",
        "compile",
        "total",
    ):
        assert f"  {part} " in result.stdout


@pytest.mark.slow
def test_nothing_but_a_prompt(tmp_path):
    """helios-nano makes the video, and says what it knows to a prompt that has other words."""
    result = sample(PROMPT, "--num_frames=33", "--steps=2", folder=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "helios-nano does not know these words: ball, rolls, grass." in result.stdout
    assert (tmp_path / "helios.mp4").stat().st_size > 0


@pytest.mark.slow
def test_command_line_and_api_make_the_same_latents(toy_checkpoint, tmp_path):
    """Written latents are those of HeliosPipeline.generate with the same seed and steps."""
    result = sample(
        PROMPT,
        "--seed=3",
        "--steps=2,1,1",
        f"--checkpoint={toy_checkpoint}",
        "--out=clip.safetensors",
        folder=tmp_path,
    )
    assert result.returncode == 0, result.stderr
    latents, metadata = load_latents(tmp_path / "clip.safetensors")
    expected = HeliosPipeline.from_checkpoint(toy_checkpoint).generate(
        PROMPT.partition("=")[2], seed=3, steps=(2, 1, 1), output="latent"
    )
    np.testing.assert_allclose(latents, expected, rtol=1e-4, atol=1e-5)
    assert metadata["prompt"] == "a red ball rolls over green grass"


@pytest.mark.slow
def test_the_second_process_compiles_nothing(toy_checkpoint, tmp_path):
    """What --warmup left in --compile_cache, copied elsewhere, is all that it needs; with
    --compile_cache= nothing is left and nothing is found.
    """
    flags = (PROMPT, f"--checkpoint={toy_checkpoint}", "--out=clip.safetensors")
    first = sample(*flags, "--warmup", "--compile_cache=programs", folder=tmp_path)
    shutil.copytree(tmp_path / "programs", tmp_path / "elsewhere" / "programs")
    second, alone = (
        sample(*flags, f"--compile_cache={cache}", folder=tmp_path)
        for cache in ("elsewhere/programs", "")
    )
    assert re.search(
        r"^[1-9]\d* programs compiled, \d+ found in the compile cache$", first.stdout, re.MULTILINE
    ), first.stderr
    assert re.search(
        r"^0 programs compiled, [1-9]\d* found in the compile cache$", second.stdout, re.MULTILINE
    ), second.stderr
    assert re.search(
        r"^[1-9]\d* programs compiled, 0 found in the compile cache$", alone.stdout, re.MULTILINE
    ), alone.stderr
    assert any((tmp_path / "programs").iterdir())


@pytest.mark.slow
def test_warmed_up_and_without_its_text_encoder_it_makes_the_same_video(toy_checkpoint, tmp_path):
    """--warmup and --release_text_encoder change when and where things happen, not the video."""
    flags = (PROMPT, "--num_frames=35", f"--checkpoint={toy_checkpoint}")
    plain = sample(*flags, "--out=plain.safetensors", folder=tmp_path)
    other = sample(
        *flags, "--out=other.safetensors", "--warmup", "--release_text_encoder", folder=tmp_path
    )
    assert plain.returncode == other.returncode == 0, plain.stderr + other.stderr
    np.testing.assert_array_equal(
        load_latents(tmp_path / "plain.safetensors")[0],
        load_latents(tmp_path / "other.safetensors")[0],
    )
    assert "  warm-up " in other.stdout


@pytest.mark.slow
def test_after_a_warmup_no_video_compiles(toy_checkpoint, tmp_path):
    """Neither the first, which begins with an image and is watched for drift, nor a later one,
    whose prompt needs more room.
    """
    (tmp_path / "prompts.txt").write_text(
        "a red ball\n" + "two blue squares glide over green grass " * 8
    )
    Image.new("RGB", (128, 64), "red").save(tmp_path / "red.png")
    code = (
        "from helios_jax.commands import sample\n"
        "make_video = sample.make_video\n"
        "def counted(*args):\n"
        "    with sample.count_programs() as programs: make_video(*args)\n"
        "    print(programs['needed'], 'in a video')\n"
        "sample.make_video = counted\n"
        "import sys; sys.exit(sample.main())"
    )
    flags = (
        "--prompt_file=prompts.txt",
        "--image=red.png",
        f"--checkpoint={toy_checkpoint}",
        "--num_frames=66",
        "--drift",
        "--warmup",
    )
    env = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    result = subprocess.run(
        [sys.executable, "-c", code, *flags],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=env,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert re.findall(r"^(\d+) in a video$", result.stdout, re.MULTILINE) == ["0", "0"]


@pytest.mark.slow
def test_plan_says_what_is_needed_and_makes_nothing(tmp_path):
    """No prompt, no checkpoint and no GPU are needed; stderr says no more than how far it is."""
    result = sample(TINY, "--plan", folder=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "1 video(s) of 192x128, bfloat16, on NVIDIA H100" in result.stdout
    assert re.search(r"^it fits: 0\.\d\d GiB at once, of 79.10 GiB", result.stdout, re.MULTILINE)
    assert all(line.startswith("compiling") for line in result.stderr.splitlines())
    assert not any(tmp_path.iterdir())


@pytest.mark.slow
def test_plan_of_what_does_not_fit_is_refused(tmp_path):
    """The table is printed, then one line says that it is too much."""
    result = sample(TINY, "--plan=h200", "--batch=4000", folder=tmp_path)
    assert result.returncode == 2
    assert "device memory" in result.stdout
    assert re.fullmatch(
        r"sample\.py: it does not fit: \S+ GiB at once, of 140\.40 GiB, .*",
        result.stderr.splitlines()[-1],
    )


@pytest.mark.slow
def test_a_live_video_that_was_stopped_goes_on_as_if_it_never_had_been(toy_checkpoint, tmp_path):
    """Cut at 40 frames and resumed to 99: byte for byte the file of one run, and of its latents,
    which decode to the same frames.
    """
    checkpoint = f"--checkpoint={toy_checkpoint}"
    first = sample(
        PROMPT,
        checkpoint,
        "--num_frames=40",
        "--out=a.mp4",
        "--live",
        "--save_latents=a.safetensors",
        folder=tmp_path,
    )
    rest = (
        "--num_frames=99",
        "--statistics=a.csv",
        "--report=a.svg",
        "--save_latents=a.safetensors",
    )
    second = sample(checkpoint, "--out=a.mp4", "--resume", *rest, folder=tmp_path)
    whole = sample(PROMPT, checkpoint, "--num_frames=99", "--out=-", folder=tmp_path, text=False)
    assert first.returncode == second.returncode == whole.returncode == 0, (
        first.stderr,
        second.stderr,
        whole.stderr,
    )
    assert (tmp_path / "a.mp4").read_bytes() == whole.stdout
    assert live_frames(tmp_path / "a.mp4") == [33, 66, 99]
    assert load_latents(tmp_path / "a.safetensors")[0].shape[:2] == (1, 27)
    assert (tmp_path / "a.csv").read_text().count(
        "\n"
    ) == 3  # a heading, and the two chunks of the second run
    assert (tmp_path / "a.svg").exists()
    decoded = sample(checkpoint, "--decode=a.safetensors", "--out=frames", folder=tmp_path)
    assert decoded.returncode == 0, decoded.stderr
    assert len(list((tmp_path / "frames").iterdir())) == 99


@pytest.mark.slow
def test_killed_at_any_moment_it_leaves_a_video_that_plays_and_goes_on(toy_checkpoint, tmp_path):
    """Killed without warning: whole chunks are in the file, and --resume makes it as long as it was
    to be.
    """
    flags = [PROMPT, f"--checkpoint={toy_checkpoint}", "--num_frames=3300", "--out=a.mp4", "--live"]
    process = start(flags, tmp_path)
    wait_for(tmp_path / "a.mp4.state", process)
    process.kill()
    process.communicate()
    made = live_frames(tmp_path / "a.mp4")
    assert made == list(range(33, made[-1] + 1, 33))
    result = sample(
        f"--checkpoint={toy_checkpoint}",
        f"--num_frames={made[-1] + 40}",
        "--out=a.mp4",
        "--resume",
        folder=tmp_path,
    )
    assert result.returncode == 0, result.stderr
    assert live_frames(tmp_path / "a.mp4")[-1] == made[-1] + 40


@pytest.mark.slow
def test_image_video_and_schedule(toy_checkpoint, tmp_path):
    """A picture of any size, a video of any rate and prompts that change: each is said on the first
    lines, and a video comes of it.
    """
    noise = np.random.default_rng(0)
    Image.fromarray(noise.integers(0, 255, (50, 77, 3), np.uint8)).save(tmp_path / "boat.png")
    with open_video_writer(tmp_path / "boat.mp4", 12) as writer:
        writer.write(noise.integers(0, 255, (20, 48, 80, 3), np.uint8))
    (tmp_path / "story.json").write_text(
        '[{"prompt": "a red ball", "chunks": 1}, {"prompt": "a blue square", "chunks": 1}]'
    )
    common = (f"--checkpoint={toy_checkpoint}", "--out=clip.safetensors")
    image = sample(
        PROMPT, *common, "--image=boat.png", "--quant=int8", "--memory=low", folder=tmp_path
    )
    video = sample(PROMPT, *common, "--video=boat.mp4", "--drift", folder=tmp_path)
    story = sample(*common, "--prompt_schedule=story.json", folder=tmp_path)
    assert image.returncode == video.returncode == story.returncode == 0, (
        image.stderr + video.stderr + story.stderr
    )
    assert "boat.png: PNG image, 77x50, cropped to" in image.stdout
    assert "boat.mp4: h264 video, 12 fps resampled to 24: 20 frames -> 40" in video.stdout
    assert "1 video(s) of 66 frames" in story.stdout


def truncated(path: Path) -> None:
    file = path / "transformer" / "params.safetensors"
    file.write_bytes(file.read_bytes()[:-7])


def flipped(path: Path) -> None:
    file = path / "vae" / "params.safetensors"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 4
    file.write_bytes(content)


def unfinished(path: Path) -> None:
    (path / "digests.json").unlink()


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (truncated, "truncated"),
        (flipped, "altered"),
        (unfinished, "not a finished helios-jax checkpoint"),
        (shutil.rmtree, "no checkpoint there"),
    ],
)
def test_damaged_checkpoint(toy_checkpoint, tmp_path, damage, says):
    """Missing, cut or altered files are found, and named, before they are used."""
    path = tmp_path / "damaged"
    shutil.copytree(toy_checkpoint, path)
    damage(path)
    refused(
        sample(PROMPT, f"--checkpoint={path}", "--out=clip.mp4", folder=tmp_path),
        says,
        tmp_path,
        {"damaged"},
    )


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--seed=1"], "give a prompt: one of --prompt, --prompt_file and --prompt_schedule"),
        (["--prompt= "], "the prompt is empty"),
        (["--prompt_file=absent.txt"], "cannot read --prompt_file absent.txt: No such file"),
        (["--prompt_file=empty.txt"], "--prompt_file empty.txt has no prompt in it"),
        ([PROMPT, "--prompt_file=prompts.txt"], "give a prompt: one of"),
        (["--prompt_schedule=absent.csv"], "prompt schedule absent.csv: No such file"),
        (["--resume", PROMPT], "--resume goes on with the prompts it finds"),
        (["--resume"], "helios.mp4.state cannot be read as the saved state of a video"),
        ([PROMPT, "--report=a.svg"], "--report draws what --statistics keeps"),
        (
            [PROMPT, "--quant_activations"],
            "--quant_activations rounds activations beside the weights of --quant",
        ),
        ([PROMPT, "--save_latents=a.npz"], "a.npz: cannot write .npz files"),
        ([PROMPT, "--save_latents=a.gif"], "--save_latents=a.gif must be a .safetensors file"),
        ([PROMPT, TINY, "--contact_sheet=absent/a.png"], "the folder"),
        (["--decode=absent.safetensors"], "absent.safetensors: No such file or directory"),
        ([PROMPT, "--image=absent.png"], "absent.png"),
        ([PROMPT, "--image=a.png", "--video=a.mp4"], "give --image or --video, not both"),
        (
            [PROMPT, "--image=absent.png", "--image_noise=much"],
            "--image_noise takes numbers, not 'much'",
        ),
        ([PROMPT, "--num_frames=0"], "num_frames=0 must be at least 1"),
        ([PROMPT, TINY, "--height=96"], "height=96 must be a multiple of 64"),
        ([PROMPT, TINY, "--steps=2,2"], "steps=2,2 names 2 stages, but this checkpoint has 3"),
        ([PROMPT, TINY, "--steps=2,two,2"], "--steps takes whole numbers"),
        ([PROMPT, "--fps=0"], "fps=0 must be at least 1"),
        ([PROMPT, "--out=absent/clip.mp4"], "absent"),
        ([PROMPT, "--out=clip.avi"], "clip.avi"),
        ([PROMPT, "--flavour=sweet"], "flavour"),
        ([PROMPT, TINY, "--config.sample.flavour=1"], "flavour"),
        ([PROMPT, TINY, "--config.sample.num_frames=many"], "num_frames"),
        (
            [PROMPT, TINY, "--config.transformer.kernels=fast"],
            "transformer.kernels='fast' must be one of 'triton', 'pallas', 'xla'",
        ),
        (
            [PROMPT, TINY, "--config.transformer.attention=pallas"],
            "attention: pallas cannot serve: it needs a GPU of compute capability 9.0",
        ),
        ([PROMPT, "--config=absent.py"], "absent.py"),
        ([PROMPT, "--height=64000", "--width=64000"], "of memory of the CPU"),
        (["--plan=v100"], "value should be one of <h100|h200|a100|l40s|b200|rtx5090>"),
        ([PROMPT, "--compile_cache=empty.txt/programs"], "empty.txt"),
        (["a red ball"], "unexpected argument 'a red ball'"),
    ],
)
def test_bad_input(flags, says, tmp_path, monkeypatch, capsys):
    """One clear line on stderr, exit status 2, nothing half written."""
    (tmp_path / "empty.txt").write_text("\n \n")
    monkeypatch.chdir(tmp_path)
    assert main(["helios-jax", "sample", *flags]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert told.startswith("helios-jax sample: ")
    assert says in told
    assert [path.name for path in tmp_path.iterdir()] == ["empty.txt"]


@pytest.mark.parametrize("out", ["a.mp4", "soft.mp4", "hard.mp4"])
def test_what_is_read_is_not_written(out, tmp_path, monkeypatch, capsys):
    """Neither by its own name nor by that of a link."""
    (tmp_path / "a.mp4").write_text("a red ball")
    (tmp_path / "soft.mp4").symlink_to("a.mp4")
    (tmp_path / "hard.mp4").hardlink_to(tmp_path / "a.mp4")
    monkeypatch.chdir(tmp_path)
    flags = [TINY, "--prompt_file=a.mp4", f"--out={out}", "--live"]
    assert main(["helios-jax", "sample", *flags]) == 2
    assert f"{out} would take the place of a.mp4" in capsys.readouterr().err
    assert (tmp_path / "a.mp4").read_text() == "a red ball"


def test_a_table_of_statistics_is_not_the_state(tmp_path, monkeypatch, capsys):
    """Both would be written there by turns."""
    monkeypatch.chdir(tmp_path)
    flags = [TINY, PROMPT, "--out=a.mp4", "--live", "--statistics=a.mp4.state"]
    assert main(["helios-jax", "sample", *flags]) == 2
    assert "a.mp4.state is named twice" in capsys.readouterr().err


def test_checkpoint_of_another_width(toy_checkpoint, tmp_path):
    """The model of a preset must be the checkpoint's: every differing field is named."""
    refused(
        sample(
            PROMPT,
            TINY,
            "--config.transformer.num_attention_heads=8",
            f"--checkpoint={toy_checkpoint}",
            folder=tmp_path,
        ),
        "transformer.num_attention_heads is 2 there, 8 here",
        tmp_path,
        set(),
    )


@pytest.mark.slow
def test_a_checkpoint_is_sampled_as_the_caller_says(toy_checkpoint, tmp_path):
    """Another solver, other steps and shifts, guidance at some noise levels: a line says what is
    not the checkpoint's own.
    """
    result = sample(
        PROMPT,
        f"--checkpoint={toy_checkpoint}",
        "--solver=dpmpp_2m",
        "--steps=3,2,1",
        "--max_shift=1.3",
        "--guidance_scale=2",
        "--guidance_interval=0.2,0.9",
        "--out=clip.safetensors",
        folder=tmp_path,
    )
    assert result.returncode == 0, result.stderr
    assert (
        "sampled otherwise than the checkpoint says: guidance_interval 0.2,0.9 (its own: 0.0,1.0), "
        "guidance_scale 2.0 (its own: 1.0), max_shift 1.3 (its own: 1.15), solver dpmpp_2m (its "
        "own: dmd), steps 3,2,1 (its own: 1,1,1)"
    ) in result.stdout
    latents, _ = load_latents(tmp_path / "clip.safetensors")
    expected = HeliosPipeline.from_checkpoint(toy_checkpoint).generate(
        PROMPT.partition("=")[2],
        solver="dpmpp_2m",
        steps=(3, 2, 1),
        max_shift=1.3,
        guidance_scale=2.0,
        guidance_interval=(0.2, 0.9),
        output="latent",
    )
    np.testing.assert_allclose(latents, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_interrupted_it_says_what_is_there_and_how_to_go_on(toy_checkpoint, tmp_path):
    """Ctrl-C reaches ffmpeg, too, as it does from a terminal."""
    flags = [PROMPT, f"--checkpoint={toy_checkpoint}", "--num_frames=3300", "--out=a.mp4", "--live"]
    process = start(flags, tmp_path)
    wait_for(tmp_path / "a.mp4.state", process)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 130, errors
    made = live_frames(tmp_path / "a.mp4")[-1]
    assert errors.splitlines()[-1] == (
        f"sample.py: interrupted; there are {made} frames in a.mp4: --out=a.mp4 --resume goes on "
        "with them"
    )
    result = sample(
        f"--checkpoint={toy_checkpoint}",
        f"--num_frames={made + 33}",
        "--out=a.mp4",
        "--resume",
        "--seed=5",
        folder=tmp_path,
    )
    assert result.returncode == 0, result.stderr
    assert "--seed: without effect, a video that is resumed keeps its own" in result.stdout
    assert live_frames(tmp_path / "a.mp4")[-1] == made + 33


@pytest.mark.slow
def test_interrupted_where_nothing_is_left_it_says_nothing_of_going_on(toy_checkpoint, tmp_path):
    process = start(
        [PROMPT, f"--checkpoint={toy_checkpoint}", "--num_frames=33000", "--out=a.mp4"], tmp_path
    )
    deadline = time.monotonic() + 300
    while not list(tmp_path.glob(".a.mp4.partial-*/new.mp4")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 130, errors
    assert errors.splitlines()[-1] == (
        "sample.py: interrupted; files that were not finished are removed"
    )
    assert list(tmp_path.iterdir()) == []


def start(flags: list[str], folder: Path) -> subprocess.Popen:
    """A run in a process group of its own."""
    return subprocess.Popen(
        [sys.executable, str(ROOT / "sample.py"), *flags],
        cwd=folder,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_for(path: Path, process: subprocess.Popen) -> None:
    """Until a file is there."""
    while not path.exists():
        assert process.poll() is None
        time.sleep(0.05)


def refused(result: subprocess.CompletedProcess, says: str, folder: Path, before: set[str]) -> None:
    assert result.returncode == 2, result.stdout + result.stderr
    lines = [line for line in result.stderr.splitlines() if line]
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("sample.py: ")
    assert says in lines[0]
    assert {path.name for path in folder.iterdir()} <= before


def test_without_arguments_it_prints_three_commands_that_parse(capsys):
    """Each is read as a request; docs tests make the videos."""
    assert main(["helios-jax", "sample"]) == 0
    commands = re.findall(r"^  (helios-jax sample .*)$", capsys.readouterr().out, re.MULTILINE)
    assert len(commands) == 3
    for command in commands:
        options = flags.FlagValues()
        define_flags(options, shlex.split(command))
        assert options(shlex.split(command)[1:]) == ["sample"]


@pytest.mark.slow
def test_a_contact_sheet_shows_every_prompt_of_a_folder(toy_checkpoint, tmp_path, capsys):
    (tmp_path / "prompts").mkdir()
    (tmp_path / "prompts" / "b.txt").write_text("two blue squares\n")
    (tmp_path / "prompts" / "a.txt").write_text("a red\nball\n")
    status = main(
        [
            "helios-jax",
            "sample",
            f"--checkpoint={toy_checkpoint}",
            f"--prompt_file={tmp_path / 'prompts'}",
            f"--contact_sheet={tmp_path / 'sheet.png'}",
            f"--out={tmp_path / 'clip.gif'}",
            "--compile_cache=",
        ]
    )
    assert status == 0, capsys.readouterr().err
    assert (tmp_path / "clip_1.gif").exists()
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size == (5 * 136 + 8, 2 * 88 + 8)
