"""The model card that is saved with a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fewjump.denoiser import Denoiser, parameter_counts


def model_card(
    name: str, denoiser: Denoiser, config: Mapping[str, Any], source: str | None = None
) -> str:
    """Markdown: what the model is, its sizes, how to sample from it, what was measured.

    Args:
        name: title of the card.
        denoiser: the model.
        config: what goes into its config.json (see :func:`fewjump.checkpoint.save`).
        source: what the example loads: a folder, or a repository ``hf:owner/name`` of the hub. The
            name by default.
    """
    parts = [
        "---\nlibrary_name: fewjump\ntags:\n- discrete-diffusion\n---",
        f"# {name}",
        _what(config),
        _facts(denoiser, config),
        _usage(source or name, denoiser),
    ]
    if config["metrics"]:
        parts.append("## Measured\n\n" + _measured(config["metrics"]))
    if config["training"]:
        parts.append("## Training\n\n" + _pairs(config["training"]))
    return "\n\n".join(parts) + "\n"


def _what(config: Mapping[str, Any]) -> str:
    described = config["denoiser"]
    noise = described["process"]["name"]
    if described["kind"] == "score":
        kind = "A concrete-score network, read as a denoiser by linear recovery"
    else:
        kind = f"A denoiser with a {described['head']['kind']} head"
    return (
        f"{kind}, for discrete diffusion with {noise} noise. It maps a noised sequence and a time "
        "to a law over clean sequences, and was saved by "
        f"fewjump {config['fewjump_version']}."
    )


def _facts(denoiser: Denoiser, config: Mapping[str, Any]) -> str:
    described = config["denoiser"]
    trunk, process = described["trunk"], described["process"]
    schedule = process.get("schedule", {})
    facts = {
        "process": process["name"],
        "schedule": ", ".join(str(v) if k == "name" else f"{k}={v}" for k, v in schedule.items()),
        "states per position": denoiser.process.vocab_size,
        "clean tokens": denoiser.clean_vocab_size,
        "length": denoiser.length or "any",
        "positions": _positions(trunk),
        "network": _network(trunk),
        **({} if denoiser.classes is None else {"classes": denoiser.classes}),
        **({} if denoiser.guidance_range is None else {"guidance": _range(denoiser)}),
        **({} if denoiser.samplers is None else {"learned sampler": _learned(denoiser)}),
        "reads the noise level": "yes" if trunk.get("time_conditioned") else "no",
        "parameters": f"{parameter_counts(denoiser)['total']:,}",
    }
    return _table(["", ""], [[key, value] for key, value in facts.items()])


def _range(denoiser: Denoiser) -> str:
    low, high = denoiser.guidance_range or (1.0, 1.0)
    return f"an input, from {low:g} to {high:g}"


def _learned(denoiser: Denoiser) -> str:
    return ", ".join(f"{one['steps']} steps" for one in denoiser.samplers or ())


def _positions(trunk: Mapping[str, Any]) -> str:
    grid = trunk.get("grid")
    return "×".join(map(str, grid)) + " grid" if grid else "sequence"


def _network(trunk: Mapping[str, Any]) -> str:
    if "model" in trunk:
        return f"{trunk['model']['architectures'][0]}, hidden {trunk['hidden']}"
    return f"{trunk['blocks']} blocks, hidden {trunk['hidden']}, {trunk['heads']} heads"


def _usage(source: str, denoiser: Denoiser) -> str:
    steps = denoiser.samplers[0]["steps"] if denoiser.samplers else 8
    length = "" if denoiser.length else ", length=64"
    length += "" if denoiser.classes is None else ", label=0"
    return (
        "## Use\n\n```python\nimport fewjump\n"
        f'model = fewjump.load("{source}")\n'
        f"tokens = fewjump.sample(model, num_samples=16, steps={steps}{length})\n```\n\n"
        "`fewjump.publish.Pipeline(model)` decodes what it draws."
    )


def _measured(metrics: Any) -> str:
    if isinstance(metrics, Mapping):
        return _pairs(metrics)
    if not isinstance(metrics, Sequence) or isinstance(metrics, str):
        return str(metrics)
    rows = [row for row in metrics if isinstance(row, Mapping)]
    if len(rows) != len(metrics):
        return "\n".join(f"- {entry}" for entry in metrics)
    if rows and all("metric" in row and "value" in row for row in rows):
        return _budget_table(rows)
    columns = list(dict.fromkeys(key for row in rows for key in row))
    return _table(columns, [[row.get(column) for column in columns] for row in rows])


def _budget_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows of results as one line per model, sampler and number of evaluations.

    References, which have no number of evaluations, come last.
    """
    metrics = list(dict.fromkeys(row["metric"] for row in rows))
    lines: dict[tuple[str, str, Any], dict[str, str]] = {}
    for row in sorted(rows, key=lambda row: not row.get("nfe")):
        key = (row.get("model") or "", row.get("sampler") or "", row.get("nfe") or None)
        lines.setdefault(key, {})[row["metric"]] = _with_interval(row)
    several = len({sampler for _, sampler, _ in lines if sampler}) > 1
    columns = ["model", *(["sampler"] if several else []), "evaluations", *metrics]
    cells = [
        [model, *([sampler] if several else []), nfe, *(found.get(name) for name in metrics)]
        for (model, sampler, nfe), found in lines.items()
    ]
    has_interval = any(row.get("low") is not None for row in rows)
    note = "\n\nBrackets hold the ends of an interval." if has_interval else ""
    return _table(columns, cells) + note


def _with_interval(row: Mapping[str, Any]) -> str:
    low, high = row.get("low"), row.get("high")
    ends = "" if low is None or high is None else f" [{_show(low)}, {_show(high)}]"
    return _show(row["value"]) + ends


def _pairs(values: Any) -> str:
    if not isinstance(values, Mapping):
        return str(values)
    return "\n".join(f"- {key}: {_show(value)}" for key, value in values.items())


def _table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
    lines += ["| " + " | ".join(_show(value) for value in row) + " |" for row in rows]
    return "\n".join(lines)


def _show(value: Any) -> str:
    if value is None:
        return ""
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return text.replace("|", "\\|").replace("\n", " ")
