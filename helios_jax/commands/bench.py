r"""HeliosBench: make videos, score them, and compare models in a report.

The measures that need no weights, of any folder of videos, offline:

  helios-jax bench score --videos=clips --out=results/mine --metrics=free

All of HeliosBench: videos of its prompts, every metric whose weights are there, a report:

  helios-jax bench generate --prompts=helios_t2v_prompts.csv --checkpoint=checkpoints/distilled \
      --out=videos/distilled
  helios-jax bench score --videos=videos/distilled --weights=checkpoints/bench \
      --out=results/distilled
  helios-jax bench compare results/base results/distilled --out=report

Naturalness is asked of a judge, behind any server that speaks OpenAI's protocol:

  helios-jax bench score --videos=videos/distilled --out=results/distilled \
      --judge=http://127.0.0.1:8000/v1 --judge_model=NAME

helios-nano, on a laptop, judged by the world it comes from:

  helios-jax bench generate --world=12 --durations=33,132 --out=videos/nano
  helios-jax bench score --videos=videos/nano --out=results/nano

Everything is resumable: the same command goes on where it was stopped. The commands are generate,
score, merge and compare; helios-jax bench COMMAND --help tells the flags of each.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from absl import flags

from helios_jax import nano
from helios_jax.checkpoint import load_config
from helios_jax.commands.cli import UsageError, complain, run_command, wants_help
from helios_jax.commands.request_flags import define_request_flags, read_request_flags
from helios_jax.compile_cache import use_compile_cache
from helios_jax.evaluation.bench import files, models
from helios_jax.evaluation.bench.flow import METHODS, choose_flow
from helios_jax.evaluation.bench.judge import QUESTION, HttpJudge, estimate_cost, read_question
from helios_jax.evaluation.bench.metrics import METRICS
from helios_jax.evaluation.bench.pieces import count_frames
from helios_jax.evaluation.bench.prompts import (
    TABLE,
    BenchPrompt,
    choose_prompts,
    read_prompts,
    unread_columns,
    world_prompts,
    write_prompts,
)
from helios_jax.evaluation.bench.report import write_report
from helios_jax.evaluation.bench.report_text import markdown_report
from helios_jax.evaluation.bench.score import (
    FREE,
    SHORT,
    Entry,
    ScoreOptions,
    check_metrics,
    failed_rows,
    find_videos,
    known_metrics,
    reasons_to_skip,
    result_files,
    score_videos,
)
from helios_jax.evaluation.bench.summary import common, read_model
from helios_jax.locks import only_writer
from helios_jax.sampling.request import read_request
from helios_jax.writers import writing

DURATIONS = ("120", "240", "720", "1440")
"""Frames of HeliosBench's videos."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one of the commands; see :func:`~helios_jax.commands.cli.run_command`."""
    argv = list(sys.argv if argv is None else argv)
    if len(argv) < 2 or (argv[1] not in COMMANDS and wants_help(argv[:2])):
        print(__doc__.strip())
        return 0
    if argv[1] not in COMMANDS:
        complain(f"unknown command {argv[1]!r}: {', '.join(COMMANDS)}", argv[0])
        return 2
    doc, define, body = COMMANDS[argv[1]]
    words, rest = _leading_words(argv[2:])
    if words and argv[1] in ("merge", "compare"):
        rest = [f"--results={','.join(words)}", *rest]
    else:
        rest = [*words, *rest]  # refused as an argument without a name
    return run_command(doc, define, body, [f"{argv[0]} {argv[1]}", *rest])


def define_generate(options: flags.FlagValues, argv: Sequence[str]) -> None:
    """Define the flags of ``generate``."""
    text = "CSV with a column prompt, and where they are there id and duration (frames)."
    flags.DEFINE_string("prompts", None, text, flag_values=options)
    text = "Take captions of so many held-out scenes of the procedural world instead."
    flags.DEFINE_integer(
        "world", None, text, lower_bound=1, upper_bound=100_000, flag_values=options
    )
    text = "Checkpoint directory; without one, helios-nano."
    flags.DEFINE_string("checkpoint", None, text, flag_values=options)
    text = "Folder for the videos; made, or gone on with."
    flags.DEFINE_string("out", None, text, required=True, flag_values=options)
    text = "Frames: make the prompts of these lengths; with --world, lengths by turns."
    flags.DEFINE_list("durations", list(DURATIONS), text, flag_values=options)
    text = "Prompts of each length at most."
    flags.DEFINE_integer("limit", None, text, lower_bound=1, flag_values=options)
    define_request_flags(options)
    _define_cache(options)


