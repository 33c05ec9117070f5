"""The runner: reproducible for any batch split, counted, conditioned, careful with its input."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fewjump.denoiser.base import Denoiser
from fewjump.denoiser.logits import LogitDenoiser
from fewjump.law import ProductLaw
from fewjump.problem import EnumeratedJoint
from fewjump.process import Absorbing, ResetToPrior, Uniform
from fewjump.sampler import (
    SAMPLERS,
    ThetaTrapezoidal,
    exact_output_law,
    get_sampler,
    run,
    sample,
)
from fewjump.schedule import Linear, LogLinear
from sampler.oracle import chi_square_p, random_joint

V, L = 4, 6


class TableDenoiser(LogitDenoiser):
    """Float64 logits looked up by token, neighbour and time: the same for any batch."""

    def __init__(self, process, length: int = L) -> None:
        source = torch.Generator().manual_seed(8)
        size = process.vocab_size
        table = torch.randn(size, size, size, generator=source, dtype=torch.float64)

        def network(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            return table[x, x.roll(1, -1)] * (1 + t[:, None, None])

        super().__init__(network, process, length)


PROCESSES = {
    "uniform": Uniform(V, LogLinear()),
    "absorbing": Absorbing(V + 1, LogLinear()),
    "prior": ResetToPrior(torch.tensor([0.1, 0.2, 0.3, 0.4]), LogLinear()),
}


def applies(sampler: str, process) -> bool:
    return not SAMPLERS[sampler].masked_only or isinstance(process, Absorbing)


@pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES)
@pytest.mark.parametrize("name", SAMPLERS)
def test_samples_do_not_depend_on_the_batch_or_on_how_many(name: str, process) -> None:
    if not applies(name, process):
        pytest.skip("absorbing only")
    denoiser = TableDenoiser(process)
    whole = sample(denoiser, 23, 4, name, generator=5, batch_size=23)
    assert torch.equal(whole, sample(denoiser, 23, 4, name, generator=5, batch_size=1))
    assert torch.equal(whole, sample(denoiser, 23, 4, name, generator=5, batch_size=7))
    assert torch.equal(whole[:9], sample(denoiser, 9, 4, name, generator=5))
    assert not torch.equal(whole, sample(denoiser, 23, 4, name, generator=6))
    assert len(whole.unique(dim=0)) > 10


def test_prompts_do_not_break_batch_independence() -> None:
    denoiser = TableDenoiser(PROCESSES["absorbing"])
    prompt = torch.randint(0, V, (12, L), generator=torch.Generator().manual_seed(0))
    fixed = torch.rand(12, L, generator=torch.Generator().manual_seed(1)) < 0.5
    for name in SAMPLERS:
        runs = [
            sample(denoiser, 12, 3, name, generator=5, batch_size=b, prompt=prompt, fixed=fixed)
            for b in (1, 5, 12)
        ]
        assert torch.equal(runs[0], runs[2]), name
        assert torch.equal(runs[1], runs[2]), name


@pytest.mark.parametrize("joint", [False, True])
@pytest.mark.parametrize("process", [Absorbing(3, LogLinear()), Uniform(2, LogLinear())], ids=str)
def test_who_hears_a_prompt(process, joint: bool, recwarn: pytest.WarningsRecorder) -> None:
    """A second token that follows the first nine times of ten: by a mask, or by a joint law."""
    problem = EnumeratedJoint(torch.tensor([[0.45, 0.05], [0.05, 0.45]], dtype=torch.float64))
    denoiser = problem.denoiser(process, joint=joint)
    found = sample(denoiser, 20_000, 1, generator=0, prompt=torch.tensor([1]))
    assert bool((found[:, 0] == 1).all())
    heard = isinstance(process, Absorbing) or joint
    share = float((found[:, 1] == 1).double().mean())
    assert share == pytest.approx(0.9 if heard else 0.5, abs=0.012)
    said = [str(warning.message) for warning in recwarn if warning.category is UserWarning]
    assert any("hears little of a prompt" in text for text in said) is not heard


def test_generators() -> None:
    denoiser = TableDenoiser(PROCESSES["uniform"])
    first = run(denoiser, 5, 2, generator=torch.Generator().manual_seed(3))
    again = sample(denoiser, 5, 2, generator=torch.Generator().manual_seed(3))
    assert torch.equal(first.samples, again)
    assert torch.equal(first.samples, sample(denoiser, 5, 2, generator=first.seed))
    torch.manual_seed(1)
    drawn = sample(denoiser, 5, 2)
    torch.manual_seed(1)
    assert torch.equal(drawn, sample(denoiser, 5, 2))
    source = torch.Generator().manual_seed(3)
    assert not torch.equal(sample(denoiser, 5, 2, generator=source), drawn)
    assert not torch.equal(sample(denoiser, 5, 2, generator=source), first.samples)


@pytest.mark.parametrize(
    ("name", "steps", "grid", "denoise", "nfe"),
    [
        ("ancestral", 4, None, True, 4),
        ("euler", 1, None, True, 1),
        ("theta-trapezoidal", 4, None, True, 7),
        ("theta-trapezoidal", 1, None, True, 1),
        ("theta-rk2", 4, None, False, 8),
        ("ancestral", 4, None, False, 4),
        ("ancestral", None, [1.0, 0.5, 1e-5], True, 3),
        ("tau-leaping", 2, torch.tensor([1.0, 0.5, 1e-5]), False, 2),
        ("first-hitting", 4, None, True, 4),
        ("first-hitting", 50, None, True, L),
        ("euler", 3, "cosine", True, 3),
        ("euler", 3, "log-linear", True, 3),
    ],
)
def test_evaluations_are_counted(name: str, steps, grid, denoise: bool, nfe: int) -> None:
    process = PROCESSES["absorbing"]
    denoiser = TableDenoiser(process)
    result = run(denoiser, 6, steps, name, grid, 0, batch_size=3, denoise=denoise)
    assert result.nfe == nfe
    assert denoiser.evaluations == 2 * nfe
    assert result.samples.shape == (6, L)
    assert result.samples.dtype == torch.int64
    assert 0 < result.network_seconds < result.seconds
    if denoise:
        assert int(result.samples.max()) < V


@pytest.mark.parametrize("joint", [False, True])
@pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES)
@pytest.mark.parametrize("name", SAMPLERS)
def test_fixed_positions_stay_and_are_shown_clean(name: str, process, joint: bool) -> None:
    if joint and SAMPLERS[name].holds_latent:
        pytest.skip("joint laws without a latent are refused: test_held_latent.py")
    if not applies(name, process):
        pytest.skip("absorbing only")
    inner = random_joint(V, 3).denoiser(process, joint=joint)
    seen: list[torch.Tensor] = []
    original = inner.law
    inner.law = lambda x, t: (seen.append(x.clone()), original(x, t))[1]  # type: ignore[method-assign]
    prompt, fixed = torch.tensor([3, 0, 1]), torch.tensor([True, False, True])
    out = sample(inner, 40, 3, name, generator=0, prompt=prompt, fixed=fixed)
    assert bool((out[:, fixed] == prompt[fixed]).all())
    assert len(out[:, 1].unique()) > 1
    for x in seen:
        assert bool((x[:, fixed] == prompt[fixed]).all())
    prefix = sample(inner, 10, 3, name, generator=0, prompt=torch.tensor([2]))
    assert bool((prefix[:, 0] == 2).all())


@pytest.mark.parametrize(
    "process",
    [
        Uniform(3, Linear(30.0)),
        Absorbing(4, Linear(30.0)),
        ResetToPrior(torch.tensor([0.2, 0.3, 0.5]), Linear(30.0)),
    ],
)
def test_infilling_with_a_joint_law_is_exact(process) -> None:
    problem = random_joint(3, 3)
    prompt, fixed = torch.tensor([0, 2, 0]), torch.tensor([False, True, False])
    out = sample(
        problem.denoiser(process, joint=True),
        8000,
        3,
        generator=2,
        prompt=prompt,
        fixed=fixed,
        batch_size=8000,
    )
    conditional = problem.probs[:, 2]
    assert chi_square_p(out[:, [0, 2]], conditional / conditional.sum(), 3) > 1e-3


def test_temperature_zero_is_deterministic_and_top_p_cuts() -> None:
    denoiser = TableDenoiser(PROCESSES["absorbing"])
    cold = sample(denoiser, 30, 1, generator=0, temperature=0.0)
    assert len(cold.unique(dim=0)) == 1
    narrow = sample(denoiser, 30, 1, generator=0, top_p=1e-6)
    assert torch.equal(cold, narrow)
    assert len(sample(denoiser, 30, 1, generator=0).unique(dim=0)) > 5


def test_modes_and_gradients_are_left_as_they_were() -> None:
    process = PROCESSES["uniform"]
    nn = torch.nn
    network = nn.Sequential(nn.Embedding(V, 8), nn.Dropout(), nn.Linear(8, V))

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = network

        def forward(self, x, t):
            assert not torch.is_grad_enabled()
            assert not self.inner[1].training
            return self.inner(x)

    denoiser = LogitDenoiser(Net(), process, L)
    denoiser.train()
    network[2].eval()
    out = sample(denoiser, 4, 2, generator=0)
    assert denoiser.training
    assert network[1].training
    assert not network[2].training
    network(out).sum().backward()


def test_modes_are_restored_after_an_error() -> None:
    class Failing(Denoiser):
        def law(self, x_t, t):
            raise RuntimeError("no")

    denoiser = Failing(PROCESSES["uniform"], L).train()
    with pytest.raises(RuntimeError, match="no"):
        sample(denoiser, 2, 2)
    assert denoiser.training


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_samples": 0}, "num_samples"),
        ({"steps": 0}, "steps"),
        ({"steps": None}, "steps"),
        ({"sampler": "eular"}, "unknown sampler"),
        ({"grid": "sine"}, "unknown grid"),
        ({"grid": [0.0, 1.0], "steps": None}, "decrease"),
        ({"grid": [1.0, 0.5, 0.0], "steps": 7}, "intervals"),
        ({"sampler": "first-hitting"}, "ancestral"),
        ({"batch_size": 0}, "batch_size"),
        ({"temperature": -1.0}, "temperature"),
        ({"temperature": 1e300}, "temperature must be 0 .* from 1e-06 to 1e.06, got 1e.300"),
        ({"temperature": 1e-300}, "temperature must be 0 .* from 1e-06"),
        ({"top_p": 0.0}, "top_p"),
        ({"generator": -1}, "seed"),
        ({"prompt": torch.zeros(L, dtype=torch.int64)}, "fixed"),
        ({"fixed": torch.ones(L, dtype=torch.bool)}, "prompt"),
        ({"prompt": torch.zeros(7, 2, dtype=torch.int64)}, "one row a sample"),
        ({"prompt": torch.tensor([9])}, "tokens"),
        (
            {"prompt": torch.zeros(L, dtype=torch.int64), "fixed": torch.ones(L)},
            "boolean",
        ),
    ],
)
def test_bad_input_fails_before_the_network_runs(change: dict, message: str) -> None:
    denoiser = TableDenoiser(PROCESSES["uniform"])
    options = {"num_samples": 2, "steps": 2, **change}
    with pytest.raises(ValueError, match=message):
        sample(denoiser, **options)
    assert denoiser.evaluations == 0


def test_more_bad_input() -> None:
    absorbing = TableDenoiser(PROCESSES["absorbing"])
    with pytest.raises(ValueError, match="its own times"):
        sample(absorbing, 2, 2, "first-hitting", "uniform")
    with pytest.raises(ValueError, match="denoise"):
        sample(absorbing, 2, 2, "first-hitting", denoise=False)
    with pytest.raises(TypeError, match="generator"):
        sample(absorbing, 2, 2, generator="seed")  # type: ignore[arg-type]
    absorbing.length = None
    with pytest.raises(ValueError, match="length"):
        sample(absorbing, 2, 2)
    assert sample(absorbing, 2, 2, length=3).shape == (2, 3)
    for theta in (0.0, 1.0, 2.0):
        with pytest.raises(ValueError, match="theta"):
            ThetaTrapezoidal(theta)
    assert get_sampler("theta-rk2", theta=0.25).theta == 0.25
    with pytest.raises(ValueError, match="already made"):
        get_sampler(ThetaTrapezoidal(), theta=0.25)


class OwnLaw(Denoiser):
    """A denoiser of a user's, whose law is what it is given."""

    def __init__(self, law, process) -> None:
        super().__init__(process, L)
        self.made = law

    def law(self, x_t, t):
        return self.made(x_t)


