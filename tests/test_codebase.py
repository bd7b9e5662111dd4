"""Limits that keep the code base readable: sizes, the direction of imports, the width of prose."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "python" / "ridgeline"
MODULES = sorted(PACKAGE.rglob("*.py"))
CPP = sorted(p for folder in ("cpp", "python/src") for p in (ROOT / folder).rglob("*.[ch]pp"))
ADAPTERS = ("adapters", "torch", "keras", "jax")  # packages that only users import

MODULE_LINES = 900
CLASS_LINES = 400
PYTHON_FUNCTION_LINES = 60  # without the docstring
CPP_FUNCTION_LINES = 80
COLUMNS = 100

# What is over a limit. An entry that is no longer needed fails its test: this shrinks to nothing.
EXCEPTIONS: dict[str, set[str]] = {
    "modules": set(),
    "classes": set(),
    "functions": set(),
    "C++ functions": {
        "cpp/src/ops/pruning.cpp: block_powers",
        "python/src/bind_dropout.cpp: bind_dropout",
        "python/src/bind_pruning.cpp: bind_pruning",
        "python/src/tensor_view.cpp: flatten",
    },
    "circles": set(),
    "private modules": set(),
    "prose": set(),
}

pytestmark = pytest.mark.skipif(not (ROOT / "cpp").is_dir(), reason="needs the sources")


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def check(limit: str, found: set[str]) -> None:
    assert sorted(found - EXCEPTIONS[limit]) == [], f"over the limit of {limit}"
    assert sorted(EXCEPTIONS[limit] - found) == [], "these exceptions are no longer needed"


# Sizes


def docstring_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    first = node.body[0]
    is_text = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    if not is_text or not isinstance(first.value.value, str):
        return 0
    return first.end_lineno - first.lineno + 1


def long_parts(path: Path, text: str) -> Iterator[tuple[str, str]]:
    """Yield (kind, place) of what is too long in a Python module."""
    if text.count("\n") > MODULE_LINES:
        yield "modules", relative(path)
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ClassDef):
            if node.end_lineno - node.lineno + 1 > CLASS_LINES:
                yield "classes", f"{relative(path)}: {node.name}"
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = node.end_lineno - node.lineno + 1 - docstring_lines(node)
            if lines > PYTHON_FUNCTION_LINES:
                yield "functions", f"{relative(path)}: {node.name}"


@pytest.mark.parametrize("limit", ["modules", "classes", "functions"])
def test_lengths_in_python(limit):
    parts = (part for path in MODULES for part in long_parts(path, path.read_text()))
    check(limit, {place for kind, place in parts if kind == limit})


def test_what_is_long_is_found():
    body = "    x = 1\n" * 61
    text = f'def f():\n    """One."""\n{body}' + f"class A:\n{body * 7}" + "\n" * 500
    found = list(long_parts(PACKAGE / "a.py", text))
    place = "python/ridgeline/a.py"
    assert found == [("modules", place), ("functions", f"{place}: f"), ("classes", f"{place}: A")]
    short = 'def f():\n    """One.\n\n    Two.\n    """\n' + "    x = 1\n" * 59
    assert list(long_parts(PACKAGE / "a.py", short)) == []


_BLANKED = re.compile(
    r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])\'|^[ \t]*#[^\n]*', re.S | re.M
)
_FUNCTION = re.compile(
    r"([~\w]+)\s*\([^;]*\)\s*(?:const|noexcept|override|->[^;{]*|:[^;{]*|\s)*$", re.S
)
_KEYWORDS = {"if", "for", "while", "switch", "catch", "constexpr", "namespace", "requires"}


def cpp_functions(text: str) -> Iterator[tuple[str, int]]:
    """Yield (name, lines) of the blocks after a list of parameters, lambdas aside."""
    text = _BLANKED.sub(lambda found: "\n" * found[0].count("\n"), text)
    blocks: list[tuple[int, str]] = []
    last = 0
    for brace in re.finditer(r"[{};]", text):
        at = brace.start()
        if brace[0] == "{":
            blocks.append((at, text[last:at]))
        elif brace[0] == "}":
            start, head = blocks.pop()
            found = _FUNCTION.search(head)
            if found and found[1] not in _KEYWORDS:
                # From the first line of the declaration on.
                lines = (head.strip() + text[start:at]).count("\n") + 1
                yield found[1], lines
        last = brace.end()


def test_functions_in_cpp():
    found = {
        f"{relative(path)}: {name}"
        for path in CPP
        for name, lines in cpp_functions(path.read_text())
        if lines > CPP_FUNCTION_LINES
    }
    check("C++ functions", found)


def test_cpp_functions_are_counted():
    text = """
