"""Who sends what to whom, as a graph, and the graph as Mermaid, dot and SVG."""

from __future__ import annotations

import html
import re
import shutil
import subprocess
from xml.etree import ElementTree

import pytest

from zbus.observe.arrange import filtered
from zbus.observe.drawing import dot, label, mermaid
from zbus.observe.graph import Graph, graph_of
from zbus.observe.graph_svg import svg
from zbus.observe.snapshot import Snapshot, snapshot

from .test_snapshot import NOW, member, numbers, seen, shop, subscriber, topic

NASTY = '"<b>\\n&amp;#35;*x*_|]\n\x1b'
SHOWN = '"<b>\\n&amp;#35;*x*_|]\\n\\x1b'


def edges(graph: Graph) -> tuple[set[tuple[str, str]], set[tuple[str, str]]]:
    """Return who sends what, and what is received by whom, by names."""
    names = {node.id: label(node)[0] for node in (*graph.members, *graph.topics)}
    return (
        {(names[edge.source], names[edge.target]) for edge in graph.sends},
        {(names[edge.source], names[edge.target]) for edge in graph.receives},
    )


def test_members_send_topics_and_others_select_them() -> None:
    found = graph_of(shop())
    assert edges(found) == (
        {("web.py", "orders.eu k"), ("mail.py", "orders.eu k"), ("web.py", "users k")},
        {("orders.eu k", "mail.py"), ("orders.eu k", "log.py"), ("users k", "log.py")},
    )
    assert {(edge.rate, edge.target) for edge in found.sends} == {(20.0, "t1"), (4.0, "t1"), (0.0, "t2")}
    assert [(node.rate, node.topics, node.sent_total) for node in found.topics] == [
        (24.0, 1, 34),
        (0.0, 1, 5),
    ]
    assert {edge.rate for edge in found.receives} == {24.0, 0.0}


def test_a_pattern_that_nobody_has_sent_anything_for_is_shown_and_who_is_dead_waits_for_nothing() -> None:
    found = graph_of(
        snapshot(
            seen(
                member("a"),
                member("b"),
                member("c", alive=False),
                subscriber("a", ("orders.**", "(x|y)")),
                subscriber("b", ("orders.**", "(x|y)")),
                subscriber("c", ("users", "*"), alive=False),
            )
        )
    )
    assert edges(found) == (set(), {("orders.** (x|y)", "a.py"), ("orders.** (x|y)", "b.py")})
    assert [(node.topics, node.rate) for node in found.topics] == [(0, None)]


def crowd(systems: list[str], members: int = 3) -> Snapshot:
    """Return a bus whose members all send to all systems, and are subscribed to `**`."""
    names = [f"m{number}" for number in range(members)]
    told = (
        numbers(NOW, tuple(topic(system, 5) for system in systems)),
        numbers(NOW - 1, tuple(topic(system, 3) for system in systems)),
    )
    listening = (subscriber(name, ("**", "*")) for name in names)
    alike = (member(name, process="worker", pid=number) for number, name in enumerate(names))
    return snapshot(seen(*alike, *listening, **dict.fromkeys(names, told)))


def test_members_that_do_the_same_are_one_node() -> None:
    found = graph_of(crowd(["a"]))
    [node] = found.members
    assert (node.process, node.pids, node.members) == ("worker", (0, 1, 2), ("m0", "m1", "m2"))
    assert (found.sends[0].rate, found.receives[0].rate) == (6.0, 18.0)


@pytest.mark.parametrize(
    ("systems", "names"),
    [
        ([f"a{n}" for n in range(40)], sorted(f"a{n}" for n in range(40))),
        ([f"a.b{n % 5}.c{n}" for n in range(1000)], [f"a.b{n}.**" for n in range(5)]),
        ([*(f"a.b{n}" for n in range(1000)), "c.d"], ["a.**", "c.d"]),
        ([f"a{n}" for n in range(1000)], ["**"]),
        ([*(f"a.b{n}" for n in range(100)), "a"], ["a.**"]),
    ],
)
def test_so_many_topics_are_put_together_that_people_can_read_it(
    systems: list[str], names: list[str]
) -> None:
    found = graph_of(crowd(systems))
    assert [node.system for node in found.topics] == names
    assert sum(node.topics for node in found.topics) == len(systems)
    assert sum(node.sent_total for node in found.topics) == 15 * len(systems)
    assert sum(node.rate or 0.0 for node in found.topics) == 6.0 * len(systems)


def test_many_members_that_do_different_things_need_few_edges_too() -> None:
    """Mermaid refuses a graph of more than 500."""
    members, told = [], {}
    for number in range(60):
        rows = tuple(topic(f"a.b{n}", 1) for n in range(30) if (n * number) % 7)
        told[f"m{number}"] = numbers(NOW, rows), None
        members.append(member(f"m{number}"))
    found = graph_of(snapshot(seen(*members, **told)))
    assert 0 < len(found.sends) + len(found.receives) <= 400


