"""A squared tensor train: amplitudes that are products of small matrices, one for each token."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from fewjump.law.autoregressive import Conditionals, Walk
from fewjump.law.batched import SHARED
from fewjump.law.emission_normaliser import CHUNK
from fewjump.law.log_weights import at_least_float32
from fewjump.law.logits import DenseLogits, pin_logits


@dataclass(eq=False)
class TensorTrain(Conditionals):
    """The conditionals, left to right, of a product law times a squared tensor train:

        p(x) ∝ Πᵢ softmax(uᵢ)(xⁱ) · ‖G(xᴸ) S_L ⋯ G(x²) S₂ G(x¹) S₁ ℓ‖².

    G are D×D matrices with entries of any sign, S diagonal, ℓ a vector. Squares let amplitudes
    cancel, which a hidden Markov chain of D states (:class:`~fewjump.law.chain.ChainLaw`) cannot
    (Glasser et al., arXiv 1907.03741). Tensor trains as heads of diffusion models: arXiv
    2607.03788.

    What follows a position is summed out in a D×D matrix, its *environment*

        E_L = I,  E_{i−1} = S_i (Σ_x softmax(u_i)(x) G(x)ᵀ E_i G(x)) S_i,

    so that conditionals, marginals and the law given **any** set of known tokens are exact. With
    orthogonal G and S = 1 every environment is the identity, and the law is the product law.

    Time is L·V·D³ for the environments and L·V·D² for conditionals, in chunks of the vocabulary
    that the backward pass computes again. What is kept is (B, L, D, D), and the (B, L, V)
    conditionals where all are asked for.

    Args:
        logits: (B, L, V), the u; −inf marks impossible tokens.
        cores: (V, D, D), the G.
        left: (D,), the ℓ.
        log_scale: (B, L, D), logarithms of the diagonals of S.
        after: (B, L, D, D), the environments E_i; computed where they are left out.

    Raises:
        ValueError: for shapes that do not fit.
    """

    logits: Tensor
    cores: Tensor = field(metadata=SHARED)
    left: Tensor = field(metadata=SHARED)
    log_scale: Tensor
    after: Tensor | None = None

    def __post_init__(self) -> None:
        if self.logits.dim() != 3:
            raise ValueError(f"logits must be (B, L, V), got shape {tuple(self.logits.shape)}")
        self.batch_size, self.length, self.vocab_size = self.logits.shape
        self.bond = self.left.shape[0]
        for name, shape in (
            ("cores", (self.vocab_size, self.bond, self.bond)),
            ("log_scale", (self.batch_size, self.length, self.bond)),
        ):
            if getattr(self, name).shape != shape:
                raise ValueError(
                    f"{name} must have shape {shape} to match logits and left, "
                    f"got {tuple(getattr(self, name).shape)}"
                )
        self.logits, self.cores, self.left, self.log_scale = map(
            at_least_float32, (self.logits, self.cores, self.left, self.log_scale)
        )
        if self.after is None:
            with torch.autocast(self.device.type, enabled=False):
                self.after = self._environments()

    def _split(self, rows: int) -> Callable[[Tensor, int], Sequence[Tensor]]:
        """Parts of an axis over the vocabulary, for work on ``rows`` numbers for every token.

        The gradient of a split is put together once, that of slices is as large for each of them.
        """
        size = max(1, CHUNK // max(1, rows))
        return lambda values, axis: values.split(size, axis)

    def _environments(self) -> Tensor:
        split = self._split(self.batch_size * self.bond**2)
        weight, cores = self.logits.softmax(-1).unbind(1), split(self.cores, 0)
        scale = self.log_scale.exp()
        after = torch.eye(self.bond, dtype=scale.dtype, device=scale.device)
        after = after.expand(self.batch_size, -1, -1)
        out = [after]
        for i in range(self.length - 1, 0, -1):
            total = torch.zeros_like(after)
            for share, part in zip(split(weight[i], 1), cores):
                total = total + _again(_pull, after, share, part)
            after = _unit_trace(scale[:, i, :, None] * total * scale[:, i, None, :])
            out.append(after)
        return torch.stack(out[::-1], 1)

    # -- conditionals -----------------------------------------------------------------------

    def start(self) -> Tensor:
        """The vector before the first token, of norm 1: (B, D)."""
        return functional.normalize(self.left, dim=0).expand(self.batch_size, -1)

    def follow(self, vector: Tensor, i: int, token: Tensor) -> Tensor:
        """The vector after the token (B,) of position i, of norm 1: (B, D) → (B, D)."""
        scaled = vector * self.log_scale[:, i].exp()
        moved = functional.embedding(token, self.cores.flatten(1)).view(-1, self.bond, self.bond)
        return functional.normalize((moved @ scaled[..., None])[..., 0], dim=-1)

    def at(self, vector: Tensor, i: int | slice) -> Tensor:
        """Logits of positions i after vectors (B, [n,] D): (B, [n,] V)."""
        assert self.after is not None
        before = (vector * self.log_scale[:, i].exp()).reshape(-1, self.bond)
        after = self.after[:, i].reshape(-1, self.bond, self.bond)
        cores = self._split(before.numel())(self.cores, 0)
        parts = [_again(_weigh, before, after, part) for part in cores]
        weight = torch.cat(parts, -1).view(self.logits[:, i].shape)
        return self.logits[:, i] + weight.clamp(min=torch.finfo(weight.dtype).tiny).log()

    def source(self, x0: Tensor) -> DenseLogits:
        with torch.autocast(self.device.type, enabled=False):
            vectors = [self.start()]
            for i in range(self.length - 1):
                vectors.append(self.follow(vectors[-1], i, x0[:, i]))
            return DenseLogits(self.at(torch.stack(vectors, 1), slice(None)))

    def product_logits(self) -> DenseLogits:
        return DenseLogits(self.logits)

    def begin(self) -> Walk:
        return _TensorTrainWalk(self)

    def given(self, x0: Tensor, known: Tensor) -> TensorTrain:
        logits = pin_logits(self.logits, x0, known)
        return TensorTrain(logits, self.cores, self.left, self.log_scale)

    def marginals(self) -> Tensor:
        """Exact, by an environment from the left beside that from the right: (B, L, V)."""
        assert self.after is not None
        split = self._split(self.batch_size * self.bond**2)
        weight, scale = self.logits.softmax(-1), self.log_scale.exp()
        before = self.start()[:, :, None] * self.start()[:, None, :]
        out = []
        with torch.autocast(self.device.type, enabled=False):
            for i in range(self.length):
                before = scale[:, i, :, None] * before * scale[:, i, None, :]
                total, shares = torch.zeros_like(before), []
                for share, cores in zip(split(weight[:, i], 1), split(self.cores, 0)):
                    moved = cores @ before[:, None]
                    shares.append(((self.after[:, i, None] @ cores) * moved).sum((-2, -1)))
                    moved = moved * share[..., None, None]
                    total = total + torch.einsum("bxkj,xlj->bkl", moved, cores)
                each = weight[:, i] * torch.cat(shares, -1).clamp(min=0)
                out.append(each / each.sum(-1, keepdim=True))
                before = _unit_trace(total)
        return torch.stack(out, 1)


class _TensorTrainWalk(Walk):
    def __init__(self, train: TensorTrain) -> None:
        self.train, self.vector = train, train.start()

    def next_logits(self, step: int, x0: Tensor) -> Tensor:
        if step:
            self.vector = self.train.follow(self.vector, step - 1, x0[:, step - 1])
        return self.train.at(self.vector, step)


def _again(function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """The function's value, which is computed again in the backward pass."""
    if not torch.is_grad_enabled():
        return function(*inputs)
    return checkpoint(function, *inputs, use_reentrant=False, preserve_rng_state=False)  # type: ignore[return-value]


def _pull(after: Tensor, weight: Tensor, cores: Tensor) -> Tensor:
    """Σ_x weight(x) G(x)ᵀ E G(x) over some tokens: (B, D, D), (B, n), (n, D, D) → (B, D, D)."""
    count, bond, _ = cores.shape
    wide = cores.transpose(0, 1).reshape(bond, count * bond)
    moved = (after.flatten(0, 1) @ wide).view(-1, bond, count, bond)
    moved = (moved * weight[:, None, :, None]).flatten(1, 2)
    return wide.reshape(bond * count, bond).T @ moved


def _weigh(before: Tensor, after: Tensor, cores: Tensor) -> Tensor:
    """‖E^½ G(x) v‖² for some tokens: (N, D), (N, D, D), (n, D, D) → (N, n)."""
    moved = (before @ cores.flatten(0, 1).T).view(len(before), *cores.shape[:2])
    return ((moved @ after) * moved).sum(-1)


def _unit_trace(matrix: Tensor) -> Tensor:
    trace = matrix.diagonal(dim1=-2, dim2=-1).sum(-1)
    return matrix / trace[..., None, None]