namespace a {
#define BRACE {
struct S : public T {
  S(int n) : n_{n}, m_(n) {
  }
  int f(std::span<int> x, // {
        int y) const noexcept {
    if (x.empty()) {
      return '}';
    }
    auto g = [&](int i) { return i; };
    return g(y);
  }
};
}
"""
    found = dict(cpp_functions(text))
    assert found["f"] == 8
    assert "if" not in found


# Imports


def name_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


NAMES = {name_of(path): path for path in MODULES}


def is_for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def statements(node: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    """Yield imports, those in functions too; those for type checkers alone are left out."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child
        elif not is_for_types(child):
            yield from statements(child)


def imports(name: str, text: str, is_package: bool) -> set[str]:
    """Return the modules of this package that a module imports."""
    found = set()
    for node in statements(ast.parse(text)):
        if isinstance(node, ast.Import):
            found |= {each.name for each in node.names}
            continue
        base = node.module or ""
        if node.level:
            above = name.split(".")
            above = above[: len(above) - node.level + is_package]
            base = ".".join([*above, *([node.module] if node.module else [])])
        for each in node.names:
            whole = f"{base}.{each.name}"
            found.add(whole if whole in NAMES else base)
    return {each for each in found if each.split(".")[0] == "ridgeline"}


GRAPH = {
    name: imports(name, path.read_text(), path.name == "__init__.py")
    for name, path in NAMES.items()
}


def circles(graph: dict[str, set[str]]) -> set[str]:
    """Return the circles, each as its modules in order.

    The package itself is left out: it imports all others, and those in need of it do so late.
    """
    reached: dict[str, set[str]] = {}
    for start in graph:
        seen: set[str] = set()
        todo = [start]
        while todo:
            for each in graph[todo.pop()] - seen:
                if each in graph and each != "ridgeline":
                    seen.add(each)
                    todo.append(each)
        reached[start] = seen
    return {
        " ".join(sorted(each for each in graph if each in reached[name] and name in reached[each]))
        for name in graph
        if name in reached[name]
    }


def test_no_circle_of_imports():
    check("circles", circles(GRAPH))


