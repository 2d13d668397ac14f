"""The links in documents and notebooks lead somewhere, and the check that says so can fail.
Nothing is asked over the network: for that, `python tools/links.py --online`."""

import json
import re
import tomllib
from pathlib import Path

import links  # tools/ is on the path, see pyproject.toml
import pytest
import yaml

import metis_nb

ROOT = Path(__file__).resolve().parents[1]


def test_every_link_leads_somewhere(capsys):
    code = links.main([])
    said = capsys.readouterr().out
    assert code == 0, said
    count, files = map(int, re.search(r"(\d+) links in (\d+) files", said).groups())
    assert count > 100  # the check has not gone blind
    assert files > 10


# What GitHub makes of headings.
PAGE = """# Title, with `code` & *more*

## Twice

## Twice

<a id="by-hand"></a>

```sh
# No heading
[no link](no_file)
```

`a[0](x)` and $[0](x)$ are no links.
"""


@pytest.fixture
def wrong(tmp_path):
    """Writes a page with this text beside other.md, and returns what is wrong with its links."""
    (tmp_path / "other.md").write_text(PAGE)

    def wrong(text, name="page.md"):
        path = tmp_path / name
        if name.endswith(".ipynb"):
            cells = [
                {"cell_type": "markdown", "source": text.splitlines(keepends=True)},
                {"cell_type": "code", "source": ["a[0](x)"]},
            ]
            text = json.dumps({"cells": cells})
        path.write_text(text)
        return list(links.problems(path))

    return wrong


@pytest.mark.parametrize("name", ["page.md", "page.ipynb"])
@pytest.mark.parametrize(
    "text",
    [
        PAGE,
        "[a](other.md)",
        '[a](other.md "title")',
        "[a](<other.md>)",
        "[a](other.md#title-with-code--more)",
        "[a](other.md#twice) [a](other.md#twice-1) [a](other.md#by-hand)",
        "# Here\n[a](#here)",
        '<img src="other.md"> <a href="other.md#twice">a</a>',
        "[a](https://example.org/path_(with)_brackets?query#fragment)",
        "[![badge](https://example.org/badge.svg)](other.md)",
        "<https://example.org>",
    ],
)
def test_good_links(wrong, text, name):
    assert wrong(text, name) == []


@pytest.mark.parametrize("name", ["page.md", "page.ipynb"])
@pytest.mark.parametrize(
    ("text", "link", "problem"),
    [
        ("[a](missing.md)", "missing.md", "there is no such file"),
        ("[![a](missing.png)](other.md)", "missing.png", "there is no such file"),
        ('<img src="missing.png">', "missing.png", "there is no such file"),
        ("[a](other.md#thrice)", "other.md#thrice", "other.md has no such heading"),
        ("[a](other.md#twice-2)", "other.md#twice-2", "other.md has no such heading"),
        ("[a](other.md#no-heading)", "other.md#no-heading", "other.md has no such heading"),
        ("[a](https:/example.org)", "https:/example.org", "no address of the web"),
        ("[a](https://example)", "https://example", "no address of the web"),
        ("[a](htps://example.org)", "htps://example.org", "neither a file nor a page"),
        ("<https://>", "https://", "no address of the web"),
    ],
)
def test_bad_links(wrong, text, link, problem, name):
    assert wrong(text, name) == [(link, problem)]


def test_a_missing_heading_of_the_page_itself(wrong):
    assert wrong("# Here\n[a](#there)") == [("#there", "page.md has no such heading")]


def test_what_is_wrong_makes_the_command_fail(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(links, "ROOT", tmp_path)
    (tmp_path / "README.md").write_text("[a](LICENSE) [b](../elsewhere)")
    (tmp_path.parent / "elsewhere").touch()
    assert links.main([]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "README.md: LICENSE: there is no such file",
        "README.md: ../elsewhere: outside this repository",
        "2 links in 1 files, 2 of them wrong",
    ]


def test_online_every_address_is_asked_once(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(links, "ROOT", tmp_path)
    asked = []
    monkeypatch.setattr(links, "answer", lambda a: asked.append(a) or "404" * a.endswith("gone"))
    (tmp_path / "README.md").write_text("[a](https://a.org) [b](https://a.org) [c](README.md)")
    assert links.main(["--online"]) == 0
    assert asked == ["https://a.org"]
    (tmp_path / "README.md").write_text("[a](https://a.org/gone)")
    assert links.main(["--online"]) == 1
    assert "https://a.org/gone: 404" in capsys.readouterr().out


# --- what code hosts read ------------------------------------------------------------------------


def test_the_citation_is_of_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert citation.keys() >= {"cff-version", "message", "title", "authors"}
    assert citation["version"] == project["version"] == metis_nb.__version__
    assert citation["authors"] == project["authors"]
    assert citation["license"] == project["license"]
    assert citation["keywords"] == project["keywords"]
    assert citation["repository-code"] == project["urls"]["Repository"]


@pytest.mark.parametrize("name", ["bug", "idea", "question"])
def test_forms_are_as_github_wants_them(name):
    path = ROOT / ".github" / "ISSUE_TEMPLATE" / f"{name}.yml"
    form = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert form.keys() == {"name", "description", "labels", "body"}
    for part in form["body"]:
        assert part["type"] in {"textarea", "input"}
        assert part["attributes"]["label"]
    assert len({part["id"] for part in form["body"]}) == len(form["body"])
    assert any(part.get("validations", {}).get("required") for part in form["body"])
