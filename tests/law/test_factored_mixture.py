"""The mixture of large vocabularies is the mixture whose logits are written down."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fewjump.denoiser import NetworkDenoiser, constrain
from fewjump.denoiser.joint_heads.chain import ChainHead, MixtureOfChainsHead
from fewjump.law import LowRankEmission, MixtureLaw
from fewjump.objective import JointConditionalMatching, freeze
from fewjump.process import Absorbing
from fewjump.random import SampleStreams
from fewjump.sampler import run
from fewjump.schedule import LogLinear

B, L, K, V, D = 2, 3, 4, 5, 2
X0 = torch.tensor([[1, 0, 3], [2, 2, 1]])


def both(seed: int = 0) -> tuple[MixtureLaw, MixtureLaw, list[Tensor]]:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()

    parts = [draw(B, L, V), draw(B, L, K, D), draw(V, D), draw(B, K)]
    base, features, tokens, weights = parts
    impossible = torch.zeros(V, dtype=torch.float64)
    impossible[V - 1] = -torch.inf
    base = base + impossible
    factored = MixtureLaw(LowRankEmission(base, features, tokens), weights)
    written = MixtureLaw((features @ tokens.T + base[:, :, None]).transpose(1, 2), weights)
    return factored, written, parts


def test_values_and_gradients_are_the_mixtures() -> None:
    factored, written, parts = both()
    for one, two in (
        (factored.log_prob(X0), written.log_prob(X0)),
        (factored.component_log_prob(X0), written.component_log_prob(X0)),
    ):
        torch.testing.assert_close(one, two, atol=1e-12, rtol=1e-12)
        got = torch.autograd.grad(one.sum(), parts[:3], retain_graph=True)
        want = torch.autograd.grad(two.sum(), parts[:3], retain_graph=True)
        torch.testing.assert_close(got, want, atol=1e-11, rtol=1e-11)
    torch.testing.assert_close(factored.marginals(), written.marginals())


def test_other_laws_made_from_it_are_too() -> None:
    factored, written, _ = both()
    known = torch.tensor([[True, False, False], [False, True, True]])
    for change in (
        lambda law: law.given(X0, known),
        lambda law: law.tempered(0.6, 0.8),
        lambda law: law.select(torch.tensor([1])),
        lambda law: law.select(torch.tensor([1])).expand(3),
        # The last token is possible nowhere: the weights stay.
        lambda law: law.given(torch.full_like(X0, V - 1), known),
    ):
        one, two = change(factored), change(written)
        torch.testing.assert_close(
            one.enumerate().exp(), two.enumerate().exp(), atol=1e-12, rtol=1e-10
        )
    with pytest.raises(ValueError, match="already tempered"):
        factored.tempered(0.6, 0.8).tempered(0.6)
    with pytest.raises(ValueError, match="weight_logits must be"):
        MixtureLaw(factored.emission, torch.zeros(B, K + 1))


def test_a_head_onto_a_large_vocabulary_has_it_and_trains_as_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    process = Absorbing(V + 1, LogLinear())
    trunk = {"hidden": 8, "blocks": 1, "heads": 2, "condition_dim": 8}
    config = {"process": process.config(), "trunk": trunk, "length": L}
    head = {"kind": "mixture", "components": K, "rank": 3, "length": L, "evidence": True}
    torch.manual_seed(0)
    student = NetworkDenoiser.from_config({**config, "head": head}).double()
    teacher = NetworkDenoiser.from_config(config).double()
    for model in (student, teacher):
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.4)
    freeze(teacher)
    data = torch.randint(V, (16, L), generator=torch.Generator().manual_seed(1))
    found = []
    for defer_from in (V + 2, V + 1):
        monkeypatch.setattr(constrain, "DEFER_FROM", defer_from)
        student.zero_grad(set_to_none=True)
        objective = JointConditionalMatching(near=0.3, steps=2)
        loss, _ = objective(student, teacher, data, SampleStreams(3, torch.arange(16)))
        loss.backward()
        gradients = [p.grad.clone() for p in student.parameters() if p.grad is not None]
        with torch.no_grad():
            law = student(torch.full((1, L), V), 1.0)
        found.append((loss.detach(), gradients, law.enumerate().exp()))
    assert isinstance(law, MixtureLaw)
    assert isinstance(law.emission, LowRankEmission)
    torch.testing.assert_close(found[0], found[1], atol=1e-10, rtol=1e-9)
    # Draws are of the law; that they are the same numbers is not asked for.
    samples = run(student, 20_000, 1, generator=0).samples
    index = (samples * torch.tensor([(V + 1) ** 2, V + 1, 1])).sum(-1)
    share = torch.bincount(index, minlength=(V + 1) ** 3).double() / len(samples)
    assert float((share - found[1][2][0]).abs().sum()) / 2 < 0.05


@pytest.mark.parametrize("head", [ChainHead, MixtureOfChainsHead])
def test_chains_write_nothing_per_state_and_token_where_it_would_not_fit(head: type) -> None:
    small, large = (head(8, size) for size in (constrain.DEFER_FROM - 1, constrain.DEFER_FROM))
    assert small.config()["emission"] == "dense"
    assert large.config()["emission"] == "low-rank"
    assert head(8, constrain.DEFER_FROM, emission="dense").config()["emission"] == "dense"
