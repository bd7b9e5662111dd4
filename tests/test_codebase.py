"""Limits that keep the code base readable: sizes, imports, recipes, the width of prose."""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import ridgeline as rl

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
    "C++ functions": set(),
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


# Recipes: what CONTRIBUTING.md says of each addition is true of all that there is

PLACE = re.compile(r"(?:[\w.]+/)*\w+\.(?:cmake|cpp|def|hpp|md|pyi?|txt)")


class Clause(NamedTuple):
    """The part of an item that says what to write in some files."""

    places: list[str]
    is_any: bool  # of the places one is enough
    names: set[str]  # of the recipe's examples


def clauses(recipe: str, examples: Iterable[str]) -> Iterator[Clause]:
    """Yield the parts of a recipe's numbered items that name a file."""
    listed = recipe[recipe.index("\n1. ") :]
    for text in re.split(r";|\.\s|\n\d\. ", listed):
        quoted = re.findall(r"`([^`]+)`", text)
        places = [word for word in quoted if PLACE.fullmatch(word)]
        if places:
            yield Clause(places, bool(re.search(r"`\s+or\s+`", text)), {*quoted} & {*examples})


def rows_of(list_name: str, macro: str) -> list[tuple[str, ...]]:
    text = (ROOT / "cpp" / list_name).read_text(encoding="utf-8")
    return re.findall(rf"^ *{macro}\((\w+)(?:, *(\w+))?", text, re.M)


def names_of(found: list[tuple[str, ...]], column: int) -> set[str]:
    return {row[column] for row in found}


def classes_of(module: str, base: type) -> set[str]:
    """Return the public classes of a module that can be created."""
    found = vars(importlib.import_module(f"ridgeline.{module}")).items()
    return {
        name
        for name, each in found
        if name in rl.__all__ and isinstance(each, type) and issubclass(each, base) and each != base
    }


def likes() -> dict[str, dict[str, tuple[set[str], set[str]]]]:
    """Return, for each recipe, what its examples stand for: in C++ and elsewhere."""
    penalties = rows_of("include/ridgeline/penalties.def", "RIDGELINE_PENALTY")
    optimizers = rows_of("include/ridgeline/optimizers.def", "RIDGELINE_OPTIMIZER")
    targets = names_of(rows_of("src/runtime/targets.def", "RIDGELINE_TARGET"), 0)
    families = names_of(rows_of("src/runtime/families.def", "ROW"), 0) - {"storage", "roof"}
    penalty_classes = classes_of("penalties", rl.Penalty)
    optimizer_classes = classes_of("optimizers", rl.optimizers.Optimizer)
    return {
        "a penalty": {
            "capped_l1": (names_of(penalties, 0),) * 2,
            "CappedL1": (names_of(penalties, 1), penalty_classes),
        },
        "an optimizer": {
            "ademamix": (names_of(optimizers, 0),) * 2,
            "AdEMAMix": (names_of(optimizers, 1), optimizer_classes),
        },
        "a target, or a flag of one": {"x86_64_v3": (targets, targets)},
        "a family": {"clipping": (families, families)},
    }


def missing_in(clause: Clause, known: dict[str, tuple[set[str], set[str]]]) -> set[str]:
    """Return the places of a clause that do not exist, and the names that they lack."""
    gone = {place for place in clause.places if not (ROOT / place).is_file()}
    if gone:
        return gone
    words = [(p, {*re.findall(r"\w+", (ROOT / p).read_text("utf-8"))}) for p in clause.places]
    if clause.is_any:
        words = [(words[0][0], set().union(*(found for _, found in words)))]
    return {
        f"{place}: {name}"
        for place, found in words
        for example in clause.names
        for name in known[example][not place.endswith((".cpp", ".hpp", ".def"))] - found
    }


RECIPES = dict(
    re.findall(
        r"^### Adding ([^\n]+)\n(.*?)(?=^##|\Z)",
        (ROOT / "CONTRIBUTING.md").read_text("utf-8") if (ROOT / "cpp").is_dir() else "",
        re.M | re.S,
    )
)


def test_there_is_a_recipe_for_each_list():
    assert RECIPES.keys() == likes().keys()


@pytest.mark.parametrize("recipe", RECIPES)
def test_recipes_name_every_place(recipe):
    known = likes()[recipe]
    found = list(clauses(RECIPES[recipe], known))
    assert {name for clause in found for name in clause.names} == known.keys()
    assert set().union(*(missing_in(clause, known) for clause in found)) == set()


def test_families_have_the_files_of_their_recipe():
    families = likes()["a family"]["clipping"][0]
    elsewhere = {  # the peers of dropout are those of random, of which C++ has no rows
        "python/ridgeline/bench/peers/dropout.py",
        "bench/cpp/bench_random.cpp",
    }
    places = {
        place
        for clause in clauses(RECIPES["a family"], [])
        for place in clause.places
        if "clipping" in place
    }
    assert len(places) >= 10
    wanted = {(place, family) for place in places for family in families}
    missing = {place.replace("clipping", family) for place, family in wanted} - elsewhere
    # A family may be a package, and pruning's is called prune.
    gone = {
        place
        for place in missing
        if not any(
            (ROOT / each).exists() or (ROOT / each).with_suffix("").is_dir()
            for each in (place, place.replace("pruning", "prune"))
        )
    }
    assert gone == set()


def test_a_place_left_out_is_found():
    recipe = "\n\n1. `tests/helpers.py`: `b` there; `tests/gone.py` or `README.md`: `b` too.\n"
    first, second = clauses(recipe, {"b"})
    assert first == Clause(["tests/helpers.py"], False, {"b"})
    assert second == Clause(["tests/gone.py", "README.md"], True, {"b"})
    known = {"b": ({"nothing_of_cpp"}, {"import", "nothing_of_python"})}
    assert missing_in(first, known) == {"tests/helpers.py: nothing_of_python"}
    assert missing_in(second, known) == {"tests/gone.py"}


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
