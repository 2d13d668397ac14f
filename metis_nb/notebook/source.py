"""Real source in a notebook: `show` a definition, `diff` two of them.

A notebook that pastes a copy of the code it explains is wrong after the first edit. These two read
the source of the object itself, whether it lives in a package or in a cell above.
"""

from __future__ import annotations

import ast
import difflib
import functools
import html
import inspect
import linecache
import re
from dataclasses import dataclass
from typing import Any

from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

from metis_nb.notebook.frontend import is_static

# Pygments names a token's class by its kind ("k" keyword, "kn" import, "s1" string, ...), so the
# first letter is enough. JupyterLab's own editor colours win where they exist, in either theme.
_STYLE = """<style>
.mnb-code{--k:#8250df;--s:#0a6b3d;--c:#6e7781;--n:#0550ae;--add:#dafbe1;--del:#ffebe9;--edge:#d0d7de}
@media (prefers-color-scheme:dark){.mnb-code{--k:#d2a8ff;--s:#7ee787;--c:#9198a1;--n:#79c0ff;
--add:#12361f;--del:#4a1b1e;--edge:#3d444d}}
[data-jp-theme-light="true"] .mnb-code{--add:#dafbe1;--del:#ffebe9;--edge:#d0d7de}
[data-jp-theme-light="false"] .mnb-code,[theme="dark"] .mnb-code{--k:#d2a8ff;--s:#7ee787;
--c:#9198a1;--n:#79c0ff;--add:#12361f;--del:#4a1b1e;--edge:#3d444d}
.mnb-code{border-left:3px solid var(--edge);padding-left:12px;margin:8px 0}
.mnb-code .cap{font:12px var(--jp-ui-font-family,system-ui,sans-serif);opacity:.75;margin:2px 0}
.mnb-code pre{font:13px/1.45 var(--jp-code-font-family,ui-monospace,monospace);margin:4px 0;
padding:0;background:none;color:inherit;overflow-x:auto;white-space:pre}
.mnb-code [class^="k"],.mnb-code .ow{color:var(--jp-mirror-editor-keyword-color,var(--k))}
.mnb-code [class^="s"]{color:var(--jp-mirror-editor-string-color,var(--s))}
.mnb-code pre [class^="c"]{color:var(--jp-mirror-editor-comment-color,var(--c));font-style:italic}
.mnb-code [class^="m"]{color:var(--jp-mirror-editor-number-color,var(--n))}
.mnb-code .nf,.mnb-code .nc,.mnb-code .fm{color:var(--jp-mirror-editor-def-color,var(--n))}
.mnb-code .nd{color:var(--jp-mirror-editor-meta-color,var(--c))}
.mnb-code .line{display:inline-block;min-width:100%}
.mnb-code .add{background:var(--add)}.mnb-code .del{background:var(--del)}
</style>"""


@dataclass(frozen=True)
class Source:
    """What `show` returns. `str()` is the plain source; a notebook displays it highlighted.

    Attributes:
        code: the source of each definition, dedented.
        captions: where each one stands, such as `metis_nb/trainers/ppo.py, line 120`.
    """

    code: tuple[str, ...]
    captions: tuple[str, ...]

    def __str__(self) -> str:
        return "\n\n".join(self.code)

    def __repr__(self) -> str:
        pairs = zip(self.captions, self.code, strict=True)
        return "\n\n".join(f"# {caption}\n{code}" for caption, code in pairs)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        pairs = list(zip(self.captions, self.code, strict=True))
        if is_static():
            markdown = "\n\n".join(f"{cap}\n\n{_fence(code, 'python')}" for cap, code in pairs)
            return {"text/markdown": markdown, "text/plain": repr(self)}
        blocks = [_block(cap, "\n".join(_coloured_lines(code))) for cap, code in pairs]
        return {"text/html": _STYLE + "".join(blocks), "text/plain": repr(self)}


