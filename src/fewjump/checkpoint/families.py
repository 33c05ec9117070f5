"""Which original a checkpoint is, from the configuration that was stored with it.

Four code bases write configurations: SEDD's (``graph``), MDLM's and UDLM's (``parameterization``),
Duo's (``algo``) and SDTT's (``parameterization.name``); published folders have a ``model_type``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, get_args

import torch

from fewjump.reading import CheckpointError, FamilyName, listed
from fewjump.schedule import Cosine, Geometric, Linear, LogLinear, Schedule

Config = Mapping[str, Any]
FAMILIES: tuple[FamilyName, ...] = get_args(FamilyName)


def float32_eps(eps: float) -> float:
    """What a log-linear schedule's eps is in the originals' arithmetic.

    They multiply float32 times by 1 − eps, rounded to float32: of eps = 1e-3 that leaves
    0.00099999. At t = 1 it is all that is left, and moves σ̄ by 1.3e-5.
    """
    return 1 - float(torch.tensor(1 - eps, dtype=torch.float32))


# What the code of SEDD, MDLM and UDLM has in the place of a setting.
CODE_EPS = float32_eps(1e-3)


@dataclass(frozen=True)
class Description:
    """What a configuration says beside the network's sizes.

    Attributes:
        family: the original.
        schedule: its noise schedule.
        time_conditioned: whether the network is given the noise level.
        scaled: SEDD: whether the output is scaled by the noise level.
        length: sequence length it was trained on, None where nothing says so.
        vocab_size: number of states, where something says so.
        heads: attention heads, where something says so.
        notes: what had to be assumed.
    """

    family: FamilyName
    schedule: Schedule
    time_conditioned: bool = True
    scaled: bool = True
    length: int | None = None
    vocab_size: int | None = None
    heads: int | None = None
    notes: tuple[str, ...] = ()

    @property
    def masked(self) -> bool:
        """Whether the forward process masks."""
        return self.family in ("sedd-absorb", "mdlm")


def describe(config: Config | None, family: FamilyName | None) -> Description:
    """The family and its settings.

    Args:
        config: the stored configuration, plain data; None where there is none.
        family: what the user says it is, of :data:`FAMILIES`. Needed only if nothing in the
            checkpoint tells.

    Raises:
        CheckpointError: if nothing tells, if the two disagree, and for what is not supported.
    """
    if family is not None and family not in FAMILIES:
        raise CheckpointError(f"unknown family {family!r}; known: {', '.join(FAMILIES)}")
    if config is None:
        return _assumed(family)
    if isinstance(config.get("algo"), Mapping):
        found = _duo_code(config)
    elif isinstance(config.get("parameterization"), Mapping):
        found = _sdtt_code(config)
    elif "parameterization" in config:
        found = _mdlm_code(config)
    elif isinstance(config.get("graph"), Mapping):
        found = _sedd_code(config)
    else:
        found = _published(config, family)
    if family not in (None, found.family):
        raise CheckpointError(
            f"the checkpoint's configuration says it is {found.family}, not {family}; leave family "
            "out, or give the checkpoint you mean"
        )
    return found


def _assumed(family: FamilyName | None) -> Description:
    if family is None:
        raise CheckpointError(
            "nothing in the checkpoint says what it is: no configuration was stored with it. Give "
            f"family= (--family), one of {', '.join(FAMILIES)}"
        )
    notes = (
        f"no configuration: the defaults of {family} are assumed",
        "no schedule is stated: log-linear noise is assumed",
    )
    return Description(
        family, LogLinear(CODE_EPS), family != "mdlm", family == "sedd-absorb", notes=notes
    )


# -- the code bases ------------------------------------------------------------------------------


def _sedd_code(config: Config) -> Description:
    graph = text(config, "graph.type")
    if graph not in ("absorb", "uniform"):
        raise CheckpointError(f"graph.type is {graph!r}; absorb and uniform are known")
    scaled = setting(config, "model.scale_by_sigma")
    if scaled is None:
        scaled = graph == "absorb"
    if graph == "uniform" and scaled:
        raise CheckpointError(
            "model.scale_by_sigma is set for a uniform graph, which SEDD's own code refuses"
        )
    tokens = whole(config, "tokens")
    return Description(
        family="sedd-absorb" if graph == "absorb" else "sedd-uniform",
        schedule=_schedule(config),
        scaled=flag(scaled, "model.scale_by_sigma"),
        length=whole(config, "model.length"),
        vocab_size=None if tokens is None else tokens + (graph == "absorb"),
        heads=whole(config, "model.n_heads"),
    )


def _mdlm_code(config: Config) -> Description:
    _require_backbone(config.get("backbone", "dit"))
    parameterization = config["parameterization"]
    diffusion = config.get("diffusion", "absorbing_state")
    known: dict[tuple[Any, Any], FamilyName] = {
        ("subs", "absorbing_state"): "mdlm",
        ("sedd", "absorbing_state"): "sedd-absorb",
        ("d3pm", "uniform"): "udlm",
    }
    pair = (parameterization, diffusion)
    if not all(isinstance(part, str) for part in pair) or pair not in known:
        raise CheckpointError(
            f"parameterization {str(parameterization)[:40]!r} under {str(diffusion)[:40]!r} noise "
            f"is not supported; known: {listed(' under '.join(pair) for pair in known)}"
        )
    if config.get("subs_masking"):
        raise CheckpointError("subs_masking=True is not supported")
    return _checked_time(
        Description(
            family=known[pair],
            schedule=_schedule(config),
            time_conditioned=flag(config.get("time_conditioning", False), "time_conditioning"),
            length=whole(config, "model.length"),
            heads=whole(config, "model.n_heads"),
        )
    )


def _sdtt_code(config: Config) -> Description:
    """SDTT's students and teachers, as its code saves them; the mask is the last state."""
    name = text(config, "parameterization.name")
    if name != "multi-round-sdtt":
        raise CheckpointError(
            f"parameterization.name is {name!r}, which is not supported; known: multi-round-sdtt"
        )
    kind = text(config, "model.type")
    if kind != "ddit-orig":
        raise CheckpointError(f"model.type is {kind!r}; known of SDTT's networks: ddit-orig")
    if config.get("is_di4c"):
        raise CheckpointError(
            "is_di4c=true: the network reads a latent as a further element of the sequence, which "
            "is not supported; train the mixture here, with --method di4c"
        )
    return Description(
        family="mdlm",
        schedule=_schedule(config),
        time_conditioned=flag(config.get("time_conditioning", False), "time_conditioning"),
        length=whole(config, "model.length"),
        heads=whole(config, "model.n_heads"),
    )


