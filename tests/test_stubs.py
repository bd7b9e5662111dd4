"""The hand-written stubs against the compiled module, and the docstrings against the signatures."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import re
import types
from pathlib import Path

import pytest

import ridgeline as rl
from ridgeline import _core
from ridgeline.optimizers import Optimizer

PACKAGE = Path(rl.__file__).resolve().parent
STUB = ast.parse((PACKAGE / "_core.pyi").read_text())
FUNCTIONS = {node.name: node for node in STUB.body if isinstance(node, ast.FunctionDef)}
CLASSES = {node.name: node for node in STUB.body if isinstance(node, ast.ClassDef)}
VALUES = {
    node.target.id: node.annotation
    for node in STUB.body
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
}
METHODS = {
    (cls.name, node.name): node
    for cls in CLASSES.values()
    for node in cls.body
    if isinstance(node, ast.FunctionDef)
}


def public(owner) -> set[str]:
    return {name for name in vars(owner) if not name.startswith("_")}


def test_the_same_names():
    assert {*FUNCTIONS, *CLASSES, *VALUES} == public(_core)


def test_kinds():
    for name in FUNCTIONS:
        assert isinstance(getattr(_core, name), types.BuiltinFunctionType), name
    for name in CLASSES:
        assert isinstance(getattr(_core, name), type), name
    for name, annotation in VALUES.items():
        assert type(getattr(_core, name)).__name__ == ast.unparse(annotation), name


def test_classes():
    for name, node in CLASSES.items():
        cls = getattr(_core, name)
        bases = [ast.unparse(base) for base in node.bases] or ["object"]
        bases = ["pybind11_object" if b == "object" else b for b in bases]
        assert [base.__name__ for base in cls.__bases__] == bases
        attributes = {n.target.id for n in node.body if isinstance(n, ast.AnnAssign)}
        methods = {m for owner, m in METHODS if owner == name and not m.startswith("__")}
        inherited = (
            {"args", "with_traceback", "add_note"} if issubclass(cls, BaseException) else set()
        )
        assert methods == public(cls) - attributes - inherited


def compiled_arguments(function) -> tuple[list[tuple[str, bool]], str]:
    """(name, has a default) of each argument and the result, from pybind11's docstring."""
    first = function.__doc__.strip().splitlines()[0]
    match = re.fullmatch(r"(\w+)\((.*)\) -> (.+)", first)
    assert match, f"no signature, or several: {function.__doc__!r}"
    assert match[1] == function.__name__
    arguments = ast.parse(f"def f({re.sub(r'<.*?>', 'None', match[2])}): ...").body[0].args
    assert not arguments.vararg
    assert not arguments.kwarg
    return arguments_of(
        arguments, [a.arg for a in (*arguments.posonlyargs, *arguments.args)]
    ), match[3]


def arguments_of(arguments, named) -> list[tuple[str | None, bool]]:
    """Those by position, then those by keyword alone, after "*"."""
    without = len(named) - len(arguments.defaults)
    found = [(name, i >= without) for i, name in enumerate(named)]
    if arguments.kwonlyargs:
        found.append(("*", False))
    keywords = zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    return found + [(a.arg, default is not None) for a, default in keywords]


def stub_arguments(node) -> list[tuple[str | None, bool]]:
    """... of the stub; no name for arguments that are positional only."""
    arguments = node.args
    return arguments_of(
        arguments, [None] * len(arguments.posonlyargs) + [a.arg for a in arguments.args]
    )


@pytest.mark.parametrize(
    ("function", "node"),
    [(getattr(_core, name, None), node) for name, node in FUNCTIONS.items()]
    + [(getattr(getattr(_core, c, None), m, None), node) for (c, m), node in METHODS.items()],
    ids=[*FUNCTIONS, *map(".".join, METHODS)],
)
def test_arguments(function, node):
    compiled, result = compiled_arguments(function)
    written = stub_arguments(node)
    if compiled and compiled[0][0] == "self":
        assert written[0][0] == "self"
        compiled, written = compiled[1:], written[1:]
    assert [default for _, default in written] == [default for _, default in compiled]
    for (name, _), (compiled_name, _) in zip(written, compiled, strict=True):
        positional = re.fullmatch(r"arg\d+", compiled_name)  # pybind11's for those without a name
        assert positional if name is None else name == compiled_name
    returned = ast.unparse(node.returns)
    assert (returned == "None") == (result == "None")
    if result in ("float", "int", "str", "bool"):
        assert returned == result
    if result.lower().startswith("list"):
        assert returned.startswith("list[")


