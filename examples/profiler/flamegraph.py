"""Draws collapsed stacks as a flame graph: python flamegraph.py COLLAPSED OUT.svg [TITLE]"""

from __future__ import annotations

import html
import sys

WIDTH, ROW, MARGIN, FONT = 1000, 20, 10, 12


class Node:
    def __init__(self) -> None:
        self.count = 0
        self.children: dict[str, Node] = {}


def read(path: str) -> Node:
    root = Node()
    with open(path) as f:
        for line in f:
            stack, _, count = line.rpartition(" ")
            node, n = root, int(count)
            node.count += n
            for name in stack.split(";"):
                node = node.children.setdefault(name, Node())
                node.count += n
    return root


def colour(name: str) -> str:
    h = sum(ord(c) * (i + 1) for i, c in enumerate(name))
    return f"rgb({205 + h % 50},{90 + h // 7 % 120},{40 + h // 13 % 40})"


def boxes(node: Node, x: float, depth: int, scale: float):
    """(x, depth, width, name, count) of each box, parents first."""
    for name, child in sorted(node.children.items()):
        width = child.count * scale
        if width >= 0.5:
            yield x, depth, width, name, child.count
            yield from boxes(child, x, depth + 1, scale)
        x += width


def draw(root: Node, title: str) -> str:
    all_boxes = list(boxes(root, MARGIN, 0, (WIDTH - 2 * MARGIN) / max(root.count, 1)))
    depth = max((d for _, d, *_ in all_boxes), default=0) + 1
    height = (depth + 2) * ROW + 2 * MARGIN
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="monospace" '
        f'font-size="{FONT}">',
        f'<rect width="{WIDTH}" height="{height}" fill="#fffdf5"/>',
        f'<text x="{WIDTH / 2}" y="{MARGIN + FONT}" text-anchor="middle">{html.escape(title)}</text>',
    ]
    for x, d, width, name, count in all_boxes:
        y = height - MARGIN - (d + 1) * ROW
        share = f"{html.escape(name)}: {count} samples, {100 * count / root.count:.1f} %"
        fits = int((width - 6) / (FONT * 0.61))
        label = name if len(name) <= fits else name[: max(fits - 2, 0)] + ".." if fits > 3 else ""
        out.append(
            f'<g><title>{share}</title><rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="{ROW - 1}" '
            f'fill="{colour(name)}" rx="2"/><text x="{x + 3:.1f}" y="{y + FONT + 2}">{html.escape(label)}</text></g>'
        )
    return "\n".join([*out, "</svg>", ""])


if __name__ == "__main__":
    root = read(sys.argv[1])
    with open(sys.argv[2], "w") as f:
        f.write(draw(root, sys.argv[3] if sys.argv[3:] else f"{root.count} samples"))