def _duo_code(config: Config) -> Description:
    name = text(config, "algo.name")
    families: dict[str, tuple[FamilyName, str]] = {
        "mdlm": ("mdlm", "subs"),
        "sedd": ("sedd-absorb", "score"),
        "duo": ("duo", "mean"),
        "duo_base": ("duo", "mean"),
        "distillation": ("duo", "mean"),
        "ot-finetune": ("duo", "mean"),
    }
    if name not in families:
        raise CheckpointError(
            f"algo.name is {name!r}, which is not supported; known: {', '.join(families)}"
        )
    family, expected = families[name]
    found = setting(config, "algo.parameterization")
    if found not in (None, expected):
        raise CheckpointError(
            f"algo.parameterization is {str(found)[:40]!r}, expected {expected!r} for {name}"
        )
    _require_backbone(setting(config, "algo.backbone") or "dit")
    if setting(config, "algo.causal_attention"):
        raise CheckpointError("algo.causal_attention=True is not supported")
    conditioning = setting(config, "algo.time_conditioning")
    return _checked_time(
        Description(
            family=family,
            schedule=_schedule(config),
            time_conditioned=family != "mdlm"
            if conditioning is None
            else flag(conditioning, "algo.time_conditioning"),
            length=whole(config, "model.length"),
            heads=whole(config, "model.n_heads"),
        )
    )


