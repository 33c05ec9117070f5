"""Files that are whole or absent, with the umask's permissions; a full disk; one writer."""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from fewjump import files
from fewjump.files import whole_file, whole_folder, write_text
from fewjump.lock import BusyError, sole_writer
from fewjump.train.log import RunFolder


@pytest.fixture
def umask():
    before = os.umask(0o027)
    yield 0o027
    os.umask(before)


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_files_and_folders_get_the_permissions_that_the_umask_gives(tmp_path: Path, umask) -> None:
    with whole_folder(tmp_path / "model") as folder:
        with whole_file(folder / "weights") as weights:
            # safetensors moves a file of its own there, which only the owner can read.
            save_file({"a": torch.zeros(3)}, weights)
        write_text(folder / "config.json", "{}")
    assert mode(tmp_path / "model") == 0o750
    for name in ("weights", "config.json"):
        assert mode(tmp_path / "model" / name) == 0o640


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real" / "file")
    write_text(tmp_path / "link", "text")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "file").read_text() == "text"
    (tmp_path / "folder").symlink_to(tmp_path / "real" / "model")
    for text in ("one", "two"):
        with whole_folder(tmp_path / "folder") as folder:
            write_text(folder / "file", text)
        assert (tmp_path / "folder").is_symlink()
        assert (tmp_path / "real" / "model" / "file").read_text() == text


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError("no"), OSError("no disk")])
def test_what_was_there_stays_where_writing_fails(tmp_path: Path, error: BaseException) -> None:
    write_text(tmp_path / "file", "old")

    def fail() -> None:
        with whole_file(tmp_path / "file") as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(type(error)):
        fail()
    assert (tmp_path / "file").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@contextmanager
def little_room() -> Iterator[None]:
    """No file may become longer than 4096 bytes, as on a disk that is full by then.

    That holds for the file that pytest's output may go to, too.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def as_torch_does(path: Path) -> None:
    with whole_file(path) as temporary, temporary.open("wb") as file:
        torch.save(torch.ones(9000), file)


def as_safetensors_does(path: Path) -> None:
    with whole_file(path) as temporary:
        save_file({"a": torch.ones(9000)}, temporary)


def as_numpy_does(path: Path) -> None:
    with whole_file(path) as temporary, temporary.open("wb") as file:
        np.save(file, np.ones(9000))


def as_text(path: Path) -> None:
    write_text(path, "x" * 9000)


def as_metrics(path: Path) -> None:
    run = RunFolder(path.parent, {})
    for step in range(400):
        run.log({"step": step, "loss": 0.5})


@pytest.mark.parametrize(
    "write", [as_torch_does, as_safetensors_does, as_numpy_does, as_text, as_metrics]
)
def test_a_full_disk_is_told_with_the_files_name(
    tmp_path: Path, write: Callable[[Path], None]
) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text("")
    said = "496 written" if write is as_numpy_does else "File too large"
    kept = rf"{said} \(what was there before is kept; make room"
    with pytest.raises(OSError, match=kept) as caught, little_room():
        write(path)
    assert str(path) in str(caught.value)
    assert not list(tmp_path.glob(".*.tmp"))
    # What is there is whole: what was there before, or lines that are complete.
    assert all(json.loads(line) for line in path.read_text().splitlines())


def test_a_full_disk_in_the_middle_of_a_folder_names_the_file(tmp_path: Path, monkeypatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with whole_folder(tmp_path / "model") as folder:
        write_text(folder / "a", "old")
    monkeypatch.setattr(files, "flush", full)
    where = str(tmp_path / "model" / "a")
    with (
        pytest.raises(OSError, match="No space left on device") as caught,
        whole_folder(tmp_path / "model") as folder,
    ):
        write_text(folder / "a", "new")
    assert caught.value.filename == where
    assert (tmp_path / "model" / "a").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_only_leftovers_are_removed(tmp_path: Path) -> None:
    (tmp_path / ".state.pt.0123456789ab.tmp").write_text("half")
    (tmp_path / ".model.0123456789ab.tmp").mkdir()
    (tmp_path / ".mine.tmp").write_text("whole")
    files.remove_leftovers(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".mine.tmp"]


def test_lines_of_json_without_one_that_was_cut_short(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"st')
    assert files.read_json_lines(path) == [{"step": 1}, {"step": 2}]
    path.write_text('{"step": 1}\n{"st\n{"step": 3}\n')
    with pytest.raises(ValueError, match="damaged at line 2"):
        files.read_json_lines(path)
    path.write_text("")
    assert files.read_json_lines(path) == []


# -- one writer -----------------------------------------------------------------------------

HOLD = """
import sys, time, pathlib
from fewjump.lock import sole_writer
with sole_writer(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_a_second_writer_is_told_who_holds_it_and_a_killed_one_lets_go(
    tmp_path: Path, kind: str
) -> None:
    place = tmp_path / "run"
    if kind == "file":
        place.write_text("")
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(place)], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    holder.stdout.readline()
    said = rf"run is being written by process {holder.pid} on \S+, since 20\d\d-"
    with pytest.raises(BusyError, match=said), sole_writer(place):
        pass
    holder.send_signal(signal.SIGKILL)
    holder.wait(30)
    holder.stdout.close()
    with sole_writer(place):
        pass
    assert not list(tmp_path.rglob("*writer.json"))


def test_a_thread_holds_a_folder_twice_and_another_not_at_all(tmp_path: Path) -> None:
    refused = []

    def second() -> None:
        try:
            with sole_writer(tmp_path):
                pass
        except BusyError as error:
            refused.append(str(error))

    with sole_writer(tmp_path), sole_writer(tmp_path):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join()
    assert f"process {os.getpid()}" in refused[0]
    second()
    assert len(refused) == 1


def test_a_folder_that_stays_empty_is_gone_again(tmp_path: Path) -> None:
    with sole_writer(tmp_path / "a" / "b"):
        assert (tmp_path / "a" / "b").is_dir()
    assert not list(tmp_path.iterdir())
    with sole_writer(tmp_path / "a" / "b"):
        write_text(tmp_path / "a" / "b" / "file", "text")
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == ["file"]


def test_only_the_first_process_of_torchrun_takes_the_lock(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("RANK", "1")
    with sole_writer(tmp_path / "run"):
        assert not (tmp_path / "run").exists()


def test_a_file_system_without_locks_is_told_of(tmp_path: Path, monkeypatch, capsys) -> None:
    import fcntl

    def unsupported(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    with sole_writer(tmp_path):
        pass
    assert "cannot be locked (No locks available)" in capsys.readouterr().err


def test_permission_is_asked_before_anything_is_written(tmp_path: Path, monkeypatch) -> None:
    # Root may write anywhere.
    monkeypatch.setattr(os, "access", lambda *_, **__: False)
    with (
        pytest.raises(PermissionError, match=r"Permission denied: .*run"),
        sole_writer(tmp_path / "run"),
    ):
        pass
    assert not list(tmp_path.iterdir())


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match="file"), sole_writer(tmp_path / "file" / "run"):
        pass
    with pytest.raises(IsADirectoryError):
        files.check_file_writable(tmp_path)


def test_what_a_writer_cannot_read_is_not_told_as_a_full_disk(tmp_path: Path) -> None:
    with (
        pytest.raises(FileNotFoundError, match=r"^no data set in x$"),
        whole_file(tmp_path / "a"),
    ):
        # A reader's own words, without a number of the system's.
        raise FileNotFoundError("no data set in x")
    assert not list(tmp_path.iterdir())
