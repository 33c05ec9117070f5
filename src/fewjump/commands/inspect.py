"""``fewjump inspect``: what a checkpoint is, and whether its network behaves."""

from __future__ import annotations

import json as json_module
from dataclasses import dataclass
from typing import Annotated, Any

import tyro

from fewjump.commands.shared import check_draws
from fewjump.reading import ReadingOptions, reading_values


@dataclass
class Subject:
    """What to look at, and how closely.

    Attributes:
        path: a file, a folder, or a hub repository as hf:owner/name: all that the other verbs take.
        check: run the network.
        samples: sequences drawn from the model for the check.
        steps: steps of each.
        length: tokens of each. Default: the model's length, at most 128.
        seed: of the draws.
        device: where to compute.
        json: print everything as JSON.
    """

    path: Annotated[str, tyro.conf.Positional]
    check: bool = True
    samples: int = 16
    steps: int = 16
    length: int | None = None
    seed: int = 0
    device: str = "cpu"
    json: bool = False


@dataclass
class Options(ReadingOptions, Subject):
    """Say what a checkpoint is: family, container, sizes, schedule, mask, what its average is.

    Reads checkpoints of SEDD, MDLM, UDLM and Duo in every form their code writes, saved models of
    this library, and masked language models of transformers. Nothing in a file is executed. Then
    the network is asked about noised samples of its own: at each time, are its answers finite and
    normalised, is it right as often as it is confident, and (uniform noise) does it believe as many
    tokens to be untouched as the noise leaves untouched? The exit code is 1 if they are not finite
    and normalised.
    """


def run(options: Options) -> int:
    check_draws([options.steps], options.samples, ("--steps", "--samples"))

    from fewjump.verify.inspection import inspect

    found = inspect(
        options.path,
        check=options.check,
        samples=options.samples,
        steps=options.steps,
        length=options.length,
        seed=options.seed,
        device=options.device,
        **reading_values(options),
    )
    print(json_module.dumps(found, indent=1) if options.json else described(found))
    return 0 if found.get("check", {}).get("ok", True) else 1


def described(found: dict[str, Any]) -> str:
    """The facts as lines of text."""
    schedule = dict(found["schedule"])
    name = schedule.pop("name")
    numbers = ", ".join(f"{key}={value:.6g}" for key, value in schedule.items())
    levels = ", ".join(f"{value:.4g} at {t}" for t, value in found["noise_levels"].items())
    sizes = ", ".join(f"{key} {value}" for key, value in found["sizes"].items())
    lines = {
        "container": found["container"],
        "family": found["family"],
        "weights": f"{found['weights']} (there are: {', '.join(found['available'])})",
        "average": found["ema"],
        "sizes": sizes,
        "noise": f"{found['process']['name']}; mask: {_or_none(found['mask'])}",
        "schedule": f"{name}({numbers}); noise level {levels}",
        "steps": _or_none(found["steps"]),
    }
    out = [f"{key:<10} {value}" for key, value in lines.items()]
    for one in found["samplers"]:
        times, multipliers = (
            " ".join(f"{value:.4g}" for value in one[key]) for key in ("times", "multipliers")
        )
        out.append(
            f"{'sampler':<10} learned, the default at {one['steps']} steps: {one['base']} at times "
            f"{times}, multipliers {multipliers}"
        )
    out += [f"{'note':<10} {note}" for note in found["notes"]]
    if found["ignored"]:
        more = len(found["ignored"]) - 4
        shown = "; ".join(found["ignored"][:4]) + (f"; {more} more" if more > 0 else "")
        out.append(f"{'left aside':<10} {shown}")
    if "check" in found:
        out += ["", *_check_lines(found["check"])]
    return "\n".join(out)


def _check_lines(check: dict[str, Any]) -> list[str]:
    header = (
        f"{check['samples']} samples of the model ({check['steps']} steps, {check['length']} "
        "tokens), noised to t:"
    )
    out = [header, "    t   asked  finite  |Σp−1|  confident  right      kept  expected"]
    for row in check["times"]:
        cells = [
            f"{row['t']:5.2f}",
            f"{row['open']:7.3f}",
            f"{'yes' if row['finite'] else 'NO':>7}",
            f"{row['normalised']:8.1e}",
            _number(row["confidence"], 10),
            _with_error(row),
            _number(row["kept"], 8),
            _number(row["kept_expected"], 9),
        ]
        out.append(" ".join(cells))
    verdict = "finite and normalised" if check["ok"] else "NOT finite and normalised"
    return [*out, f"verdict: {verdict}"]


def _with_error(row: dict[str, Any]) -> str:
    if row["right"] is None:
        return f"{'–':>12}"
    return f"{row['right']:6.3f}±{row['error']:.3f}"


def _number(value: float | None, width: int) -> str:
    return f"{'–':>{width}}" if value is None else f"{value:{width}.3f}"


def _or_none(value: Any) -> str:
    return "none" if value is None else str(value)
