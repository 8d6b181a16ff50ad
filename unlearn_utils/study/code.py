"""The code behind a result: what its functions and classes reach by name, without comments and docstrings.

A result counts as made by the definitions that it reaches in the thin module, in a notebook, or in a user's own
modules; not by a whole file, so that adding a function changes no key. Settings count by their values instead,
and libraries by their versions, which a record names.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import inspect
import io
import itertools
import linecache
import sys
import sysconfig
import tokenize
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

from ..settings import BadInput

PACKAGE = __package__.partition(".")[0]
# What these hold is in a key by its values: settings, pixels, and the study that puts the values there.
BY_VALUE = tuple(f"{PACKAGE}.{room}" for room in ("settings", "paths", "sources", "study", "views"))
STANDARD = sysconfig.get_paths()["stdlib"]


@dataclass(frozen=True)
class Source:
    """The text of a module or of a notebook cell, and where each top-level name of it is defined."""

    text: str
    module: str

    @cached_property
    def names(self) -> dict[str, list[ast.stmt]]:
        found: dict[str, list[ast.stmt]] = {}
        for statement in ast.parse(self.text).body:
            for name in _bound_by(statement):
                found.setdefault(name, []).append(statement)
        return found

    @cached_property
    def lines(self) -> list[str]:
        return without_prose(self.text)

    def code(self, statement: ast.stmt) -> str:
        """The statement without prose; of a class without its decorators, which say how it is shown."""
        decorators = [] if isinstance(statement, ast.ClassDef) else getattr(statement, "decorator_list", [])
        first = min([statement.lineno, *(node.lineno for node in decorators)])
        return "\n".join(line for line in self.lines[first - 1 : statement.end_lineno] if line)


def _bound_by(statement: ast.stmt) -> list[str]:
    if isinstance(statement, (ast.FunctionDef, ast.ClassDef, ast.AsyncFunctionDef)):
        return [statement.name]
    if isinstance(statement, (ast.Import, ast.ImportFrom)):
        return [alias.asname or alias.name.partition(".")[0] for alias in statement.names]
    targets = getattr(statement, "targets", [getattr(statement, "target", None)])
    return [node.id for target in targets if target for node in ast.walk(target) if isinstance(node, ast.Name)]


def without_prose(source: str) -> list[str]:
    """The lines of a module, those of docstrings and comments empty; the same in every Python version."""
    lines = source.splitlines()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column]
    for node in ast.walk(ast.parse(source)):
        body = getattr(node, "body", None)
        first = body[0] if isinstance(body, list) and body else None
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
            lines[first.lineno - 1 : first.end_lineno] = [""] * (first.end_lineno - first.lineno + 1)
    return [line.rstrip() for line in lines]


_RECEIVED: dict[Any, str] = {}  # what came from another process, with the version it had there


def received(thing: Any, its_version: str) -> None:
    """Believe the version of a class or function whose source lies in another process (a notebook's)."""
    _RECEIVED[thing] = its_version


def version(*roots: Any) -> str:
    """Hash of the code of functions and classes and of all that they reach by name.

    Raises BadInput where the source of a class cannot be found.
    """
    return _RECEIVED.get(roots[0]) or _version(roots)


@lru_cache(maxsize=None)  # cleared before every sweep, when edits are looked for
def _version(roots: tuple) -> str:
    found: dict[tuple[str, str], str] = {}
    todo = [(root.__module__, root.__qualname__.partition(".")[0], root) for root in roots]
    while todo:
        module, name, thing = todo.pop()
        if (module, name) in found:
            continue
        source = _source_of(module, name, thing)
        statements = source.names.get(name, [])
        found[module, name] = "\n".join(source.code(statement) for statement in statements) or _value(name, thing)
        for statement in statements:
            todo += _reached(statement, source)
    named = sorted(("" if module == "__main__" else module, name, code) for (module, name), code in found.items())
    return hashlib.sha256(repr(named).encode()).hexdigest()[:20]


def _value(name: str, thing: Any) -> str:
    """A plain value of a notebook, as text."""
    try:
        if ast.literal_eval(repr(thing)) == thing:
            return repr(thing)
    except (ValueError, SyntaxError):
        pass
    raise BadInput(f"a method or readout uses '{name}', a {type(thing).__name__} of the notebook, which cannot be part of a key; "
                   "make it a plain number or text, or a constant of the method.")


_FIRST_SEEN: dict[str, int] = {}


def edited() -> bool:
    """Whether a file has changed since this process first looked at it, so that it may run older code than the file's."""
    now = {file: Path(file).stat().st_mtime_ns if Path(file).exists() else None for file in _FIRST_SEEN}
    return now != _FIRST_SEEN


def look_again() -> None:
    """Notice, from here on, what was edited since a version was last asked for."""
    _version.cache_clear()
    _text_of_file.cache_clear()
    linecache.checkcache()


def _reached(statement: ast.stmt, source: Source) -> list[tuple[str, str, Any]]:
    """(module, name, object) of what a statement names, where it is ours or the user's."""
    body = ast.walk(statement) if not isinstance(statement, ast.ClassDef) else itertools.chain.from_iterable(
        ast.walk(part) for part in [*statement.bases, *statement.body])
    listed, here = [], vars(sys.modules.get(source.module, object)) | _imported_within(statement, source)
    for node in body:
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
    """The module in which a thing is defined, and what it is called there."""
    if hasattr(thing, "__qualname__"):
        return thing.__module__, thing.__qualname__.partition(".")[0]
    for statement in source.names.get(name, ()):
        if isinstance(statement, ast.ImportFrom):  # a value of another module
            return _module_of(statement, source), next(a.name for a in statement.names if (a.asname or a.name) == name)
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


def is_theirs(file: str) -> bool:
    """Whether a file is neither this package's nor a library's."""
    return not _of_library(file) and not Path(file).is_relative_to(Path(__file__).parent.parent)


def _source_of(module: str, name: str, thing: Any) -> Source:
    """The source in which a thing is defined: its module's file, or the cell that defined it."""
    file = getattr(sys.modules.get(module), "__file__", None)
    if file and module != "__main__":
        return _text_of_file(file, module)
    functions = [thing] if isinstance(thing, FunctionType) else [
        value for value in vars(thing).values() if isinstance(value, FunctionType)] if isinstance(thing, type) else []
    texts = ["".join(linecache.getlines(inspect.unwrap(function).__code__.co_filename)) for function in functions]
    cells = getattr(sys.modules.get(module), "In", ()) if isinstance(thing, type) else ()  # of a notebook
    for text in [*texts, *reversed(cells)]:  # a class without functions of its own is found by its name
        try:
            if text and name in (source := Source(text, module)).names:
                return source
        except SyntaxError:  # a magic
            pass
    if isinstance(thing, type) or functions:
        raise BadInput(f"the source of '{name}' cannot be found, so its results could not be told from those of "
                       "another version; define it in a notebook cell or a file.")
    return Source("", module)


@lru_cache(maxsize=None)
def _text_of_file(file: str, module: str) -> Source:
    _FIRST_SEEN.setdefault(file, Path(file).stat().st_mtime_ns)
    return Source(Path(file).read_text(encoding="utf-8"), module)


for _name, _module in list(sys.modules.items()):  # what is loaded now is what lies on the disk now
    if _name.startswith(f"{PACKAGE}.") and getattr(_module, "__file__", None):
        _FIRST_SEEN.setdefault(_module.__file__, Path(_module.__file__).stat().st_mtime_ns)