def generate(options: flags.FlagValues) -> None:
    """Make the videos that are not there yet."""
    from helios_jax.evaluation.bench.generate import generate_videos
    from helios_jax.evaluation.bench.maker import load_maker, request_conditions

    if (options.prompts is None) == (options.world is None):
        raise UsageError("give either --prompts, a CSV file, or --world, a number of scenes")
    durations = _whole_numbers(options.durations, "--durations")
    if options.world is not None:
        prompts = world_prompts(options.world, durations)
    else:
        prompts = read_prompts(options.prompts)
        if unread := unread_columns(options.prompts):
            print(f"{options.prompts}: not read: {', '.join(unread)}")
    path = options.checkpoint or nano.CHECKPOINT
    fields = read_request_flags(options)
    length = fields.get("num_frames")
    request = read_request(load_config(path), fields)
    if request.batch != 1:
        raise UsageError(f"--batch={request.batch}: a prompt has one video")
    wanted = () if length or all(prompt.frames is None for prompt in prompts) else durations
    prompts = choose_prompts(prompts, wanted, length, options.limit)
    use_compile_cache(options.compile_cache)
    conditions = request_conditions(path, request)
    frames = sum(prompt.frames or 0 for prompt in prompts)
    print(f"{len(prompts)} videos, {frames:,} frames, to {options.out}")
    out = Path(options.out)
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
    made = [out / prompt.video_name for prompt in prompts]
    with only_writer(out, "the videos", beside=[*made, out / TABLE, out / files.GENERATION]):
        generate_videos(prompts, out, load_maker(path, request), conditions)


def define_score(options: flags.FlagValues, argv: Sequence[str]) -> None:
    """Define the flags of ``score``."""
    text = "Folder of videos; HeliosBench's names, ID_DURATION_oriFRAMES.mp4, or any others."
    flags.DEFINE_string("videos", None, text, required=True, flag_values=options)
    text = "Folder for the results of this model; its name is the model's in tables."
    flags.DEFINE_string("out", None, text, required=True, flag_values=options)
    text = "CSV of prompts; by default the one that generate has left beside the videos."
    flags.DEFINE_string("prompts", None, text, flag_values=options)
    text = "What to measure: all (whatever can be), or some of " + ", ".join(known_metrics()) + "."
    flags.DEFINE_list("metrics", ["all"], text, flag_values=options)
    text = f"Look at the first {SHORT} frames, and rate by the weights of short videos."
    flags.DEFINE_bool("short", False, text, flag_values=options)
    text = "Folder of weights, laid out as HeliosBench's checkpoints."
    flags.DEFINE_string("weights", None, text, flag_values=options)
    text = f"Single weights, NAME=PATH: {'; '.join(f'{k}: {v}' for k, v in models.WEIGHTS.items())}"
    flags.DEFINE_multi_string("weight", [], text, flag_values=options)
    text = "URL of a server that speaks OpenAI's chat protocol, as http://127.0.0.1:8000/v1."
    flags.DEFINE_string("judge", None, text, flag_values=options)
    text = "The model that the judge's server is asked for."
    flags.DEFINE_string("judge_model", None, text, flag_values=options)
    text = "Text file with the question to the judge, {num_frames} in it; by default our own."
    flags.DEFINE_string("judge_prompt", None, text, flag_values=options)
    text = "Folder of videos of the same names, to compare with: PSNR and SSIM."
    flags.DEFINE_string("truth", None, text, flag_values=options)
    text = "Optical flow of the free measures; farneback needs the extra bench."
    flags.DEFINE_enum("flow", "plain", list(METHODS), text, flag_values=options)
    text = "Videos to score at most."
    flags.DEFINE_integer("limit", None, text, lower_bound=1, flag_values=options)
    text = "Say what would be measured and asked of the judge, and stop."
    flags.DEFINE_bool("dry_run", False, text, flag_values=options)
    _define_compatible(options)
    _define_cache(options)


