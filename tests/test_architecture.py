"""The rules that keep the packages apart, their messages readable, and their code in use."""

import ast
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = {"persona_jobs": ROOT / "jobs", "persona_operator": ROOT / "operator"}
# What the operator may import of persona_jobs; none of it needs torch.
SHARED = ("api", "pipeline", "store", "errors")
TORCH = {"torch", "transformers", "safetensors", "accelerate", "datasets"}
# Parameters with a default that no caller in the packages passes, and why they are there.
OPTIONAL_FOR_A_REASON = {
    "main(arguments=)": "the default is the command line",
    "usable_cpus(quota_file=)": "tests have no cgroup of their own",
    "usable_cpus(v1_folder=)": "tests have no cgroup of their own",
}


@dataclass(frozen=True)
class Import:
    """One imported module: `lazy` when the import is inside a function."""

    target: str
    line: int
    lazy: bool


@cache
def modules() -> dict[str, Path]:
    """Return every module of both packages by its dotted name."""
    found = {}
    for package, folder in SOURCES.items():
        for file in sorted((folder / package).rglob("*.py")):
            parts = file.relative_to(folder).with_suffix("").parts
            found[".".join(parts).removesuffix(".__init__")] = file
    return found


@cache
def tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


@cache
def imports(name: str) -> tuple[Import, ...]:
    """Return what a module imports: absolute names, of modules wherever there is one."""
    file = modules()[name]
    package = name if file.name == "__init__.py" else name.rpartition(".")[0]
    found = []
    for node, lazy in _import_nodes(tree(file)):
        if isinstance(node, ast.Import):
            found += [Import(alias.name, node.lineno, lazy) for alias in node.names]
            continue
        base = node.module or ""
        if node.level:
            above = package.split(".")[: len(package.split(".")) - node.level + 1]
            base = ".".join([*above, *([node.module] if node.module else [])])
        for alias in node.names:
            full = f"{base}.{alias.name}"
            found.append(Import(full if full in modules() else base, node.lineno, lazy))
    return tuple(found)


def _import_nodes(
    node: ast.AST, lazy: bool = False
) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child, lazy
        elif not _is_type_checking(child):
            inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from _import_nodes(child, lazy or inside)


def _is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")