@dataclass(frozen=True)
class Diff:
    """What `diff` returns. `str()` is the unified diff; a notebook displays it in colour.

    Attributes:
        before, after: the two definitions.
        context: unchanged lines shown around each change.
    """

    before: Source
    after: Source
    context: int

    @property
    def added(self) -> int:
        """How many lines only the second definition has."""
        return sum(sign == "+" for sign, _ in self._rows())

    @property
    def removed(self) -> int:
        """How many lines only the first definition has."""
        return sum(sign == "-" for sign, _ in self._rows())

    def __str__(self) -> str:
        (before,), (after,) = self.before.code, self.after.code
        (old,), (new,) = self.before.captions, self.after.captions
        lines = (before.splitlines(), after.splitlines())
        return "\n".join(difflib.unified_diff(*lines, old, new, n=self.context, lineterm=""))

    def __repr__(self) -> str:
        return f"{self._summary()}\n{self}"

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        if is_static():
            markdown = f"{self._summary()}\n\n{_fence(str(self), 'diff')}"
            return {"text/markdown": markdown, "text/plain": repr(self)}
        kinds = {"+": "line add", "-": "line del", " ": "line", "@": "c line"}
        rows = [
            f'<span class="{kinds[sign]}">{sign.replace("@", " ")} {line}</span>'
            for sign, line in self._rows()
        ]
        body = _block(self._summary(), "\n".join(rows))
        return {"text/html": _STYLE + body, "text/plain": repr(self)}

    def _rows(self) -> list[tuple[str, str]]:
        """`(sign, highlighted line)`: "+" added, "-" removed, " " kept, "@" a gap."""
        (before,), (after,) = self.before.code, self.after.code
        matcher = difflib.SequenceMatcher(None, before.splitlines(), after.splitlines())
        old, new = _coloured_lines(before), _coloured_lines(after)
        rows: list[tuple[str, str]] = []
        for group in matcher.get_grouped_opcodes(self.context):
            if rows or group[0][1] > 0:
                rows.append(("@", "..."))
            for tag, i, i_end, j, j_end in group:
                if tag == "equal":
                    rows += [(" ", line) for line in old[i:i_end]]
                else:
                    rows += [("-", line) for line in old[i:i_end]]
                    rows += [("+", line) for line in new[j:j_end]]
        return rows

    def _summary(self) -> str:
        where = f"{self.before.captions[0]} → {self.after.captions[0]}"
        if not (self.added or self.removed):
            return f"{where}: no difference"
        return f"{where}: {_lines(self.added)} added, {self.removed} removed"


def show(obj: Any, *more: Any, docstring: bool = True) -> Source:
    """The real source of a definition, to display as the last line of a cell.

    Args:
        obj, *more: functions, methods, properties, classes or modules, from a package or from a
            cell of the notebook.
        docstring: False leaves out the docstrings; comments stay.

    Returns:
        A `Source`: highlighted in a notebook, plain source as `str()`.

    Raises:
        TypeError: an object has no Python source (a number, a builtin, compiled code).
    """
    found = [_find(each) for each in (obj, *more)]
    code = tuple(text if docstring else _without_docstrings(text) for text, _ in found)
    return Source(code, tuple(caption for _, caption in found))


def diff(a: Any, b: Any, *, docstring: bool = False, context: int = 3) -> Diff:
    """What changes from the source of `a` to the source of `b`.

    Args:
        a, b: definitions, as for `show`.
        docstring: True compares the docstrings too; they are left out otherwise, because what
            matters between two algorithms is the code.
        context: unchanged lines to show around each change.

    Returns:
        A `Diff`: coloured in a notebook, a unified diff as `str()`, with `added` and `removed`.

    Raises:
        TypeError: `a` or `b` has no Python source.
    """
    return Diff(show(a, docstring=docstring), show(b, docstring=docstring), context)


def _find(obj: Any) -> tuple[str, str]:
    """The dedented source of `obj` and its caption."""
    target = _definition(obj)
    try:
        lines, first = inspect.getsourcelines(target)
    except (OSError, TypeError) as error:
        cell = _class_in_a_cell(target) if inspect.isclass(target) else None
        if cell is None:
            kind = type(obj).__name__
            raise TypeError(
                f"show needs an object with Python source; {obj!r} ({kind}) has none. Give it a "
                "function, method, property, class or module that is written in Python (for an "
                "instance, its class: show(type(obj)))."
            ) from error
        lines, first = cell
    indent = re.match(r"[ \t]*", lines[0])[0]  # type: ignore[index]
    # Not textwrap.dedent: a string with a line at the left margin would stop it.
    code = "\n".join(line.rstrip("\n").removeprefix(indent) for line in lines).rstrip()
    return code, _caption(target, first)


