"""Every random draw of the library goes through this file.

Two kinds of ``generator`` are accepted wherever one is asked for:

* a ``torch.Generator`` (or ``None`` for torch's global one): the usual sequential stream;
* :class:`SampleStreams`: one independent counter-based stream **per sample**, so that what sample
  *i* draws depends on the seed and on *i* only, never on which batch it was computed in, on the
  device, or on how many other samples were asked for.

Uniform draws are float64 and lie in the open interval (0, 1). Categorical draws invert the
cumulative distribution in float64: Gumbel noise in float32 lowers the effective temperature
(arXiv 2409.02908).
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, SupportsIndex, TypeAlias, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fewjump.inversion import invert_cdf, invert_logits, row_chunks, rows_per_chunk

_MASK32 = 0xFFFFFFFF
# Philox 4x32 multipliers and Weyl increments: Salmon et al., "Parallel random numbers: as easy
# as 1, 2, 3" (SC11), table 2.
_PHILOX_M0, _PHILOX_M1 = 0xD2511F53, 0xCD9E8D57
_PHILOX_W0, _PHILOX_W1 = 0x9E3779B9, 0xBB67AE85
Word = TypeVar("Word", int, Tensor, NDArray[Any])


def philox4x32(counter: Sequence[Word], key: tuple[int, int]) -> list[Word]:
    """Philox-4x32 counter-based generator (Salmon et al. 2011) of 10 rounds on 32-bit words.

    Args:
        counter: four words in [0, 2^32): integers, or broadcastable int64 tensors, or arrays of
            uint64.
        key: two 32-bit words.

    Returns:
        Four words of the broadcast shape and the kind of ``counter``.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        # Products wrap modulo 2^64, signed ones too, which leaves every bit of them right.
        p0, p1 = c0 * _PHILOX_M0, c2 * _PHILOX_M1
        hi0, lo0 = (p0 >> 32) & _MASK32, p0 & _MASK32
        hi1, lo1 = (p1 >> 32) & _MASK32, p1 & _MASK32
        c0, c1, c2, c3 = hi1 ^ c1 ^ k0, lo1, hi0 ^ c3 ^ k1, lo0
        k0, k1 = (k0 + _PHILOX_W0) & _MASK32, (k1 + _PHILOX_W1) & _MASK32
    return [c0, c1, c2, c3]


class SampleStreams:
    """One reproducible random stream per sample of a batch.

    The stream of sample ``i`` is a pure function of ``(seed, i)`` and of how many draws were made
    before: results do not depend on the batch split or on the device.

    Args:
        seed: any integer in [0, 2^64).
        indices: (B,) int64, the global index of each sample in the batch.
    """

    def __init__(self, seed: int, indices: Tensor) -> None:
        if not 0 <= seed < 1 << 64:
            raise ValueError(f"seed must lie in [0, 2^64), got {seed}")
        self.seed = seed
        self.indices = indices.to(torch.int64)
        self.calls = 0

    @property
    def batch_size(self) -> int:
        return self.indices.shape[0]

    def uniform(self, shape: Sequence[int], device: torch.device | str | None = None) -> Tensor:
        """Float64 uniforms in (0, 1) of ``shape``, whose first axis must be the batch."""
        if not shape or shape[0] != self.batch_size:
            raise ValueError(
                f"per-sample streams were made for a batch of {self.batch_size}, "
                f"but a draw of shape {tuple(shape)} was asked for"
            )
        width = 1
        for size in shape[1:]:
            width *= size
        element = torch.arange(width, device=device)
        return self._draw(self.indices.to(element.device)[:, None], element).reshape(tuple(shape))

    def uniform_where(self, where: Tensor) -> Tensor:
        """Float64 uniforms for the True entries of ``where`` (B, ...), in row-major order."""
        width = where[0].numel() if where.shape[0] else 0
        flat = where.reshape(where.shape[0], width).nonzero()
        return self._draw(self.indices.to(where.device)[flat[:, 0]], flat[:, 1])

    def _draw(self, index: Tensor, element: Tensor) -> Tensor:
        """Of samples ``index``, their elements of this call; of the two's broadcast shape."""
        call = torch.full((1,), self.calls, device=index.device)
        self.calls += 1
        counter = (element, call, index & _MASK32, (index >> 32) & _MASK32)
        key = (self.seed & _MASK32, self.seed >> 32)
        if index.device.type == "cpu":
            # Many small operations, of which numpy makes three in the time of one of torch's.
            arrays = [word.numpy().view(np.uint64) for word in counter]
            words = [torch.from_numpy(word.view(np.int64)) for word in philox4x32(arrays, key)[:2]]
        else:
            words = philox4x32(counter, key)
        return _to_unit_interval(words[0], words[1])


def _to_unit_interval(high: Tensor, low: Tensor) -> Tensor:
    """Two 32-bit words → float64 in (0, 1), 52 random bits and never an end point."""
    bits = (high << 20) | (low >> 12)
    return (bits.double() + 0.5) * 2.0**-52


Generator: TypeAlias = torch.Generator | SampleStreams | None


def forked(generator: Generator) -> Generator:
    """A generator for draws whose number depends on what is drawn.

    What per-sample streams give afterwards then does not depend on that number. A sequential
    generator is its own fork.
    """
    if not isinstance(generator, SampleStreams):
        return generator
    child = SampleStreams(fold_seed(generator.seed, generator.calls), generator.indices)
    generator.calls += 1
    return child


def of_rows(generator: Generator, rows: Tensor) -> Generator:
    """The streams of some rows (N,) of the batch; a sequential generator as it is."""
    if not isinstance(generator, SampleStreams):
        return generator
    part = SampleStreams(generator.seed, generator.indices.to(rows.device)[rows])
    part.calls = generator.calls
    return part


