"""Causal layers with two faces: all positions at once, and one position after another."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from fewjump.denoiser.rotary import rotary_table, rotate


class CausalGRU(nn.Module):
    """A gated recurrent unit; its cache is the hidden state."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gru = nn.GRU(width, width, batch_first=True)

    def forward(self, inputs: Tensor) -> Tensor:
        """(B, L, width) → (B, L, width); output i reads inputs 0..i."""
        return self.gru(inputs)[0]

    def begin(self, inputs: Tensor) -> list[Tensor]:
        """An empty cache for a batch like ``inputs``."""
        return [inputs.new_zeros(1, inputs.shape[0], inputs.shape[2])]

    def step(self, inputs: Tensor, position: int, cache: list[Tensor]) -> Tensor:
        """One position, (B, 1, width) → (B, 1, width); the cache is brought forward in place."""
        state, cache[0] = self.gru(inputs, cache[0])
        return state

    def gates(self, inputs: Tensor) -> Tensor:
        """What inputs (..., width) add to the three gates, linearly: (..., 3·width), no bias."""
        return functional.linear(inputs, self.gru.all_weights[0][0])

    def advance(self, gates: Tensor, state: Tensor) -> Tensor:
        """The next state (B, width) from this one and the :meth:`gates` of the inputs."""
        width = state.shape[-1]
        _, weight, input_bias, bias = self.gru.all_weights[0]
        gates, own = gates + input_bias, functional.linear(state, weight, bias)
        keep = (gates[:, : 2 * width] + own[:, : 2 * width]).sigmoid()
        new = torch.addcmul(gates[:, 2 * width :], keep[:, :width], own[:, 2 * width :]).tanh()
        return torch.lerp(new, state, keep[:, width:])


class CausalAttention(nn.Module):
    """One pre-norm attention block with rotary positions; its cache is the keys and values."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if width % (2 * heads):
            raise ValueError(
                f"attention needs a width that is a multiple of 2*heads = {2 * heads}, got {width}"
            )
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.mlp = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(approximate="tanh"), nn.Linear(2 * width, width)
        )

    def forward(self, inputs: Tensor) -> Tensor:
        """(B, L, width) → (B, L, width); output i reads inputs 0..i."""
        q, k, v = self._project(inputs, 0)
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self._finish(inputs, mixed)

    def begin(self, inputs: Tensor) -> list[Tensor]:
        """An empty cache for a batch and length like ``inputs``: keys and values."""
        batch, length, width = inputs.shape
        shape = (batch, self.heads, length, width // self.heads)
        dtype = self.qkv.weight.dtype
        return [torch.zeros(shape, dtype=dtype, device=inputs.device) for _ in range(2)]

    def step(self, inputs: Tensor, position: int, cache: list[Tensor]) -> Tensor:
        """One position, (B, 1, width) → (B, 1, width); the cache is filled in place."""
        q, k, v = self._project(inputs, position)
        cache[0][:, :, position], cache[1][:, :, position] = k[:, :, 0], v[:, :, 0]
        keys, values = (c[:, :, : position + 1].to(q.dtype) for c in cache)
        return self._finish(inputs, functional.scaled_dot_product_attention(q, keys, values))

    def _project(self, inputs: Tensor, start: int) -> tuple[Tensor, Tensor, Tensor]:
        batch, length, width = inputs.shape
        qkv = self.qkv(self.norm1(inputs)).view(batch, length, 3, self.heads, width // self.heads)
        table = rotary_table(start + length, width // self.heads, None, inputs.device)[:, start:]
        qk, v = qkv.split((2, 1), dim=2)
        q, k = rotate(qk, table).transpose(1, 3).unbind(2)
        return q, k, v.squeeze(2).transpose(1, 2)

    def _finish(self, inputs: Tensor, mixed: Tensor) -> Tensor:
        h = inputs + self.out(mixed.transpose(1, 2).flatten(2))
        return h + self.mlp(self.norm2(h))