def score(options: flags.FlagValues) -> None:
    """Score what is not scored yet, merge, and print the table."""
    videos = Path(options.videos)
    out = Path(options.out)
    prompts = _prompts_of(options, videos)
    truth = Path(options.truth) if options.truth else None
    entries = find_videos(videos, prompts, truth)[: options.limit]
    judge = _judge(options, out)
    everything = _models(options, judge)
    names = known_metrics() if options.metrics == ["all"] else options.metrics
    check_metrics(names)
    chosen = ScoreOptions(tuple(names), SHORT if options.short else None, options.flow)
    skipped = reasons_to_skip(entries, everything, names)
    if len(skipped) == len(names):
        raise UsageError("nothing can be measured: " + "; ".join(_told(skipped)))
    if FREE in names:
        choose_flow(options.flow)  # refused here, not once a video
    print(f"{len(entries)} videos, results to {out}")
    _announce(entries, chosen, skipped, judge)
    if options.dry_run:
        return
    use_compile_cache(options.compile_cache)
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
    with only_writer(out, "the results", beside=result_files(out, entries)):
        if prompts:  # before anything is measured, so that half a run has its prompts
            write_prompts(out / TABLE, prompts)
        if (videos / files.GENERATION).is_file():
            files.write_json(out / files.GENERATION, files.read_json(videos / files.GENERATION))
        score_videos(entries, out, everything, chosen)
    _tell_failures(out, names)
    if any(out.glob("*_results.json")):
        _merge(out, options)
    print(markdown_report([read_model(out, not options.short, options.compatible)]), end="")


def define_merge(options: flags.FlagValues, argv: Sequence[str]) -> None:
    """Define the flags of ``merge``."""
    _define_results(options)
    text = "Folder for all_models_merged.json; without it, it is left out."
    flags.DEFINE_string("out", None, text, flag_values=options)
    text = "What it holds of each metric."
    kinds = list(files.SCORE_TYPES)
    flags.DEFINE_enum("score_type", "rating", kinds, text, flag_values=options)


def merge(options: flags.FlagValues) -> None:
    """Write the merged files of the original, and print totals."""
    merged = {}
    for folder in _result_folders(options.results):
        merged[folder.resolve().name] = content = _merge(folder, options)
        total = content["summary"]["total_weighted_rating"]
        line = f"{folder}: {total} of {content['possible_rating']} possible"
        if content["total_of_ten"] is not None:
            line += f", {content['total_of_ten']:.2f} of 10"
        missing = f"; without {', '.join(content['missing'])}" if content["missing"] else ""
        print(line + missing)
    if options.out:
        path = Path(options.out) / files.ALL_MODELS
        files.write_json(path, files.merge_models(merged, options.score_type))
        print(path)


def define_compare(options: flags.FlagValues, argv: Sequence[str]) -> None:
    """Define the flags of ``compare``."""
    _define_results(options)
    text = "Of the report's files, without .html, .md and .csv."
    flags.DEFINE_string("out", "report", text, flag_values=options)
    flags.DEFINE_string("title", "HeliosBench", "Of the report.", flag_values=options)
    text = "Compare over the prompts that all models have a video of."
    flags.DEFINE_bool("common", False, text, flag_values=options)
    text = "What else a reader should know, said above the tables."
    flags.DEFINE_string("note", "", text, flag_values=options)
    text = "Prompts whose frames are shown; the worst and the best always are."
    flags.DEFINE_integer("shown", 24, text, lower_bound=0, flag_values=options)


def compare(options: flags.FlagValues) -> None:
    """Write the report."""
    folders = _result_folders(options.results)
    read = [read_model(folder, not options.short, options.compatible) for folder in folders]
    if options.common:
        read = common(read)
    out = Path(options.out)
    for path in write_report(read, out, options.title, options.shown, options.note):
        print(path)


COMMANDS = {
    "generate": ("Make the videos of a benchmark.", define_generate, generate),
    "score": ("Score a folder of videos.", define_score, score),
    "merge": ("Merge the result files of models: merge FOLDER ...", define_merge, merge),
    "compare": ("Compare models in a report: compare FOLDER ...", define_compare, compare),
}
"""By name: what it does, its flags, and the function that does it."""


def _define_results(options: flags.FlagValues) -> None:
    text = "Folders of results, one a model; a folder of such folders counts as all of them."
    flags.DEFINE_list("results", [], text, flag_values=options)
    text = "Rate by the weights of short videos."
    flags.DEFINE_bool("short", False, text, flag_values=options)
    _define_compatible(options)


def _define_compatible(options: flags.FlagValues) -> None:
    text = "Repeat the original's defect: a metric whose mean is exactly zero vanishes."
    flags.DEFINE_bool("compatible", False, text, flag_values=options)


def _define_cache(options: flags.FlagValues) -> None:
    text = "Folder of compiled programs; empty for none. By default the user's cache folder."
    flags.DEFINE_string("compile_cache", None, text, flag_values=options)


