"""What loading a damaged or hostile file came to, judged by independent means.

| outcome | meaning |
|---|---|
| refused | a CheckpointError |
| unharmed | loads, with the tensors and settings of the whole file |
| as written | loads with other tensors or settings, which are what the file now says |
| wrong | loads with something else: a defect |
| other error | an exception of another kind: a defect |
| executed | something was executed, opened for writing or connected to: a defect |
"""

from __future__ import annotations

import importlib
import json
import math
import pickle
import sys
import warnings
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor

from checkpoint.hostile import MARKERS, Sources, independent_tensors
from fewjump.checkpoint import CheckpointError, load
from fewjump.checkpoint.original_network import FREQUENCIES, bare_names, renamed
from fewjump.denoiser import NetworkDenoiser, ScoreDenoiser

FORBIDDEN = (
    "os.system", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "os.kill",
    "os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.chmod", "os.putenv", "subprocess.Popen",
    "pty.spawn", "socket.__new__", "socket.connect", "socket.getaddrinfo", "exec", "import",
    "compile", "pickle.find_class", "ctypes.dlopen", "marshal.loads", "code.__new__",
    "shutil.rmtree", "webbrowser.open", "urllib.Request", "signal.pthread_kill",
)  # fmt: skip


class Watch:
    """Counts what Python reports of things being executed, while it is on."""

    def __init__(self) -> None:
        self.on = False
        self.seen: list[str] = []
        # zipfile imports it for names that are not ASCII.
        importlib.import_module("encodings.cp437")
        sys.addaudithook(self._hook)

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.on:
            return
        writes = (
            event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax")
        )
        if event in FORBIDDEN or writes:
            self.seen.append(f"{event} {str(arguments)[:80]}")


class Judge:
    """Loads files and says what came of it.

    Args:
        sources: the whole checkpoints that the others were made from.
        watch: whether to watch what is executed.
    """

    def __init__(self, sources: Sources, watch: Watch | None = None) -> None:
        self.watch = watch
        self.names = {path.name: name for name, path in sources.items()}
        self.whole: dict[tuple[str, str], tuple[dict[str, Tensor], str]] = {}
        for name, path in sources.items():
            for weights in ("ema", "raw") if _has_raw(name) else ("ema",):
                self.whole[name, weights] = _facts(load(path, weights=weights))  # type: ignore[arg-type]

    def judge(self, path: Path) -> tuple[str, str]:
        """The worst outcome over the weights that could be in the file, and what was said."""
        name = self.names.get(path.name, "")
        outcomes = [
            self._one(path, name, weights)
            for weights in (("ema", "raw") if _has_raw(name) else ("ema",))
        ]
        order = ["unharmed", "refused", "as written", "other error", "wrong", "executed"]
        return max(outcomes, key=lambda outcome: order.index(outcome[0]))

    def _one(self, path: Path, name: str, weights: Any) -> tuple[str, str]:
        try:
            denoiser = self._load(path, weights)
        except CheckpointError as error:
            if len(str(error)) > 2000:
                return "other error", f"a message of {len(str(error))} characters"
            return self._watched("refused", str(error))
        except Exception as error:
            return self._watched("other error", f"{type(error).__name__}: {str(error)[:200]}")
        tensors, settings = _facts(denoiser)
        expected = self.whole.get((name, weights))
        if expected is not None and _same(tensors, expected[0]) and settings == expected[1]:
            return self._watched("unharmed", "")
        try:
            as_written = _says_so(path, weights, tensors, settings, expected)
        except Exception as error:
            return "wrong", f"loads, though it cannot be read otherwise: {error!r:.200}"
        return self._watched("as written" if as_written else "wrong", settings[:200])

    def _load(self, path: Path, weights: Any) -> Any:
        if self.watch is not None:
            self.watch.seen.clear()
            self.watch.on = True
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return load(path, weights=weights)
        finally:
            if self.watch is not None:
                self.watch.on = False

    def _watched(self, outcome: str, said: str) -> tuple[str, str]:
        if self.watch is not None and self.watch.seen:
            return "executed", "; ".join(self.watch.seen[:3])
        if MARKERS.is_dir() and any(MARKERS.iterdir()):
            return "executed", str(next(MARKERS.iterdir()))
        return outcome, said


def _has_raw(name: str) -> bool:
    return name in ("SEDD run folder", "Lightning checkpoint")


def _facts(denoiser: NetworkDenoiser | ScoreDenoiser) -> tuple[dict[str, Tensor], str]:
    return dict(denoiser.state_dict()), json.dumps(denoiser.config(), sort_keys=True)


def _same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    return found.keys() == expected.keys() and all(
        torch.equal(value, expected[name]) for name, value in found.items()
    )


