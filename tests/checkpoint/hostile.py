"""Files that were damaged, and files that were made to do harm; each from a seed.

``MAKERS`` maps a name to ``(random, sources, folder) → path``. What a hostile pickle would do if it
were executed is to write a file called ``executed`` into :data:`MARKERS`.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import random
import shutil
import struct
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

# One folder a process and its children: test workers side by side must not clear each other's.
_FOLDER = "FEWJUMP_HOSTILE_MARKERS"
if _FOLDER not in os.environ:
    os.environ[_FOLDER] = tempfile.mkdtemp(prefix="fewjump-hostile-")
MARKERS = Path(os.environ[_FOLDER])
Sources = dict[str, Path]
Maker = Callable[[random.Random, Sources, Path], Path]


# -- pickles that want to execute something ------------------------------------------------------


def text(value: str) -> bytes:
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def named(module: str, name: str, form: str) -> bytes:
    """Push a global, the old or the new way."""
    if form == "new":
        return text(module) + text(name) + b"\x93"
    return b"c" + f"{module}\n{name}\n".encode()


def attack(random_: random.Random, marker: Path) -> bytes:
    """Instructions that, executed, leave a file behind, and push one value."""
    command, code = f"touch {marker}", f"open({str(marker)!r}, 'w').close()"
    form = random_.choice(["old", "new"])
    one = random_.choice(
        [
            ("os", "system", [command]),
            ("posix", "system", [command]),
            ("subprocess", "check_output", [["touch", str(marker)]]),
            ("subprocess", "Popen", [["touch", str(marker)]]),
            ("builtins", "exec", [code]),
            ("builtins", "eval", [code]),
            ("__builtin__", "eval", [code]),
            ("builtins", "open", [str(marker), "w"]),
            ("io", "open", [str(marker), "w"]),
            ("_io", "FileIO", [str(marker), "w"]),
            ("builtins", "__import__", ["antigravity"]),
            ("builtins", "getattr", ["", "format"]),
            ("builtins", "compile", [code, "x", "exec"]),
            ("builtins", "map", ["", ""]),
            ("builtins", "type", ["X", [], {}]),
            ("importlib", "import_module", ["antigravity"]),
            ("runpy", "run_path", [str(marker)]),
            ("runpy", "_run_code", [code, {}]),
            ("code", "InteractiveInterpreter", []),
            ("timeit", "timeit", [code]),
            ("pdb", "run", [code]),
            ("bdb", "Bdb", []),
            ("cProfile", "run", [code]),
            ("pickle", "loads", ["x"]),
            ("_pickle", "loads", ["x"]),
            ("torch", "load", [str(marker)]),
            ("torch.serialization", "load", [str(marker)]),
            ("torch.hub", "load", ["a/b", "c"]),
            ("torch.jit", "load", [str(marker)]),
            ("torch.utils.cpp_extension", "load_inline", ["x", "y"]),
            ("torch.utils._config_module", "ConfigModule", []),
            ("torch.fx.graph_module", "_forward_from_src", [code, {}]),
            ("torch.distributed.rpc", "init_rpc", ["x"]),
            ("torch._inductor.codecache", "compile_file", [str(marker)]),
            ("operator", "attrgetter", ["system"]),
            ("operator", "methodcaller", ["system", command]),
            ("shutil", "rmtree", [str(marker.parent)]),
            ("socket", "socket", []),
            ("pty", "spawn", ["/bin/true"]),
            ("ctypes", "CDLL", ["libc.so.6"]),
            ("multiprocessing.util", "spawnv_passfds", [b"/bin/true", [], []]),
            ("webbrowser", "open", ["http://localhost"]),
            ("urllib.request", "urlopen", ["http://localhost"]),
            ("asyncio", "run", [""]),
            ("marshal", "loads", [b"x"]),
            ("types", "FunctionType", []),
            ("sys", "exit", [1]),
            ("os", "_exit", [1]),
            ("os", "kill", [0, 0]),
            ("signal", "raise_signal", [0]),
        ]
    )
    module, name, arguments = one
    call = b"(" + b"".join(_pushed(argument) for argument in arguments) + b"t"
    shape = random_.choice(["reduce", "newobj", "build", "inst", "obj", "reconstructor", "ex"])
    if shape == "reduce":
        return named(module, name, form) + call + b"R"
    if shape == "newobj":
        return named(module, name, form) + call + b"\x81"
    if shape == "ex":
        return named(module, name, form) + call + b"}\x92"
    if shape == "build":
        start = named("collections", "OrderedDict", form) + b")R"
        state = b"}" + text("__setstate__") + named(module, name, form) + b"s"
        return start + state + b"b" + call + b"b"
    if shape == "inst":
        return b"(" + b"".join(map(_pushed, arguments)) + b"i" + f"{module}\n{name}\n".encode()
    if shape == "obj":
        return b"(" + named(module, name, form) + b"".join(map(_pushed, arguments)) + b"o"
    make = named("copyreg", "_reconstructor", form) + named(module, name, form)
    return make + named("builtins", "object", form) + b"N\x87R"


def _pushed(value: Any) -> bytes:
    """Instructions that push a plain value, without a protocol header or the final stop."""
    if isinstance(value, bytes):
        return b"C" + bytes([len(value)]) + value
    return pickle.dumps(value, 2)[2:-1]


# -- archives ------------------------------------------------------------------------------------


def records_of(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def write_archive(
    path: Path, records: dict[str, bytes], compression: int = zipfile.ZIP_STORED
) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in records.items():
            archive.writestr(name, data)
    return path


def pickle_name(records: dict[str, bytes]) -> str:
    return next(name for name in records if name.endswith("/data.pkl"))


def _weights_file(path: Path) -> Path:
    """The file with the weights in a copied container."""
    if path.is_file():
        return path
    for name in ("model.safetensors", "pytorch_model.bin", "checkpoints-meta/checkpoint.pth"):
        if (path / name).is_file():
            return path / name
    raise FileNotFoundError(path)


def _config_file(path: Path) -> Path | None:
    for name in ("config.json", ".hydra/config.yaml"):
        if path.is_dir() and (path / name).is_file():
            return path / name
    return None


def copied(sources: Sources, name: str, folder: Path) -> Path:
    source = sources[name]
    target = folder / source.name
    if source.is_dir():
        shutil.copytree(source, target)
    else:
        shutil.copyfile(source, target)
    return target


def _any(random_: random.Random, sources: Sources, folder: Path) -> Path:
    return copied(sources, random_.choice(sorted(sources)), folder)


def _pickled(random_: random.Random, sources: Sources, folder: Path) -> tuple[Path, Path]:
    """A copied container whose weights are pickled, and the file they are in."""
    names = [n for n in sorted(sources) if not n.endswith("(safetensors)")]
    path = copied(sources, random_.choice(names), folder)
    return path, _weights_file(path)


def _damaged(path: Path, random_: random.Random, how: str) -> None:
    data = bytearray(path.read_bytes())
    size = len(data)
    if how == "flip":
        for _ in range(random_.choice([1, 1, 2, 8])):
            data[random_.randrange(size)] ^= 1 << random_.randrange(8)
    elif how == "truncate":
        del data[random_.randrange(size) :]
    elif how == "zero":
        start = random_.randrange(size)
        end = min(size, start + random_.choice([1, 16, 512, 4096]))
        data[start:end] = bytes(end - start)
    elif how == "noise":
        start = random_.randrange(size)
        end = min(size, start + random_.choice([4, 64, 1024]))
        data[start:end] = random_.randbytes(end - start)
    elif how == "insert":
        start = random_.randrange(size)
        data[start:start] = random_.randbytes(random_.choice([1, 7, 300]))
    elif how == "delete":
        start = random_.randrange(size)
        del data[start : start + random_.choice([1, 5, 100])]
    elif how == "double":
        data = data + data
    elif how == "swap":
        a, b, n = random_.randrange(size), random_.randrange(size), random_.choice([1, 32, 256])
        data[a : a + n], data[b : b + n] = data[b : b + n], data[a : a + n]
    path.write_bytes(bytes(data))


def _bytes_maker(how: str) -> Maker:
    def make(random_: random.Random, sources: Sources, folder: Path) -> Path:
        path = _any(random_, sources, folder)
        _damaged(_weights_file(path), random_, how)
        return path

    return make


def _config_maker(how: str) -> Maker:
    def make(random_: random.Random, sources: Sources, folder: Path) -> Path:
        names = [n for n in sorted(sources) if sources[n].is_dir()]
        path = copied(sources, random_.choice(names), folder)
        file = _config_file(path)
        assert file is not None
        if how == "text":
            _damaged(file, random_, random_.choice(["flip", "truncate", "delete", "swap", "noise"]))
        elif how in ("lies", "sizes"):
            change = _lying if how == "lies" else _oversized
            file.write_text(json.dumps(change(random_, json.loads(file.read_text()))))
        else:
            file.write_text(
                random_.choice(
                    [
                        "[" * 100_000,
                        '{"a":' * 50_000,
                        "9" * 100_000,
                        '{"vocab_size": 1e999}',
                        "a: &a [x]\nb: *a\n",
                        "!!python/object/apply:os.system ['touch x']",
                        "null",
                        "",
                        "\x00\x01",
                        '{"format": "fewjump"}',
                        '{"format": "fewjump", "format_version": 1, "denoiser": {"kind": []}}',
                    ]
                )
            )
        return path

    return make


def _places(config: Any) -> list[tuple[Any, Any]]:
    """Every entry of a configuration, as what holds it and its key there."""
    found: list[tuple[Any, Any]] = []
    for key, entry in config.items() if isinstance(config, dict) else enumerate(config):
        found.append((config, key))
        if isinstance(entry, dict | list):
            found += _places(entry)
    return found


def _oversized(random_: random.Random, config: Any) -> Any:
    """A configuration with one size, or two, made larger by orders of magnitude."""
    sizes = [
        (place, key)
        for place, key in _places(config)
        if isinstance(place[key], int) and not isinstance(place[key], bool)
    ]
    for place, key in random_.sample(sizes, random_.choice([1, 1, 2])):
        place[key] = max(1, place[key]) * 10 ** random_.choice([2, 4, 5, 6, 8, 12, 18, 30])
    return config


def _lying(random_: random.Random, config: Any) -> Any:
    """A configuration with one value replaced by one of another type or size, or removed."""
    place, key = random_.choice(_places(config))
    if random_.random() < 0.2:
        del place[key]
    else:
        lies = [None, True, -1, 0, 3, 10**9, 10**30, 0.5, "", "sedd", "x" * 5000, [], {}, [[]]]
        place[key] = random_.choice(lies)
    return config


def _mutated_pickle(random_: random.Random, sources: Sources, folder: Path) -> Path:
    """The archive's checksums are right: someone has changed the pickle on purpose."""
    path, file = _pickled(random_, sources, folder)
    records = records_of(file)
    name = pickle_name(records)
    data = bytearray(records[name])
    for _ in range(random_.choice([1, 1, 2, 5])):
        where = random_.randrange(len(data))
        kind = random_.random()
        if kind < 0.5:
            data[where] = random_.randrange(256)
        elif kind < 0.75:
            del data[where]
        else:
            data[where:where] = bytes([random_.choice(b"RbcQ(t}]su)0.\x81\x93\x80iojNJ")])
    records[name] = bytes(data)
    write_archive(file, records)
    return path