def test_what_was_left_out_is_not_taken_for_unsent_and_others_that_select_a_topic_stay() -> None:
    whole = shop()
    found = graph_of(filtered(whole, "orders"), whole)
    assert edges(found) == (
        {("web.py", "orders.eu k"), ("mail.py", "orders.eu k")},
        {("orders.eu k", "mail.py"), ("orders.eu k", "log.py")},
    )


def nasty() -> Graph:
    told = numbers(NOW, (topic(NASTY, 3),)), None
    return graph_of(snapshot(seen(member("m", process=NASTY), subscriber("m", ("日本.**", "k")), m=told)))


def test_svg_is_xml_and_shows_every_name() -> None:
    root = ElementTree.fromstring(svg(nasty()))
    texts = {element.text for element in root.iter() if element.tag.endswith("}text")}
    assert {SHOWN, f"{SHOWN} k", "日本.** k"} <= texts
    boxes = [element for element in root.iter() if element.tag.endswith("}rect")]
    assert len(boxes) == 1 + 4  # the paper, and a member that sends and receives
    width = float(root.get("width", 0))
    assert all(float(box.get("x", 0)) + float(box.get("width", "0").rstrip("%")) <= width for box in boxes)
    assert len([element for element in root.iter() if element.tag.endswith("}path")]) == 2


def test_mermaid_labels_have_no_character_that_mermaid_gives_a_meaning() -> None:
    lines = mermaid(nasty()).splitlines()
    assert lines[0] == "flowchart LR"
    labels = [line.partition('["')[2] or line.partition('(["')[2] for line in lines if '["' in line]
    assert len(labels) == 3
    shown = []
    for text in labels:
        inner = re.sub(r'"(\]|\]\))(:::faint)?$', "", text)
        assert re.fullmatch(r"(?:[\w .,:/()+\-…]|#\d+;\u2060?|<br/>)*", inner), inner
        shown.append(re.sub(r"#(\d+);\u2060?", lambda found: chr(int(found[1])), inner.partition("<br/>")[0]))
    assert shown == [SHOWN, f"{SHOWN} k", "日本.** k"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("end", "end"),
        ("日本 ü", "日本 ü"),
        ('a"b]', "a#34;b#93;"),
        ("**b**", "#42;#42;b#42;#42;"),
        ("1. a", "1#46; a"),
        ("<script>", "#60;\u2060script#62;"),
        ("&lt;", "#38;\u2060lt#59;"),
        (r"\n", "#92;\u2060n"),
        ("$$x$$", "#36;\u2060#36;\u2060x#36;\u2060#36;\u2060"),
        ("fa:fa-car", "fa#58;\u2060fa-car"),
        ("a: fa-car", "a: fa-car"),
    ],
)
def test_mermaid_11_shows_these_names_as_they_are(name: str, text: str) -> None:
    """Tried in a browser, with and without HTML labels. Mermaid reads some of what it has decoded."""
    graph = graph_of(snapshot(seen(member("m", process=name))))
    assert mermaid(graph).splitlines()[1] == f'  m1["{text}<br/>pid 7"]'


@pytest.mark.skipif(not shutil.which("dot"), reason="Graphviz is not installed")
def test_graphviz_draws_what_dot_says() -> None:
    drawn = subprocess.run(
        ["dot", "-Tsvg"], input=dot(nasty()), capture_output=True, text=True, timeout=100, check=True
    )
    assert drawn.stderr == ""
    texts = [element.text for element in ElementTree.fromstring(drawn.stdout).iter() if element.text]
    shown = {text.replace("\xa0", " ") for text in texts}
    assert {SHOWN, f"{SHOWN} k", "日本.** k"} <= shown


def test_dot_labels_are_quoted() -> None:
    quoted = re.findall(r'label=("(?:[^"\\]|\\.)*")', dot(nasty()))
    names = {text[1:-1].partition(r"\npid")[0].partition(r"\n3 sent")[0] for text in quoted}
    plain = {html.unescape(re.sub(r"\\(.)", r"\1", name)) for name in names}
    assert {SHOWN, f"{SHOWN} k"} <= plain


def test_a_bus_of_members_that_do_nothing_can_be_drawn() -> None:
    idle = graph_of(snapshot(seen(member("a"), member("b", alive=False))))
    assert "b.py<br/>pid 7, dead" in mermaid(idle)
    assert 'shape=box, label="b.py\\npid 7, dead", style=dashed' in dot(idle)
    assert ElementTree.fromstring(svg(idle)).tag.endswith("}svg")
