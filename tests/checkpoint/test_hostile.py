"""Damaged files and files made to do harm: each is refused in words, and nothing is executed."""

from __future__ import annotations

import pickle
import random
import shutil
import struct
import tracemalloc
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from checkpoint import written as w
from checkpoint.hostile import (
    MAKERS,
    MARKERS,
    Sources,
    attack,
    clean_markers,
    make,
    named,
    pickle_name,
    records_of,
    text,
    write_archive,
    write_sources,
)
from checkpoint.verdict import Judge
from fewjump.checkpoint import CheckpointError, load
from fewjump.checkpoint.archive import CALLS, Archive, StoredStorage, stored_tensor
from fewjump.checkpoint.opening import open_model
from fewjump.checkpoint.originals import Reading
from fewjump.checkpoint.unpickle import COPY_BUDGET, Foreign, Global, PlainDict, Unpickler

RAW, EMA = w.network(seed=1), w.network(seed=2)


def unpickle(data: bytes) -> Any:
    """The value of a pickle that refers to one storage of ten numbers, however it says so."""
    return Unpickler(data, lambda _: StoredStorage("a/data/0", torch.float32, 10), CALLS).load()


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Sources:
    return write_sources(tmp_path_factory.mktemp("whole"))


@pytest.fixture(autouse=True)
def _markers() -> Iterator[None]:
    clean_markers()
    yield
    left = sorted(path.name for path in MARKERS.iterdir())
    shutil.rmtree(MARKERS, ignore_errors=True)
    assert left == [], "something was executed"


# -- the pickle machine -------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_plain_values_come_back_as_they_were(protocol: int) -> None:
    value = {
        "a": [1, -1, 255, 65536, 1 << 40, -(1 << 60), 0.5, True, None],
        "b": ("x", "é😀", b"bytes", ("y",), ()),
        "c": {"deep": {"er": OrderedDict(z=1)}},
        "d": {1, 2},
        "e": frozenset("q"),
        3: "three",
    }
    value["again"] = value["a"]
    found = unpickle(pickle.dumps(value, protocol))
    assert found == value
    assert found["again"] is found["a"]


def test_objects_of_other_classes_become_placeholders() -> None:
    with w.stand_ins() as make_:
        data = pickle.dumps({"config": make_.config({"a": {"b": [1, "x"]}})}, 2)
    found = unpickle(data)["config"]
    assert isinstance(found, Foreign)
    assert found.kind == "omegaconf.dictconfig.DictConfig"
    assert repr(found) == "<omegaconf.dictconfig.DictConfig>"


def test_no_attack_is_executed() -> None:
    """Functions and modules that no model needs, in every way in which a pickle can call them."""
    for seed in range(200):
        data = b"\x80\x02" + attack(random.Random(seed), MARKERS / f"executed-{seed}") + b"."
        with pytest.raises(CheckpointError):
            unpickle(data)


