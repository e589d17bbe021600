"""What a picture shows of the thesis, read from its name."""

from __future__ import annotations

import re
from collections.abc import Sequence

__all__ = ["belongs", "in_order", "title"]

KINDS = {"fig": "Fig.", "table": "Table", "thm": "Thm", "prop": "Prop", "lemma": "Lemma", "eq": "eq.", "def": "Def."}
"""How names of files begin."""


def title(name: str) -> str:
    """A name of ``thesis.ROWS``, or the name of a picture without its ending, in words.

    Example:
        >>> title("A.7"), title("T5.2"), title("Thm 3.3"), title("fig_a_13e"), title("thm_5_4"), title("fig_4_6_right")
        ('Fig. A.7', 'Table 5.2', 'Thm 3.3', 'Fig. A.13e', 'Thm 5.4', 'Fig. 4.6, right')
        >>> title("eq_12"), title("bounds")
        ('eq. 12', 'Bounds')
    """
    if re.fullmatch(r"T?[0-9A-C]+\.\d+", name):
        return f"Table {name[1:]}" if name[0] == "T" else f"Fig. {name}"
    file = re.fullmatch(r"([a-z]+)_((?:[0-9a-c]_)?\d+[a-z]?)(?:_([a-z_]+))?", name)
    if file and file[1] in KINDS:
        number = file[2].replace("_", ".")
        number = number[0].upper() + number[1:]
        return f"{KINDS[file[1]]} {number}" + (f", {file[3].replace('_', ' ')}" if file[3] else "")
    return name[:1].upper() + name[1:].replace("_", " ") if name.islower() and " " not in name else name


def belongs(words: str, row: str) -> bool:
    """Whether a picture of that title shows that entry of ``thesis.ROWS``, or a part of it.

    Example:
        >>> belongs("Fig. A.13e", "A.13"), belongs("Fig. A.13", "A.1"), belongs("eq. 12", "ch. 5 eq. 12")
        (True, False, True)
    """
    label = title(row).removeprefix("ch. 5 ")
    return bool(re.match(re.escape(label) + r"(?!\d)", words.removeprefix("ch. 5 ")))


def in_order(pictures: Sequence[str], figures: Sequence[str]) -> list[str]:
    """Names of pictures in the order of an experiment's figures, what belongs to none of them at the end.

    Example:
        >>> in_order(["fig_a_10.png", "fig_a_9.png", "all.png", "fig_a_13.png"], ["A.13"])
        ['fig_a_13.png', 'all.png', 'fig_a_9.png', 'fig_a_10.png']
    """

    def key(name: str) -> tuple[int, list[tuple[bool, int, str]]]:
        words = title(name.rpartition(".")[0])
        rank = next((index for index, row in enumerate(figures) if belongs(words, row)), len(figures))
        parts = re.findall(r"\d+|\D+", name)
        return rank, [(not part.isdigit(), int(part) if part.isdigit() else 0, part) for part in parts]

    return sorted(pictures, key=key)
