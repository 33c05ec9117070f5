"""Configurations that ask for more memory than their weights have: refused within what there is."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import fewjump
from fewjump.denoiser import NetworkDenoiser
from fewjump.denoiser.meta_device import without_memory
from fewjump.process import Absorbing
from fewjump.schedule import LogLinear

HUGE = (10**6, 10**9, 1 << 62, 10**30)
LIMIT = 3 << 28
SCRIPT = """
import json, resource, shutil, sys
from pathlib import Path

sys.path.insert(0, sys.argv[2])
from checkpoint.test_meta_device import LIMIT, load_any, places, put

room, sources = Path(sys.argv[1]), [Path(word) for word in sys.argv[4:]]
# What reads a whole model has been imported, and its threads are there.
for source in sources:
    load_any(source)
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + LIMIT, used + LIMIT))
said = {str(source): [] for source in sources}
for source in sources:
    config = json.loads((source / "config.json").read_text())
    found = said[str(source)]
    for where in places(config):
        for size in json.loads(sys.argv[3]):
            copy = shutil.copytree(source, room / "copy")
            (copy / "config.json").write_text(json.dumps(put(config, where, size)))
            try:
                load_any(copy)
                found.append((where, size, "loads"))
            except (ValueError, FileNotFoundError) as error:
                found.append((where, size, "refused"))
            except BaseException as error:
                found.append((where, size, f"{type(error).__name__}: {error}"[:200]))
            shutil.rmtree(copy)
print(json.dumps(said))
"""


def load_any(place: Path) -> None:
    """Open a model and ask it for one law."""
    denoiser = fewjump.load(place)
    with torch.no_grad():
        denoiser(torch.full((1, 4), denoiser.process.mask), 0.5)  # type: ignore[arg-type]


def places(config: Any, where: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Where whole numbers are in a configuration."""
    if isinstance(config, dict):
        return [place for key in config for place in places(config[key], (*where, key))]
    whole = isinstance(config, int) and not isinstance(config, bool)
    return [where] if whole else []


def put(config: Any, where: tuple[str, ...], value: int) -> Any:
    if not where:
        return value
    return {**config, where[0]: put(config[where[0]], where[1:], value)}


def attempts(
    room: Path, *sources: Path, huge: tuple[int, ...] = HUGE
) -> dict[str, list[tuple[tuple[str, ...], int, str]]]:
    """What became of each number of each model's configuration, at each size."""
    words = [str(room), str(Path(__file__).parents[1]), json.dumps(huge), *map(str, sources)]
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SCRIPT, *words],
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    return json.loads(result.stdout.splitlines()[-1])


def check(found: list[tuple[tuple[str, ...], int, str]], sizes: set[str]) -> None:
    """Nothing but refusals and models; and every size of the network is refused."""
    wrong = [entry for entry in found if entry[2] not in ("refused", "loads")]
    assert not wrong, wrong
    loaded = {where[-1] for where, _, outcome in found if outcome == "loads"}
    assert not loaded & sizes, loaded
    assert sizes <= {where[-1] for where, _, _ in found}


def test_own_folders_stay_within_memory(tmp_path: Path) -> None:
    torch.manual_seed(0)
    trunk = {"hidden": 8, "blocks": 1, "heads": 2, "condition_dim": 8, "conv_kernel": 3}
    process = Absorbing(7, LogLinear()).config()
    model = NetworkDenoiser.from_config(
        {
            "process": process,
            "trunk": trunk,
            "length": 6,
            "head": {"kind": "mixture", "components": 2, "rank": 3},
        }
    )
    source = fewjump.save(model, tmp_path / "source")
    sizes = {*trunk, "vocab_size", "components", "rank", "mlp_ratio"} - {"conv_kernel"}
    (found,) = attempts(tmp_path, source).values()
    check(found, sizes)