def _leading_words(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """The arguments before the first flag, and the rest."""
    count = next((i for i, word in enumerate(argv) if word.startswith("-")), len(argv))
    return list(argv[:count]), list(argv[count:])


def _whole_numbers(texts: Sequence[str], flag: str) -> list[int]:
    for text in texts:
        if not text.strip().isdecimal() or int(text) < 1:
            raise UsageError(f"{flag}: {text!r} is not a whole number from 1 on")
    return [int(text) for text in texts]


def _prompts_of(options: flags.FlagValues, videos: Path) -> list[BenchPrompt]:
    """Those of --prompts, or those beside the videos, or none."""
    if options.prompts:
        return read_prompts(options.prompts)
    return read_prompts(videos / TABLE) if (videos / TABLE).is_file() else []


def _judge(options: flags.FlagValues, out: Path) -> HttpJudge | None:
    """The judge that was named."""
    if not options.judge:
        if options.judge_model or options.judge_prompt:
            raise UsageError("--judge_model and --judge_prompt need the URL of a server: --judge")
        return None
    question = read_question(options.judge_prompt) if options.judge_prompt else QUESTION
    cache = out / "answers"
    return HttpJudge(options.judge, options.judge_model or "", question=question, cache=cache)


def _models(options: flags.FlagValues, judge: HttpJudge | None) -> models.Models:
    weights: dict[str, Path] = {}
    if options.weights:
        if not Path(options.weights).is_dir():
            raise UsageError(f"--weights={options.weights}: there is no such folder")
        weights |= models.find_weights(options.weights)
    for text in options.weight:
        name, separator, path = text.partition("=")
        if not separator or not path:
            raise UsageError(f"--weight={text}: give NAME=PATH, with one of {_known_weights()}")
        if name not in models.WEIGHTS:
            raise UsageError(f"--weight={text}: there is no {name}, only {_known_weights()}")
        weights[name] = Path(path)
    return models.Models(weights, judge, judge.name if judge else None)


def _known_weights() -> str:
    return ", ".join(models.WEIGHTS)


def _announce(
    entries: Sequence[Entry],
    chosen: ScoreOptions,
    skipped: Mapping[str, str],
    judge: HttpJudge | None,
) -> None:
    """Say what will be measured, what is left out and why, and what the judge will be asked."""
    print(f"measured: {', '.join(n for n in chosen.metrics if n not in skipped)}")
    for line in _told(skipped):
        print(f"skipped: {line}")
    asked = [n for n in chosen.metrics if n in METRICS and "judge" in METRICS[n].needs]
    asked = [name for name in asked if name not in skipped]
    if judge and asked:
        lengths = [min(count_frames(e.path), chosen.most or sys.maxsize) for e in entries]
        for name in asked:
            cost = estimate_cost(lengths, name, judge.question)
            print(f"{judge.name} at {judge.url}, {name}: {cost} at most")


def _told(skipped: Mapping[str, str]) -> list[str]:
    """What metrics cannot be measured for, one line a reason."""
    lines = []
    for reason in dict.fromkeys(skipped.values()):
        names = [name for name, why in skipped.items() if why == reason]
        lines.append(f"{', '.join(names)}: {reason}")
    return lines


def _tell_failures(out: Path, names: Sequence[str]) -> None:
    """Say which videos could not be measured, and why."""
    reasons: dict[str, list[str]] = {}
    for name in names:
        for row in failed_rows(out, name):
            told = row["error"]
            if row["video_name"] not in told:
                told = f"{row['video_name']}: {told}"
            reasons.setdefault(told, []).append(name)
    for told, metrics in reasons.items():
        print(f"not measured: {', '.join(metrics)}: {told}")


def _merge(folder: Path, options: flags.FlagValues) -> dict:
    """Write and return ``merged_results.json`` of a folder."""
    found = files.read_folder(folder)
    content = files.merge(found, not options.short, options.compatible)
    files.write_json(folder / files.MERGED, content)
    return content


def _result_folders(texts: Sequence[str]) -> list[Path]:
    """Folders of models; one without results of its own stands for those in it."""
    if not texts:
        raise UsageError("name the folders of results, one a model")
    folders: list[Path] = []
    for text in texts:
        folder = Path(text)
        if not folder.is_dir():
            raise UsageError(f"{text}: there is no such folder of results")
        inside = [path for path in sorted(folder.iterdir()) if path.is_dir()]
        inside = [path for path in inside if any(path.glob("*_results.json"))]
        own = any(folder.glob("*_results.json")) or any(folder.glob("free_measures.json"))
        folders += [folder] if own or not inside else inside
    return folders
