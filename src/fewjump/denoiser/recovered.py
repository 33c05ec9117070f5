"""What concrete scores say of x₀: recovery (paper Eq. 8) where it is asked for, and its reports.

Samplers step by the scores themselves, so that a recovery, in float64 over whole rows, is made for
those who read the law; a draw from it makes a few rows at a time and keeps none.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any, Literal, Self

import torch
from torch import Tensor

from fewjump.denoiser.constrain import constrain_logits, never_clean
from fewjump.inversion import row_chunks
from fewjump.law.logits import Clock, DenseLogits, Logits
from fewjump.law.scores import Ratios
from fewjump.process import Process
from fewjump.process.bridge import RatioCoefficients

LawRecovery = Literal["clip", "project", "multiplicative"]
# Positions of deferred logits that the mean of a training step's report is taken over, at most.
REPORTED_POSITIONS = 256


class RecoveryReport:
    """What the last recovery had to repair.

    Args:
        clipped_mass: (B, L) probability that the closed form put below zero, without gradients.
        condition_number: () or (B,) condition number of P_{t|0}.
    """

    def __init__(self, clipped_mass: Tensor, condition_number: Tensor) -> None:
        self.clipped_mass = clipped_mass
        self.condition_number = condition_number

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        # A copied network need not copy its weights again for the sake of a report.
        return self

    def mean_clipped_mass(self) -> Tensor:
        """Its mean, (): over positions spread evenly where computing all of them costs much."""
        return self.clipped_mass.mean()


class MaskedRecoveryReport(RecoveryReport):
    """Of a masked position's closed form; see :func:`clean_mass`.

    Only the mask's entry, 1 − (e^σ̄ − 1)·Σr, can be below zero.

    Args:
        logits, shift: as for :func:`clean_mass`.
        condition_number: () or (B,) condition number of P_{t|0}.
    """

    def __init__(self, logits: Logits, shift: Tensor, condition_number: Tensor) -> None:
        self.condition_number = condition_number
        # It outlives the training step, whose graph must not.
        self._logits, self._shift = logits.detach(), shift

    @cached_property
    def clipped_mass(self) -> Tensor:  # pyright: ignore[reportIncompatibleVariableOverride]
        """(B, L), computed when first asked for."""
        return (clean_mass(self._logits, self._shift) - 1).clamp(min=0)

    def mean_clipped_mass(self) -> Tensor:
        count = self._logits.batch_size * self._logits.length
        if "clipped_mass" in vars(self) or count <= REPORTED_POSITIONS:
            return self.clipped_mass.mean()
        spread = torch.linspace(0, count - 1, REPORTED_POSITIONS, dtype=torch.float64)
        index = spread.round().long().to(self._logits.device)
        return (clean_mass(self._logits, self._shift, index) - 1).clamp(min=0).mean()


@torch.no_grad()
def clean_mass(logits: Logits, shift: Tensor, index: Tensor | None = None) -> Tensor:
    """Σ of the closed form over clean tokens, in chunks: (N,) float64, or (B, L) of all positions.

    The closed form of a masked position is r(e^σ̄ − 1) at clean tokens and 1 less their sum at the
    mask; the law is its clean part, normalised.

    Args:
        logits: log r at clean tokens but for a number per sequence; a visible position has
            certainty.
        shift: (B,) float64, what makes log r(e^σ̄ − 1) of the logits.
        index: (N,) int64 positions, counted row-major; visible ones have 1.
    """
    assert logits.visible is not None
    if index is None:
        every = torch.arange(logits.batch_size * logits.length, device=logits.device)
        return clean_mass(logits, shift, every).reshape(logits.batch_size, logits.length)
    out = torch.ones(index.shape[0], dtype=torch.float64, device=index.device)
    (left,) = (~logits.visible.reshape(-1)[index]).nonzero(as_tuple=True)
    for part in row_chunks(left.shape[0], 1, logits.rows_at_once()):
        rows = index[left[part]]
        total = logits.read(rows).logsumexp(-1).double()
        out[left[part]] = torch.exp(total + shift.to(total.device)[rows // logits.length])
    return out


def recovered_logits(
    process: Process, method: LawRecovery, ratios: Tensor, x_t: Tensor, t: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Logits (B, L, V), clipped mass (B, L) and condition number of a recovery, in float64 inside.

    Raises:
        ValueError: if the ratios at a masked position allow no clean token.
    """
    recovery = process.recover(ratios, x_t, t, method)
    posterior = recovery.posterior
    if process.absorbing:
        mask = process.mask
        if bool(((x_t == mask) & (posterior[..., mask] >= 1)).any()):
            raise ValueError(
                "the score network gave no positive ratio at a masked position, so no clean "
                "token is possible there; its scores must be positive"
            )
    # Not log(0): its infinite slope would turn the gradients of the other entries into NaN.
    possible = posterior > 0
    logits = torch.where(possible, torch.where(possible, posterior, 1).log(), -torch.inf)
    return logits, recovery.clipped_mass.detach(), recovery.condition_number


