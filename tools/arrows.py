"""The map of the house: who imports whom in `metis_nb`, read from the code.

    python tools/arrows.py            print the arrows between rooms, and what is wrong; exit code 1
                                      on a circle or on an arrow that the design forbids
    python tools/arrows.py --files    the arrows between files

A room is a folder of the package, or a file that stands beside them. `CONTRIBUTING.md` says what is
where, and why.
"""

import ast
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "metis_nb"
FRONT_DOOR = "metis_nb"  # joins the wings, so it may import all and nobody imports it
# The notebook wing; nothing else may import it.
PAGES = "notebook"
# What each room may import, beside itself. One that is not listed may import every room but PAGES.
MAY_IMPORT = {
    "checkpoint": set(),
    "envs": set(),
    "agents": {"checkpoint", "envs"},
    "learning": {"agents", "checkpoint", "envs"},
    "trainers": {"agents", "envs", "learning"},
    "callbacks": {"agents", "learning"},
    "evaluate": {"agents", "envs"},
    "lessons": {"agents", "envs", "evaluate", "learning", "trainers", "callbacks"},
    "notebook": {"agents", "envs", "evaluate", "learning", "lessons", "callbacks"},
}

Arrows = dict[str, set[str]]


def modules(package: Path = PACKAGE) -> dict[str, ast.Module]:
    """Every file of the package by its module's name, parsed."""
    found = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package.parent).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = ast.parse(path.read_text(encoding="utf-8"))
    return found


def imported(tree: ast.AST, known: set[str]) -> set[str]:
    """The modules of the package that this code imports, wherever in it."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level:
            raise ValueError("a relative import: write it out, so that a reader sees where it goes")
        elif isinstance(node, ast.ImportFrom) and node.module:
            below = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= (below & known) or {node.module}
    return names & known


def file_arrows(package: Path = PACKAGE) -> Arrows:
    """file -> the files that it imports."""
    trees = modules(package)
    return {name: imported(tree, {*trees}) - {name} for name, tree in trees.items()}


def room(module: str) -> str:
    """metis_nb.envs.view -> envs"""
    return module.split(".")[1] if "." in module else FRONT_DOOR


def room_arrows(package: Path = PACKAGE) -> Arrows:
    """room -> the rooms that its files import."""
    arrows: Arrows = {}
    for name, targets in file_arrows(package).items():
        arrows.setdefault(room(name), set()).update(map(room, targets))
    return {name: targets - {name} for name, targets in arrows.items()}


def circle(arrows: Arrows) -> list[str]:
    """One circle of arrows, or nothing."""
    try:
        TopologicalSorter(arrows).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def wrong(package: Path = PACKAGE) -> list[str]:
    """Everything that the design forbids, in words."""
    found = []
    files, rooms = file_arrows(package), room_arrows(package)
    for what, arrows in (("files", files), ("rooms", rooms)):
        if path := circle(arrows):
            found.append(f"a circle of {what}: {' -> '.join(reversed(path))}")
    for name, targets in files.items():
        if room(name) == FRONT_DOOR:
            continue
        others = {*rooms} - {PAGES, FRONT_DOOR}
        allowed = MAY_IMPORT.get(room(name), others) | {room(name)}
        found += [f"{name} imports {to}" for to in sorted(targets) if room(to) not in allowed]
        if room(name) == "trainers" and name.count(".") == 2:
            others = [to for to in sorted(targets) if room(to) == "trainers"]
            found += [f"{name} imports {to}: a trainer reads alone" for to in others]
    for name, tree in modules(package).items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                inside = sorted(imported(node, {*files}))
                found += [f"{name}: {node.name} imports {to} inside of it" for to in inside]
    return found


def main(arguments: list[str]) -> int:
    arrows = file_arrows() if arguments == ["--files"] else room_arrows()
    width = max(map(len, arrows))
    for name, targets in arrows.items():
        print(f"{name:<{width}} -> {', '.join(sorted(targets)) or '(nothing)'}")
    problems = wrong()
    count = sum(map(len, arrows.values()))
    print(f"\n{len(arrows)} {'files' if arguments else 'rooms'}, {count} arrows", end="; ")
    print("wrong:" if problems else "no circle, and none that may not be", *problems, sep="\n  ")
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
