"""The page of metrics, docs/metrics.md, from the docstrings of the trainers.

python tools/metrics.py            print it
python tools/metrics.py --write    write it; a test holds the two together
"""

import sys
from pathlib import Path

from metis_nb import learning, trainers

PAGE = Path(__file__).resolve().parents[1] / "docs" / "metrics.md"
ORDER = ("VPG", "A2C", "PPO", "DQN", "DDQN", "DDPG", "TD3", "SAC")


def page() -> str:
    """The whole page, Markdown."""
    lines = [
        "# What the numbers mean",
        "",
        '`trainer.history` has a row of numbers for every update; `history["kl"]` is a column of '
        "them. Here is what each one is, in which unit, where it lies when all is well, and what "
        "it means when it does not. In Python: `metis_nb.learning.described_metrics(PPO)`.",
        "",
        "(Made from the docstrings of the trainers by `python tools/metrics.py --write`.)",
        "",
        "## In every history",
        "",
        *table(learning.EVERY_ROW),
    ]
    for name in ORDER:
        described = learning.described_metrics(getattr(trainers, name))
        own = {each: text for each, text in described.items() if each not in learning.EVERY_ROW}
        lines += ["", f"## {name}", "", *table(own)]
    return "\n".join(lines) + "\n"


def table(described: dict[str, str]) -> list[str]:
    """One row for each number: what it is, and what is healthy."""
    rows = ["| number | what it is | healthy, and when it is not |", "|---|---|---|"]
    for name, text in described.items():
        what, healthy = (part.strip() for part in text.split("Healthy:", 1))
        rows.append(
            f"| `{name}` | {what[:1].upper()}{what[1:]} | {healthy[:1].upper()}{healthy[1:]} |"
        )
    return rows


if __name__ == "__main__":
    if sys.argv[1:] == ["--write"]:
        PAGE.write_text(page(), encoding="utf-8")
    else:
        print(page(), end="")
