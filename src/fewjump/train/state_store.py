"""A run's state on disk and back, whole in one file or in parts, whatever the run is split into."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fewjump.train.distributed import World
from fewjump.train.ema import ExponentialMovingAverage
from fewjump.train.state import POINTER_FILE, STATE_FILE, check_fresh, load_state, save_state

NUMBERS = ("step", "seconds", "window", "window_steps")


class StateStore:
    """Saves and restores weights, optimiser, average and the numbers beside them.

    A run that is split (``sharding="full"``) writes its state in parts, any other in one file;
    either can be resumed split or not, and on another number of processes.

    Args:
        folder: of the run.
        identity: what must be equal to resume.
        student: as it is trained: its parameters may be split.
        optimiser: of them.
        ema: their average, or None.
        world: the processes.
        split: whether the parameters are.
    """

    def __init__(
        self,
        folder: Path,
        identity: Mapping[str, Any],
        student: nn.Module,
        optimiser: torch.optim.Optimizer,
        ema: ExponentialMovingAverage | None,
        world: World,
        split: bool,
    ) -> None:
        self.folder, self.identity, self.world, self.split = folder, identity, world, split
        self.student, self.optimiser, self.ema = student, optimiser, ema

    def save(self, numbers: Mapping[str, Any]) -> None:
        """Write everything; every process must call this.

        Args:
            numbers: those of :data:`NUMBERS`, ``objective``, its state, and ``logged``, the last
                line of metrics; ``window`` holds () tensors, equal on every process.
        """
        if self.split:
            from fewjump.train.sharded_state import save_shards

            plain = {**numbers, "window": {k: float(v) for k, v in numbers["window"].items()}}
            save_shards(self.folder, self._tensors(), plain, self.identity, self.world)
            return
        if not self.world.is_main:
            return
        state = {
            **numbers,
            "student": self.student.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "ema": None if self.ema is None else self.ema.state_dict(),
        }
        save_state(self.folder, state, self.identity)
        _remove_parts(self.folder)

    def load(self) -> dict[str, Any] | None:
        """Take up the state that lies in the folder: its numbers, or None if there is none.

        Raises:
            ResumeError: if it is damaged or belongs to another configuration; and if there is none
                and the folder holds what another run has made.
        """
        from fewjump.train.sharded_state import load_shards

        state, content = _newest(self.folder, self.identity)
        if state is not None:
            return self._load_file(state)
        if content is None:
            check_fresh(self.folder, self.identity)
            return None
        load_shards(self.folder, self._tensors(), self.world if self.split else None)
        numbers = content["numbers"]
        if self.ema is not None:
            self.ema.updates = int(numbers["step"])
        window = {
            key: torch.tensor(value, dtype=torch.float64)
            for key, value in numbers["window"].items()
        }
        return {**numbers, "window": window}

    def _load_file(self, state: dict[str, Any]) -> dict[str, Any]:
        if not self.split:
            self.student.load_state_dict(state["student"])
            self.optimiser.load_state_dict(state["optimiser"])
            if self.ema is not None:
                self.ema.load_state_dict(state["ema"])
            return _numbers_of(state)
        from fewjump.train.sharding import fill

        moments = self._tensors()["optimiser"]
        # The file knows parameters by their place in the optimiser's groups.
        order = [p for group in self.optimiser.param_groups for p in group["params"]]
        names = self._names()
        for index, kept in state["optimiser"]["state"].items():
            for key, value in kept.items():
                fill(moments[names[order[index]]][key], value)
        for name, value in self.student.state_dict().items():
            fill(value, state["student"][name])
        if self.ema is not None:
            for name, value in self.ema.shadow.items():
                fill(value, state["ema"]["shadow"][name])
            self.ema.updates = state["ema"]["updates"]
        return _numbers_of(state)

    def _names(self) -> dict[Tensor, str]:
        trained = {p for group in self.optimiser.param_groups for p in group["params"]}
        return {p: name for name, p in self.student.named_parameters() if p in trained}

    def _tensors(self) -> dict[str, Any]:
        from fewjump.train.sharded_state import optimiser_tensors

        tensors = {
            "student": self.student.state_dict(),
            "optimiser": optimiser_tensors(self.optimiser, self._names()),
        }
        if self.ema is not None:
            tensors["ema"] = dict(self.ema.shadow)
        return tensors


def _numbers_of(state: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers of a state; earlier versions wrote fewer."""
    more = {"objective": state.get("objective", {}), "logged": state.get("logged")}
    return {**{name: state[name] for name in NUMBERS}, **more}


def load_weights(folder: Path, model: nn.Module, ema: ExponentialMovingAverage | None) -> int:
    """Read the weights (and their average) of a run's last state, into whole modules.

    Args:
        folder: of a run that has saved.
        model: as it was trained, in one piece; overwritten.
        ema: of it; overwritten.

    Returns:
        The step after which they were saved.
    """
    state, content = _newest(folder)
    if content is not None:
        from fewjump.train.sharded_state import load_shards

        tensors: dict[str, Any] = {"student": model.state_dict()}
        if ema is not None:
            tensors["ema"] = dict(ema.shadow)
        load_shards(folder, tensors)
        return int(content["numbers"]["step"])
    if state is None:
        raise FileNotFoundError(f"{folder} has no {STATE_FILE}")
    model.load_state_dict(state["student"])
    if ema is not None:
        ema.load_state_dict(state["ema"])
    return int(state["step"])


def _newest(
    folder: Path, identity: Mapping[str, Any] | None = None
) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """The last state: of a file, or the pointer to one in parts; the other is None, or both."""
    from fewjump.train.sharded_state import read_pointer

    state, content = load_state(folder, identity), read_pointer(folder, identity)
    # Both are there only if a save was killed as it removed the older one.
    if state is None or content is None:
        return state, content
    newer = state["step"] >= content["numbers"]["step"]
    return (state, None) if newer else (None, content)


def _remove_parts(folder: Path) -> None:
    """Forget an older state in parts: the newest state is the only one."""
    (folder / POINTER_FILE).unlink(missing_ok=True)
    for path in folder.glob(f"{Path(POINTER_FILE).stem}.[0-9]*"):
        shutil.rmtree(path, ignore_errors=True)