def _injected(random_: random.Random, sources: Sources, folder: Path) -> Path:
    """A working checkpoint that would also execute something."""
    path, file = _pickled(random_, sources, folder)
    records = records_of(file)
    name = pickle_name(records)
    data = records[name]
    marker = MARKERS / f"executed-{random_.randrange(10**9)}"
    payload = attack(random_, marker)
    where = random_.choice(["before", "value", "after"])
    if where == "before":
        data = data[:2] + payload + b"0" + data[2:]
    elif where == "after":
        data = data[:-1] + payload + b"0" + b"."
    else:
        data = data[:-1] + text("zz") + payload + b"s."
    records[name] = data
    write_archive(file, records)
    return path


def _only_attack(random_: random.Random, sources: Sources, folder: Path) -> Path:
    """A file that is nothing but an attack: in an archive, bare, or in the place of weights."""
    payload = b"\x80\x02" + attack(random_, MARKERS / f"executed-{random_.randrange(10**9)}") + b"."
    form = random_.choice(["archive", "bare", "folder"])
    if form == "bare":
        path = folder / "last.ckpt"
        path.write_bytes(payload)
        return path
    records = {"archive/data.pkl": payload, "archive/version": b"3\n"}
    if form == "archive":
        return write_archive(folder / "last.ckpt", records)
    (folder / "model").mkdir()
    (folder / "model" / "config.json").write_text('{"model_type": "mdlm"}')
    write_archive(folder / "model" / "pytorch_model.bin", records)
    return folder / "model"