def test_an_attack_is_named_in_the_error(tmp_path: Path) -> None:
    class Attack:
        def __reduce__(self) -> Any:
            import os

            return os.system, (f"touch {MARKERS / 'executed'}",)

    path = tmp_path / "last.ckpt"
    torch.save({"state_dict": {}, "x": Attack()}, path)
    with pytest.raises(CheckpointError, match=r"asks for posix\.system.*not executed"):
        load(path)


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (b"\x80\x02X\xff\xff\xff\x7fab.", "ends early"),
        (b"\x80\x04\x8d" + struct.pack("<Q", 1 << 60) + b".", "ends early"),
        (b"\x80\x04\x8e" + struct.pack("<Q", 1 << 62) + b".", "ends early"),
        (b"\x80\x02T\xff\xff\xff\xff.", "negative byte count"),
        (
            b"\x80\x02\x8b" + struct.pack("<I", 1 << 31) + b"\1" * 5000 + b".",
            r"instruction b'\\x8b'",
        ),
        (b"\x80\x05\x96" + struct.pack("<Q", 1 << 60) + b".", r"instruction b'\\x96'"),
        (b"\x80\x06N.", "protocol: 6"),
        (b"\x80\x02N", "ends early"),
        (b"\x80\x02NN.", "middle of a value"),
        (b"\x80\x02(N.", "middle of a value"),
        (b"\x80\x02.", "damaged near byte 3 of 3: IndexError"),
        (b"\x80\x02h\x07.", "damaged near byte"),
        (b"\x80\x02Nr\xff\xff\xff\xff0j\xfe\xff\xff\xff.", "damaged near byte"),
        (b"\x80\x02P0\n.", "which checkpoints do not use"),
        (b"\x80\x02\x82\x01.", "which checkpoints do not use"),
        (b"\x80\x02ios\nsystem\n.", "which checkpoints do not use"),
        (b"\x80\x02c" + b"a" * 5000 + b"\nb\n.", "no end of the line"),
        (b"\x80\x02}" + (text("a") + b"Ns") * 2 + b".", "occurs twice"),
        (b"\x80\x02}(" + (text("a") + b"N") * 2 + b"u.", "occurs twice"),
        (b"\x80\x02ccollections\nOrderedDict\n)R" + (text("a") + b"Ns") * 2 + b".", "occurs twice"),
        (b"\x80\x02ca\nb\n)R" + (text("a") + b"Ns") * 2 + b".", "occurs twice"),
        (b"\x80\x02}(NNNu.", "damaged near byte"),
        (b"\x80\x02}]Ns.", "a list as key"),
        (b"\x80\x02})" + b"\x85" * 100_000 + b"Ns.", "a tuple as key"),
        (b"\x80\x04\x8f()" + b"\x85" * 100_000 + b"\x90.", "a tuple as key"),
        (b"\x80\x04()" + b"\x85" * 100_000 + b"\x91.", "a tuple as key"),
        (b"\x80\x02cbuiltins\nset\n])" + b"\x85" * 100_000 + b"a\x85R.", "a tuple as key"),
        (b"\x80\x04}(K\x01\x90.", "adds to a PlainDict"),
        (b"\x80\x02Na.", "damaged near byte"),
        (b"\x80\x02]NNs.", "damaged near byte"),
        (b"\x80\x02N)R.", "calls a NoneType"),
        (b"\x80\x02N)\x81.", "calls a NoneType"),
        (b"\x80\x02ca\nb\n)R)R.", "calls a Foreign"),
        (b"\x80\x02ca\nb\n]R.", "calls a Global"),
        (b"\x80\x02" + text("os") + b")\x93.", "requires str"),
    ],
)
def test_broken_and_misleading_pickles(data: bytes, match: str) -> None:
    with pytest.raises(CheckpointError, match=match):
        unpickle(data)


STORAGE = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + b"K\ntQ"
REBUILD = named("torch._utils", "_rebuild_tensor_v2", "old")
TENSOR = REBUILD + b"(" + STORAGE + b"K\x00K\n\x85K\x01\x85\x89}tR"


@pytest.mark.parametrize(
    ("target", "kind"),
    [
        (b"]", "list"),
        (b")", "tuple"),
        (b"N", "NoneType"),
        (text("a"), "str"),
        (b"K\x01", "int"),
        (b"cbuiltins\nset\n]\x85R", "set"),
        (REBUILD, "Global"),
        (STORAGE, "StoredStorage"),
        (TENSOR, "StoredTensor"),
        (b"ca\nb\n)R}b", "Foreign"),
    ],
)
def test_nothing_that_was_checked_is_changed_afterwards(target: bytes, kind: str) -> None:
    """BUILD may fill a placeholder once, and nothing else: a tensor keeps its shape."""
    state = b"}" + text("shape") + b"K\x63\x85s"
    for build in (state + b"b.", b"N" + state + b"\x86b.", b")b."):
        with pytest.raises(CheckpointError, match=f"sets attributes of a {kind}"):
            unpickle(b"\x80\x02" + target + build)


def test_attributes_of_a_dictionary_are_left_aside() -> None:
    """PyTorch's state dictionaries carry some; no name of theirs reaches Python's own."""
    state = b"}" + text("__class__") + b"K\x01s" + text("_metadata") + b"}s"
    start = b"\x80\x02" + named("collections", "OrderedDict", "old") + b")R"
    found = unpickle(start + text("a") + b"K\x02s" + state + b"b.")
    assert type(found) is PlainDict
    assert found == {"a": 2}
    assert vars(found) == {}


