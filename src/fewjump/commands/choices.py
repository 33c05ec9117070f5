"""What the user may type where a name is asked for: registries, and lists that tests compare."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from fewjump.registry import HEADS, SAMPLERS

if TYPE_CHECKING:
    SamplerName = StudentName = str
else:
    SamplerName, StudentName = Literal[tuple(SAMPLERS)], Literal[tuple(HEADS)]
GridName = Literal["uniform", "cosine", "log-linear", "fitted"]
ProcessName = Literal["masked", "uniform", "mask-to-uniform", "uniform-to-mask", "gidd"]
ScheduleName = Literal["log-linear", "cosine", "geometric", "linear"]
DataKindName = Literal["auto", "characters", "bytes", "lines", "tokens", "documents"]
TokenBits = Literal[8, 16, 32, 64]
KnownRuleName = Literal["prefix", "infill", "scattered"]
TimesName = Literal[
    "uniform",
    "importance",
    "importance-pairs",
    "learned-weight",
    "gap-doubling",
    "gap-halving",
]
PackingName = Literal["stream", "documents", "fit"]
TeacherObjectiveName = Literal["cross-entropy", "elbo", "score-entropy"]
MatchingName = Literal[
    "forward", "student-euler", "student-exact", "student-trapezoidal", "teacher-rollout"
]