class RecoveredLogits(DenseLogits):
    """Logits of the law recovered from ratios, which exist once they are read.

    Draws read :meth:`weights`, which are made of the ratios of a few rows.

    Args:
        process: under which a few positions are recovered at the cost of a few.
        ratios: without gradients.
        t: (B,) float64.
        method: of recovery.
    """

    def __init__(self, process: Process, ratios: Ratios, t: Tensor, method: LawRecovery) -> None:
        self.process, self.ratios, self.t = process, ratios, t
        self.method: LawRecovery = method
        source = ratios.source
        self.batch_size, self.length = source.batch_size, source.length
        self.vocab_size = source.vocab_size
        self.dtype = torch.promote_types(source.dtype, torch.float32)
        self.visible = self.tokens = None
        self._written = True

    @cached_property
    def _made(self) -> tuple[Tensor, Tensor]:
        """The logits (B, L, V) and the clipped mass (B, L)."""
        x, shape = self.ratios.x, (self.batch_size, self.length)
        values = torch.empty(*shape, self.vocab_size, dtype=self.dtype, device=self.device)
        clipped = torch.empty(shape, dtype=torch.float64, device=self.device)
        every = torch.arange(x.numel(), device=self.device).reshape(shape)
        with torch.no_grad():
            for part in row_chunks(self.length, self.batch_size * self.vocab_size):
                here, state = every[:, part], x[:, part]
                ratios = self.ratios.read(here.reshape(-1)).reshape(*here.shape, -1)
                logits, mass, _ = recovered_logits(self.process, self.method, ratios, state, self.t)
                values[:, part] = constrain_logits(logits, state, self.process)
                clipped[:, part] = mass
        return values, clipped

    @property
    def values(self) -> Tensor:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self._made[0]

    @property
    def clipped_mass(self) -> Tensor:
        """(B, L) float64 probability that the closed form put below zero."""
        return self._made[1]

    @property
    def device(self) -> torch.device:
        return self.ratios.x.device

    @property
    def recorded(self) -> bool:
        return False

    @cached_property
    def _to_data(self) -> RatioCoefficients | None:
        return self.process.bridge_to(self.ratios.x, 0.0, self.t).by_ratios

    @torch.no_grad()
    def weights(self, index: Tensor) -> Tensor:
        if self.method != "clip" or self._to_data is None or "_made" in vars(self):
            return super().weights(index)
        step, x, never = self._to_data, self.ratios.x, never_clean(self.process)
        forbidden = torch.tensor(never, dtype=torch.int64, device=self.device)

        def weigh(rows: Tensor, part: slice) -> None:
            stays = step.weigh(rows, x, index[part])
            rows.index_fill_(1, forbidden, 0.0)
            rows.scatter_(1, x.reshape(-1)[index[part], None], stays[:, None].to(rows.dtype))

        return self.ratios.read(index, weigh)

    def rows_at_once(self) -> int:
        return self.ratios.source.rows_at_once()

    def detach(self) -> RecoveredLogits:
        return self

    def timed(self, clock: Clock) -> RecoveredLogits:
        return RecoveredLogits(self.process, self.ratios.timed(clock), self.t, self.method)


class LateRecoveryReport(RecoveryReport):
    """Of a recovery that is made when it is asked for.

    Args:
        logits: the law's.
        condition_number: () or (B,) condition number of P_{t|0}.
    """

    def __init__(self, logits: RecoveredLogits, condition_number: Tensor) -> None:
        self.condition_number = condition_number
        self._logits = logits

    @property
    def clipped_mass(self) -> Tensor:  # pyright: ignore[reportIncompatibleVariableOverride]
        """(B, L)."""
        return self._logits.clipped_mass