def _bomb(random_: random.Random, sources: Sources, folder: Path) -> Path:
    """Pickles that ask for time or memory."""
    del sources
    size = struct.pack("<I", 0x7FFFFFFF)
    wide = struct.pack("<Q", 1 << 60)
    laughs = b"".join(
        b"(" + b"h" + bytes([i]) + (b"h" + bytes([i])) * 9 + b"tq" + bytes([i + 1]) + b"0"
        for i in range(40)
    )
    spent = b"".join(
        b"h\x00" + b"c_codecs\nencode\nh\x00X\x06\x00\x00\x00latin1\x86R0" for _ in "a"
    )
    choices = {
        "text": b"X" + size,
        "wide text": b"\x8d" + wide,
        "bytes": b"B" + size,
        "wide bytes": b"\x8e" + wide,
        "byte array": b"\x96" + wide,
        "long": b"\x8b" + size,
        "memo": b"Nr\xff\xff\xff\xffj\xff\xff\xff\xff",
        "laughs": b"]q\x000" + laughs + b"}h\x28Ns",
        "deep": b"]" * 200_000 + b"a" * 199_999,
        "deep key": b"}" + b")" * 1 + b"\x85" * 200_000 + b"Ns",
        "frozen": b"(" + b"\x85" * 3,
        "copies": text("y" * 200_000) + b"q\x000" + spent * 20_000 + b"N",
        "lists": b"](" + b"N" * 5000 + b"eq\x000" + b"cbuiltins\nset\nh\x00\x85R0" * 20_000 + b"N",
        "cycle": b"}q\x00" + text("hyper_parameters") + b"h\x00s" + text("state_dict") + b"h\x00s",
        "ints": b"}" + b"".join(b"\x8a\x08" + struct.pack("<q", i << 40) + b"Ns" for i in range(9)),
        "huge int": b"}\x8b" + struct.pack("<I", 4000) + b"\x7f" * 4000 + b"Ns",
        "marks": b"(" * 100_000 + b"t" * 100_000,
        "dup": b"N" + b"2" * 200_000 + b"0" * 200_000,
        "buffer": b"\x97",
        "extension": b"\x82\x01",
        "persistent": b"P0\n",
        "frame": b"\x95" + wide + b"N",
    }
    data = b"\x80\x04" + choices[random_.choice(sorted(choices))] + b"."
    return write_archive(folder / "last.ckpt", {"a/data.pkl": data, "a/version": b"3\n"})


