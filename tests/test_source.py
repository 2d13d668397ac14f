"""`show` and `diff`: the real source, of anything that has one."""

from __future__ import annotations

import functools
import linecache
import sys
import types

import pytest
from torch import nn

import metis_nb
from metis_nb import agents
from metis_nb.notebook import source
from metis_nb.notebook.source import diff, show


def double(x):
    """Twice x."""
    # why: addition is cheaper
    return x + x


def triple(x):
    """Three times x."""
    return x + x + x


class Shapes:
    """A class with one of each."""

    @property
    def area(self):
        """In metres."""
        return 3

    @functools.cached_property
    def edge(self):
        return 4

    @staticmethod
    def unit():
        return 1

    @classmethod
    def make(cls):
        text = """
left margin
"""
        return cls(), text

    def empty(self):
        """Nothing but words."""

    def oneliner(self): "words"  # fmt: skip


def test_functions_and_methods_are_shown_as_written():
    assert str(show(double)) == (
        'def double(x):\n    """Twice x."""\n    # why: addition is cheaper\n    return x + x'
    )
    shown = show(agents.GaussianActor.act)
    assert str(shown).startswith("@torch.no_grad()\ndef act(self, obs: Tensor | np.ndarray)")
    assert shown.captions[0].startswith("metis_nb/agents/networks.py, line ")
    line = int(shown.captions[0].split()[-1])
    with open(agents.networks.__file__, encoding="utf-8") as file:
        assert file.readlines()[line - 1].strip() == "@torch.no_grad()"


@pytest.mark.parametrize(
    ("obj", "first"),
    [
        (Shapes, "class Shapes:"),
        (Shapes.area, "@property"),
        (Shapes.edge, "@functools.cached_property"),
        (Shapes.__dict__["unit"], "@staticmethod"),
        (Shapes.make, "@classmethod"),
        (Shapes().empty, "def empty(self):"),
        (functools.partial(double, 3), "def double(x):"),
        (functools.cache(double), "def double(x):"),
        (agents, '"""Actors and critics'),
    ],
)
def test_every_kind_of_definition(obj, first):
    assert str(show(obj)).startswith(first)


def test_several_at_once():
    shown = show(double, triple)
    assert len(shown.code) == len(shown.captions) == 2
    assert str(shown).count("def ") == 2
    assert repr(shown).startswith("# test_source.py, line ") or "tests/test_source.py" in repr(
        shown
    )


def test_captions_hold_no_folder_of_the_machine():
    for obj in (agents.actor, agents, metis_nb, show):
        caption = show(obj).captions[0]
        assert caption.startswith("metis_nb/")
    assert show(agents).captions == ("metis_nb/agents/__init__.py",)
    assert show(metis_nb).captions == ("metis_nb/__init__.py",)


def test_docstrings_can_be_left_out_and_comments_stay():
    assert str(show(double, docstring=False)) == (
        "def double(x):\n    # why: addition is cheaper\n    return x + x"
    )
    bare = str(show(Shapes, docstring=False))
    assert bare.startswith("class Shapes:\n    @property\n    def area(self):\n        return 3\n")
    assert "    def empty(self):\n        ..." in bare
    assert 'def oneliner(self): "words"' in bare
    assert "\nleft margin\n" in bare  # a string is not a docstring
    assert str(show(agents.networks, docstring=False)).startswith("from __future__")
    for code in show(agents, source, Shapes, docstring=False).code:
        compile(code, "<bare>", "exec")


def test_definitions_of_a_notebook_cell(monkeypatch):
    # As IPython does it: run under __main__, the text of the cell in linecache with no time.
    notebook = types.ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", notebook)
    cells = {
        "<cell 1>": "class A:\n    x = 1\n\nclass B:\n    x = 1\n",
        "<cell 2>": "\n@decorate\nclass A:\n    class Inner:\n        x = 2\n\ndef f():\n    pass",
        "<cell 3>": "%magic\nclass A:\n",
        "<cell 4>": "class C:\n    def m(self): return 1\n",
        "<cell 5>": "class C:\n    def m(self): return 2\n",
    }
    notebook.decorate = lambda cls: cls
    seen = []
    for name, text in cells.items():
        lines = text.splitlines(keepends=True)
        monkeypatch.setitem(linecache.cache, name, (len(text), None, lines, name))
        if "magic" not in text:
            exec(compile(text, name, "exec"), vars(notebook))
            seen.append(getattr(notebook, "C", None))
    assert str(show(notebook.f)) == "def f():\n    pass"
    assert str(show(notebook.A)) == "@decorate\nclass A:\n    class Inner:\n        x = 2"
    assert str(show(notebook.A.Inner)) == "class Inner:\n    x = 2"
    assert str(show(notebook.B)) == "class B:\n    x = 1"
    assert str(show(seen[-1])).endswith("return 2")
    assert str(show(seen[-2])).endswith("return 1")  # the older one, by its method's cell
    assert show(notebook.A).captions == ("this notebook, line 2 of its cell",)


@pytest.mark.parametrize("obj", [3, len, int, None, nn.Linear(1, 1), "text", property()])
def test_what_has_no_source(obj):
    with pytest.raises(TypeError, match=r"show needs an object with Python source.*has none"):
        show(obj)
    with pytest.raises(TypeError, match="has none"):
        diff(double, obj)


def test_shown_in_a_notebook_and_on_a_static_page(monkeypatch):
    bundle = show(double)._repr_mimebundle_()
    assert set(bundle) == {"text/html", "text/plain"}
    assert '<span class="nf">double</span>' in bundle["text/html"]
    assert "<script" not in bundle["text/html"]
    assert bundle["text/plain"].endswith(str(show(double)))

    monkeypatch.setenv("METIS_NB_STATIC", "1")
    bundle = show(double)._repr_mimebundle_()
    assert set(bundle) == {"text/markdown", "text/plain"}
    assert f"line {double.__code__.co_firstlineno}\n\n```python\ndef" in bundle["text/markdown"]


def test_a_fence_is_longer_than_the_ticks_inside():
    assert source._fence("a ```b``` c", "python") == "````python\na ```b``` c\n````"


def test_diff_counts_and_colours(monkeypatch):
    change = diff(double, triple)
    assert (change.added, change.removed) == (2, 3)
    lines = str(change).splitlines()
    assert lines[0].startswith("--- ")
    assert lines[1].startswith("+++ ")
    assert "-    # why: addition is cheaper" in lines
    assert "+    return x + x + x" in lines
    assert "Twice" not in str(change)
    assert "Twice" in str(diff(double, triple, docstring=True))
    assert "2 lines added, 3 removed" in repr(change)

    page = change._repr_mimebundle_()["text/html"]
    assert page.count('class="line add"') == 2
    assert page.count('class="line del"') == 3

    monkeypatch.setenv("METIS_NB_STATIC", "1")
    bundle = change._repr_mimebundle_()
    assert set(bundle) == {"text/markdown", "text/plain"}
    assert "```diff\n---" in bundle["text/markdown"]


def test_diff_of_long_definitions_agrees_with_its_text():
    change = diff(agents.CategoricalActor, agents.GaussianActor, context=1)
    body = str(change).splitlines()[2:]
    assert change.added == sum(line.startswith("+") for line in body)
    assert change.removed == sum(line.startswith("-") for line in body)
    same = diff(double, double)
    assert (same.added, same.removed, str(same)) == (0, 0, "")
    assert "no difference" in same._repr_mimebundle_()["text/html"]
