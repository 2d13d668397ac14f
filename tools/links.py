"""Do the links in documents and notebooks lead anywhere?

    python tools/links.py           those to files and headings of this repository
    python tools/links.py --online  those to the web too, which takes minutes and the network

Prints `file: link: what is wrong` and exits with 1 where something is.
"""

import http.client
import json
import re
import sys
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = ["*.md", "docs/*.md", "benchmarks/*.md", ".github/**/*.md", "notebooks/*.ipynb"]

# [text](target), [text](<target>), [text](target "title"), and <img src=...>, <a href=...>
LINK = re.compile(
    r"\]\(\s*<?([^\s<>()]*(?:\([^\s<>()]*\)[^\s<>()]*)*)>?(?:\s+\"[^\"]*\")?\s*\)"
    r"|(?:src|href)=[\"']([^\"']*)[\"']"
    r"|<(https?://[^\s<>]*)>"
)
# In code, a[0](x) is no link.
BLOCK = re.compile(r"^ *(```+|~~~+).*?^ *\1", flags=re.M | re.S)
CODE = re.compile(r"`+([^`\n]+)`+")
# In a formula neither.
FORMULA = re.compile(r"\$\$.*?\$\$|\$[^$\n]+\$", flags=re.S)
HEADING = re.compile(r"^#{1,6} +(.+?)[ #]*$", flags=re.M)
ID = re.compile(r"<[a-z0-9]+ [^>]*\b(?:id|name)=[\"']([^\"']+)", flags=re.I)
# Not pages: they answer a person, and no script.
GUARDED = {403, 405, 418, 429}


def main(arguments: list[str]) -> int:
    online = arguments == ["--online"]
    paths = sorted({path for pattern in DOCUMENTS for path in ROOT.glob(pattern)})
    found = [
        f"{path.relative_to(ROOT)}: {link}: {problem}"
        for path in paths
        for link, problem in problems(path)
    ]
    count = sum(len(links(path)) for path in paths)
    if online:
        addresses = {link for path in paths for link in links(path) if urlsplit(link).scheme}
        found += [f"{a}: {problem}" for a in sorted(addresses) if (problem := answer(a))]
    print(*found, sep="\n", end="\n" if found else "")
    print(f"{count} links in {len(paths)} files, {len(found)} of them wrong")
    return bool(found)


def problems(path: Path) -> Iterator[tuple[str, str]]:
    """Each link in the document at `path` that is wrong, and why; nothing is asked over the web."""
    for link in links(path):
        address = urlsplit(link)
        if address.scheme in ("data", "mailto"):
            continue
        if address.scheme or address.netloc:
            if address.scheme not in ("http", "https"):
                yield link, "neither a file nor a page"
            elif not re.fullmatch(r"([\w-]+\.)+[a-z]{2,}(:\d+)?|localhost(:\d+)?", address.netloc):
                yield link, "no address of the web"
            continue
        target = path.parent / unquote(address.path) if address.path else path
        if not target.exists():
            yield link, "there is no such file"
        elif ROOT in path.parents and ROOT not in [target.resolve(), *target.resolve().parents]:
            yield link, "outside this repository"
        elif address.fragment and target.suffix in (".md", ".ipynb"):
            if unquote(address.fragment) not in anchors(target):
                yield link, f"{target.name} has no such heading"


def links(path: Path) -> list[str]:
    text = FORMULA.sub("", CODE.sub("", BLOCK.sub("", prose(path))))
    return [next(filter(None, match.groups()), "") for match in LINK.finditer(text)]


def anchors(path: Path) -> set[str]:
    """What can stand after the # of a link to this document: as GitHub and as Jupyter have it."""
    text = BLOCK.sub("", prose(path))
    found = set(ID.findall(text))
    times: Counter[str] = Counter()
    for heading in HEADING.findall(CODE.sub(r"\1", text)):
        shown = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("*", "")
        slug = re.sub(r"[^\w\- ]", "", shown.lower()).replace(" ", "-")
        # The second of the same name is name-1.
        found |= {f"{slug}-{times[slug]}" if times[slug] else slug, shown.replace(" ", "-")}
        times[slug] += 1
    return found


def prose(path: Path) -> str:
    """A document's text: of a notebook, its Markdown cells."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".ipynb":
        return text
    cells = json.loads(text)["cells"]
    return "\n\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")


def answer(address: str) -> str:
    """What is wrong with the page at `address`; empty where it is there."""
    request = urllib.request.Request(address, headers={"User-Agent": "Mozilla/5.0 (links.py)"})
    try:
        with urllib.request.urlopen(request, timeout=20):
            return ""
    except urllib.error.HTTPError as error:
        return "" if error.code in GUARDED else f"{error.code} {error.reason}"
    except (OSError, http.client.HTTPException) as error:
        return str(getattr(error, "reason", error))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