def _zipped(random_: random.Random, sources: Sources, folder: Path) -> Path:
    """Archives whose zip structure is not torch's."""
    path, file = _pickled(random_, sources, folder)
    records = records_of(file)
    name = pickle_name(records)
    root = name.partition("/")[0]
    how = random_.choice(
        ["deflated", "bomb", "nested", "no pickle", "two", "twice", "traversal", "sizes", "empty"]
    )
    if how == "deflated":
        write_archive(file, records, zipfile.ZIP_DEFLATED)
    elif how == "bomb":
        record = next(n for n in records if "/data/" in n)
        records[record] = bytes(50_000_000)
        write_archive(file, records, zipfile.ZIP_DEFLATED)
    elif how == "nested":
        write_archive(file, {"inner.ckpt": file.read_bytes()})
    elif how == "no pickle":
        write_archive(file, {n: d for n, d in records.items() if n != name})
    elif how == "two":
        write_archive(file, {**records, "b/data.pkl": records[name]})
    elif how == "twice":
        with zipfile.ZipFile(file, "a") as archive:
            archive.fp.seek(archive.start_dir)  # type: ignore[union-attr]
            archive.writestr(f"{root}/data/0", b"0" * 8)
    elif how == "traversal":
        write_archive(file, {n.replace(root, "../../../out/x"): d for n, d in records.items()})
    elif how == "sizes":
        _lie_in_directory(file, random_)
    else:
        write_archive(file, {})
    return path


def _lie_in_directory(file: Path, random_: random.Random) -> None:
    """Change sizes and offsets that the zip's directory states."""
    data = bytearray(file.read_bytes())
    entries = [i for i in range(len(data) - 4) if data[i : i + 4] == b"PK\x01\x02"]
    where = random_.choice(entries)
    field = random_.choice([20, 24, 42, 16, 10])
    value = random_.choice([0, 1, 0x7FFFFFFF, 0xFFFFFFFF, 0xFFFFFFFE, len(data)])
    data[where + field : where + field + 4] = struct.pack("<I", value)
    file.write_bytes(bytes(data))


