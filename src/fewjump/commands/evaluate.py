"""``fewjump evaluate``: how good a model's samples are, at several numbers of evaluations."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from fewjump.commands.arguments import flag_of
from fewjump.commands.shared import (
    DocumentOptions,
    GridOptions,
    JudgeOptions,
    SamplerName,
    check_draws,
    document_values,
    make_sampler,
)
from fewjump.config import Source
from fewjump.files import check_file_writable, checksum, write_text
from fewjump.lock import sole_writer
from fewjump.reading import DataKind, ReadingOptions, reading_values

if TYPE_CHECKING:
    from fewjump.data import Dataset
    from fewjump.evaluate import Meter
    from fewjump.evaluate.meter import DataMeter
    from fewjump.publish.models import Model
    from fewjump.results import Row
    from fewjump.sampler import Sampler

SHOWN_IMAGES, SHOWN_TEXTS = 24, 3
# What an evaluation, and a report on it, leave in the folder.
RESULTS, SAMPLES, PAGE = "results.json", "samples.json", "report.html"
#: What a comparison has beside, the last two before it has ended.
ROWS, TRIALS, MEASURED = "rows.json", "trials.json", "measured"


@dataclass
class Subject:
    """What to measure, and how.

    Attributes:
        paths: what `fewjump sample` takes, one or more: for example a teacher and its student.
        data: the data the models learned from. Default: digits, for models of such images.
        kind: how to read a data file.
        length: tokens per sequence, for models that take any. Default: the models', or 64.
        steps: numbers of steps to sample with.
        sampler: how to step; several are compared. Default: as fewjump sample.
        sampler_options: options of the one sampler as name=value, such as gamma=0.1 of
            entropy-bounded.
        guidance: scale of classifier-free guidance, for models with classes, which are drawn in
            turn. Default: 1.
        num_samples: samples of each measurement. Default: as many as the test part has.
        seeds: independent sets of samples; means are reported, with intervals over all.
        out: folder for results.json. Default: the first run's folder.
        device: where to compute.
        progress: say which measurement is being made.
    """

    paths: Annotated[list[Path], tyro.conf.Positional]
    data: Source | None = None
    kind: DataKind = "auto"
    length: int | None = None
    steps: list[int] = field(default_factory=lambda: [1, 2, 4, 8, 16, 64])
    sampler: list[SamplerName] = field(default_factory=list)
    sampler_options: list[str] = field(default_factory=list)
    guidance: float | None = None
    num_samples: int | None = None
    seeds: list[int] = field(default_factory=lambda: [0])
    out: Path | None = None
    device: str = "cpu"
    progress: bool = True


@dataclass
class Options(DocumentOptions, ReadingOptions, GridOptions, JudgeOptions, Subject):
    """Measure the samples of one or more models, and write results.json.

    Images are judged in the features of a small classifier trained on the data (Fréchet distance,
    precision, recall, and of models with classes the share of images that it gives theirs); texts
    and tokens by a judge of the data, with entropy, distinct n-grams and dictionary words beside
    it, and with --judge by a language model. The data's own test part is the reference. Then
    `fewjump report` makes a page of it; one of earlier results in the folder is removed.
    """


def run(options: Options) -> int:
    from fewjump.checkpoint.folder import WEIGHTS_FILE
    from fewjump.evaluate.meter import classes_in_turn
    from fewjump.publish.models import check_alike, open_data_like, open_models
    from fewjump.results import machine_facts, write_results
    from fewjump.sampler.arguments import check_budgets

    if not options.paths:
        raise ValueError("name at least one run or saved model")
    for flag, values in (("--seeds", options.seeds), ("--steps", options.steps)):
        if len(set(values)) < len(values):
            raise ValueError(f"{flag} {' '.join(map(str, values))} names one of them twice")
    check_draws(options.steps, options.num_samples)
    if options.sampler_options and len(options.sampler) > 1:
        raise ValueError("--sampler-options are of one --sampler; evaluate the others apart")
    named = options.sampler or [None]
    samplers = [make_sampler(name, options.sampler_options) for name in named]
    models = open_models(options.paths, options.device, reading_values(options))
    names = dict(zip(names_of(models), models))
    for model in models:
        classes_in_turn(model.denoiser, 2, options.guidance)
        for sampler in samplers:
            check_budgets(model.denoiser, options.steps, sampler, options.grid)
    out = options.out or results_folder(options.paths[0], models[0])
    if any((out / name).exists() for name in (ROWS, TRIALS, MEASURED)):
        raise ValueError(f"{out} holds a comparison, whose results these would replace: give --out")
    with sole_writer(out):
        for name in (RESULTS, SAMPLES, PAGE):
            check_file_writable(out / name)
        data = open_data_like(
            models[0],
            _source(options, models[0]),
            options.kind,
            options.length,
            **document_values(options),
        )
        check_alike(models, data)
        meter = meter_for(data, options, options.device)
        rows, shown = _measure(options, samplers, names, meter)
        facts: dict[str, Any] = {
            "data": data.description,
            "models": {name: str(model.folder) for name, model in names.items()},
            "samples": options.num_samples or len(data.test),
            "seeds": ", ".join(map(str, options.seeds)),
            **({} if options.guidance is None else {"guidance": options.guidance}),
            **judge_facts(meter),
            "machine": machine_facts(),
        }
        if any(model.folder == out / "model" for model in models):
            facts["weights"] = checksum(out / "model" / WEIGHTS_FILE)
        path = write_results(out / RESULTS, rows, facts)
        # Samples and a page of earlier results must not stay beside these.
        (out / PAGE).unlink(missing_ok=True)
        (out / SAMPLES).unlink(missing_ok=True)
        write_text(out / SAMPLES, json.dumps(shown, ensure_ascii=False) + "\n")
    print(f"results: {path}\nfor a page of it: fewjump report {out}")
    return 0


def _source(options: Options, model: Model) -> str:
    """Where the data are.

    Raises:
        ValueError: if that is not said, and the model is not one of the built-in images.
    """
    from fewjump.data import ImageLevels

    if options.data is not None:
        return options.data
    vocabulary = model.vocabulary
    if isinstance(vocabulary, ImageLevels) and (vocabulary.height, vocabulary.width) == (8, 8):
        return "digits"
    raise ValueError(
        f"give --data: the data that the model in {model.folder} learned from, whose test part its "
        "samples are compared with"
    )


def names_of(models: list[Model]) -> list[str]:
    """``teacher`` or ``student``, by how a model was trained; with its folder where not unique."""
    from fewjump.checkpoint import read_config
    from fewjump.checkpoint.opening import is_original
    from fewjump.denoiser.pretrained import is_masked_lm
    from fewjump.registry import METHODS, OBJECTIVES

    taught = {
        cls.__name__ for name, cls in OBJECTIVES.items() if name in METHODS or cls.needs_teacher
    }
    names = []
    for model in models:
        foreign = is_original(model.folder) or is_masked_lm(model.folder)
        training = (None if foreign else read_config(model.folder)["training"]) or {}
        objective = (training.get("objective") or {}).get("name")
        names.append("student" if objective in taught else "teacher")
    several = Counter(names)
    full = [
        f"{name} {run_name(model.folder)}" if several[name] > 1 else name
        for name, model in zip(names, models)
    ]
    if len(set(full)) < len(full):
        raise ValueError(f"the models need folders of different names, got {', '.join(full)}")
    return full


def run_name(folder: Path) -> str:
    """The name of a run, given its ``model`` folder or itself."""
    folder = folder.resolve()
    if folder.is_file():
        return f"{folder.parent.name}-{folder.stem}"
    return folder.parent.name if folder.name == "model" else folder.name


def results_folder(path: Path, model: Model) -> Path:
    """Where results go by default: the run, never a saved model's own folder.

    For a model that is no run's they go beside it; for one of the hub, into the working folder.
    """
    from fewjump.tokenizing import is_hub

    place = Path(path.name) if is_hub(path) else model.folder
    return path if place == path / "model" else place.with_name(f"{place.resolve().name}-results")


def _measure(
    options: Options, samplers: list[Sampler | None], names: dict[str, Model], meter: DataMeter
) -> tuple[list[Row], list[dict[str, Any]]]:
    from fewjump.evaluate import quality
    from fewjump.progress import tell

    data = meter.dataset
    rows: list[Row] = []
    shown: list[dict[str, Any]] = []
    for name, model in names.items():
        for sampler in samplers:
            rows += quality(
                model.denoiser,
                meter,
                options.steps,
                sampler,
                options.num_samples,
                options.seeds,
                model=name,
                grid=options.grid,
                guidance=options.guidance,
                progress=tell if options.progress else None,
            )
        shown += _first_samples(options, samplers[0], name, model, meter)
    entry = _as_panel(data.vocabulary, data.all("test", SHOWN_IMAGES))
    return [*rows, *meter.reference()], [*shown, {"model": "test data", "nfe": None, **entry}]


def meter_for(data: Dataset, judging: JudgeOptions, device: str = "cpu") -> DataMeter:
    """What samples are measured by: a classifier of pictures, or a judge of texts and tokens.

    Raises:
        ValueError: for a language model that cannot be read, or that would judge pictures, and for
            options of one that is not there.
    """
    from fewjump.data import ImageLevels
    from fewjump.evaluate import CausalJudge, ImageMeter, TextMeter

    # Without classes there is no classifier to train; pictures are then judged as tokens.
    if isinstance(data.vocabulary, ImageLevels):
        if judging.judge is not None:
            raise ValueError("--judge reads texts; these data are pictures")
        return ImageMeter(data) if data.labels else TextMeter(data)
    if judging.judge is None:
        chosen = {one.name: getattr(judging, one.name) for one in fields(JudgeOptions)}
        for name, value in asdict(JudgeOptions()).items():
            if chosen[name] != value:
                raise ValueError(f"{flag_of(name)} is of a --judge; give one")
        return TextMeter(data)
    causal = CausalJudge.from_pretrained(
        judging.judge,
        device,
        judging.judge_tokenizer,
        length=judging.judge_length,
        ends=judging.judge_ends,
        precision=judging.judge_precision,
    )
    return TextMeter(data, causal=causal)


def judge_facts(meter: DataMeter) -> dict[str, str]:
    """How texts were read, for the results; nothing without a language model."""
    judge = meter.causal
    if judge is None:
        return {}
    said = {
        "first": "the first document of a sample",
        "keep": "all documents of a sample, the judge's end of text between them",
        "drop": "all documents of a sample, nothing between them",
    }
    about = (
        judge.name,
        "samples decoded and tokenised anew",
        said[judge.ends],
        f"at most {judge.length} tokens, the first one given",
        judge.precision,
    )
    return {"judge": ", ".join(about)}


def _first_samples(
    options: Options, sampler: Sampler | None, name: str, model: Model, meter: Meter
) -> list[dict[str, Any]]:
    """A few samples of each budget: the first of those that were judged, since sample i depends
    on the seed and on i alone."""
    from fewjump.data import ImageLevels
    from fewjump.evaluate.meter import classes_in_turn
    from fewjump.sampler import run as draw

    entries = []
    count = SHOWN_IMAGES if isinstance(model.vocabulary, ImageLevels) else SHOWN_TEXTS
    given = meter.given(model.denoiser, count)
    given |= classes_in_turn(model.denoiser, count, options.guidance)
    seed = options.seeds[0]
    for steps in options.steps:
        result = draw(model.denoiser, count, steps, sampler, options.grid, seed, **given)
        panel = _as_panel(model.vocabulary, result.samples.cpu())
        entries.append({"model": name, "nfe": result.nfe, **panel})
    return entries


def _as_panel(vocabulary: Any, tokens: Any) -> dict[str, Any]:
    """Samples as ``samples.json`` holds them: grey levels 0…255, or texts."""
    from fewjump.data import ImageLevels

    if isinstance(vocabulary, ImageLevels):
        return {"images": (vocabulary.images(tokens) * 255).round().int().tolist()}
    return {"texts": vocabulary.decode(tokens[:SHOWN_TEXTS])}