def _published(config: Config, family: FamilyName | None) -> Description:
    kind = config.get("model_type")
    if not isinstance(kind, str) or kind not in ("mdlm", "udlm", "duo"):
        names = config.get("architectures")
        first = names[0] if isinstance(names, list) and names else None
        kind = first.lower() if isinstance(first, str) else kind
    if kind not in ("mdlm", "udlm", "duo"):
        if family is None:
            raise CheckpointError(
                f"the configuration names no known model (model_type {str(kind)[:40]!r}); known "
                "are mdlm, udlm, duo, and SEDD's own. If it is one of them, give family= (--family)"
            )
        return _assumed(family)
    if config.get("causal"):
        raise CheckpointError("causal=true is not supported")
    default = kind != "mdlm"
    noted = ("the folder does not state its schedule: log-linear noise is assumed",)
    described = Description(
        family=kind,  # type: ignore[arg-type]
        schedule=LogLinear(CODE_EPS),
        time_conditioned=flag(config.get("time_conditioning", default), "time_conditioning"),
        length=whole(config, "model_length"),
        vocab_size=whole(config, "vocab_size"),
        heads=whole(config, "n_heads"),
        notes=noted,
    )
    if "noise" in config:
        described = replace(described, schedule=_schedule(config), notes=())
    return _checked_time(described)


def _checked_time(described: Description) -> Description:
    """SEDD's head divides by e^σ̄ − 1, so that its network always has to know σ̄."""
    if described.family == "sedd-absorb" and not described.time_conditioned:
        raise CheckpointError("time_conditioning=False with a score network is not possible")
    return described


def _require_backbone(name: Any) -> None:
    if name not in ("dit", "hf_dit"):
        raise CheckpointError(f"backbone {str(name)[:40]!r} is not supported; known: dit, hf_dit")


def _schedule(config: Config) -> Schedule:
    """The noise schedule; code and settings of the three code bases agree on the names."""
    kind = text(config, "noise.type")
    try:
        if kind == "loglinear":
            return LogLinear(CODE_EPS)
        if kind == "log-linear":
            return LogLinear(float32_eps(number(config, "noise.eps", 1e-3)))
        if kind == "cosine" and isinstance(config.get("algo"), Mapping):
            return Cosine(float32_eps(number(config, "noise.eps", 1e-3)))
        if kind == "geometric":
            return Geometric(number(config, "noise.sigma_min"), number(config, "noise.sigma_max"))
        if kind == "linear":
            low, high = number(config, "noise.sigma_min"), number(config, "noise.sigma_max")
            return Linear(sigma_max=high, sigma_min=low)
    except CheckpointError:
        raise
    except ValueError as error:
        raise CheckpointError(f"the noise schedule {kind} cannot be: {error}") from None
    raise CheckpointError(
        f"noise.type is {kind!r}; known: loglinear, log-linear, geometric, linear, and Duo's cosine"
    )


# -- single settings: each is refused unless it is what it should be ----------------------------


def setting(config: Config, path: str) -> Any:
    """What stands under a dotted path, None where nothing does."""
    here: Any = config
    for part in path.split("."):
        if not isinstance(here, Mapping):
            return None
        here = here.get(part)
    return here


def text(config: Config, path: str) -> str:
    """A text, which must be there; its first 60 characters."""
    value = setting(config, path)
    if not isinstance(value, str):
        raise CheckpointError(f"the configuration lacks {path}, or it is no text")
    return value[:60]


def number(config: Config, path: str, default: float | None = None) -> float:
    """A number, or a text that is one; ``default`` where it may be left out."""
    value = setting(config, path)
    if value is None and default is not None:
        return default
    # YAML reads 1e-3 as a text; the originals convert it.
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise CheckpointError(f"the configuration lacks {path}, or it is no number") from None


def whole(config: Config, path: str) -> int | None:
    """A positive whole number, None where nothing says so."""
    value = setting(config, path)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value < 1 << 31:
        raise CheckpointError(
            f"{path} is {str(value)[:40]!r}; a positive whole number was expected"
        )
    return value


def flag(value: Any, path: str) -> bool:
    """The value itself, which must be true or false."""
    if not isinstance(value, bool):
        raise CheckpointError(f"{path} is {str(value)[:40]!r}; true or false was expected")
    return value
