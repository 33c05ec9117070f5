"""Kept tokens and padding in denoisers: certain where seen, impossible elsewhere, and invisible."""

from __future__ import annotations

import pytest
import torch

from fewjump.denoiser import HEADS, LogitDenoiser, NetworkDenoiser, constrain
from fewjump.law import Law
from fewjump.objective import ConditionalMatching, CrossEntropyELBO, freeze, nelbo
from fewjump.problem import EnumeratedJoint
from fewjump.process import Absorbing, Process, Uniform
from fewjump.random import SampleStreams
from fewjump.sampler import SAMPLERS, exact_output_law, run
from fewjump.schedule import LogLinear

PAD, MASK, V = 2, 1, 6
PROCESSES: dict[str, Process] = {
    "absorbing": Absorbing(V, LogLinear(), mask=MASK, kept=(PAD, 5)),
    "uniform": Uniform(V, LogLinear(), kept=(PAD, 5)),
}
EVERY = pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES)


def network(process: Process, kind: str = "product", **trunk) -> NetworkDenoiser:
    sizes = {"hidden": 8, "blocks": 2, "heads": 2, "condition_dim": 4, "padding": PAD, **trunk}
    config = {"process": process.config(), "trunk": sizes, "head": {"kind": kind}, "length": 6}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = NetworkDenoiser.from_config(config).double().eval()
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator).double()
    return model


def check_law(law: Law, x: torch.Tensor, process: Process) -> None:
    marginals = law.marginals()
    kept = process.is_kept(x)
    seen = marginals.gather(-1, x[..., None])[..., 0]
    torch.testing.assert_close(seen[kept], torch.ones_like(seen[kept]), rtol=0, atol=1e-12)
    never = [*process.kept, *([] if process.mask is None else [process.mask])]
    hidden = x == MASK if process.mask is not None else ~kept
    assert torch.equal(process.hidden(x), hidden)
    assert marginals[hidden][:, never].abs().max() == 0
    draws = law.sample(torch.Generator().manual_seed(0))
    assert torch.equal(draws[kept], x[kept])
    assert not torch.isin(draws[~kept], torch.tensor(process.kept)).any()


@EVERY
@pytest.mark.parametrize("kind", sorted(HEADS))
@pytest.mark.parametrize("recorded", [False, True])
def test_every_head_knows(process: Process, kind: str, recorded: bool) -> None:
    if kind == "shared-mixture" and process.mask is None:
        pytest.skip("absorbing only")
    model = network(process, kind)
    x = torch.tensor([[0, MASK, 3, 5, PAD, PAD], [5, MASK, MASK, 4, MASK, PAD]])
    with torch.set_grad_enabled(recorded):
        law = model(x, 0.6)
        check_law(law, x, process)


@EVERY
def test_deferred_and_plain_logits_agree(process: Process, monkeypatch) -> None:
    model = network(process)
    x = torch.tensor([[0, MASK, 3, 5, PAD, PAD]])
    plain = model(x, 0.6)
    monkeypatch.setattr(constrain, "DEFER_FROM", 2)
    later = model(x, 0.6)
    assert later.source.deferred
    assert not plain.source.deferred
    check_law(later, x, process)
    torch.testing.assert_close(later.marginals(), plain.marginals(), rtol=1e-12, atol=1e-14)


def test_a_wrapped_network_knows_too() -> None:
    def logits(x, t):
        return torch.randn(*x.shape, V, generator=torch.Generator().manual_seed(2))

    x = torch.tensor([[0, MASK, 3, 5, PAD, PAD]])
    for process in PROCESSES.values():
        check_law(LogitDenoiser(logits, process)(x, 0.5), x, process)


@EVERY
@pytest.mark.parametrize("kind", ["product", "chain", "autoregressive"])
@pytest.mark.parametrize("kernel", [0, 3])
def test_padding_changes_nothing_for_the_others(process: Process, kind: str, kernel: int) -> None:
    model = network(process, kind, conv_kernel=kernel)
    x = torch.tensor([[0, MASK, 3, 5], [5, MASK, MASK, 4]])
    padded = torch.nn.functional.pad(x, (0, 3), value=PAD)
    short, long = model(x, 0.6), model(padded, 0.6)
    if kind != "autoregressive":  # whose marginals are estimates
        found = long.marginals()[:, :4]
        torch.testing.assert_close(found, short.marginals(), rtol=1e-9, atol=1e-12)
    x0 = torch.where(x == MASK, 3, x)
    whole = torch.nn.functional.pad(x0, (0, 3), value=PAD)
    torch.testing.assert_close(long.log_prob(whole), short.log_prob(x0), rtol=1e-9, atol=1e-12)
    # Without the option the network sees the padding.
    blind = network(process, kind, conv_kernel=kernel, padding=None)
    seen = blind(padded, 0.6).log_prob(whole) - blind(x, 0.6).log_prob(x0)
    assert seen.abs().max() > 1e-4


