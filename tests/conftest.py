"""Shared test set-up: one torch thread per xdist worker, seeded generators, long tests first."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from fewjump.report import page
from fewjump.train import diagnostics

torch.set_num_threads(1)

#: Files with the dearest tests. A file runs on one worker, whose fixtures make their models once;
#: begun last, one of these would run on beside an idle worker.
LONG = (
    "train/test_sharding.py",
    "laws/test_sampler_laws.py",
    "laws/test_law_laws.py",
    "commands/test_terminal.py",
    "checkpoint/test_hostile.py",
    "denoiser/test_deferred.py",
    "test_examples.py",
    "test_refine.py",
    "test_api.py",
    "experiments/test_joint_exact.py",
    "checkpoint/test_end_to_end.py",
    "checkpoint/test_meta_device.py",
    "train/test_resume.py",
    "demo/test_demos.py",
    "verify/test_recovery.py",
    "objective/test_latent.py",
    "objective/test_conditional.py",
    "experiments/test_adaptive_networks.py",
    "experiments/test_text_students.py",
    "experiments/test_joint_markov.py",
    "train/test_conditions.py",
    "commands/test_classes.py",
    "denoiser/joint_heads/test_joint_heads.py",
    "law/test_decoding.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def place(item: pytest.Item) -> int:
        path = item.path.as_posix()
        return next((i for i, name in enumerate(LONG) if path.endswith(f"tests/{name}")), len(LONG))

    items.sort(key=place)


#: Tests of what watches a training, as it is.
WATCHED = ("train", "test_watched.py", "test_inspect.py")


@pytest.fixture(scope="module", autouse=True)
def _short_watch(request: pytest.FixtureRequest) -> Iterator[None]:
    """Elsewhere the teacher's samples that a training is watched by take 2 steps in place of 32.

    Trainings of a few steps spent three quarters of their time on them.
    """
    with pytest.MonkeyPatch.context() as patch:
        if not {request.path.name, request.path.parent.name} & set(WATCHED):
            patch.setattr(diagnostics, "TEACHER_STEPS", 2)
        yield


#: Tests of reports that look at their charts.
DRAWN = ("report", "test_demos.py", "test_checks.py", "test_cli.py")


@pytest.fixture(scope="module", autouse=True)
def _no_charts(request: pytest.FixtureRequest) -> Iterator[None]:
    """Elsewhere pages come without their charts.

    A comparison of a few steps spent two thirds of its time on drawing them.
    """
    with pytest.MonkeyPatch.context() as patch:
        if not {request.path.name, request.path.parent.name} & set(DRAWN):
            patch.setattr(page, "_drawing", lambda *_: "")
        yield


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(20251212)