# -- reading a file by other means ---------------------------------------------------------------


def _says_so(
    path: Path,
    weights: str,
    tensors: dict[str, Tensor],
    settings: str,
    expected: tuple[dict[str, Tensor], str] | None,
) -> bool:
    """Whether the file's own bytes hold these tensors, and its configuration these settings."""
    stated = _stated(path, weights)
    own = (path / "config.json").is_file() and "fewjump_version" in (
        path / "config.json"
    ).read_text("utf-8", "replace")
    if not own:
        entries, _ = bare_names(stated, any("backbone." in name for name in stated))
        shapes = {name: value for name, value in entries.items() if name != FREQUENCIES}
        names = renamed(shapes)
        stated = {
            (
                f"network.{name}"
                if any(key.startswith("network.") for key in tensors)
                else name.replace("linear.", "head.linear.", 1)
                if name.startswith("linear.")
                else name
            ): value
            for name, value in names.items()
        }
    agree = all(torch.equal(value, stated[name].float()) for name, value in tensors.items())
    if expected is None or settings == expected[1]:
        return agree
    # Other settings than the whole file's: they have to come from a configuration that changed.
    return agree and _configuration_changed(path)


def _configuration_changed(path: Path) -> bool:
    file = path / "config.json" if (path / "config.json").is_file() else path / ".hydra/config.yaml"
    if not file.is_file():
        # Inside a pickle, whose checksums are right.
        return zipfile.is_zipfile(path) or path.is_dir()
    text = file.read_text("utf-8")
    # YAML reads JSON, but for some characters that JSON allows.
    return (json.loads(text) if file.suffix == ".json" else yaml.safe_load(text)) is not None


def _stated(path: Path, weights: str) -> dict[str, Tensor]:
    file = path
    for name in ("model.safetensors", "pytorch_model.bin", "checkpoints-meta/checkpoint.pth"):
        if path.is_dir() and (path / name).is_file():
            file = path / name
            break
    if file.suffix == ".safetensors":
        header = json.loads(file.read_bytes()[8:].split(b"}}")[0].decode() + "}}")
        raw = independent_tensors(file)
        kinds = {"F32": np.float32, "F64": np.float64, "F16": np.float16}
        return {
            name: torch.from_numpy(
                np.frombuffer(data, kinds[header[name]["dtype"]]).copy()
            ).reshape(header[name]["shape"])
            for name, data in raw.items()
        }
    value = independent_pickle(file)
    if "state_dict" not in value and not isinstance(value.get("model"), dict):
        return value
    state = value["state_dict"] if "state_dict" in value else value["model"]
    if weights == "raw":
        return state
    names = [name for name in state if not name.endswith(FREQUENCIES)]
    average = dict(zip(names, value["ema"]["shadow_params"]))
    return {name: average.get(name, state[name]) for name in state}


class _Stub:
    """Stands for every class that a pickle names."""

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def __setstate__(self, state: Any) -> None: ...

    def __setitem__(self, key: Any, value: Any) -> None: ...

    def append(self, value: Any) -> None: ...

    def extend(self, values: Any) -> None: ...

    def __call__(self, *_: Any) -> _Stub:
        return self

    def __hash__(self) -> int:
        return id(self)


def independent_pickle(file: Path) -> dict[str, Any]:
    """A file of torch.save through Python's own unpickler, with stubs for all names but a few."""
    with zipfile.ZipFile(file) as archive:
        name = next(n for n in archive.namelist() if n.endswith("/data.pkl"))
        root = name.partition("/")[0]
        kinds = {"FloatStorage": np.float32, "DoubleStorage": np.float64, "LongStorage": np.int64}

        def rebuild(storage: Any, offset: int, shape: Any, stride: Any, *_: Any) -> Any:
            kind, key = storage
            flat = np.frombuffer(archive.read(f"{root}/data/{key}"), kind)
            strides = tuple(n * flat.itemsize for n in stride)
            count = math.prod(shape)
            view = np.lib.stride_tricks.as_strided(flat[offset:], shape, strides)
            return torch.from_numpy(view.copy()) if count else torch.empty(shape)

        class Reader(pickle.Unpickler):
            def find_class(self, module: str, name: str) -> Any:
                if (module, name) == ("collections", "OrderedDict"):
                    return OrderedDict
                if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
                    return rebuild
                return kinds.get(name, _Stub) if module == "torch" else _Stub

            def persistent_load(self, pid: Any) -> Any:
                kind = pid[1] if pid[1] in kinds.values() else np.uint8
                return kind, pid[2]

        with archive.open(name) as data:
            value = Reader(data).load()
    assert isinstance(value, dict)
    return value