class Columns(SampleStreams):
    """Streams whose draw for (sample, position) does not depend on how many positions there are."""

    def uniform(self, shape, device=None):
        if len(shape) < 2:
            return super().uniform(shape, device)
        wide = super().uniform((shape[0], 16, *shape[2:]), device)
        return wide[:, : shape[1]]


@EVERY
@pytest.mark.parametrize(
    "objective",
    [CrossEntropyELBO(), ConditionalMatching("forward"), ConditionalMatching("student-exact")],
    ids=lambda o: type(o).__name__ + getattr(o, "intermediate", ""),
)
def test_padding_changes_no_loss(process: Process, objective) -> None:
    student, teacher = network(process), freeze(network(process, hidden=12))
    x0 = torch.tensor([[0, 3, 5, 4], [4, 0, 0, 3]])
    padded = torch.nn.functional.pad(x0, (0, 3), value=PAD)
    sums, grads = [], []
    for batch in (x0, padded):
        student.zero_grad()
        loss, _ = objective(student, teacher, batch, Columns(7, torch.arange(2)))
        (loss * batch.shape[1]).backward()
        sums.append(float(loss.detach()) * batch.shape[1])
        grads.append(torch.cat([p.grad.reshape(-1) for p in student.parameters()]))
    assert sums[0] == pytest.approx(sums[1], rel=1e-9)
    assert sums[0] > 0.1
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-7, atol=1e-10)


@EVERY
def test_the_bound_does_not_count_padding(process: Process) -> None:
    model = network(process)
    x0 = torch.tensor([[0, 3, 5, 4]])
    padded = torch.nn.functional.pad(x0, (0, 3), value=PAD)
    found = [
        float(nelbo(model, x, num_times=4, generator=Columns(3, torch.arange(1))))
        for x in (x0, padded)
    ]
    assert found[0] == pytest.approx(found[1], rel=1e-9)
    assert found[0] > 0.1


# -- against enumeration ------------------------------------------------------------------------


def padded_problem() -> EnumeratedJoint:
    """Sequences of 2 or 3 tokens out of {0, 1}, filled up with the token 2."""
    source = torch.Generator().manual_seed(4)
    probs = torch.zeros(3, 3, 3, dtype=torch.float64)
    probs[:2, :2, :2] = torch.rand(2, 2, 2, generator=source).double()
    probs[:2, :2, 2] = torch.rand(2, 2, generator=source).double()
    return EnumeratedJoint(probs / probs.sum())


@pytest.mark.parametrize("masked", [True, False])
def test_the_exact_denoiser_samples_the_law_given_the_length(masked: bool) -> None:
    problem = padded_problem()
    noise = LogLinear()
    process = Absorbing(4, noise, kept=(2,)) if masked else Uniform(3, noise, kept=(2,))
    denoiser = problem.denoiser(process, joint=True)
    law = exact_output_law(denoiser, 1)
    whole = problem.probs.clone()
    whole[:, :, 2] = 0
    tolerance = 1e-12 if masked else 2e-3  # uniform noise at t = 1 still remembers, by eps
    torch.testing.assert_close(law, whole / whole.sum(), rtol=0, atol=tolerance)
    # With the end given, the shorter ones.
    fixed = torch.tensor([False, False, True])
    result = run(denoiser, 4000, 1, generator=0, prompt=torch.tensor([0, 0, 2]), fixed=fixed)
    counts = torch.zeros(3, 3, dtype=torch.float64)
    counts.index_put_(
        tuple(result.samples[:, :2].T), torch.ones(4000, dtype=torch.float64), accumulate=True
    )
    expected = problem.probs[:, :, 2] / problem.probs[:, :, 2].sum()
    assert (result.samples[:, 2] == 2).all()
    assert float((counts / 4000 - expected).abs().max()) < 0.03


@EVERY
@pytest.mark.parametrize("name", sorted(SAMPLERS))
def test_no_sampler_makes_kept_tokens(process: Process, name: str) -> None:
    if SAMPLERS[name].masked_only and process.mask is None:
        pytest.skip("absorbing only")
    fixed = torch.tensor([True, False, False, True, True])
    prompt = torch.tensor([5, 0, 0, PAD, PAD])
    model = network(process)
    samples = run(model, 20, 5, name, generator=0, length=5, prompt=prompt, fixed=fixed).samples
    assert torch.equal(samples[:, fixed], prompt[fixed].expand(20, -1))
    assert not torch.isin(samples[:, ~fixed], torch.tensor(process.kept)).any()