@pytest.mark.parametrize(
    ("law", "message"),
    [
        (lambda x: ProductLaw(torch.zeros(len(x), L + 1, V + 1)), "sequences of 7 tokens"),
        (lambda x: ProductLaw(torch.zeros(1, L, V + 1)), "one law for each row"),
        (lambda x: torch.zeros(len(x), L, V + 1), "must be a Law"),
        (lambda x: ProductLaw(torch.zeros(len(x), L, V + 1)), "constrain_logits"),
    ],
    ids=["length", "rows", "tensor", "mask"],
)
def test_laws_that_cannot_be_drawn_from_are_refused(law, message) -> None:
    denoiser = OwnLaw(law, PROCESSES["absorbing"])
    with pytest.raises(ValueError, match=message):
        sample(denoiser, 5, steps=2, generator=0)
    denoiser.length = 2
    if message == "constrain_logits":
        small = OwnLaw(lambda x: ProductLaw(torch.zeros(*x.shape, V + 1)), PROCESSES["absorbing"])
        small.length = 2
        with pytest.raises(ValueError, match=r"constrain_logits.*probability 0\.36"):
            exact_output_law(small, steps=1)


@pytest.mark.parametrize("name", ["num_samples", "batch_size", "length"])
@pytest.mark.parametrize("value", [1.5, True, 0])
def test_counts_are_whole_numbers(name, value) -> None:
    denoiser = TableDenoiser(PROCESSES["uniform"])
    counts = {"num_samples": 2, name: value}
    with pytest.raises(ValueError, match=f"{name} must be"):
        sample(denoiser, steps=1, generator=0, **counts)


def test_numbers_of_numpy_are_seeds_and_networks_are_no_denoisers() -> None:
    denoiser = TableDenoiser(PROCESSES["uniform"])
    seeded = [sample(denoiser, 3, steps=2, generator=seed) for seed in (7, np.int64(7))]
    assert torch.equal(*seeded)
    for generator in (True, 1.0, "7"):
        with pytest.raises(TypeError, match="an integer seed or None"):
            sample(denoiser, 3, steps=2, generator=generator)
    with pytest.raises(TypeError, match="LogitDenoiser"):
        sample(torch.nn.Linear(2, 2), 3, steps=2)


def test_a_prompt_holds_token_numbers() -> None:
    with pytest.raises(ValueError, match="token numbers"):
        sample(TableDenoiser(PROCESSES["uniform"]), 2, 1, prompt=torch.tensor([1.7]), generator=0)
    drawn = [
        sample(TableDenoiser(PROCESSES["uniform"]), 2, 1, prompt=p, generator=0) for p in ([], None)
    ]
    assert torch.equal(*drawn)