def test_everything_is_annotated():
    for node in ast.walk(STUB):
        if isinstance(node, ast.FunctionDef):
            assert node.returns is not None, node.name
            for argument in (*node.args.posonlyargs, *node.args.args):
                assert argument.annotation is not None or argument.arg == "self", node.name


def test_package_is_marked_as_typed():
    assert (PACKAGE / "py.typed").exists()


# --- docstrings -----------------------------------------------------------------------------------

SECTIONS = [
    "Parameters",
    "Returns",
    "Yields",
    "Attributes",
    "Raises",
    "Warns",
    "See Also",
    "Notes",
    "References",
    "Examples",
]


def callables():
    """Every public function, class and public method of a class."""
    seen = {}
    modules = [
        rl,
        *(
            m
            for name, m in vars(rl).items()
            if name in rl.__all__ and isinstance(m, types.ModuleType)
        ),
    ]
    for module in modules:
        for name in module.__all__:
            value = getattr(module, name)
            if inspect.isclass(value) or inspect.isroutine(value):
                seen[value] = name
                if inspect.isclass(value) and value.__module__.startswith("ridgeline"):
                    for method, member in vars(value).items():
                        if not method.startswith("_") and inspect.isfunction(member):
                            seen[member] = f"{name}.{method}"
    return [pytest.param(value, id=name) for value, name in seen.items()]


everything = pytest.mark.parametrize("value", callables())


def sections(value) -> dict[str, str]:
    """The sections of a NumPy-style docstring, in order; the summary is under ''."""
    doc = inspect.getdoc(value)
    assert doc, "no docstring"
    parts = re.split(r"^(\w[\w ]*)\n(-{3,})$", doc, flags=re.M)
    found = {"": parts[0]}
    for title, line, body in zip(parts[1::3], parts[2::3], parts[3::3], strict=True):
        assert len(line) == len(title), f"the line under {title}"
        assert title not in found, f"{title} twice"
        found[title] = body
    return found


def parameters(value) -> list[str]:
    if inspect.isclass(value) and issubclass(value, BaseException):
        return []
    if inspect.isclass(value) and value.__init__ is object.__init__:
        return []
    return [
        p.name
        for p in inspect.signature(value).parameters.values()
        if p.name != "self" and not p.name.startswith("_")
    ]


@everything
def test_docstring_sections(value):
    found = sections(value)
    titles = [title for title in found if title]
    assert set(titles) <= set(SECTIONS), "an unknown section"
    assert titles == sorted(titles, key=SECTIONS.index), "sections out of order"
    summary = found[""].strip().splitlines()
    assert summary[0].endswith("."), "the first line is one sentence"
    assert len(summary) == 1 or not summary[1], "a blank line after the summary"


@everything
def test_docstring_parameters(value):
    wanted = parameters(value)
    if not wanted:
        return
    found = sections(value)
    assert "Parameters" in found, f"parameters {wanted} are not described"
    described = []
    for line in found["Parameters"].splitlines():
        if line and not line.startswith(" "):
            names, _, kind = line.partition(" : ")
            assert kind, f"no type: {line!r}"
            described += [name.lstrip("*") for name in names.split(", ")]
    if inspect.isclass(value) and issubclass(value, Optimizer):
        common = {
            p.name
            for p in inspect.signature(rl.AdamW).parameters.values()
            if p.kind is inspect.Parameter.KEYWORD_ONLY
        }
        if value is Optimizer:  # describes what all of them take
            assert common <= set(described)
            return
        wanted = [*[name for name in wanted if name not in common], "options"]
    assert described == wanted


@everything
def test_docstring_returns(value):
    if inspect.isclass(value):
        return
    annotation = inspect.signature(value).return_annotation
    if annotation in ("None", None):
        assert "Returns" not in sections(value)
    elif "Parameters" in sections(value):  # a summary is enough for a function without arguments
        assert "Returns" in sections(value)


@everything
def test_docstring_examples(value):
    found = sections(value)
    assert "Examples" in found, "no examples"
    assert ">>> " in found["Examples"]


def test_modules_have_docstrings():
    for path in sorted(PACKAGE.rglob("*.py")):
        assert ast.get_docstring(ast.parse(path.read_text())), path


def test_compiled_module_is_beside_its_stub():
    assert importlib.util.find_spec("ridgeline._core").origin == _core.__file__
    assert Path(_core.__file__).name.startswith("_core.")
