"""Make a virtual environment of a wheel's declared requirements alone: python FOLDER WHEEL.

The distributions that the wheel names, and those that they name in turn, are linked from this
interpreter's environment, where they are installed already; installing torch again takes a minute.
``pip check`` there then says whether the wheel has what it needs.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import Distribution, PathDistribution, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def requirements(held: Distribution, extras: set[str]) -> list[Requirement]:
    """What a distribution needs on this machine."""
    found = [Requirement(line) for line in held.requires or ()]
    contexts = [{"extra": extra} for extra in (extras or {""})]
    return [r for r in found if r.marker is None or any(map(r.marker.evaluate, contexts))]


def needed(held: Distribution) -> dict[str, Distribution]:
    """All that a distribution needs, directly or not, by name."""
    out: dict[str, Distribution] = {}
    seen: set[tuple[str, frozenset[str]]] = set()
    queue = requirements(held, set())
    while queue:
        one = queue.pop()
        name = canonicalize_name(one.name)
        key = (name, frozenset(one.extras))
        if key not in seen:
            seen.add(key)
            out[name] = distribution(name)
            queue += requirements(out[name], set(one.extras))
    return out


def link(held: Distribution, site: Path) -> None:
    """Put a distribution's files into another environment; its commands are left out."""
    for file in held.files or ():
        source = Path(str(held.locate_file(file)))
        if ".." in file.parts or not source.is_file():
            continue
        target = site / file
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(source, target)
        except OSError:
            shutil.copy2(source, target)


def main(folder: Path, wheel: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    python = folder / "bin" / "python"
    where = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = Path(subprocess.check_output([python, "-c", where], text=True).strip())
    with zipfile.ZipFile(wheel) as archive:
        (metadata,) = (n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        told = PathDistribution(zipfile.Path(archive, metadata.removesuffix("METADATA")))
        for held in needed(told).values():
            link(held, site)
    pip = [sys.executable, "-m", "pip", "--python", python]
    subprocess.run([*pip, "install", "--quiet", "--no-deps", wheel], check=True)
    subprocess.run([*pip, "check"], check=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
