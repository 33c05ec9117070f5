"""What is shipped: names, versions, licence, dependencies, and which room may import which."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import fewjump

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "fewjump"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

# Distribution name → the module it provides, where they differ.
MODULES = {"pyyaml": "yaml", "scikit-learn": "sklearn", "mauve-text": "mauve"}


def modules_of(requirements: list[str]) -> set[str]:
    names = {re.split(r"[^A-Za-z0-9_-]", r, maxsplit=1)[0].lower() for r in requirements}
    return {MODULES.get(name, name.replace("-", "_")) for name in names}


CORE = modules_of(PROJECT["dependencies"])
EXTRAS = modules_of(
    [r for name, rs in PROJECT["optional-dependencies"].items() if name != "dev" for r in rs]
)


class Imports(ast.NodeVisitor):
    """Modules a file imports; of those for type checkers only the members alone, apart."""

    def __init__(self) -> None:
        self.depth = 0
        self.found: list[tuple[str, bool]] = []
        self.members: list[tuple[str, str]] = []
        self.hints: list[tuple[str, str]] = []

    def visit_If(self, node: ast.If) -> None:
        if "TYPE_CHECKING" not in ast.unparse(node.test):
            self.generic_visit(node)
            return
        inner = Imports()
        for child in node.body:
            inner.visit(child)
        self.hints += inner.members

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self.depth += 1
        self.generic_visit(node)
        self.depth -= 1

    def visit_Import(self, node: ast.Import) -> None:
        self.found += [(alias.name, self.depth == 0) for alias in node.names]

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        if node.module is not None:
            self.found.append((node.module, self.depth == 0))
            self.members += [(node.module, alias.name) for alias in node.names]


def visited(path: Path) -> Imports:
    visitor = Imports()
    visitor.visit(ast.parse(path.read_text(encoding="utf-8")))
    return visitor


VISITED = {path.relative_to(SOURCE): visited(path) for path in sorted(SOURCE.rglob("*.py"))}
#: (module, whether it is imported as soon as the file is) of each import of a file.
IMPORTS = {path: visitor.found for path, visitor in VISITED.items()}


def test_public_names_resolve() -> None:
    for name in fewjump.__all__:
        assert getattr(fewjump, name) is not None, name
    assert set(fewjump.__all__) <= set(dir(fewjump))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = fewjump.nothing  # type: ignore[attr-defined]


def test_the_public_names_are_few_and_listed_once() -> None:
    stub = (SOURCE / "__init__.pyi").read_text(encoding="utf-8")
    assert len(fewjump.__all__) == len(set(fewjump.__all__)) <= 25
    for name in set(fewjump.__all__) - {"__version__"}:
        assert len(re.findall(rf" as {name}$", stub, re.MULTILINE)) == 1, name


def test_required_names_are_what_they_should_be() -> None:
    from fewjump.process import Absorbing, FixedRate, ResetToPrior, Uniform
    from fewjump.schedule import LogLinear

    assert fewjump.LogLinear is LogLinear
    for process in (Absorbing, FixedRate, ResetToPrior, Uniform):
        assert getattr(fewjump.process, process.__name__) is process
    for name in ("sample", "exact_output_law", "load", "save", "distill", "train_teacher"):
        assert callable(getattr(fewjump, name))


def test_importing_the_package_is_quick() -> None:
    code = "import sys, fewjump; print(*sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    loaded = {name.partition(".")[0] for name in result.stdout.split()}
    assert not loaded & {"torch", "numpy", "tyro", "yaml"}


def test_dependencies_are_declared_and_optional_ones_late() -> None:
    for path, found in IMPORTS.items():
        for module, at_once in found:
            root = module.partition(".")[0]
            if root in sys.stdlib_module_names or root == "fewjump":
                continue
            assert root in CORE | EXTRAS, f"{path}: {module} is not a declared dependency"
            if at_once:
                assert root in CORE, f"{path}: import {module}, of an extra, inside the function"


BELOW = {
    "process": ("law", "denoiser", "sampler", "objective", "problem", "train", "checkpoint"),
    "law": ("denoiser", "sampler", "objective", "problem", "train", "checkpoint"),
    "denoiser": ("sampler", "objective", "train", "checkpoint", "data", "evaluate"),
    "sampler": ("objective", "train", "checkpoint", "data", "evaluate"),
    "objective": ("train", "checkpoint", "data", "evaluate"),
    "checkpoint": ("objective", "train", "data", "evaluate", "publish", "verify", "report"),
    "train": ("evaluate", "publish", "verify", "report"),
    "evaluate": ("publish", "verify", "report"),
    "report": ("process", "law", "denoiser", "sampler", "objective", "train", "evaluate"),
}


def test_imports_point_downward() -> None:
    for path, found in IMPORTS.items():
        room = path.parts[0].removesuffix(".py")
        for module, _ in found:
            parts = module.split(".")
            if parts[0] != "fewjump" or len(parts) < 2:
                continue
            assert parts[1] not in BELOW.get(room, ()), f"{path} must not know {module}"
            if parts[1] in ("cli", "commands"):
                assert room in ("cli", "commands", "__main__"), f"{path} must not know {module}"


def test_no_import_goes_round() -> None:
    """Within functions and for type hints neither; what a room calls of one above it goes through
    the registry, whose own hints alone point upward."""
    modules = {
        ".".join(("fewjump", *path.with_suffix("").parts)).removesuffix(".__init__"): path
        for path in IMPORTS
    }
    graph: dict[str, set[str]] = {}
    for name, path in modules.items():
        hints = [] if name == "fewjump.registry" else VISITED[path].hints
        members = [f"{module}.{member}" for module, member in VISITED[path].members + hints]
        found = {m if m in modules else m.rpartition(".")[0] for m in members}
        graph[name] = (found & set(modules)) - {name}
    assert len(list(TopologicalSorter(graph).static_order())) == len(modules)


def test_every_file_beside_the_code_is_packaged() -> None:
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    patterns = patterns["tool"]["setuptools"]["package-data"]["fewjump"]
    data = {
        p
        for p in SOURCE.rglob("*")
        if p.is_file() and p.suffix not in (".py", ".pyc") and not p.name.startswith(".")
    }
    packaged = {p for pattern in patterns for p in SOURCE.glob(pattern)}
    assert data == packaged
    assert all(list(SOURCE.glob(pattern)) for pattern in patterns)


def test_one_version_everywhere() -> None:
    version = fewjump.__version__
    assert f"version: {version}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"## {version}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"version    = {{{version}}}" in re.sub(" +=", "    =", fewjump.citation("fewjump"))


def test_licence_is_whole() -> None:
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert PROJECT["license"] == "Apache-2.0"
    for part in ("Version 2.0, January 2004", "9. Accepting Warranty", "limitations under the"):
        assert part in text


def test_citation_file_is_valid_yaml() -> None:
    import yaml

    content = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert content["type"] == "software"
    assert {"cff-version", "message", "title", "authors"} <= set(content)


@pytest.mark.parametrize(
    ("what", "number"),
    [
        (None, "2512.12889"),
        ("paper", "2512.12889"),
        ("SEDD", "2310.16834"),
        ("theta_trapezoidal", "2502.00234"),
        ("first-hitting", "2409.02908"),
        ("MDLM", "2406.07524"),
    ],
)
def test_citation_names_the_work(what: str | None, number: str) -> None:
    assert f"eprint        = {{{number}}}" in fewjump.citation(what)


def test_every_sampler_and_objective_can_be_cited() -> None:
    from fewjump.objective import OBJECTIVES
    from fewjump.sampler import SAMPLERS

    for name in [*SAMPLERS, *(objective.__name__ for objective in OBJECTIVES.values())]:
        assert fewjump.citation(name).startswith("@article{")


def test_bibtex_is_balanced_with_unique_keys() -> None:
    text = fewjump.citation("all")
    assert text.count("{") == text.count("}")
    keys = re.findall(r"^@\w+\{([^,]+),$", text, re.MULTILINE)
    assert len(keys) == len(set(keys)) == text.count("@")


def test_an_unknown_citation_lists_the_known() -> None:
    with pytest.raises(ValueError, match=r"called 'gan'; known: .*sedd"):
        fewjump.citation("gan")