def uniform(
    shape: Sequence[int], generator: Generator = None, device: torch.device | str | None = None
) -> Tensor:
    """Float64 uniforms in (0, 1) of ``shape`` (first axis the batch, for per-sample streams)."""
    if isinstance(generator, SampleStreams):
        return generator.uniform(shape, device)
    if not isinstance(generator, torch.Generator | None):
        raise TypeError(
            f"a generator is a torch.Generator, SampleStreams or None, got {generator!r}; for a "
            "seed: torch.Generator().manual_seed(seed)"
        )
    # Drawn on the generator's own device so that a CPU generator reproduces on any device.
    source = generator.device if generator is not None else device
    value = torch.rand(tuple(shape), generator=generator, dtype=torch.float64, device=source)
    return value.clamp_(min=2.0**-54).to(device=device)


def uniform_where(where: Tensor, generator: Generator = None) -> Tensor:
    """Float64 uniforms for the True entries of ``where`` (B, ...), in row-major order: (N,)."""
    if isinstance(generator, SampleStreams):
        return generator.uniform_where(where)
    return uniform((int(where.sum()),), generator, where.device)


def bernoulli(probability: Tensor, generator: Generator = None) -> Tensor:
    """Boolean draws with the given probabilities (B, ...), compared in float64."""
    return uniform(probability.shape, generator, probability.device) < probability.double()


def integers(
    high: int, shape: Sequence[int], generator: Generator = None, device: torch.device | None = None
) -> Tensor:
    """Integers uniform on {0, …, high−1} of ``shape`` (first axis the batch)."""
    draw = uniform(shape, generator, device)
    return (draw * high).long().clamp_(max=high - 1)


def categorical(weights: Tensor, generator: Generator = None) -> Tensor:
    """Exact categorical draws by inversion in float64.

    Args:
        weights: (B, ..., V) non-negative, need not be normalised.
        generator: see the module docstring.

    Returns:
        (B, ...) int64.
    """
    shape = weights.shape[:-1]
    u = uniform(shape, generator, weights.device)
    return invert_cdf(weights.reshape(-1, weights.shape[-1]), u.reshape(-1)).reshape(shape)


def categorical_from_logits(logits: Tensor, generator: Generator = None) -> Tensor:
    """Categorical draws from unnormalised log-probabilities, chunked over rows for large V.

    Args:
        logits: (B, ..., V) float; −inf marks impossible tokens.
        generator: see the module docstring.

    Returns:
        (B, ...) int64.
    """
    flat = logits.reshape(-1, logits.shape[-1])
    u = uniform(logits.shape[:-1], generator, logits.device).reshape(-1)
    out = torch.empty(u.shape[0], dtype=torch.int64, device=logits.device)
    for part in row_chunks(u.shape[0], 1, rows_per_chunk(flat.shape[-1], logits.device)):
        out[part] = invert_logits(flat[part], u[part])
    return out.reshape(logits.shape[:-1])


def permutation_keys(shape: Sequence[int], generator: Generator, device: torch.device) -> Tensor:
    """Float64 keys whose order is a uniformly random permutation of each row."""
    return uniform(shape, generator, device)


def permutation(size: int, seed: int) -> Tensor:
    """A uniformly random order of 0 … size − 1, (size,) int64, on the CPU."""
    streams = SampleStreams(seed, torch.arange(size))
    return permutation_keys((size,), streams, torch.device("cpu")).argsort()


def fold_seed(*parts: int) -> int:
    """A 63-bit seed that depends on every integer of ``parts`` (Philox, not Python's hash)."""
    state = [0, 0]
    for part in parts:
        value = part & 0xFFFFFFFFFFFFFFFF
        counter = (value & _MASK32, value >> 32, *state)
        state = philox4x32(counter, (0x66657775, 0x6D70_2121))[:2]
    return ((state[0] << 32) | state[1]) & ((1 << 63) - 1)


def generator_for(*parts: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A torch generator seeded by all of ``parts``: for example (seed, rank, step)."""
    return torch.Generator(device=device).manual_seed(fold_seed(*parts))


def draw_seed(generator: torch.Generator | int | None) -> int:
    """The seed given, or one drawn from the generator (torch's global one for None)."""
    if generator is None or isinstance(generator, torch.Generator):
        device = "cpu" if generator is None else generator.device
        return int(torch.randint(0, 1 << 62, (), generator=generator, device=device))
    if isinstance(generator, bool) or not isinstance(generator, SupportsIndex):
        raise TypeError(
            f"generator must be a torch.Generator, an integer seed or None, got {generator!r}"
        )
    seed = operator.index(generator)
    if not 0 <= seed < 1 << 64:
        raise ValueError(f"a seed must lie in [0, 2^64), got {seed}")
    return seed


@contextmanager
def initial_weights(*parts: int) -> Iterator[None]:
    """Torch's generator of the CPU is seeded by ``parts``; afterwards every one is as it was."""
    with torch.random.fork_rng(devices=[]):
        # torch.manual_seed would seed those of accelerators too, and nothing restores them.
        torch.default_generator.manual_seed(fold_seed(*parts))
        yield


def seed_dropout(seed: int, device: torch.device) -> None:
    """Seed torch's global generators, which dropout draws from.

    ``torch.manual_seed`` does, for every kind of accelerator there is; where one is not in use it
    walks the call stack to remember the call, which takes milliseconds of every training step.
    """
    if device.type == "cpu":
        torch.default_generator.manual_seed(seed)
    else:
        torch.manual_seed(seed)