def test_a_circle_is_found():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == {"a b c"}
    assert circles({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == set()


def test_nothing_imports_what_is_only_for_users():
    def is_adapter(name: str) -> bool:
        return name.split(".")[1:2] in [[each] for each in ADAPTERS]

    wrong = [
        (name, each)
        for name, found in GRAPH.items()
        for each in found
        if is_adapter(each) and not is_adapter(name)
    ]
    assert wrong == []


def private_imports(graph: dict[str, set[str]]) -> set[str]:
    """Return the imports of a package's private module from outside it; the root's are for all."""
    wrong = set()
    for name, found in graph.items():
        for each in found:
            package, *rest = each.split(".")[1:] or [""]
            inside = f"ridgeline.{package}"
            is_private = any(part.startswith("_") for part in rest)
            if is_private and name != inside and not name.startswith(f"{inside}."):
                wrong.add(f"{name} imports {each}")
    return wrong


def test_no_family_imports_a_private_module_of_another():
    check("private modules", private_imports(GRAPH))


def test_private_imports_are_found():
    graph = {
        "ridgeline.a": {"ridgeline.prune._tree", "ridgeline._tree", "ridgeline.prune.scores"},
        "ridgeline.prune.scores": {"ridgeline.prune._tree"},
    }
    assert private_imports(graph) == {"ridgeline.a imports ridgeline.prune._tree"}


def test_imports_are_resolved():
    text = "from . import results\nfrom .results import Row\nfrom ..rows import cases\nimport numpy"
    found = imports("ridgeline.bench.report.page", text, False)
    assert found == {"ridgeline.bench.report.results", "ridgeline.bench.rows.cases"}
    assert imports("ridgeline.bench", "from .rows.own import case", True) == {
        "ridgeline.bench.rows.own"
    }


# Folders of headers that each C++ layer may include; its own is one of them.
LAYERS = {
    "cpp/include/ridgeline": {"ridgeline"},
    "cpp/src/simd": {"simd", "ridgeline"},
    "cpp/src/kernels": {"kernels", "simd", "ridgeline"},
    "cpp/src/runtime": {"runtime", "ridgeline"},
    "cpp/src/ops": {"ops", "kernels", "simd", "runtime", "ridgeline"},
    "python/src": {"ridgeline"},
}


def test_layers_in_cpp():
    wrong = [
        (relative(path), header)
        for folder, known in LAYERS.items()
        for path in (ROOT / folder).rglob("*")
        if path.suffix in (".hpp", ".cpp", ".def")
        for header in re.findall(r'#include "(\w+)/', path.read_text(encoding="utf-8"))
        if header not in known
    ]
    assert wrong == []


def test_the_reference_stands_alone():
    """It is the truth of the tests, so nothing of it may come from what is tested."""
    own = "ridgeline.reference"
    wrong = [
        (name, each)
        for name, found in GRAPH.items()
        for each in found
        if name.startswith(own) and not each.startswith(own)
    ]
    assert wrong == []


# Prose

PROSE = sorted(
    path
    for path in [
        *ROOT.glob("*.md"),
        *(
            p
            for f in ("docs", "bench", "cpp", "examples", "tests", "python")
            for p in (ROOT / f).rglob("*.md")
        ),
    ]
    if path.name != "CHANGELOG.md"
)
CODE = [
    *MODULES,
    *CPP,
    *sorted((ROOT / "tests").rglob("*.py")),
    *sorted((ROOT / "bench").rglob("*.[ch]pp")),
]


def prose_lines(text: str) -> Iterator[tuple[int, str]]:
    """Yield the numbered lines outside code, tables and generated text, without addresses."""
    is_code = False
    for number, line in enumerate(text.splitlines(), 1):
        starts, ends = line.startswith("<!-- table"), line == "<!-- end -->"
        if line.lstrip().startswith("```") or starts or ends:
            is_code = not ends and (starts or not is_code)
        elif not is_code and not line.lstrip().startswith("|"):
            yield number, re.sub(r"<?https?://[^\s)>]+>?", "", line)


def test_width_of_prose():
    found = {
        relative(path)
        for path in PROSE
        for _, line in prose_lines(path.read_text(encoding="utf-8"))
        if len(line) > COLUMNS
    }
    check("prose", found)


def test_wide_prose_is_found():
    text = "<!-- table: a -->\n{0}\n<!-- end -->\n```\n{0}\n```\n| {0} |\n{0}\n[a](https://{0})\n".format(
        "x" * 101
    )
    wide = [number for number, line in prose_lines(text) if len(line) > COLUMNS]
    assert wide == [8]


PRAGMA = re.compile(r"  # (type: ignore|noqa).*")


def test_width_of_code_and_comments():
    wide = [
        f"{relative(path)}:{number}"
        for path in CODE
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if len(PRAGMA.sub("", line)) > COLUMNS and "://" not in line
    ]
    assert wide == []