@pytest.mark.parametrize(
    ("once", "repeated"),
    [
        # Copies of one long text, list and tuple, all of them kept.
        (
            text("y" * 100_000),
            named("_codecs", "encode", "old") + b"h\x00" + text("latin1") + b"\x86R",
        ),
        (b"](" + b"K\x01" * 50_000 + b"e", named("builtins", "set", "old") + b"h\x00\x85R"),
        (b"](" + b"K\x01" * 50_000 + b"e", named("torch", "Size", "old") + b"h\x00\x85R"),
        (b"(" + b"K\x01" * 50_000 + b"t", named("un", "known", "old") + b"h\x00R"),
        (b"(" + b"K\x01" * 50_000 + b"t", named("un", "known", "old") + b"h\x00\x81"),
    ],
)
def test_memory_is_bounded_by_the_file(once: bytes, repeated: bytes) -> None:
    data = b"\x80\x02" + once + b"q\x000](" + repeated * 500 + b"e."
    tracemalloc.start()
    try:
        with suppress(CheckpointError):
            unpickle(data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 16 * COPY_BUDGET + 100 * len(data)


@pytest.mark.parametrize(
    "reference",
    [b"N", text("0"), b"(" + text("storage") + b"ctorch\nQInt8Storage\n" + text("0") + b"NK\x00t"],
)
def test_only_storages_of_the_archive_are_referred_to(reference: bytes, tmp_path: Path) -> None:
    data = b"\x80\x02" + reference + b"Q."
    path = write_archive(tmp_path / "a.pt", {"a/data.pkl": data, "a/data/0": b""})
    with pytest.raises(CheckpointError, match="outside data"):
        Archive(path)


def test_what_holds_itself_or_is_nested_without_end_is_no_state(tmp_path: Path) -> None:
    laughs = b"".join(
        b"(" + b"h" + bytes([i]) + (b"h" + bytes([i])) * 9 + b"tq" + bytes([i + 1]) + b"0"
        for i in range(40)
    )
    for number, (data, match) in enumerate(
        [
            (b"]q\x00h\x00a.", "inside of itself"),
            (b"}q\x00" + text("a") + b"h\x00s.", "inside of itself"),
            (b"]" * 200_000 + b"a" * 199_999 + b".", "nested deeper"),
            (b"ca\nb\n)R.", "holds <a.b>, which is no tensor"),
        ]
    ):
        path = write_archive(tmp_path / f"{number}.pt", {"a/data.pkl": b"\x80\x02" + data})
        with Archive(path) as archive, pytest.raises(CheckpointError, match=match):
            archive.tensors()
    path = write_archive(
        tmp_path / "laughs.pt", {"a/data.pkl": b"\x80\x02]q\x000" + laughs + b"h\x28."}
    )
    with Archive(path) as archive:
        value = archive.tensors()
    # Ten times the same, forty levels down, and read in forty steps.
    assert value[0] is value[9]
    assert len(value) == 10


def test_copies_are_counted() -> None:
    long = b"X" + struct.pack("<I", 1_000_000) + b"y" * 1_000_000 + b"q\x000"
    copy = named("_codecs", "encode", "old") + b"h\x00" + text("latin1") + b"\x86R0"
    with pytest.raises(CheckpointError, match="copies itself"):
        unpickle(b"\x80\x02" + long + copy * 1000 + b"N.")


@pytest.mark.parametrize(
    ("offset", "shape", "stride"),
    [
        (0, (11,), (1,)),
        (1, (10,), (1,)),
        (0, (2, 5), (6, 1)),
        (0, (1 << 40,), (0,)),
        (-1, (2,), (1,)),
        (0, (2,), (-1,)),
        (0, (2, 2), (1,)),
        (0, (True,), (1,)),
        (0, (1 << 62, 1 << 62), (0, 0)),
        (0, [2], (1,)),
        (0, (1,) * 9, (1,) * 9),
    ],
)
def test_tensors_stay_inside_their_storage(offset: Any, shape: Any, stride: Any) -> None:
    storage = StoredStorage("a/data/0", torch.float32, 10)
    with pytest.raises(CheckpointError):
        stored_tensor((storage, offset, shape, stride, False, {}))


def test_views_of_a_storage_are_read_right(tmp_path: Path) -> None:
    base = torch.arange(24.0).reshape(4, 6)
    views = {
        "t": base.T,
        "part": base[1:3, ::2],
        "whole": base,
        "one": base[2, 3],
        "none": base[:0],
    }
    torch.save(views, tmp_path / "views.bin")
    with Archive(tmp_path / "views.bin") as archive:
        for name, view in views.items():
            assert torch.equal(archive.tensor(archive.value[name]), view)


# -- files ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", list(MAKERS))
def test_a_slice_of_the_fuzzed_files(kind: str, sources: Sources, tmp_path: Path) -> None:
    """A few files of each kind; benchmarks/fuzz_checkpoints.py loads thousands."""
    judge = Judge(sources)
    for seed in range(5):
        folder = tmp_path / str(seed)
        folder.mkdir()
        outcome, said = judge.judge(make(kind, seed, sources, folder))
        assert outcome in ("refused", "unharmed", "as written"), (seed, outcome, said)


def test_the_whole_files_are_judged_unharmed(sources: Sources, tmp_path: Path) -> None:
    judge = Judge(sources)
    assert {judge.judge(path)[0] for path in sources.values()} == {"unharmed"}


def test_the_judge_tells_other_weights_from_the_files_own(
    sources: Sources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A loader that invented a network would be found out."""
    judge = Judge(sources)
    honest = judge._load

    def inventing(path: Path, weights: Any) -> Any:
        denoiser = honest(path, weights)
        next(denoiser.parameters()).data.normal_()
        return denoiser

    monkeypatch.setattr(judge, "_load", inventing)
    assert {judge.judge(path)[0] for path in sources.values()} == {"wrong"}


def changed(sources: Sources, folder: Path, how: str) -> Path:
    """A Lightning checkpoint or published folder with one thing wrong."""
    raw, ema, config = dict(RAW), dict(EMA), w.mdlm_config()
    name = "blocks.1.mlp.0.weight"
    if how == "missing tensor":
        del raw[name]
    elif how == "extra tensor":
        raw["blocks.1.mlp.3.weight"] = torch.zeros(2)
    elif how == "extra beside":
        return w.lightning(
            folder / "last.ckpt", raw, ema, config, beside={"classifier.weight": torch.zeros(2)}
        )
    elif how == "wrong shape":
        raw[name] = raw[name].T
    elif how == "other vocabulary":
        raw["vocab_embed.embedding"] = raw["vocab_embed.embedding"][:-1]
    elif how == "a gap in the blocks":
        raw = {k.replace("blocks.1.", "blocks.3."): v for k, v in raw.items()}
    elif how == "not a number":
        ema[name] = ema[name].clone()
        ema[name][0, 0] = torch.nan
    elif how == "huge":
        ema[name] = ema[name].clone()
        ema[name][0, 0] = 1e30
    elif how == "integers":
        ema[name] = ema[name].long()
    elif how == "other rotary":
        raw["rotary_emb.inv_freq"] = raw["rotary_emb.inv_freq"] * 1.1
    elif how == "short average":
        return w.lightning(folder / "last.ckpt", raw, dict(list(ema.items())[:-1]), config)
    elif how == "average of another network":
        return w.lightning(folder / "last.ckpt", raw, w.network(vocab_size=9), config)
    elif how == "no average":
        return w.lightning(folder / "last.ckpt", raw, None, config)
    elif how == "no configuration":
        return w.lightning(folder / "last.ckpt", raw, ema, None)
    elif how == "unknown model_type":
        return w.folder(folder / "m", w.prefixed(ema), {"model_type": "other"})
    elif how == "other vocabulary stated":
        return w.folder(folder / "m", w.prefixed(ema), w.published_config("mdlm", vocab_size=99))
    elif how == "no config.json":
        path = w.folder(folder / "m", w.prefixed(ema), {})
        (path / "config.json").unlink()
        return path
    elif how == "no weights":
        path = w.folder(folder / "m", w.prefixed(ema), w.published_config("mdlm"))
        (path / "model.safetensors").unlink()
        return path
    elif how == "objects in a bin":
        path = w.folder(folder / "m", w.prefixed(ema), w.published_config("mdlm"), binary=True)
        torch.save({**ema, "x": Path("/")}, path / "pytorch_model.bin")
        return path
    else:
        changes: dict[str, Any] = {
            "autoregressive": {"parameterization": "ar"},
            "masked d3pm": {"parameterization": "d3pm"},
            "other noise": {"noise": {"type": "polynomial"}},
            "impossible noise": {"noise": {"type": "geometric", "sigma_min": 2, "sigma_max": 1}},
            "other backbone": {"backbone": "dimamba"},
            "score without time": {"parameterization": "sedd"},
            "other distillation": {"parameterization": {"name": "distill-mdlm"}},
            "other network of SDTT": w.sdtt_config(model={**w.MODEL, "type": "ddit"}),
            "mixture of Di4C": w.sdtt_config(is_di4c=True),
        }
        config.update(changes[how])
    return w.lightning(folder / "last.ckpt", raw, ema, config)


WRONG = {
    "missing tensor": r"missing: blocks\.1\.mlp\.0\.weight",
    "extra tensor": r"not expected: blocks\.1\.mlp\.3\.weight",
    "extra beside": r"not the network's: classifier\.weight",
    "wrong shape": r"blocks\.1\.mlp\.0\.weight has shape \(16, 64\), expected \(64, 16\)",
    "other vocabulary": r"output_layer\.linear\.weight has shape \(7, 16\), expected \(6, 16\)",
    "a gap in the blocks": "missing: blocks.1.",
    "not a number": r"blocks\.1\.mlp\.0\.weight holds 1 values that are not finite",
    "huge": "holds a value of 1e.30",
    "integers": r"torch\.int64; floating point",
    "other rotary": "rotary",
    "short average": r"holds 29 tensors and the network 30 parameters.*weights='raw'",
    "average of another network": r"shape \(9, 16\) where vocab_embed\.embedding of shape \(7,",
    "no average": "no average .*weights='raw'",
    "no configuration": "family=",
    "unknown model_type": "'other'.*known are mdlm, udlm, duo",
    "other vocabulary stated": "says 99 states.*tensors have 7",
    "no config.json": r"no config\.json",
    "no weights": r"expected model\.safetensors",
    "objects in a bin": "objects of pathlib|holds no plain dictionary",
    "autoregressive": "'ar' under 'absorbing_state'",
    "masked d3pm": "'d3pm' under 'absorbing_state'.*known",
    "other noise": "'polynomial'; known",
    "impossible noise": "sigma_min",
    "other backbone": "'dimamba' is not supported",
    "score without time": "not possible",
    "other distillation": "'distill-mdlm'.*known: multi-round-sdtt",
    "other network of SDTT": "model.type is 'ddit'; known",
    "mixture of Di4C": "--method di4c",
}


@pytest.mark.parametrize("how", list(WRONG))
def test_what_is_wrong_is_said(how: str, sources: Sources, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=WRONG[how]):
        load(changed(sources, tmp_path, how))


def test_the_users_own_mistakes(sources: Sources) -> None:
    path = sources["Lightning checkpoint"]
    with pytest.raises(ValueError, match="'ema' or 'raw'"):
        load(path, weights="best")  # type: ignore[arg-type]
    with pytest.raises(CheckpointError, match="unknown family 'gan'; known: sedd-absorb"):
        load(path, family="gan")
    with pytest.raises(CheckpointError, match="says it is mdlm, not duo"):
        load(path, family="duo")
    assert load(path, family="mdlm").length == w.LENGTH
    with pytest.raises(CheckpointError, match="has no mask"):
        load(sources["Hugging Face folder"], mask=1)


def test_families_without_a_configuration(tmp_path: Path) -> None:
    path = w.lightning(tmp_path / "last.ckpt", RAW, EMA, None)
    with pytest.warns(UserWarning, match="defaults of udlm"):
        assert load(path, family="udlm").time_conditioned
    with pytest.warns(UserWarning, match="defaults of mdlm"):
        assert not load(path, family="mdlm").time_conditioned


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "Git LFS pointer"),
        (b"\x80\x02}q\x00.", "bare pickle"),
        (b"<html>404</html>", "text file"),
        (b"PK\x03\x04rest", "damaged zip"),
        (b"\x93NUMPY", "not an archive"),
    ],
)
def test_files_of_other_kinds_are_named(content: bytes, match: str, tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=match):
        load(path)


def test_every_flipped_bit_of_read_numbers_is_noticed(sources: Sources, tmp_path: Path) -> None:
    """Archives have checksums; safetensors has none, and says nothing of a flipped mantissa."""
    source = sources["SEDD run folder"] / "checkpoints-meta" / "checkpoint.pth"
    data = source.read_bytes()
    with zipfile.ZipFile(source) as archive:
        place = archive.getinfo("checkpoint/data/0")
        start = place.header_offset + 30 + len(place.filename)
    # The first record's numbers begin after its header and padding.
    start = data.index(RAW["vocab_embed.embedding"].numpy().tobytes(), start)
    for bit in (0, 7, 100, 3000):
        copy = shutil.copytree(sources["SEDD run folder"], tmp_path / str(bit))
        broken = bytearray(data)
        broken[start + bit // 8] ^= 1 << (bit % 8)
        (copy / "checkpoints-meta" / "checkpoint.pth").write_bytes(bytes(broken))
        with pytest.raises(CheckpointError, match="CRC"):
            load(copy, weights="raw")


def test_a_compressed_archive_is_a_bomb_or_not_torchs(sources: Sources, tmp_path: Path) -> None:
    records = records_of(sources["Lightning checkpoint"])
    path = write_archive(tmp_path / "last.ckpt", records, zipfile.ZIP_DEFLATED)
    with pytest.raises(CheckpointError, match="is compressed"):
        load(path)
    records[pickle_name(records)] = records[pickle_name(records)] + b"trailing"
    path = write_archive(tmp_path / "other.ckpt", records)
    assert load(path).length == w.LENGTH, "what follows the end of a pickle is not read"


def test_foreign_functions_are_kept_as_names_only(tmp_path: Path) -> None:
    """A class nobody knows does not stop the load: it is a placeholder, and is reported."""
    path = w.lightning(tmp_path / "last.ckpt", RAW, EMA, w.mdlm_config())
    records = records_of(path)
    name = pickle_name(records)
    call = text("zz") + named("unheard.of", "Thing", "old") + b")Rs."
    records[name] = records[name][:-1] + call
    write_archive(path, records)
    _, facts = open_model(path, Reading())
    assert "unheard.of.Thing (a class that is not rebuilt)" in facts.ignored
    assert str(Global("a", "b")) == "a.b"


def test_safetensors_lies_are_refused(sources: Sources, tmp_path: Path) -> None:
    path = shutil.copytree(sources["Hugging Face folder (safetensors)"], tmp_path / "hf")
    file = path / "model.safetensors"
    tensors = load_file(file)
    whole = file.read_bytes()
    for content in (b"", whole[:5], whole[:-1], struct.pack("<Q", 1 << 62) + whole[8:]):
        file.write_bytes(content)
        with pytest.raises(CheckpointError, match="no whole safetensors file"):
            load(path)
    first = next(iter(tensors))
    save_file({**tensors, first: tensors[first].to(torch.float8_e4m3fn)}, file)
    with pytest.raises(CheckpointError, match="float8"):
        load(path)


def test_own_folders_cannot_ask_for_more_memory_than_their_file(
    sources: Sources, tmp_path: Path
) -> None:
    import json

    source = sources["fewjump folder (safetensors)"]
    config = json.loads((source / "config.json").read_text())
    for number, change in enumerate(
        (
            {"process": {**config["denoiser"]["process"], "vocab_size": 10**12}},
            {"trunk": {**config["denoiser"]["trunk"], "hidden": 1 << 16, "heads": 1}},
            {"trunk": {**config["denoiser"]["trunk"], "blocks": 10**9}},
            {"head": {"kind": "chain", "hidden": 16, "vocab_size": 7, "states": 30_000}},
        )
    ):
        path = shutil.copytree(source, tmp_path / str(number))
        lying = {**config, "denoiser": {**config["denoiser"], **change}}
        (path / "config.json").write_text(json.dumps(lying))
        with pytest.raises(CheckpointError, match=r"cannot hold|do not|must"):
            load(path)


@pytest.mark.parametrize("content", ["[" * 100_000, "{a: " * 5000, "a: " + "b" * (1 << 19)])
def test_a_configuration_cannot_keep_the_parser_busy(
    content: str, sources: Sources, tmp_path: Path
) -> None:
    path = shutil.copytree(sources["SEDD run folder"], tmp_path / "run")
    (path / ".hydra" / "config.yaml").write_text(content)
    with pytest.raises(CheckpointError, match="nested deeper, than any that hydra writes"):
        load(path)
