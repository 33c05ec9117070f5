"""Rows that are alike are shown to the network once: the same samples, fewer rows computed."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch

from fewjump.denoiser import constrain
from fewjump.denoiser.base import Denoiser
from fewjump.denoiser.network import NetworkDenoiser
from fewjump.process import Absorbing, Process, Uniform
from fewjump.sampler import SAMPLERS, run
from fewjump.schedule import LogLinear
from sampler.oracle import chi_square_p, random_joint

V, L, N = 7, 5, 24
MASKED = Absorbing(V, LogLinear())

HEADS: dict[str, dict[str, Any]] = {
    "product": {"kind": "product"},
    "mixture": {"kind": "mixture", "components": 5, "rank": 3},
    "mixture-evidence": {
        "kind": "mixture", "components": 5, "rank": 3, "length": L, "evidence": True,
    },
    "shared-mixture": {"kind": "shared-mixture", "components": 5, "rank": 3},
    "chain": {"kind": "chain", "states": 4},
    "chain-shared": {"kind": "chain", "states": 4, "emission": "shared", "method": "scan"},
    "chain-low-rank": {"kind": "chain", "states": 4, "emission": "low-rank"},
    "mixture-of-chains": {"kind": "mixture-of-chains", "components": 3, "states": 4},
    "shared-chain": {"kind": "shared-chain", "states": 9},
    "gru": {"kind": "autoregressive", "width": 8, "neighbours": [1, 2]},
    "attention": {"kind": "autoregressive", "width": 8, "causal": "attention", "heads": 2},
    "latent-category": {"kind": "latent", "categories": 4, "encoder": False},
    "latent-normal": {
        "kind": "latent", "categories": 0, "size": 3, "position_categories": 2, "encoder": False,
    },
}  # fmt: skip
every_head = pytest.mark.parametrize("head", HEADS.values(), ids=list(HEADS))


def student(head: dict[str, Any], process: Process = MASKED) -> NetworkDenoiser:
    """Random weights in float64."""
    torch.manual_seed(2)
    trunk = {"hidden": 8, "blocks": 1, "heads": 2, "condition_dim": 8}
    config = {"process": process.config(), "trunk": trunk, "head": head, "length": L}
    model = NetworkDenoiser.from_config(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return model.double()


def rows_seen(denoiser: Denoiser, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Filled with the number of rows of every evaluation."""
    seen: list[int] = []
    original = denoiser.law

    def law(x_t: torch.Tensor, t: torch.Tensor) -> Any:
        seen.append(x_t.shape[0])
        return original(x_t, t)

    monkeypatch.setattr(denoiser, "law", law)
    return seen


def both_ways(denoiser: Denoiser, monkeypatch: pytest.MonkeyPatch, **options: Any) -> list[Any]:
    """The run as it is, and with every row computed for itself."""
    shared = run(denoiser, N, generator=4, **options)
    with monkeypatch.context() as patch:
        patch.setattr(sys.modules["fewjump.sampler.prompt"], "_alike", lambda *values: False)
        return [shared, run(denoiser, N, generator=4, **options)]


@every_head
@pytest.mark.parametrize(
    "options",
    [
        {"steps": 1},
        {"steps": 3},
        {"steps": 1, "temperature": 2.0, "top_p": 0.98},
        {"steps": 2, "prompt": torch.tensor([3, 1])},
        {"steps": 2, "batch_size": 10, "temperature": 1.5},
    ],
    ids=["one", "three", "tempered", "prompt", "batches"],
)
def test_samples_are_those_of_rows_computed_apart(
    head: dict[str, Any], options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    denoiser = student(head)
    shared, apart = both_ways(denoiser, monkeypatch, **options)
    assert torch.equal(shared.samples, apart.samples)
    assert shared.nfe == apart.nfe == options["steps"]
    assert len(shared.samples.unique(dim=0)) > 2


@every_head
def test_only_the_first_state_is_computed_once(
    head: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    denoiser = student(head)
    seen = rows_seen(denoiser, monkeypatch)
    before = denoiser.evaluations
    result = run(denoiser, N, 3, generator=1)
    assert seen == [1, N, N]
    assert denoiser.evaluations - before == result.nfe == 3


def test_a_latent_is_drawn_for_every_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """The trunk runs once a row, since each has a z of its own."""
    denoiser = student(HEADS["latent-category"])
    rows: list[int] = []
    features = denoiser.trunk.features
    monkeypatch.setattr(
        denoiser.trunk, "features", lambda x, *rest: (rows.append(len(x)), features(x, *rest))[1]
    )
    run(denoiser, N, 1, generator=1)
    assert rows == [N]


@pytest.mark.parametrize("joint", [False, True])
@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_draws_the_same(
    name: str, joint: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if joint and SAMPLERS[name].holds_latent:
        pytest.skip("joint laws without a latent are refused: test_held_latent.py")
    denoiser = random_joint(3, 3).denoiser(Absorbing(4, LogLinear()), joint=joint)
    options = {"steps": 3, "sampler": name, "prompt": torch.tensor([2])}
    shared, apart = both_ways(denoiser, monkeypatch, **options)
    assert torch.equal(shared.samples, apart.samples)


def test_deferred_logits_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constrain, "DEFER_FROM", V)
    denoiser = student(HEADS["product"])
    for options in ({"steps": 1}, {"steps": 4}, {"steps": 2, "prompt": torch.tensor([3, 1])}):
        shared, apart = both_ways(denoiser, monkeypatch, **options)
        assert torch.equal(shared.samples, apart.samples)


def test_rows_that_differ_are_all_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    denoiser = student(HEADS["product"])
    seen = rows_seen(denoiser, monkeypatch)
    prompt = torch.arange(N)[:, None] % (V - 1)
    run(denoiser, N, 1, generator=1, prompt=prompt)
    run(denoiser, N, 1, generator=1, prompt=prompt, batch_size=1)
    assert seen == [N] + [1] * N
    # The same state for all, of which each sample was given something else.
    seen.clear()
    fixed = torch.zeros(2, L, dtype=torch.bool)
    fixed[1, 0] = True
    run(denoiser, 2, 1, generator=1, prompt=torch.zeros(L, dtype=torch.int64), fixed=fixed)
    assert seen == [2]
    noisy = student(HEADS["product"], Uniform(V, LogLinear()))
    seen = rows_seen(noisy, monkeypatch)
    run(noisy, N, 2, generator=1)
    assert seen == [N, N]


def test_a_joint_law_is_drawn_from_independently() -> None:
    """One exact law for all rows gives the data's law, and pairs of rows its product."""
    problem = random_joint(2, 2)
    denoiser = problem.denoiser(Absorbing(3, LogLinear()), joint=True)
    x = run(denoiser, 8000, 1, generator=3).samples
    truth = problem.probs.flatten()
    assert chi_square_p(x, truth, 2) > 1e-4
    pairs = (truth[:, None] * truth).flatten()
    assert chi_square_p(x.reshape(-1, 4), pairs, 2) > 1e-4
