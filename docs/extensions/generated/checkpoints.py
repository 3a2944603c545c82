"""The published checkpoints: their cards, and beside them what the files themselves say."""

import re
from typing import NamedTuple

from generated.packages import ROOT
from qra import checkpoint
from qra.quant import cost

CARDS = ROOT / "checkpoints" / "README.md"
IMAGE = (3, 32, 32)
SHOWN = ("2/255", "8/255")
"""Budgets of the table on the landing page."""


class Card(NamedTuple):
    """What a card says that no file could."""

    name: str
    digest: str
    clean: str
    robust: dict[str, str]
    """PGD-20, by budget."""
    n: str
    autoattack: str
    cascade: str


def pages() -> dict[str, str]:
    """The page, and the table that the landing page shows."""
    files = sorted((ROOT / "checkpoints").glob("*.ckpt"))
    title, _, text = CARDS.read_text().partition("\n")
    cards = [_card(file.name, text) for file in files]
    about = "Read from the files; below are their cards."
    page = "\n".join([title, "", _table(ABOUT, map(_about, cards)), "", about, text.replace("](../docs/", "](../")])
    return {"checkpoints.md": page, "parts/results.md": _table(RESULTS, map(_results, cards)) + "\n"}


def _card(name: str, text: str) -> Card:
    part = text.partition(f"## {name}\n")[2].partition("\n## ")[0]
    table = re.search(r"^\| clean.*\n\|---.*\n\|.*$", part, re.MULTILINE)
    digest = re.search(r"sha256: `(\w+)`", part)
    if not table or not digest:
        raise ValueError(f"checkpoints/README.md: the card of {name} lacks its table of accuracies or its sha256")
    head, _, row = table[0].splitlines()
    titles, values = ([cell.strip() for cell in line.strip("| ").split("|")] for line in (head, row))
    budgets = (re.search(r"[\d.]+/255", title) for title in titles)
    robust = {budget[0]: value for budget, value in zip(budgets, values, strict=True) if budget}
    n = re.search(r"PGD-20.*\(n = ([\d,]+)\)", head)
    strongest = (_found(part, attack) for attack in ("AutoAttack", "Rounding cascade"))
    return Card(name, digest[1], values[0], robust, n[1] if n else "", *strongest)


def _found(part: str, attack: str) -> str:
    """What a card says of an attack at 8/255; empty if nothing."""
    found = re.search(rf"{attack} at 8/255 \(n = ([\d,]+)\): ([^\]]*\])", part)
    return f"{found[2]} (n = {found[1]})" if found else ""


BUDGETS = (f"PGD-20, {eps}" for eps in SHOWN)
RESULTS = ("network", "clean (n = 10,000)", *BUDGETS, "AutoAttack, 8/255", "rounding cascade, 8/255")


def _results(card: Card) -> tuple[str, ...]:
    shown = (f"{card.robust[eps]} (n = {card.n})" for eps in SHOWN)
    return f"`{card.name.removesuffix('.ckpt')}`", *map(_two_lines, (card.clean, *shown, card.autoattack, card.cascade))


def _two_lines(text: str) -> str:
    value, space, doubt = text.partition(" ")
    return f"{value}<br><small>{doubt}</small>" if space else text


ABOUT = ("file", "network", "scheme", "parameters", "KiB at their bits", "GBitOPs", "sha256")


def _about(card: Card) -> tuple[str, ...]:
    path = ROOT / "checkpoints" / card.name
    if checkpoint.sha256(path) != card.digest:
        raise ValueError(f"checkpoints/README.md: the card of {card.name} is of another file")
    network, scheme = checkpoint.load(path), checkpoint.rebuild_scheme(checkpoint.read(path))
    counted = cost(network, IMAGE)
    numbers = f"{counted.parameters:,}", f"{counted.size_in_bits / 8192:.0f}", f"{counted.bit_ops / 1e9:.2f}"
    kind = type(network).__name__
    return f"`{card.name}`", kind, str(scheme) if scheme else "float", *numbers, f"`{card.digest[:12]}`"


def _table(titles: tuple[str, ...], rows: "map[tuple[str, ...]]") -> str:
    lines = [titles, ("---",) * len(titles), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
