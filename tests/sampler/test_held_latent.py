"""One latent for a whole trajectory: the law of its samples by enumeration."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fewjump.denoiser.base import Denoiser
from fewjump.denoiser.network import NetworkDenoiser
from fewjump.law import DiscreteLatent, LatentLaw, Law
from fewjump.law.base import enumerate_states
from fewjump.process import Absorbing, Process, Uniform
from fewjump.random import generator_for
from fewjump.sampler import exact_coupling, exact_output_law, run
from fewjump.schedule import Linear, LogLinear
from laws.registry_objectives import Joint, Latent, World
from sampler.oracle import chi_square_p

V, L, STEPS = 3, 2, 3
PROCESSES = [Absorbing(V + 1, LogLinear()), Uniform(V, Linear(4.0))]


class Given(Denoiser):
    """A latent student with its latent at one value."""

    def __init__(self, student: Denoiser, z: int) -> None:
        super().__init__(student.process, L)
        self.student, self.z = student, z

    def law(self, x_t: Tensor, t: Tensor) -> Law:
        law = self.student(x_t, t)
        assert isinstance(law, LatentLaw)
        return law.decode(torch.full((x_t.shape[0],), self.z), law.rows)


@pytest.mark.parametrize("process", PROCESSES, ids=["absorbing", "uniform"])
def test_samples_are_those_of_one_latent_throughout(process: Process) -> None:
    student = Latent(World(process, L))
    for offset in student.parameters():
        noise = torch.randn(offset.shape, generator=generator_for(3), dtype=torch.float64)
        offset.data.copy_(1.5 * noise)
    starts = enumerate_states(V, L)
    if process.absorbing:
        starts = torch.full((1, L), V)
    prior = student(starts, 1.0).prior
    assert isinstance(prior, DiscreteLatent)
    law = torch.zeros(V, V, dtype=torch.float64)
    for z, weights in enumerate(prior.logits.softmax(-1).detach().T):
        given = Given(student, z)
        if process.absorbing:
            law += weights * exact_output_law(given, STEPS)
        else:
            law += (weights @ exact_coupling(given, STEPS, "ancestral")).reshape(V, V)
    assert float(law.sum()) == pytest.approx(1.0, abs=1e-9)
    drawn = run(student, 20_000, STEPS, "held-latent", generator=11, batch_size=20_000).samples
    assert chi_square_p(drawn, law, V) > 1e-4
    # The same number of draws tells it from the law of fresh latents.
    assert chi_square_p(drawn, exact_output_law(student, STEPS), V) < 1e-6
    split = run(student, 60, STEPS, "held-latent", generator=11, batch_size=7).samples
    assert torch.equal(split, drawn[:60])
    one = run(student, 60, 1, "held-latent", generator=2).samples
    assert torch.equal(one, run(student, 60, 1, generator=2).samples)


def test_what_has_no_latent_is_refused_and_no_law_is_made_up() -> None:
    world = World(PROCESSES[0], L)
    declared = world.problem.denoiser(PROCESSES[0], joint=True)
    with pytest.raises(ValueError, match="held-latent is for latent students"):
        run(declared, 4, 2, "held-latent")
    assert declared.evaluations == 0
    # A law that no denoiser declared is refused when it is there.
    with pytest.raises(ValueError, match="held-latent is for latent students"):
        run(Joint(world), 4, 2, "held-latent")
    with pytest.raises(ValueError, match="estimate the law from samples"):
        exact_output_law(Latent(world), 2, "held-latent")


@pytest.mark.parametrize("kind", ["product", "chain", "latent"])
def test_networks_declare_what_they_can_do_before_they_are_run(kind: str) -> None:
    trunk = {"hidden": 8, "blocks": 1, "heads": 2, "condition_dim": 4}
    config = {"process": PROCESSES[0].config(), "trunk": trunk, "head": {"kind": kind}, "length": L}
    model = NetworkDenoiser.from_config(config)
    if kind == "chain":
        with pytest.raises(ValueError, match="this joint denoiser has no latent"):
            run(model, 4, 2, "held-latent")
        assert model.evaluations == 0
    else:
        assert run(model, 4, 2, "held-latent", generator=1).samples.shape == (4, L)
