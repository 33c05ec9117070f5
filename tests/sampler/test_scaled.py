"""Scaled steps: their law by the formula, and the sampler that a model carries as its default."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import fewjump
from fewjump import cli
from fewjump.checkpoint.folder import CONFIG_FILE
from fewjump.denoiser import NetworkDenoiser
from fewjump.objective import CrossEntropyELBO
from fewjump.process import Absorbing
from fewjump.publish import Pipeline
from fewjump.sampler import SAMPLERS, Scaled, carry_sampler, exact_output_law, run
from fewjump.sampler.arguments import check_budgets
from fewjump.sampler.carried import read_samplers
from fewjump.schedule import LogLinear
from fewjump.verify.enumeration import processes
from sampler.oracle import chi_square_p, problem_for

BASES = ("ancestral", "euler", "tau-leaping")
GRID = [1.0, 0.6, 0.3, 0.0]
T, S = (torch.tensor(v, dtype=torch.float64) for v in (0.7, 0.4))
every_base = pytest.mark.parametrize("base", BASES)
every_process = pytest.mark.parametrize("name", processes())


def states_and_law(name: str):
    process = processes()[name]
    denoiser = problem_for(process, 2).denoiser(process)
    states = process.prior_sample((40, 2), torch.Generator().manual_seed(0))
    return process, denoiser, states, denoiser(states, T)


@every_base
@every_process
def test_multipliers_of_one_change_nothing(name: str, base) -> None:
    process, denoiser, states, law = states_and_law(name)
    plain = next(SAMPLERS[base]().moves(denoiser, states, T, S))
    move = Scaled(base=base).jump(law, process, states, T, S, 1.0)
    torch.testing.assert_close(move.table(), plain.table(), rtol=0, atol=1e-12)
    expected = exact_output_law(denoiser, None, base, GRID)
    for one in (Scaled((1.0, 1.0), base), Scaled(base=base), Scaled((1.0, 1 + 1e-15), base)):
        found = exact_output_law(denoiser, None, one, GRID)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@every_base
@every_process
def test_a_step_is_what_the_formula_says(name: str, base) -> None:
    process, _, states, law = states_and_law(name)
    here = torch.nn.functional.one_hot(states, process.vocab_size).bool()
    if base == "ancestral":
        posterior = torch.nn.functional.pad(
            law.marginals(), (0, process.vocab_size - law.vocab_size)
        )
        rates = process.reverse_marginals(posterior, states, S, T).masked_fill(here, 0.0)
    else:
        ratios = process.ratios_from_posterior(
            torch.nn.functional.pad(law.marginals(), (0, process.vocab_size - law.vocab_size)),
            states,
            T,
        )
        rates = process.reverse_rates(ratios, states, T).masked_fill(here, 0.0) * (T - S)
    for multiplier in (0.6, 1.7):
        total = (rates * multiplier).sum(-1, keepdim=True)
        leave = -torch.expm1(-total) if base == "tau-leaping" else total.clamp(max=1)
        rows = rates * multiplier / total.clamp(min=1e-300) * leave
        rows = torch.where(here, 1 - leave, rows)
        move = Scaled(base=base).jump(law, process, states, T, S, multiplier)
        torch.testing.assert_close(move.rows(), rows, rtol=0, atol=1e-9)


@every_base
@every_process
def test_draws_follow_the_law(name: str, base) -> None:
    denoiser = states_and_law(name)[1]
    # A total of several times 1 stays clamped unless the multiplier is small.
    sampler = Scaled((0.1, 0.3), base)
    law = exact_output_law(denoiser, None, sampler, GRID)
    assert float((law - exact_output_law(denoiser, None, base, GRID)).abs().max()) > 1e-4
    drawn = run(denoiser, 6000, None, sampler, GRID, 5, batch_size=6000)
    assert chi_square_p(drawn.samples, law, law.shape[0]) > 1e-4
    assert drawn.nfe == 3


@every_base
@every_process
def test_log_probabilities_have_the_gradient_of_differences(name: str, base) -> None:
    process, _, states, law = states_and_law(name)
    sampler = Scaled(base=base)
    # Small enough a step that no total exceeds 1, where Euler's law has a corner.
    near = T - 0.05

    def log_prob(multiplier):
        return sampler.jump(law, process, states, T, near, multiplier).log_prob(other, 1e-12)

    other = sampler.jump(law, process, states, T, near).sample(torch.Generator().manual_seed(2))
    rows = sampler.jump(law, process, states, T, near, 1.3).rows()
    expected = rows.gather(-1, other[..., None])[..., 0].log()
    found = log_prob(torch.tensor(1.3, dtype=torch.float64))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    multiplier = torch.tensor(1.3, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(log_prob(multiplier).sum(), multiplier)
    up, down = (log_prob(1.3 + step).sum() for step in (1e-5, -1e-5))
    assert float(gradient) == pytest.approx(float(up - down) / 2e-5, rel=1e-6)
    assert abs(float(gradient)) > 1e-3


def test_bad_options_are_named() -> None:
    process = processes()["uniform"]
    problem = problem_for(process, 2)
    with pytest.raises(ValueError, match="unknown base 'psi'; known: ancestral"):
        Scaled(base="psi")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="multipliers must be at least 0"):
        Scaled((1.0, -0.5))
    with pytest.raises(ValueError, match=r"1 multipliers are for 2 steps.*have 3 others"):
        run(problem.denoiser(process), 2, 4, Scaled((1.2,)))
    with pytest.raises(ValueError, match=r"1 multipliers are for 2 steps.*have 3 others"):
        check_budgets(problem.denoiser(process), [2, 4], Scaled((1.2,)))
    check_budgets(problem.denoiser(process), [2], Scaled((1.2,)))
    joint = problem.denoiser(process, joint=True)
    with pytest.raises(ValueError, match="a grid is fitted to"):
        check_budgets(joint, [2], None, "fitted")
    assert joint.evaluations == 0
    with pytest.raises(ValueError, match="draws them jointly"):
        run(joint, 2, 2, Scaled((1.2,)))
    assert run(joint, 2, 2, Scaled((1.0,))).nfe == 2


@pytest.fixture
def model() -> NetworkDenoiser:
    torch.manual_seed(0)
    trunk = {"hidden": 16, "blocks": 1, "heads": 2}
    described = {"process": Absorbing(5, LogLinear()).config(), "trunk": trunk, "length": 4}
    return NetworkDenoiser.from_config(described).eval()


def values(*numbers: float) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def test_a_model_carries_its_sampler_and_uses_it_by_default(
    model: NetworkDenoiser, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    carry_sampler(model, values(1.0, 0.5, 0.0), values(0.7))
    carry_sampler(model, values(*GRID), values(2.0, 3.0))
    carry_sampler(model, values(*GRID), values(0.8, 1.5), "euler")  # takes the place of that
    folder = model.save_pretrained(tmp_path / "m")
    again = fewjump.load(folder)
    assert again.samplers == model.samplers
    learned = run(again, 3, 3, generator=1)
    same = Scaled((0.8, 1.5), "euler")
    explicit = run(again, 3, 3, same, GRID, 1)
    assert learned.times.tolist() == GRID
    assert learned.sampler == explicit.sampler == "scaled(euler: 0.8 1.5)"
    assert torch.equal(learned.samples, explicit.samples)
    assert torch.equal(exact_output_law(again, 3), exact_output_law(again, 3, same, GRID))
    assert Pipeline(again)(2, 2, generator=0).nfe == 2
    assert run(again, 2, 2).sampler == "scaled(ancestral: 0.7)"
    # Multipliers left open are the model's, where it has some for that base.
    opened = run(again, 3, 3, Scaled(base="euler"), generator=1)
    assert opened.sampler == explicit.sampler
    assert torch.equal(opened.samples, learned.samples)
    assert run(again, 2, 2, "scaled").sampler == "scaled(ancestral: 0.7)"
    assert run(again, 2, 3, "scaled").sampler == "scaled(ancestral: 1)"
    # Another number of steps, a grid, a name, or no final draw: what a model without has.
    for options in (
        {"steps": 4},
        {"steps": 3, "grid": "cosine"},
        {"steps": 3, "sampler": "ancestral"},
        {"steps": 3, "denoise": False},
    ):
        assert run(again, 2, **options).sampler == "ancestral"
    words = ["sample", str(folder), "--steps", "3", "--num-samples", "60"]
    assert cli.main(words) == cli.OK
    by_default = capsys.readouterr().out
    named = ["--sampler", "scaled", "--sampler-options", "multipliers=[0.8, 1.5]", "base=euler"]
    assert cli.main([*words, *named]) == cli.OK
    assert capsys.readouterr().out != by_default
    assert cli.main(["sample", str(folder), "--steps", "5"]) == cli.OK
    assert "learned sampler for --steps 2, 3; at 5: ancestral" in capsys.readouterr().err
    again = ["--num-samples", "1", "--sampler", "scaled"]
    assert cli.main(["sample", str(folder), "--steps", "5", *again]) == cli.OK
    assert "learned sampler for --steps 2, 3; at 5: ancestral" in capsys.readouterr().err
    model.samplers = None
    bare = str(model.save_pretrained(tmp_path / "bare"))
    assert cli.main(["sample", bare, "--steps", "5", *again]) == cli.OK
    assert "scaled without multipliers is ancestral" in capsys.readouterr().err
    assert "| learned sampler | 2 steps, 3 steps |" in (folder / "README.md").read_text()
    assert cli.main([*words, "--sampler-options", "base=euler"]) == cli.USAGE
    assert "name it by --sampler" in capsys.readouterr().err


def test_a_model_that_is_trained_further_loses_it(model: NetworkDenoiser) -> None:
    carry_sampler(model, values(*GRID), values(2.0, 3.0))
    tokens = torch.zeros(8, 4, dtype=torch.int64)
    options = {"steps": 1, "batch_size": 8, "progress": False, "device": "cpu"}
    assert fewjump.distill(model, tokens, **options).samplers is None
    trained = fewjump.train_teacher(
        tokens, model.process, network=model, objective=CrossEntropyELBO(), **options
    )
    assert trained.samplers is None


@pytest.mark.parametrize(
    "spoiled",
    [
        3,
        [3],
        [{"steps": 2, "times": [1, 0.5, 0], "multipliers": [1.0]}],
        [{"steps": 2, "times": [1, 0.5, 0], "multipliers": [], "base": "euler"}],
        [{"steps": 2, "times": [1, 0.5, 0], "multipliers": ["x"], "base": "euler"}],
        [{"steps": 2, "times": [0, 0.5, 1], "multipliers": [1.0], "base": "euler"}],
        [{"steps": 2, "times": [1, 0.5, 0], "multipliers": [-1.0], "base": "euler"}],
        [{"steps": 2, "times": [1, 0.5, 0], "multipliers": [1.0], "base": "psi"}],
    ],
)
def test_what_cannot_be_read_is_refused(model: NetworkDenoiser, tmp_path: Path, spoiled) -> None:
    with pytest.raises(ValueError, match="remove 'samplers'"):
        read_samplers(spoiled)
    file = model.save_pretrained(tmp_path / "m") / CONFIG_FILE
    file.write_text(json.dumps({**json.loads(file.read_text()), "samplers": spoiled}))
    with pytest.raises(ValueError, match="remove 'samplers'"):
        fewjump.load(file.parent)
