"""The house is plain: no import runs back up, no circle, and every file and function fits on a few screens."""

import ast
from pathlib import Path

from unlearn_utils.paths import ROOT

PACKAGE = ROOT / "unlearn_utils"
FILES = sorted(file for folder in ("unlearn_utils", "tools") for file in (ROOT / folder).rglob("*.py"))
DOORS = ("__main__", "evaluation", "shell", "watch")  # may import anything


def name_of(file: Path) -> str:
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {name_of(file): file for file in PACKAGE.rglob("*.py")}


def imports_of(module: str) -> set[str]:
    """The modules of the package that one imports, also within functions."""
    tree, found = ast.parse(MODULES[module].read_text(encoding="utf-8")), set()
    package = module if MODULES[module].name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *filter(None, [node.module])])
            found |= {base} | {f"{base}.{alias.name}" for alias in node.names}
    return found & MODULES.keys() - {"unlearn_utils", module}


def wing_of(module: str) -> int:
    """0 the thin module, 1 the study, 2 the views, 3 the doors."""
    room = module.split(".")[1] if "." in module else DOORS[1]  # the package itself hands the door on
    return 3 if room in DOORS else {"study": 1, "views": 2}.get(room, 0)


def test_no_import_runs_back_up():
    assert not [(m, other) for m in MODULES for other in imports_of(m) if wing_of(other) > wing_of(m)]


def test_no_modules_import_each_other_in_a_circle():
    """Nor within functions, except that the methods register themselves in their package, which imports them."""
    left = {module: imports_of(module) for module in MODULES if wing_of(module) < 3}
    while free := [module for module, others in left.items() if not others & left.keys()]:
        for module in free:
            del left[module]
    assert {m: others & left.keys() for m, others in left.items() if not m.endswith(".methods")} == {
        m: {"unlearn_utils.methods"} for m in left if m.startswith("unlearn_utils.methods.")
    }


def test_no_file_is_over_350_lines_and_no_function_over_45():
    long = []
    for file in FILES:
        tree = ast.parse(text := file.read_text(encoding="utf-8"))
        functions = [node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]
        long += [file.name] * (len(text.splitlines()) > 350)
        long += [f"{file.name}:{f.name}" for f in functions if f.end_lineno - f.lineno + 1 > 45]
    assert not long