def _definition(obj: Any) -> Any:
    """The function or class behind a property, a decorator or a partial."""
    if isinstance(obj, property):
        obj = obj.fget
    elif isinstance(obj, functools.cached_property | functools.partial):
        obj = obj.func
    elif isinstance(obj, staticmethod | classmethod):
        obj = obj.__func__
    return inspect.unwrap(obj) if callable(obj) else obj


def _class_in_a_cell(cls: type) -> tuple[list[str], int] | None:
    """Lines and line number of a class defined in a notebook cell, or None.

    `inspect` looks for a class in its module's file, and a notebook has none. IPython leaves the
    text of every cell in `linecache`, without a modification time.
    """
    path = cls.__qualname__.replace("<locals>.", "").split(".")
    cells = [entry for entry in linecache.cache.values() if len(entry) == 4 and entry[1] is None]
    cells.reverse()
    # Two cells may define one name: the methods know theirs; otherwise the latest cell counts.
    own = {f.__code__.co_filename for f in vars(cls).values() if inspect.isfunction(f)}
    cells.sort(key=lambda entry: entry[3] not in own)
    for _, _, lines, _ in cells:
        try:
            scope: ast.AST | None = ast.parse("".join(lines))
        except SyntaxError:
            continue
        for part in path:
            children = list(ast.iter_child_nodes(scope)) if scope else []
            scope = next((n for n in reversed(children) if getattr(n, "name", "") == part), None)
        if isinstance(scope, ast.ClassDef):
            first = min([scope.lineno, *(node.lineno for node in scope.decorator_list)])
            return lines[first - 1 : scope.end_lineno], first
    return None


def _caption(target: Any, first: int) -> str:
    """Where `target` stands. From the module's name, so that no folder of this machine shows."""
    module = inspect.getmodule(target)
    name = target.__name__ if inspect.ismodule(target) else target.__module__
    if name == "__main__":
        return f"this notebook, line {first} of its cell"
    folders = name.replace(".", "/")
    path = f"{folders}/__init__.py" if hasattr(module, "__path__") else f"{folders}.py"
    return f"{path}, line {first}" if first else path


def _without_docstrings(code: str) -> str:
    """`code` less every docstring in it, comments and layout kept."""
    lines = code.splitlines()
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    try:
        scopes = [node for node in ast.walk(ast.parse(code)) if isinstance(node, kinds)]
    except SyntaxError:
        return code  # a lambda comes with the line it stands on, which may be half a statement
    for scope in sorted(scopes, key=lambda node: getattr(node, "lineno", 0), reverse=True):
        if not scope.body or ast.get_docstring(scope, clean=False) is None:
            continue
        node = scope.body[0]
        start, end = node.lineno - 1, node.end_lineno or node.lineno
        if lines[start][: node.col_offset].strip():
            continue  # `def f(): "text"` on one line stays as it is
        # A definition may not be empty, and a blank line below a docstring belongs to it.
        keep = [" " * node.col_offset + "..."] if len(scope.body) == 1 else []
        while end < len(lines) and not lines[end].strip() and not keep:
            end += 1
        lines[start:end] = keep
    return "\n".join(lines)


def _coloured_lines(code: str) -> list[str]:
    """One highlighted HTML line for each line of `code`."""
    lexer = PythonLexer(stripnl=False)
    return highlight(code, lexer, HtmlFormatter(nowrap=True)).rstrip("\n").split("\n")


def _block(caption: str, body: str) -> str:
    caption = html.escape(caption)
    return f'<div class="mnb-code"><div class="cap">{caption}</div><pre>{body}</pre></div>'


def _fence(text: str, language: str) -> str:
    ticks = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{ticks}{language}\n{text}\n{ticks}"


def _lines(count: int) -> str:
    return f"{count} line" if count == 1 else f"{count} lines"