def test_language_models_stay_within_memory(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    sys.path.insert(0, str(Path(__file__).parents[1] / "denoiser"))
    import tiny_hub

    from fewjump.denoiser import from_masked_lm

    folder = tiny_hub.save(tmp_path / "bert")
    own = fewjump.save(from_masked_lm(folder), tmp_path / "own")
    sizes = {"vocab_size", "hidden_size", "num_hidden_layers", "intermediate_size"}
    sizes |= {"max_position_embeddings", "type_vocab_size"}
    # Opening these takes long; every size is tried on the library's own folders.
    for found in attempts(tmp_path, folder, own, huge=(10**9, 10**30)).values():
        check(found, sizes)


@pytest.mark.parametrize("kind", ["bert", "roberta", "modernbert", "albert", "esm"])
def test_every_kind_of_model_can_be_weighed(kind: str, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    sys.path.insert(0, str(Path(__file__).parents[1] / "denoiser"))
    import tiny_hub

    from fewjump.denoiser import from_masked_lm

    model = from_masked_lm(tiny_hub.save(tmp_path / "hub", kind))
    fewjump.load(fewjump.save(model, tmp_path / "own"))


def test_the_building_stops_at_once_and_leaves_nothing_behind() -> None:
    made = 0

    def layer() -> nn.Module:
        nonlocal made
        made += 1
        return nn.Linear(2, 2)

    with pytest.raises(ValueError, match="cannot hold"), without_memory(10_000, 8):
        nn.ModuleList(layer() for _ in range(10**6))
    assert made < 500
    with pytest.raises(ValueError, match="modules and more"), without_memory(10_000, 8):
        nn.Sequential(*(nn.Sequential(nn.Identity()) for _ in range(10**4)))
    assert nn.Linear(3000, 3000).weight.device.type == "cpu"


@pytest.mark.parametrize("safe", [True, False], ids=["safetensors", "pickles"])
@pytest.mark.parametrize("parts", [True, False], ids=["in parts", "whole"])
def test_a_repository_of_transformers_is_weighed_whatever_its_weights_are(
    safe: bool, parts: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All its weights count, and a configuration that asks for more than they hold is refused."""
    pytest.importorskip("transformers", reason="needs the hub extra")
    import transformers.utils.hub
    from safetensors.torch import load_file, save_file

    from denoiser import tiny_hub
    from fewjump.denoiser import pretrained

    whole = tmp_path / "whole"
    model = tiny_hub.masked_lm()
    model.save_pretrained(whole)
    tensors = load_file(whole / "model.safetensors")
    (whole / "model.safetensors").unlink()
    stem, end = ("model", "safetensors") if safe else ("pytorch_model", "bin")
    names = sorted(tensors)
    cuts = [names[::2], names[1::2]] if parts else [names]
    files = [f"{stem}-{k}.{end}" if parts else f"{stem}.{end}" for k in range(len(cuts))]
    for file, cut in zip(files, cuts):
        content = {name: tensors[name].clone() for name in cut}
        save_file(content, whole / file) if safe else torch.save(content, whole / file)
    if parts:
        index = {"weight_map": {n: f for f, cut in zip(files, cuts) for n in cut}}
        (whole / f"{stem}.{end}.index.json").write_text(json.dumps(index))

    def fetched(source: str, name: str, **options: Any) -> str | None:
        assert source == "owner/name"
        return str(whole / name) if (whole / name).is_file() else None

    monkeypatch.setattr(transformers.utils.hub, "cached_file", fetched)
    assert sorted(pretrained.weights_files("owner/name")) == sorted(whole / f for f in files)
    model.config.save_pretrained(whole)
    read = transformers.AutoConfig.from_pretrained
    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", lambda *_, **__: read(whole))
    filled = pretrained.read_pretrained("owner/name").model
    pairs = zip(filled.state_dict().values(), model.state_dict().values())
    assert all(torch.equal(mine, theirs) for mine, theirs in pairs)
    model.config.vocab_size = 10**9
    model.config.save_pretrained(whole)
    with pytest.raises(ValueError, match="cannot hold"):
        pretrained.read_pretrained("owner/name")
    if parts:
        (whole / f"{stem}.{end}.index.json").write_text('{"weight_map": 3}')
        with pytest.raises(ValueError, match="is damaged"):
            pretrained.weights_files("owner/name")
