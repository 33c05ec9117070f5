"""The steps of a whole trajectory, the last draw included; shared by the runner and the exact law.

**The last step.** With ``denoise`` every interval that ends above 0 is walked by the sampler, and
x₀ is then drawn from the law at the last positive time. A grid 1 → 0 of K intervals therefore costs
K evaluations for a one-evaluation sampler and 2(K−1)+1 for a two-evaluation one; one interval is
one-shot generation for all; a grid that ends above 0 costs one evaluation more. Without
``denoise`` the sampler's own step is used down to the last time.
"""

from __future__ import annotations

from functools import partial

from torch import Tensor

from fewjump.denoiser.base import Denoiser
from fewjump.sampler.base import Moves, Sampler, Step
from fewjump.sampler.grid import GridSpec
from fewjump.sampler.moves import LawMove


def trajectory(
    sampler: Sampler, denoiser: Denoiser, x: Tensor, times: Tensor, denoise: bool = True
) -> list[Step]:
    """All steps from ``x`` at ``times[0]`` to the output; see the module docstring."""
    if not sampler.uses_grid:
        return sampler.steps(denoiser, x, times)
    if not denoise:
        return sampler.steps(denoiser, x, times)
    walked = times[times > 0]
    return [
        *sampler.steps(denoiser, x, walked),
        partial(_final, denoiser, walked[-1]),
    ]


def _final(denoiser: Denoiser, t: Tensor, x: Tensor) -> Moves:
    yield LawMove(denoiser(x, t), x, denoiser.process)


def check_options(
    sampler: Sampler, denoiser: Denoiser, grid: GridSpec | None, denoise: bool
) -> None:
    """Raise ValueError where the sampler does not apply or would ignore an option."""
    sampler.check(denoiser)
    if sampler.uses_grid:
        return
    if grid is not None:
        raise ValueError(f"{sampler.name} draws its own times; leave grid=None")
    if not denoise:
        raise ValueError(f"{sampler.name} has no final denoising step; leave denoise=True")