def is_within(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


# The wall


def test_the_operator_imports_only_the_shared_packages_of_persona_jobs():
    allowed = [f"persona_jobs.{name}" for name in SHARED]
    wrong = [
        f"{name}:{item.line} imports {item.target}"
        for name in modules()
        if is_within(name, "persona_operator")
        for item in imports(name)
        if is_within(item.target, "persona_jobs")
        and not any(is_within(item.target, package) for package in allowed)
    ]
    assert not wrong, "\n".join(wrong)


def test_persona_jobs_does_not_import_the_operator():
    wrong = [
        f"{name}:{item.line}"
        for name in modules()
        if is_within(name, "persona_jobs")
        for item in imports(name)
        if is_within(item.target, "persona_operator")
    ]
    assert not wrong, "\n".join(wrong)


def test_the_shared_packages_import_nothing_else_of_persona_jobs():
    allowed = ["persona_jobs", *(f"persona_jobs.{name}" for name in SHARED)]
    stages = "persona_jobs.stages"  # the runner imports the module of the stage that it runs
    wrong = [
        f"{name}:{item.line} imports {item.target}"
        for name in modules()
        if any(is_within(name, package) for package in allowed[1:])
        for item in imports(name)
        if is_within(item.target, "persona_jobs")
        and not (item.target == allowed[0] or any(is_within(item.target, a) for a in allowed[1:]))
        and not (item.lazy and is_within(item.target, stages))
    ]
    assert not wrong, "\n".join(wrong)


def test_the_operator_and_the_shared_packages_never_import_torch():
    light = ["persona_operator", *(f"persona_jobs.{name}" for name in SHARED)]
    wrong = [
        f"{name}:{item.line} imports {item.target}"
        for name in modules()
        if any(is_within(name, package) for package in light)
        for item in imports(name)
        if item.target.split(".")[0] in TORCH
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    "module",
    [
        "persona_operator.handlers",
        "persona_operator.__main__",
        "persona_jobs.pipeline.runner",
        "persona_jobs.cli",
        "persona_jobs.fetch",
        "persona_jobs.resolve",
    ],
)
def test_importing_it_loads_no_torch(module):
    code = f"import {module}, sys; sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], timeout=120, check=False)
    assert done.returncode == 0


def test_there_is_no_import_cycle():
    graph = {
        name: {item.target for item in imports(name) if not item.lazy and item.target in modules()}
        for name in modules()
    }
    assert [" → ".join(cycle) for cycle in _cycles(graph)] == []


def _cycles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Return one cycle through each module that closes one in a depth-first walk."""
    found, done = [], set()

    def visit(name: str, path: list[str]) -> None:
        if name in path:
            found.append([*path[path.index(name) :], name])
        elif name not in done:
            for target in sorted(graph[name] - {name}):
                visit(target, [*path, name])
            done.add(name)

    for name in sorted(graph):
        visit(name, [])
    return found


def test_the_operator_folder_is_no_package():
    # A package called `operator` would shadow the standard library's module.
    assert not (ROOT / "operator" / "__init__.py").exists()


# Messages


def test_every_hint_is_a_sentence_without_its_full_stop():
    wrong = [
        f"{file.relative_to(ROOT)}:{node.lineno}: {text}"
        for file in modules().values()
        for node in _hints(tree(file))
        for text in _texts(node)
        if not _is_sentence(text)
    ]
    assert not wrong, "\n".join(wrong)


def _hints(module: ast.Module) -> Iterator[ast.expr]:
    """Yield what becomes a hint: an argument or variable called so, or returned by `…_hint`."""
    for node in ast.walk(module):
        match node:
            case ast.Call():
                yield from (item.value for item in node.keywords if item.arg == "hint")
                if _last_name(node.func) == "get" and len(node.args) == 2:
                    known = node.func.value if isinstance(node.func, ast.Attribute) else None
                    if known is not None and _is_hint(known):
                        yield node.args[1]
            case (
                ast.Assign(targets=[target], value=value)
                | ast.AnnAssign(target=target, value=value)
            ) if value is not None:
                if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
                    pairs = zip(target.elts, value.elts, strict=True)
                    yield from (part for name, part in pairs if _is_hint(name))
                elif _is_hint(target):
                    yield value
            case ast.FunctionDef():
                if node.name.endswith("_hint"):
                    returns = [item for item in ast.walk(node) if isinstance(item, ast.Return)]
                    yield from (item.value for item in returns if item.value is not None)


def _is_hint(node: ast.expr) -> bool:
    name = _last_name(node).lower().strip("_")
    return name in {"hint", "hints"} or name.endswith(("_hint", "_hints"))


def _texts(node: ast.expr) -> Iterator[str]:
    """Yield the literals that an expression may become, `{}` in the place of each value."""
    match node:
        case ast.IfExp():
            yield from _texts(node.body)
            yield from _texts(node.orelse)
        case ast.Dict():
            for value in node.values:
                yield from _texts(value)
        case ast.Constant(value=str(text)):
            yield text
        case ast.JoinedStr():
            yield "".join(
                str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values
            )


def _is_sentence(text: str) -> bool:
    """An empty hint counts: there is nothing to advise then."""
    return not text or ((text[0].isupper() or text[0] in "`{") and text[-1] not in ".!,;: ")


# Dead code


def test_nothing_is_unused():
    """Vulture finds functions, methods, classes and arguments that nothing uses."""
    command = [sys.executable, "-m", "vulture"]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode in (0, 3), done.stderr
    # Below full certainty a variable or an attribute is the field of a model or of a library.
    unused = [
        line
        for line in done.stdout.splitlines()
        if not ("(60%" in line and ("unused variable" in line or "unused attribute" in line))
    ]
    assert not unused, "\n".join(unused)


def test_every_parameter_with_a_default_is_passed_by_some_caller():
    calls = _calls()
    wrong = []
    for file in modules().values():
        for owner, function in _functions(tree(file)):
            name = owner if function.name == "__init__" else function.name
            known = calls.get(name, [])
            if function.decorator_list or name.startswith("__") or not known:
                continue
            bound = [*function.args.posonlyargs, *function.args.args]
            bound = bound[1:] if owner else bound
            for position, parameter in _optional(function, bound):
                called = f"{name}({parameter}=)"
                passed = any(_passes(call, parameter, position) for call in known)
                if not passed and called not in OPTIONAL_FOR_A_REASON:
                    wrong.append(f"{file.relative_to(ROOT)}:{function.lineno}: {called}")
    assert not wrong, "\n".join(wrong)


def _functions(node: ast.AST, owner: str = "") -> Iterator[tuple[str, ast.FunctionDef]]:
    """Yield every function with the name of its class."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield owner, child
            yield from _functions(child)
        else:
            yield from _functions(child, child.name if isinstance(child, ast.ClassDef) else owner)


def _optional(function: ast.FunctionDef, bound: list[ast.arg]) -> Iterator[tuple[int, str]]:
    """Yield position and name of each parameter with a default; keyword-only ones at the end."""
    first = len(bound) - len(function.args.defaults)
    yield from ((index, bound[index].arg) for index in range(max(first, 0), len(bound)))
    for parameter, default in zip(function.args.kwonlyargs, function.args.kw_defaults, strict=True):
        if default is not None:
            yield sys.maxsize, parameter.arg


def _calls() -> dict[str, list[ast.Call | None]]:
    """Return the calls of each name; None where a function is handed over without a call."""
    found: dict[str, list[ast.Call | None]] = defaultdict(list)
    for file in [*modules().values(), *sorted((ROOT / "tools").glob("*.py"))]:
        called = set()
        for node in ast.walk(tree(file)):
            if isinstance(node, ast.Call):
                called.add(node.func)
                found[_last_name(node.func)].append(node)
        for node in ast.walk(tree(file)):
            is_use = isinstance(node, ast.Name | ast.Attribute) and node not in called
            if is_use and isinstance(node.ctx, ast.Load):
                found[_last_name(node)].append(None)
    return found


def _last_name(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def _passes(call: ast.Call | None, parameter: str, position: int) -> bool:
    if call is None or any(isinstance(item, ast.Starred) for item in call.args):
        return True
    if any(keyword.arg in (parameter, None) for keyword in call.keywords):
        return True
    return len(call.args) > position
