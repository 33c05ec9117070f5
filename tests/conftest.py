"""Shared test set-up: one torch thread per xdist worker, seeded generators, long tests first."""

from __future__ import annotations

import pytest
import torch

torch.set_num_threads(1)

#: Files with the dearest tests, groups first: begun last, one would run on beside an idle worker.
LONG = (
    "train/test_sharding.py",
    "test_examples.py",
    "test_refine.py",
    "test_api.py",
    "experiments/test_joint_exact.py",
    "checkpoint/test_end_to_end.py",
    "train/test_resume.py",
    "verify/test_recovery.py",
    "objective/test_latent.py",
    "objective/test_conditional.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def place(item: pytest.Item) -> int:
        path = item.path.as_posix()
        return next((i for i, name in enumerate(LONG) if path.endswith(f"tests/{name}")), len(LONG))

    items.sort(key=place)


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(20251212)
