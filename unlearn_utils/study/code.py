"""The code behind a result: what its functions and classes reach by name, without comments, docstrings and hints.

A result counts as made by the definitions that it reaches in the thin module, in a notebook, or in a user's own
modules; not by a whole file, so that adding a function changes no key. Settings count by their values instead,
and libraries by their versions, which a record names.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import inspect
import linecache
import random
import sys
import sysconfig
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from types import CellType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch

from ..settings import BadInput

PACKAGE = __package__.partition(".")[0]
# What these hold is in a key by its values: settings, pixels, and the study that puts the values there.
BY_VALUE = tuple(f"{PACKAGE}.{room}" for room in ("settings", "paths", "image_files", "sources", "study", "views"))
STANDARD = sysconfig.get_paths()["stdlib"]
NO_CODE = ("ctx", "kind", "type_comment", "type_ignores")  # fields of a syntax tree
MOVING = (torch.Generator, random.Random, np.random.Generator, np.random.RandomState)  # another value at every use
Place = tuple[str, str, Any]  # module, name, object


class _Bare(ast.NodeTransformer):
    """Takes docstrings, type hints and the decorators of classes, which say how they are shown, out of a syntax tree.

    In the body of a class a hint makes a field, so there it stays.
    """

    def visit(self, node: ast.AST) -> ast.AST | None:
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and _is_text(body[0]):
            del body[0]
        for hint in {"returns", "annotation"} & set(node._fields) if not isinstance(node, ast.AnnAssign) else ():
            setattr(node, hint, None)
        return super().visit(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.ClassDef:
        node.decorator_list = []
        for field in node.body:
            field.is_field = True
        return self.generic_visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.stmt | None:
        if hasattr(node, "is_field"):
            return self.generic_visit(node)
        return self.generic_visit(ast.Assign([node.target], node.value)) if node.value else None


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def bare(source: str) -> ast.Module:
    """The syntax tree of a module without its prose and hints."""
    return _Bare().visit(ast.parse(source))


def as_text(node: Any) -> str:
    """A syntax tree as text, the same in every Python version."""
    if isinstance(node, list):
        return f"[{', '.join(map(as_text, node))}]"
    if not isinstance(node, ast.AST):
        return repr(node)
    parts = [(name, value) for name, value in ast.iter_fields(node) if name not in NO_CODE and value not in (None, [])]
    return f"{type(node).__name__}({', '.join(f'{name}={as_text(value)}' for name, value in parts)})"


@dataclass(frozen=True)
class Source:
    """The text of a module or of a notebook cell, and where each top-level name of it is defined."""

    text: str
    module: str

    @cached_property
    def names(self) -> dict[str, list[ast.stmt]]:
        found: dict[str, list[ast.stmt]] = {}
        for statement in bare(self.text).body:
            for name in dict.fromkeys(_bound_by(statement)):
                found.setdefault(name, []).append(statement)
        return found


def _bound_by(statement: ast.AST) -> list[str]:
    if isinstance(statement, (ast.FunctionDef, ast.ClassDef, ast.AsyncFunctionDef)):
        return [statement.name]
    if isinstance(statement, (ast.Import, ast.ImportFrom)):
        return [alias.asname or alias.name.partition(".")[0] for alias in statement.names]
    targets = [*getattr(statement, "targets", ()), *filter(None, [getattr(statement, "target", None)])]
    within = [part for part in ast.iter_child_nodes(statement) if isinstance(part, (ast.stmt, ast.ExceptHandler))]
    names = [node.id for target in targets for node in ast.walk(target) if isinstance(node, ast.Name)]
    return names + [name for part in within for name in _bound_by(part)]


_RECEIVED: dict[Any, str] = {}  # what came from another process, with the version it had there


def received(thing: Any, its_version: str) -> None:
    """Believe the version of a class or function whose source lies in another process (a notebook's)."""
    _RECEIVED[thing] = its_version


def version(*roots: Any) -> str:
    """Hash of the code of functions and classes and of all that they reach by name.

    Raises BadInput where the source of a class cannot be found.
    """
    return _RECEIVED.get(roots[0]) or _version(roots)


@cache  # cleared before every sweep, when edits are looked for
def _version(roots: tuple) -> str:
    found = {("" if module == "__main__" else module, name, text) for module, name, text in reached(*roots)}
    return hashlib.sha256(repr(sorted(found)).encode()).hexdigest()[:20]


def reached(*roots: Any) -> list[tuple[str, str, str]]:
    """Module, name and text of all that functions and classes are made of."""
    found: dict[tuple[str, str], str] = {}
    todo: list[Place] = [_place(root) for root in roots]
    while todo:
        module, name, thing = todo.pop()
        outer, thing = thing, inspect.unwrap(thing) if callable(thing) else thing  # functools.cache and its like
        source, held = _source_of(module, name, thing), []
        statements = () if isinstance(thing, MethodType) else source.names.get(name)  # its object counts by its value
        ours, defined = module.startswith(f"{PACKAGE}."), isinstance(thing, (FunctionType, type))
        value = "" if statements or defined else str(_value(name, thing, held))
        closed = [] if ours else _closed_over(outer)
        place = module, " ".join([name, value, *(str(_value(name, one, held)) for one in closed)])
        if place in found:
            continue
        if statements:
            found[place] = as_text(statements)
            todo += [place for statement in statements for place in _named_in(statement, source)]
            if not ours:  # the package's own tables hold more than one result uses
                held += thing.values() if isinstance(thing, dict) else thing if isinstance(thing, (list, tuple)) else []
        elif defined:
            raise BadInput(
                f"the source of '{name}' cannot be found, so its results could not be told from those of another "
                "version; define it in a notebook cell or a file."
            )
        else:
            found[place] = value
        inside = [_place(one) for one in held if isinstance(one, (FunctionType, type))]
        todo += [place for place in inside if _counts(place[0], source)]
    return [(module, name, text) for (module, name), text in found.items()]


def _place(thing: Any) -> Place:
    return thing.__module__, thing.__qualname__.partition(".")[0], thing


def _closed_over(thing: Any) -> list:
    """The values that a function made by another one keeps, and those that it wraps."""
    if not isinstance(thing, FunctionType):
        return []
    own = [cell.cell_contents for cell in thing.__closure__ or () if cell != CellType()]  # an empty one has no contents
    return own + _closed_over(getattr(thing, "__wrapped__", None))


@cache  # once
def _tell(name: str, kind: str) -> None:
    print(f"'{name}' is a {kind}, which has no value that a key can hold: what changes in it is not noticed.")


def _value(name: str, thing: Any, held: list, above: tuple = ()) -> Any:
    """A value of a notebook as nested lists of text; functions and classes go to ``held``, to be counted by their code.

    What only exists while the process runs, like an open file or a random generator, counts by its type.
    """
    if isinstance(thing, (FunctionType, type, ModuleType)):
        held.append(thing)
        return thing.__name__
    if isinstance(thing, (str, bytes, int, float, complex, type(None), type(...))):
        return repr(thing)
    if id(thing) in above:
        return "itself"
    above = (*above, id(thing))
    if isinstance(thing, torch.Tensor):
        plain = thing.detach().cpu().reshape(-1)
        return f"{thing.dtype} {tuple(thing.shape)} {hashlib.sha256(plain.view(torch.uint8).numpy()).hexdigest()}"
    if type(thing) in (list, tuple):
        return [type(thing).__name__, *(_value(name, part, held, above) for part in thing)]
    if type(thing) in (dict, set, frozenset):
        parts = thing.items() if isinstance(thing, dict) else thing
        return [type(thing).__name__, *sorted((_value(name, part, held, above) for part in parts), key=str)]
    if isinstance(thing, torch.nn.Module):  # without its hooks, which are another library version's business
        parts = {k: v for k, v in vars(thing).items() if k in ("_parameters", "_buffers", "_modules") or k[0] != "_"}
        return _value(name, (type(thing), parts), held, above)
    try:
        made = None if isinstance(thing, MOVING) else thing.__reduce_ex__(2)  # as it would be pickled
    except Exception:  # of somebody else's class: it cannot
        made = None
    if isinstance(made, str):
        return made
    if made is not None:
        return [_value(name, list(part) if hasattr(part, "__next__") else part, held, above) for part in made]
    _tell(name, type(thing).__name__)
    return type(thing).__name__


_FIRST_SEEN: dict[str, int] = {}


def state() -> dict[str, int | None]:
    """When each file that this process has looked at was last changed."""
    return {file: Path(file).stat().st_mtime_ns if Path(file).exists() else None for file in _FIRST_SEEN}


def edited() -> bool:
    """Whether a file has changed since this process first looked at it, so that it may run older code than that."""
    return state() != _FIRST_SEEN


def look_again() -> None:
    """Notice, from here on, what was edited since a version was last asked for."""
    _version.cache_clear()
    _text_of_file.cache_clear()
    linecache.checkcache()


def _named_in(statement: ast.stmt, source: Source) -> list[Place]:
    """What a statement names, where it is ours or the user's."""
    listed, here = [], vars(sys.modules.get(source.module, object)) | _imported_within(statement, source)
    for node in ast.walk(statement):
        attributes, at = [], source
        while isinstance(node, ast.Attribute):
            node, attributes = node.value, [node.attr, *attributes]
        if not isinstance(node, ast.Name) or node.id not in here:
            continue
        name, thing = node.id, here[node.id]
        while isinstance(thing, ModuleType) and attributes and _counts(thing.__name__, source):
            at, name = _source_of(thing.__name__, attributes[0], None), attributes.pop(0)
            thing = getattr(thing, name, None)
        if not isinstance(thing, ModuleType) and (thing is not None or at is not source):
            listed.append((*_home_of(at, name, thing), thing))
    return [place for place in listed if _counts(place[0], source)]


def _imported_within(statement: ast.stmt, source: Source) -> dict[str, Any]:
    """What a function imports for itself, by name, except from libraries."""
    found = {}
    for node in ast.walk(statement):
        if isinstance(node, ast.ImportFrom):
            module = _loaded(_module_of(node, source))
            found |= {alias.asname or alias.name: getattr(module, alias.name, None) for alias in node.names}
        elif isinstance(node, ast.Import):
            for alias in node.names:
                first = _loaded(alias.name) and alias.name.partition(".")[0]
                found[alias.asname or first] = sys.modules.get(alias.name if alias.asname else first)
    return found


def _module_of(statement: ast.ImportFrom, source: Source) -> str:
    package = getattr(sys.modules.get(source.module), "__package__", None)
    return importlib.util.resolve_name("." * statement.level + (statement.module or ""), package)


def _loaded(module: str) -> ModuleType | None:
    """A module; None for one of a library that nothing has imported yet."""
    spec = None if module in sys.modules else importlib.util.find_spec(module.partition(".")[0])
    library = spec and (not spec.origin or _of_library(spec.origin))
    return None if library else importlib.import_module(module)


def _home_of(source: Source, name: str, thing: Any) -> tuple[str, str]:
    """The module in which a thing is defined, and what it is called there; imports are followed."""
    statement = source.names.get(name, [None])[-1]
    if isinstance(statement, ast.ImportFrom):
        module = _module_of(statement, source)
        name = next(alias.name for alias in statement.names if (alias.asname or alias.name) == name)
        return _home_of(_source_of(module, name, None), name, thing) if _counts(module, source) else (module, name)
    if statement is None and hasattr(thing, "__qualname__"):
        return _place(thing)[:2]
    return source.module, name


def _counts(module: str, source: Source) -> bool:
    """Whether a module's code belongs into a key: the thin module's, the notebook's, the user's own."""
    if module.startswith(BY_VALUE):
        return False
    if module == "__main__" or module.partition(".")[0] in (PACKAGE, source.module.partition(".")[0]):
        return True
    file = getattr(sys.modules.get(module), "__file__", None)
    return bool(file) and not _of_library(file)


def _of_library(file: str) -> bool:
    """Whether a file was installed: libraries count by their versions, which a record names."""
    return file.startswith(STANDARD) or bool({"site-packages", "dist-packages"} & set(Path(file).parts))


def is_user_defined(thing: Any) -> bool:
    """Whether a class or function is defined outside of this package."""
    return not thing.__module__.startswith(f"{PACKAGE}.")


def is_theirs(file: str) -> bool:
    """Whether a file is neither this package's nor a library's."""
    return not _of_library(file) and not Path(file).is_relative_to(Path(__file__).parent.parent)


def _source_of(module: str, name: str, thing: Any) -> Source:
    """The source in which a thing is defined: its module's file, or the cell that defined it."""
    file = getattr(sys.modules.get(module), "__file__", None)
    if file and module != "__main__":
        return _text_of_file(file, module)
    defined = isinstance(thing, (FunctionType, type))
    functions = [one for one in [thing, *vars(thing).values()] if isinstance(one, FunctionType)] if defined else []
    texts = ["".join(linecache.getlines(inspect.unwrap(function).__code__.co_filename)) for function in functions]
    cells = getattr(sys.modules.get(module), "In", ()) if defined else ()  # of a notebook
    for text in [*texts, *reversed(cells)]:  # a class without functions of its own is found by its name
        try:
            if text and name in (source := Source(text, module)).names:
                return source
        except SyntaxError:  # a magic
            pass
    return Source("", module)


@cache
def _text_of_file(file: str, module: str) -> Source:
    _FIRST_SEEN.setdefault(file, Path(file).stat().st_mtime_ns)
    return Source(Path(file).read_text(encoding="utf-8"), module)


for _name, _module in list(sys.modules.items()):  # what is loaded now is what lies on the disk now
    if _name.startswith(f"{PACKAGE}.") and getattr(_module, "__file__", None):
        _FIRST_SEEN.setdefault(_module.__file__, Path(_module.__file__).stat().st_mtime_ns)
