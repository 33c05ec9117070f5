"""Every way to a token's cross-entropy from features and a head gives the plain formula."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

from fewjump.law import cross_entropy, logit_pass
from fewjump.law.cross_entropy import has_liger, linear_token_cross_entropy
from fewjump.law.logit_pass import Gain, LinearHead

N, D, V = 6, 4, 7
MASK = 6
TOKENS = torch.tensor([1, 0, 5, 2, 2, 4])


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (logit_pass, cross_entropy):
        monkeypatch.setattr(module, "CHUNK_ELEMENTS", 2 * V)


def head(dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """Features, weight and bias with an impossible token; leaves with gradients, but the last."""
    generator = torch.Generator().manual_seed(0)
    shapes = ((N, D), (V, D), (V,))
    values = [torch.randn(s, generator=generator, dtype=dtype) for s in shapes]
    values[2][MASK] = -torch.inf
    return [v.requires_grad_() for v in values]


@pytest.mark.parametrize("way", ["torch", "ours", "ours with a gain"])
def test_hard_labels_equal_the_plain_formula(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if way == "torch" and not hasattr(torch.nn, "LinearCrossEntropyOptions"):
        pytest.skip("this torch has no chunked linear cross-entropy")
    if way == "ours":
        monkeypatch.delattr(torch.nn, "LinearCrossEntropyOptions", raising=False)
    values = head()
    features, weight, bias = values
    gain, logits = None, features @ weight.T + bias
    if way == "ours with a gain":
        gain = Gain(torch.arange(N), torch.linspace(0.5, 2.0, N, dtype=torch.float64))
        logits = logits + torch.diag(gain.amount)[:, :N] @ torch.eye(N, V, dtype=torch.float64)
    scale = torch.rand(N, dtype=torch.float64)
    got = linear_token_cross_entropy(
        LinearHead(features, weight, bias, features.dtype, gain), TOKENS
    )
    want = torch.nn.functional.cross_entropy(logits, TOKENS, reduction="none")
    torch.testing.assert_close(got, want, atol=1e-12, rtol=1e-12)
    one = torch.autograd.grad((scale * got).sum(), values)
    two = torch.autograd.grad((scale * want).sum(), values)
    torch.testing.assert_close(one, two, atol=1e-12, rtol=1e-12)


def test_gradients_of_our_own_way_by_finite_differences(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.nn, "LinearCrossEntropyOptions", raising=False)
    features, weight, _ = head()
    never = torch.zeros(V, dtype=torch.float64)
    never[MASK] = -torch.inf
    free = torch.randn(V, dtype=torch.float64, requires_grad=True)

    def loss(h: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return linear_token_cross_entropy(LinearHead(h, w, b + never, h.dtype), TOKENS)

    assert gradcheck(loss, (features, weight, free))


def test_no_rows_cost_nothing() -> None:
    features, weight, bias = head()
    none = linear_token_cross_entropy(
        LinearHead(features[:0], weight, bias, torch.float64), TOKENS[:0]
    )
    assert none.shape == (0,)


def test_an_old_liger_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its gradients of single rows were wrong before the version that is asked for."""
    monkeypatch.setattr(cross_entropy, "find_spec", lambda name: object())
    for version, wanted in (("0.5.2", False), ("0.8.5", True), ("1.0.0", True), ("x", False)):
        has_liger.cache_clear()
        monkeypatch.setattr(cross_entropy.metadata, "version", lambda name, v=version: v)
        assert has_liger() is wanted
    has_liger.cache_clear()
    monkeypatch.setattr(cross_entropy, "find_spec", lambda name: None)
    assert not has_liger()
    has_liger.cache_clear()


INTERPRETED = """
import torch
from functools import partial
from fewjump.law.cross_entropy import _TokenCrossEntropy, liger_token_cross_entropy
from fewjump.law.logit_pass import LinearPass

generator = torch.Generator().manual_seed(0)
device = "cuda" if torch.cuda.is_available() else "cpu"
values = [torch.randn(s, generator=generator).to(device) for s in ((11, 8), (37, 8), (37,))]
values[2][36] = -torch.inf
values = [v.requires_grad_() for v in values]
tokens = torch.randint(36, (11,), generator=generator).to(device)
scale = torch.rand(11, generator=generator).to(device)
for compute, tolerance in ((torch.float32, 2e-6), (torch.bfloat16, 0.03)):
    found = []
    for way in (
        lambda: liger_token_cross_entropy(*values, tokens, compute),
        lambda: _TokenCrossEntropy.apply(partial(LinearPass, torch.float32, None), tokens, *values),
    ):
        loss = way()
        assert loss.shape == (11,) and loss.dtype == torch.float32
        found.append((loss.detach(), *torch.autograd.grad((scale * loss).sum(), values)))
    for a, b in zip(*found):
        assert a.dtype == torch.float32
        torch.testing.assert_close(a, b, atol=tolerance, rtol=tolerance)
print("agrees")
"""


@pytest.mark.skipif(not has_liger(), reason="needs the liger extra")
def test_ligers_kernel_agrees() -> None:
    """On a GPU as it is; without one in Triton's interpreter, which must be asked for at import."""
    there = {} if torch.cuda.is_available() else {"TRITON_INTERPRET": "1"}
    done = subprocess.run(
        [sys.executable, "-c", INTERPRETED],
        env={**os.environ, **there},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "agrees" in done.stdout


@pytest.mark.gpu
@pytest.mark.skipif(not has_liger(), reason="needs the liger extra")
def test_on_a_gpu_liger_is_what_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    called = []
    plain = cross_entropy.liger_token_cross_entropy

    def watched(*arguments: object) -> Tensor:
        called.append(1)
        return plain(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(cross_entropy, "liger_token_cross_entropy", watched)
    values = [v.detach().cuda() for v in head(torch.float32)]
    got = linear_token_cross_entropy(LinearHead(*values, torch.float32), TOKENS.cuda())
    want = torch.nn.functional.cross_entropy(
        values[0] @ values[1].T + values[2], TOKENS.cuda(), reduction="none"
    )
    assert called
    torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)
