"""The house rules that a machine can check (CONTRIBUTING.md)."""

from __future__ import annotations

import ast
import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import jaxtyping
import pytest
import torch

ROOT = Path(__file__).parents[1]
MODULES = sorted((ROOT / "tessella").rglob("*.py"))
FORBIDDEN = {"torchvision", "torchaudio", "timm", "open_clip", "pickle", "transformers"}
DRAWERS = {"utils", "util", "common", "helpers", "constants", "misc", "tools"}
MACHINE = re.compile(r"(?<![\w.~])/(work|farm|root|home/\w|Users/\w|tmp/[a-z]|opt/[a-z])[/\w]")
TEXTS = {".py", ".md", ".toml", ".yaml", ".yml", ".json", ".jsonl", ".txt", ".cfg", ".sh", ".html", ""}


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def first_line(path: Path) -> str:
    return (ast.get_docstring(tree(path)) or "").partition("\n")[0]


def functions(path: Path):
    return (node for node in ast.walk(tree(path)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def imported(path: Path):
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


def parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    given = function.args
    names = [arg.arg for arg in given.posonlyargs + given.args + given.kwonlyargs]
    return len([name for name in names if name not in ("self", "cls")])


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_module_opens_with_one_sentence(path):
    line = first_line(path)
    assert re.fullmatch(r"[\w&, ]+: .+\.", line), f'{name_of(path)} opens with {line!r}; expected """Noun: sentence."""'
    assert len(line) <= 117


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_budgets(path):
    lines = path.read_text(encoding="utf-8").count("\n")
    assert lines <= 300, f"{name_of(path)} has {lines} lines; split it by reason to change"
    for function in functions(path):
        where = f"{name_of(path)}:{function.lineno} {function.name}"
        assert (function.end_lineno or 0) - function.lineno < 60, f"{where} is longer than 60 lines"
        if "cli" not in path.stem and "cli" not in path.parent.name:  # there a parameter is an option
            assert parameters(function) <= 9, f"{where} takes {parameters(function)} parameters"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_nothing_forbidden_is_used(path):
    found = {name.split(".")[0] for name in imported(path)} & FORBIDDEN
    assert not found, f"{name_of(path)} imports {found}"
    assert path.stem not in DRAWERS, f"{name_of(path)} is a drawer; a function lives with its noun"
    if name_of(path) != "tessella/importing/checkpoint.py":
        loads = [n for n in ast.walk(tree(path)) if isinstance(n, ast.Attribute) and ast.unparse(n) == "torch.load"]
        assert not loads, f"{name_of(path)} calls torch.load; only `tessella import` may read such files"


def test_no_two_specs_have_one_name():
    """Or importing one of their modules after the other fails."""
    names = [name for path in MODULES for name in re.findall(r'^@spec\("([^"]+)"\)', path.read_text(), re.MULTILINE)]
    assert len(names) > 50, "the pattern finds them"
    assert not [name for name in set(names) if names.count(name) > 1]


def test_no_committed_file_knows_a_machine():
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    found = []
    for name in filter(None, listed.stdout.split("\0")):
        path = ROOT / name
        if path.suffix not in TEXTS or not path.is_file() or path == Path(__file__):
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
            if MACHINE.search(line) and not line.startswith("#!"):
                found.append(f"{name}:{number} {line.strip()[:80]}")
    assert not found, "\n".join(found)


def test_help_is_quick():
    """In processor seconds: those of a neighbour on a busy machine are not ours."""
    command = [sys.executable, "-c", "from tessella.cli.main import main; main()", "--help"]
    took = []
    for _ in range(4):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        took.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        if took[-1] < 0.5:
            return
    raise AssertionError(f"tessella --help took {min(took):.2f} s; import torch and the rest inside the verbs")


def test_importing_the_package_is_light():
    code = "import sys, tessella; print([m for m in ('torch', 'numpy', 'matplotlib', 'pyarrow') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.skipif(os.environ.get("TESSELLA_SHAPES") == "0", reason="the shapes are left out by TESSELLA_SHAPES=0")
def test_the_shapes_in_signatures_are_executed():
    from tessella.attention import Attend

    q, k = torch.zeros(1, 2, 3, 4), torch.zeros(1, 2, 5, 7)
    with pytest.raises(jaxtyping.TypeCheckError):
        Attend()(q, k, k)


def test_the_map_of_the_readme_is_true():
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8") if readme.exists() else ""
    captions = dict(re.findall(r"^(tessella/[\w/]+\.py)\s+(\S.*?)\s*$", text, flags=re.MULTILINE))
    if not captions:
        pytest.skip("README.md has no captioned tree yet")
    files = {name_of(p): first_line(p) for p in MODULES if p.name != "__init__.py"}
    wrong = {name: caption for name, caption in captions.items() if files.get(name) != caption}
    assert not wrong, f"the README and the files say different things: {wrong}"
    assert set(files) <= set(captions), f"not on the map: {sorted(set(files) - set(captions))}"


def test_models_in_the_readme_can_be_built():
    """Its expressions of parts are code, and of the sizes that their papers have."""
    from tessella import fusion, heads, models
    from tessella.stems import columns, patches, streams, words
    from tessella.trunks import cvt, plain, swin
    from tessella.zoo.counts import parameters as count

    known = {}
    for module in (models, heads, fusion, patches, words, columns, streams, cvt, plain, swin):
        known.update(vars(module))
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.DOTALL)
    sizes = []
    for block in (block for block in blocks if re.search(r"^(Encoder|Towers)", block, flags=re.MULTILINE)):
        for part in ast.parse(block).body:
            if isinstance(part, ast.Expr):
                sizes.append(count(eval(ast.unparse(part), known)))
            else:
                exec(ast.unparse(part), known)
    assert sizes[:5] == [63_082_496, 86_567_656, 87_338_192, 28_288_354, 19_997_480]
    assert len(sizes) == 7
