"""A graph as text: Mermaid, the language of Graphviz, and what both and the SVG say of a node.

Names are anybody's. In a label, whatever could mean something to the program that draws it is escaped.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from ..roster.process_info import visible
from .graph import Graph, MemberNode, TopicNode

__all__ = ["dot", "label", "mermaid", "rate_text", "unheard"]

_LONGEST_NAME = 60
# Mermaid reads labels as Markdown and for entities. What a sentence needs is left readable.
_SPECIAL = re.compile(r"[^\w .,:/()+\-…]|_|[.)+\-](?= )|:(?=fa-)")
# What it has decoded it reads again, for HTML, entities, formulas, icons and line breaks. So a character
# without a width stands between those that would mean one.
_READ_AGAIN = ":\\$&<"
_JOINER = "\u2060"
_GREY = "#888888"


def label(node: MemberNode | TopicNode) -> tuple[str, str]:
    """Return what a node is, and more about it: two short lines without control characters."""
    if isinstance(node, MemberNode):
        number = len(node.members)
        more = (
            f"{number} processes" if number > 1 else f"pid {node.pids[0]}" if node.pids[0] else "pid unknown"
        )
        return _short(node.process), more if node.alive else f"{more}, dead"
    if not node.topics:
        more = "nobody has sent it"
    else:
        more = f"{node.topics:,} topics, " if node.topics > 1 else ""
        more += f"{node.sent_total:,} sent" if node.rate is None else rate_text(node.rate)
    return _short(f"{node.system} {node.kind}"), more


def rate_text(rate: float) -> str:
    """Return events a second."""
    return f"{rate:.1f}/s" if 0 < rate < 9.95 else f"{rate:,.0f}/s"


def _short(name: str) -> str:
    shown = visible(name)
    return shown if len(shown) <= _LONGEST_NAME else f"{shown[: _LONGEST_NAME - 1]}…"


def unheard(graph: Graph) -> set[str]:
    """Return the ids of the topics that nobody receives."""
    return {topic.id for topic in graph.topics} - {edge.source for edge in graph.receives}


def mermaid(graph: Graph) -> str:
    """Return a flowchart that Mermaid draws, and with it GitHub, GitLab and many editors."""
    return "\n".join(_mermaid(graph)) + "\n"


def _mermaid(graph: Graph) -> Iterator[str]:
    yield "flowchart LR"
    for member in graph.members:
        yield f'  {member.id}["{_in_mermaid(label(member))}"]{"" if member.alive else ":::faint"}'
    faint = unheard(graph)
    for topic in graph.topics:
        style = ":::faint" if topic.id in faint or not topic.topics else ""
        yield f'  {topic.id}(["{_in_mermaid(label(topic))}"]){style}'
    for edge in graph.sends:
        text = f'|"{rate_text(edge.rate)}"|' if edge.rate else ""
        yield f"  {edge.source} -->{text} {edge.target}"
    for edge in graph.receives:
        yield f"  {edge.source} --> {edge.target}"
    yield f"  classDef faint color:{_GREY},stroke:{_GREY},stroke-dasharray:4 3"


def _in_mermaid(lines: Iterable[str]) -> str:
    return "<br/>".join(_SPECIAL.sub(lambda found: _entity(found[0]), line) for line in lines)


def _entity(char: str) -> str:
    return f"#{ord(char)};{_JOINER if char in _READ_AGAIN else ''}"


def dot(graph: Graph) -> str:
    """Return a directed graph in the language of Graphviz."""
    return "\n".join(_dot(graph)) + "\n"


def _dot(graph: Graph) -> Iterator[str]:
    yield f"digraph {_quoted(graph.bus)} {{"
    yield "  rankdir=LR; ranksep=1.5;"
    yield '  node [fontname="sans-serif", fontsize=11]; edge [fontname="sans-serif", fontsize=9];'
    for member in graph.members:
        yield f"  {member.id} [shape=box, label={_in_dot(label(member))}{'' if member.alive else _FAINT}];"
    faint = unheard(graph)
    for topic in graph.topics:
        style = _FAINT if topic.id in faint or not topic.topics else ""
        yield f"  {topic.id} [shape=ellipse, label={_in_dot(label(topic))}{style}];"
    for edge in graph.sends:
        text = f" [label={_quoted(rate_text(edge.rate))}]" if edge.rate else ""
        yield f"  {edge.source} -> {edge.target}{text};"
    for edge in graph.receives:
        yield f"  {edge.source} -> {edge.target};"
    yield "}"


_FAINT = f', style=dashed, color="{_GREY}", fontcolor="{_GREY}"'


def _in_dot(lines: Iterable[str]) -> str:
    """Return a label; what Graphviz would take for an escape or an HTML entity stays text."""
    return '"' + r"\n".join(_quoted(line)[1:-1] for line in lines) + '"'


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace("&", "&amp;").replace('"', '\\"') + '"'
