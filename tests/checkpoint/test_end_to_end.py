"""From an original's checkpoint to a student's samples in another process, for every family."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import fewjump
from fewjump.checkpoint import load
from fewjump.denoiser import NetworkDenoiser, ScoreDenoiser
from forked import finish, start

GOLDEN = Path(__file__).parents[1] / "golden" / "originals"
CASES = ["sedd_absorb", "mdlm_subs", "udlm", "duo"]
HEADS = {
    "product": {},
    "mixture": {"components": 2, "rank": 4},
    "chain": {"states": 3, "rank": 4},
    "shared-chain": {"states": 4},
    "autoregressive": {"width": 8},
    "latent": {"categories": 2},
}
SCRIPT = """
import sys, torch
from pathlib import Path
from safetensors.torch import save_file
import fewjump
torch.set_num_threads(1)
folder = Path(sys.argv[1])
found = {
    f"{path.parent.name}/{path.name}": fewjump.sample(fewjump.load(path), 3, 2, generator=5)
    for path in sorted(folder.glob("*/*"))
}
save_file(found, folder / "found.safetensors")
"""


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Tensor], Path]:
    """Every student of every family, distilled for two steps and saved; samples of each."""
    folder = tmp_path_factory.mktemp("students")
    data = torch.randint(50, (8, 32), generator=torch.Generator().manual_seed(0))
    samples = {}
    for case in CASES:
        teacher = load(GOLDEN / case / "hf")
        before = {name: value.clone() for name, value in teacher.state_dict().items()}
        for kind, head in HEADS.items():
            student = fewjump.distill(
                teacher, data, student=kind, head=head, steps=2, batch_size=2, log_every=1
            )
            fewjump.save(student, folder / case / kind)
            samples[f"{case}/{kind}"] = fewjump.sample(student, 3, 2, generator=5)
        after = teacher.state_dict()
        assert all(torch.equal(value, after[name]) for name, value in before.items())
    return samples, folder


def test_students_of_originals_sample_the_same_in_a_fresh_process(
    expected: tuple[dict[str, Tensor], Path], tmp_path: Path
) -> None:
    samples, folder = expected
    script, errors = tmp_path / "sample.py", tmp_path / "errors"
    script.write_text(SCRIPT)
    finish(start(script, str(folder), errors=errors), errors, 120)
    found = load_file(folder / "found.safetensors")
    assert found.keys() == samples.keys()
    assert len(found) == len(CASES) * len(HEADS)
    for name, tokens in samples.items():
        assert torch.equal(found[name], tokens), name


def test_samples_are_clean_tokens(expected: tuple[dict[str, Tensor], Path]) -> None:
    for name, tokens in expected[0].items():
        masked = name.startswith(("sedd", "mdlm"))
        assert tokens.shape == (3, 32)
        assert int(tokens.min()) >= 0, name
        assert int(tokens.max()) < (50 if masked else 51), name


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kind", list(HEADS))
def test_a_student_starts_at_the_originals_law(case: str, kind: str) -> None:
    """Before the first step every student says what the original says, its evidence included."""
    from fewjump.assembly import build_student

    teacher = load(GOLDEN / case / "hf")
    student = build_student(teacher, kind, None, HEADS[kind], True, 32, 0).eval()
    generator = torch.Generator().manual_seed(1)
    x0 = torch.randint(50, (2, 32), generator=generator)
    with torch.no_grad():
        for t in (0.2, 0.8):
            x_t = teacher.process.corrupt(x0, 0.0, t, generator)
            found = student(x_t, t).log_prob(x0)
            expected = teacher(x_t, t).log_prob(x0)
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("kind", list(HEADS))
def test_a_uniform_score_network_lends_trunk_and_head(kind: str, tmp_path: Path) -> None:
    """Its posterior is no softmax, and has zeros where it was clipped: every student of it has a
    head that starts from its scores, and is distilled without infinite losses."""
    from checkpoint import written as w

    config = w.sedd_config("uniform")
    run = w.sedd_run(tmp_path / "run", w.network(seed=1), w.network(seed=2), config)
    teacher = load(run)
    assert isinstance(teacher, ScoreDenoiser)
    x_t = torch.randint(w.V, (2, 6), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert bool((teacher(x_t, 0.95).marginals() == 0).any()), "the case must clip something"
        found = teacher.as_network()(x_t, 0.5).marginals()
        scores = teacher.raw_logits(x_t, teacher.process.schedule.sigma_bar(0.5)).double()
        seen = scores.softmax(-1) * teacher.process.likelihood(x_t, 0.5)
    torch.testing.assert_close(found.double(), seen / seen.sum(-1, keepdim=True))
    student = fewjump.distill(
        teacher,
        torch.randint(w.V, (4, 6)),
        student=kind,
        head=HEADS[kind],
        steps=3,
        batch_size=2,
    )
    assert isinstance(student, NetworkDenoiser)
    assert student.kind == kind
