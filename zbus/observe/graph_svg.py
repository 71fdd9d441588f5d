"""A graph as SVG, in three columns: who sends, the topics, who receives. It needs no other program.

It has no style sheet, so that it can stand in a page that allows none.
"""

from __future__ import annotations

import math
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator
from xml.sax.saxutils import escape

from .drawing import label, unheard
from .graph import Edge, Graph, MemberNode, TopicNode

__all__ = ["svg"]

_ROW, _BOX, _MARGIN, _GAP, _TITLE = 46, 36, 24, 170, 40
# How wide a character is, of the first and of the second line of a node.
_WIDTHS = 7.4, 6.2
_PADDING, _LEAST_WIDTH = 24, 110
_SWEEPS = 4
_FONT = "ui-monospace, 'DejaVu Sans Mono', Menlo, Consolas, monospace"
_PAPER, _INK, _FAINT, _EDGE, _MEMBER, _TOPIC = "#fff", "#1c2733", "#78828e", "#4a7bd0", "#f3f5f8", "#e6eefb"

Node = MemberNode | TopicNode
Place = tuple[int, str]
"""A column and the id of a node: a member that sends and receives has two places."""


class _Layout:
    """Where each node is.

    Attributes:
        nodes: by their places, column by column from top to bottom.
        links: each edge with its ends.
        width, height: of the drawing.
    """

    def __init__(self, graph: Graph) -> None:
        sending, receiving = {edge.source for edge in graph.sends}, {edge.target for edge in graph.receives}
        # Who does nothing is with the senders.
        senders = [node for node in graph.members if node.id in sending or node.id not in receiving]
        receivers = [node for node in graph.members if node.id in receiving]
        columns: tuple[list[Node], ...] = [*senders], [*graph.topics], [*receivers]
        self.links = [
            *(((0, edge.source), (1, edge.target), edge) for edge in graph.sends),
            *(((1, edge.source), (2, edge.target), edge) for edge in graph.receives),
        ]
        self._arrange(columns)
        rows = max(1, *map(len, columns))
        self.nodes: dict[Place, Node] = {}
        self._middles: dict[Place, float] = {}
        self._columns: list[tuple[float, float]] = []
        left = float(_MARGIN)
        for number, column in enumerate(columns):
            width = max([_LEAST_WIDTH, *map(_width, column)])
            self._columns.append((left, width))
            left += width + _GAP
            for index, node in enumerate(column):
                place = number, node.id
                self.nodes[place] = node
                self._middles[place] = _TITLE + (index + 0.5 + (rows - len(column)) / 2) * _ROW
        self.width, self.height = left - _GAP + _MARGIN, _TITLE + rows * _ROW + _MARGIN

    def column(self, number: int) -> tuple[float, float]:
        """Return the left edge and the width of a column."""
        return self._columns[number]

    def middle(self, place: Place) -> float:
        """Return the height of the middle of a node."""
        return self._middles[place]

    def _arrange(self, columns: tuple[list[Node], ...]) -> None:
        """Put each node near the mean height of those it is linked with, so that few edges cross."""
        linked: dict[Place, list[Place]] = defaultdict(list)
        for source, target, _ in self.links:
            linked[source].append(target)
            linked[target].append(source)
        heights: dict[Place, float] = {}
        for number in (0, 1, 2, *(0, 2, 1) * _SWEEPS):
            column = columns[number]
            if heights.keys() >= {(number, node.id) for node in column}:
                column.sort(key=lambda node: _mean(heights[place] for place in linked[number, node.id]))
            for index, node in enumerate(column):
                heights[number, node.id] = (index + 0.5) / len(column)


def _mean(values: Iterable[float]) -> float:
    """Return the mean, or what sorts to the end if there is nothing."""
    found = [*values]
    return sum(found) / len(found) if found else math.inf


def _width(node: Node) -> float:
    lines = zip(label(node), _WIDTHS, strict=True)
    return _PADDING + max(_cells(line) * width for line, width in lines)


def _cells(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text)


def svg(graph: Graph) -> str:
    """Return a drawing as an SVG document."""
    return "\n".join(_lines(graph, _Layout(graph))) + "\n"


def _lines(graph: Graph, layout: _Layout) -> Iterator[str]:
    size = f'width="{layout.width:.0f}" height="{layout.height:.0f}"'
    view = f'viewBox="0 0 {layout.width:.0f} {layout.height:.0f}"'
    font = f'font-family="{_FONT}" text-anchor="middle"'
    yield f'<svg xmlns="http://www.w3.org/2000/svg" {size} {view} {font} role="img">'
    yield f"<title>Who sends what to whom on bus {escape(graph.bus)}</title>"
    yield f'<rect width="100%" height="100%" fill="{_PAPER}"/>'
    for number, title in enumerate(("sends", "topics", "receives")):
        left, width = layout.column(number)
        yield _text(left + width / 2, _TITLE - 14, title, 12, _FAINT)
    for source, target, edge in layout.links:
        yield _curve(layout, source, target, edge)
    faint = unheard(graph) | {topic.id for topic in graph.topics if not topic.topics}
    faint |= {member.id for member in graph.members if not member.alive}
    for place, node in layout.nodes.items():
        yield from _box(layout, place, node, faint=node.id in faint)
    yield "</svg>"


def _curve(layout: _Layout, source: Place, target: Place, edge: Edge) -> str:
    left, width = layout.column(source[0])
    start, end = left + width, layout.column(target[0])[0]
    middle = (start + end) / 2
    high, low = layout.middle(source), layout.middle(target)
    path = f"M{start:.0f},{high:.0f} C{middle:.0f},{high:.0f} {middle:.0f},{low:.0f} {end:.0f},{low:.0f}"
    stroke = 1 + math.log10(1 + (edge.rate or 0.0)) / 2
    dashes = "" if edge.rate else ' stroke-dasharray="4 3"'
    line = f'fill="none" stroke="{_EDGE}" stroke-opacity="0.6" stroke-width="{stroke:.1f}"{dashes}'
    return f'<path d="{path}" {line}/>'


def _box(layout: _Layout, place: Place, node: Node, *, faint: bool) -> Iterator[str]:
    left, width = layout.column(place[0])
    middle, name, more = layout.middle(place), *label(node)
    radius, fill = (_BOX / 2, _TOPIC) if isinstance(node, TopicNode) else (4, _MEMBER)
    border = f'stroke="{_FAINT}" stroke-dasharray="4 3"' if faint else f'stroke="{_EDGE}"'
    where = (
        f'x="{left:.0f}" y="{middle - _BOX / 2:.0f}" width="{width:.0f}" height="{_BOX}" rx="{radius:.0f}"'
    )
    yield f'<rect {where} fill="{fill}" {border}/>'
    yield _text(left + width / 2, middle - 3, name, 12, _FAINT if faint else _INK)
    yield _text(left + width / 2, middle + 11, more, 10, _FAINT)


def _text(x: float, y: float, text: str, size: int, colour: str) -> str:
    return f'<text x="{x:.0f}" y="{y:.0f}" font-size="{size}" fill="{colour}">{escape(text)}</text>'