def _wrong_tensors(random_: random.Random, sources: Sources, folder: Path) -> Path:
    """Whole archives whose tensors say what is not so: shapes, strides, offsets, counts, types."""
    path, file = _pickled(random_, sources, folder)
    records = records_of(file)
    name = pickle_name(records)
    data = records[name]
    how = random_.choice(["count", "shape", "offset", "type", "record", "missing", "short"])
    if how == "missing":
        record = random_.choice([n for n in records if "/data/" in n])
        del records[record]
    elif how in ("record", "short"):
        record = random_.choice([n for n in records if "/data/" in n])
        records[record] = records[record][:-4] if how == "short" else records[record] + b"\0" * 8
    elif how == "type":
        other = random_.choice([b"DoubleStorage", b"ByteStorage", b"QInt8Storage", b"Storage"])
        data = data.replace(b"FloatStorage", other)
    else:
        # Numbers after a storage: its count, then offset, shape and strides of its tensor.
        starts = [i for i in range(len(data)) if data[i : i + 1] == b"Q"]
        start = random_.choice(starts)
        end = start + {"count": 0, "offset": 6, "shape": 16}[how] or start
        low = start - 12 if how == "count" else start + 1
        window = bytearray(data[low : max(end, low + 12)])
        spots = [i for i, byte in enumerate(window[:-1]) if byte in b"KM"]
        if spots:
            spot = random_.choice(spots)
            window[spot + 1] = random_.randrange(256)
        data = data[:low] + bytes(window) + data[low + len(window) :]
    records[name] = data
    write_archive(file, records)
    return path


MAKERS: dict[str, Maker] = {
    **{
        f"bytes: {how}": _bytes_maker(how)
        for how in ("flip", "truncate", "zero", "noise", "insert", "delete", "double", "swap")
    },
    "configuration: damaged text": _config_maker("text"),
    "configuration: lies": _config_maker("lies"),
    "configuration: sizes": _config_maker("sizes"),
    "configuration: hostile": _config_maker("hostile"),
    "pickle: mutated": _mutated_pickle,
    "pickle: attack in a checkpoint": _injected,
    "pickle: attack alone": _only_attack,
    "pickle: bomb": _bomb,
    "archive: structure": _zipped,
    "archive: tensors": _wrong_tensors,
}


def make(kind: str, seed: int, sources: Sources, folder: Path) -> Path:
    """The file or folder number ``seed`` of a kind, in an empty folder."""
    return MAKERS[kind](random.Random(f"{kind}/{seed}"), sources, folder)


def write_sources(folder: Path) -> Sources:
    """One small, whole checkpoint for each container."""
    from checkpoint import written as w
    from fewjump.checkpoint import load, save

    raw, ema = w.network(seed=1), w.network(seed=2)
    published = w.published_config("udlm")
    sources = {
        "SEDD hub folder (safetensors)": w.folder(folder / "sedd-hub", ema, w.sedd_config()),
        "SEDD hub folder": w.folder(folder / "sedd-bin", ema, w.sedd_config(), binary=True),
        "SEDD run folder": w.sedd_run(folder / "sedd-run", raw, ema, w.sedd_config("uniform")),
        "Lightning checkpoint": w.lightning(folder / "last.ckpt", raw, ema, w.mdlm_config()),
        "Hugging Face folder (safetensors)": w.folder(folder / "hf", w.prefixed(ema), published),
        "Hugging Face folder": w.folder(folder / "hf-bin", w.prefixed(ema), published, binary=True),
    }
    own = save(load(sources["Hugging Face folder"]), folder / "own")
    return {**sources, "fewjump folder (safetensors)": own}


def independent_tensors(file: Path) -> dict[str, bytes]:
    """What a safetensors file says, read without the library that reads it elsewhere."""
    data = file.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    body = io.BytesIO(data[8 + length :]).getbuffer()
    return {
        name: bytes(body[entry["data_offsets"][0] : entry["data_offsets"][1]])
        for name, entry in header.items()
        if name != "__metadata__"
    }


def clean_markers() -> None:
    shutil.rmtree(MARKERS, ignore_errors=True)
    os.makedirs(MARKERS, exist_ok=True)
