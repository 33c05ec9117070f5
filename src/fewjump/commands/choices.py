"""What the user may type where a name is asked for. Tests compare these with the library's own."""

from __future__ import annotations

from typing import Literal

SamplerName = Literal[
    "ancestral", "euler", "tau-leaping", "first-hitting", "theta-trapezoidal", "theta-rk2"
]
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
StudentName = Literal[
    "product",
    "mixture",
    "chain",
    "mixture-of-chains",
    "shared-chain",
    "shared-mixture",
    "autoregressive",
    "any-order",
    "latent",
]
