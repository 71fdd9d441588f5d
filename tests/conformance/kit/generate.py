"""Random cases, good and bad, from a seed: patterns, names, JSON, frames and sequences of frames."""

from __future__ import annotations

import json
from random import Random
from typing import Any

__all__ = ["encoding", "frames", "losses", "names", "patterns"]

Request = dict[str, Any]

_WORDS = ("a", "b", "ab", "orders", "x y", "주문", "é", "c++", "#1", "a>b", "zbus", "A")
_SEGMENTS = (
    *(
        "a",
        "b",
        "ab",
        "orders",
        "주문",
        "*",
        "**",
        "*",
        "**",
        "(a|b)",
        "(a|b|ab)",
        "(a)",
        "(a|a)",
        "(orders|é)",
    ),
    *("(a|b|c|d|e)", "(1|2|3|4)", "(a|b|c|d|e|f|g|h|i|j|k|l|m|n|o|p|q)"),
)
_WRONG = (
    "",
    ">",
    "#",
    "+",
    "a*",
    "*a",
    "***",
    "(a",
    "a)",
    "()",
    "(a|)",
    "(|a)",
    "(a|*)",
    "((a))",
    "a|b",
    "(a)(b)",
)
_WRONG += ("(a|>)", "(#)", "(a\0|b)", "a\0", "|", "(", ")", "(a|b)c")
_NUMBERS = (
    "0",
    "-0",
    "1",
    "-1",
    "10",
    "1.5",
    "1e5",
    "1E-5",
    "0.1e+5",
    "1e308",
    "1e309",
    "-1e400",
    "1e-400",
    "0e999",
)
_NUMBERS += (
    "9007199254740993",
    "18446744073709551615",
    "18446744073709551616",
    "01",
    "1.",
    ".5",
    "+1",
    "1e",
    "-",
)
_NUMBERS += ("NaN", "Infinity", "-Infinity", "0x10", "1" * 309, "1_0", "00", "-01", "1.0e", "1e+", "5e-324")
_STRINGS = (
    "",
    "a",
    "é",
    "주문",
    "😀",
    "\\n",
    "\\u0000",
    "\\ud83d\\ude00",
    "\\ud83d",
    "\\ude00",
    "\\\\ud83d",
    "\\x",
    "\\u12",
)
_STRINGS += (
    "\x7f",
    "\ufeff",
    "\u2028",
    "\t",
    "\x1f",
    "\\/",
    '\\"',
    "\\\\",
    "\\uD83D\\uDE00",
    "\\ud83d\\u0041",
    "\\u00e9",
)
_BUS = "0123456789abcdef"
_VIA = (*("", _BUS) * 3, f"{_BUS}-{_BUS}", f"{_BUS}.1", f"{_BUS}-", _BUS[1:], "-".join([_BUS] * 33))
_ORIGINS = ("aaaaaaaa", "bbbbbbbbbbbbbbbb", "0123abcd", "aaaaaaaaa")


def _pattern(random: Random, wrong: float) -> str:
    pool = (*_SEGMENTS, *_WRONG) if random.random() < wrong else _SEGMENTS
    return ".".join(random.choice(pool) for _ in range(random.randint(1, 4)))


def _name(random: Random) -> str:
    return ".".join(random.choice(_WORDS) for _ in range(random.randint(1, 5)))


def patterns(random: Random, count: int) -> Request:
    """Return a request for `patterns`."""
    return {
        "cases": [{"pattern": _pattern(random, 0.1), "name": _name(random)} for _ in range(count)],
        "prefixes": [
            {
                "system": _pattern(random, 0.1),
                "kind": None if random.random() < 0.2 else _pattern(random, 0.1),
            }
            for _ in range(count)
        ],
        "invalid": [{"pattern": _pattern(random, 0.7)} for _ in range(count)],
    }


def names(random: Random, count: int) -> Request:
    """Return a request for `names`."""
    return {
        "files": [{"hex": _mutated(random, _file(random), 0.5).hex()} for _ in range(count)],
        "sentinels": [{"hex": _mutated(random, _sentinel(random), 0.5).hex()} for _ in range(count)],
        "buses": [
            {
                "name": "".join(
                    random.choice("aZ0._-é/ \n") for _ in range(random.choice((0, 1, 2, 5, 63, 64, 65)))
                )
            }
            for _ in range(count)
        ],
    }


def _id(random: Random) -> str:
    size = random.choice((16, 16, 16, 7, 8, 32, 33, 0))
    return "".join(random.choice("0123456789abcdef") for _ in range(size))


def _epoch(random: Random) -> str:
    return random.choice(("1", "2", "10", "0", "01", "", "9" * 18, "9" * 19, "-1", "+1", "1 ", "٣"))


def _file(random: Random) -> bytes:
    end = random.choice(("drop", "block", "latest", "sock", "member", "new", "1.sock", "Drop", ""))
    parts = [_id(random), _epoch(random), end] if random.random() < 0.7 else [_id(random), end]
    return b"token" if random.random() < 0.05 else ".".join(parts).encode()


def _sentinel(random: Random) -> bytes:
    return b"\xff" + random.choice((".", ".", ".", "/", "")).join((_id(random), _epoch(random))).encode()


def _mutated(random: Random, text: bytes, chance: float) -> bytes:
    """Change a byte or two, or leave it as it is. A name has neither NUL nor slash."""
    if random.random() >= chance:
        return text
    made = bytearray(text)
    for _ in range(random.randint(1, 2)):
        at = random.randint(0, len(made))
        byte = random.choice(b'\xff\x80\xc3 .~\n-+a0AZ{}[]",:e\x01\\')
        match random.randrange(3):
            case 0:
                made.insert(at, byte)
            case 1:
                del made[at : at + 1]
            case _:
                made[at : at + 1] = bytes([byte])
    return bytes(made)


def _json(random: Random, depth: int = 3) -> str:
    """Return JSON text, mostly good."""
    space = random.choice(("", "", "", " ", "\n\t", "\r"))
    match random.randrange(7 if depth else 4):
        case 0:
            text = random.choice(("true", "false", "null"))
        case 1 | 2:
            text = random.choice(_NUMBERS[:12]) if random.random() < 0.8 else random.choice(_NUMBERS)
        case 3:
            text = _string(random)
        case 4 | 5:
            text = "[" + ",".join(_json(random, depth - 1) for _ in range(random.randrange(4))) + "]"
        case _:
            rows = (f"{_string(random)}:{_json(random, depth - 1)}" for _ in range(random.randrange(4)))
            text = "{" + ",".join(rows) + "}"
    return space + text + space


def _string(random: Random) -> str:
    pool = _STRINGS[:8] if random.random() < 0.85 else _STRINGS
    return '"' + "".join(random.choice(pool) for _ in range(random.randrange(3))) + '"'


def _stamp(random: Random) -> str:
    fields = [random.choice(_ORIGINS), str(random.randint(1, 9))]
    fields += [
        random.choice(("", "1", "1005", "99999999999", "1_0", "-1", "x", "9" * 19, "9" * 20))
        for _ in range(5)
    ]
    wrong = random.random()
    if wrong < 0.1:
        fields[0] = random.choice(("", "aaaaaaa", "A" * 8, "g" * 8, "a" * 17, "a" * 16))
    elif wrong < 0.2:
        fields[1] = random.choice(
            ("", "0", "00", "01", "+5", "1_0", " 1", "9" * 19, "9" * 20, "-1", "1e3", "٣")
        )
    return ".".join(fields[: random.randint(1 if wrong < 0.3 else 2, 7)])


def _frame(random: Random) -> bytes:
    names = [random.choice(("s", "s", "t", "orders", "a.b", "é")) for _ in range(2)]
    if random.random() < 0.05:
        names[random.randrange(2)] = random.choice(("", "a..b", "a*", "(a)", ".a"))
    kind = random.random()
    path = "" if kind < 0.25 else random.choice(("/p", "/é", "x", "\n"))
    if path or random.random() < 0.1:
        data = (
            random.choice((b"", b"\0", b"\0\1\2\0", b"\xef\xbb\xbf1"))
            if kind > 0.85
            else _json(random).encode()
        )
    else:
        data = _batch(random).encode()
    stamp = "" if random.random() < 0.2 else _stamp(random)
    return b"\0".join((*(name.encode() for name in names), path.encode(), stamp.encode(), data))


def _batch(random: Random) -> str:
    rows = []
    for _ in range(random.randrange(4)):
        path = (
            random.choice(('"/a"', '"/b"', '"é"'))
            if random.random() < 0.9
            else random.choice(('""', '"\\u0000"', "1", "null"))
        )
        rows.append(
            random.choice((f"[{path}]", f"[{path},{_json(random, 1)}]", f"[{path},{_json(random, 1)}]"))
        )
    if random.random() < 0.05:
        rows.append(random.choice(("[]", "1", '["/a",1,2]', '{"/a":1}', "null")))
    return "[" + ",".join(rows) + "]"


def frames(random: Random, count: int) -> Request:
    """Return a request for `decode`: frames of any form, each a mutation of a good one or nearly so."""
    made = (_mutated(random, _frame(random), 0.3) for _ in range(count))
    request: Request = {"system": random.choice(("**", "**", "s", "(s|t)", "*.b", "orders.**"))}
    if random.random() < 0.3:
        request["kind"] = random.choice(("s", "**", "(s|t)", "a.*"))
    return request | {
        "announced": None,
        "joined": None,
        "frames": [{"hex": frame.hex()} for frame in made],
    }


def losses(random: Random, count: int) -> Request:
    """Return a request for `decode`: a few streams, in which numbers and times jump."""
    announced = random.choice((None, 1000))
    request: Request = {
        "system": random.choice(("s", "s", "**")),
        "announced": announced,
        "joined": None if announced is None else random.choice((1000, 1010)),
    }
    next_numbers: dict[str, int] = {}
    made = []
    for _ in range(count):
        origin, topic = random.choice(_ORIGINS[:2]), random.choice(("s\0k", "s\0k", "s\0l", "t\0k"))
        number = next_numbers.get(origin + topic, random.choice((1, 1, 5))) + random.choice(
            (0, 0, 0, 0, 1, 3, -1, -3, 2**40)
        )
        number = max(1, number)
        items = random.choice((1, 1, 1, 0, 2, 3))
        data = "1" if items == 1 else json.dumps([["/p", 1]] * items)
        data = data if random.random() < 0.93 else random.choice(("nope", "1e999", "[[]]"))
        times = [
            random.choice(("", "", *map(str, (1, 999, 1000, 1001, 1005, 1010, 1011, 2000)))) for _ in range(2)
        ]
        first = random.choice(("", "0", "1", str(max(1, number - 2)), str(number), str(number + 1)))
        fields = (origin, str(number), *times, first, "", random.choice(_VIA))
        stamp = ".".join(fields).rstrip(".") if random.random() < 0.95 else ""
        next_numbers[origin + topic] = min(number + items, 2**50)
        made.append("\0".join((topic, "/p" if items == 1 else "", stamp, data)).encode())
    return request | {"frames": [{"hex": frame.hex()} for frame in made]}


def encoding(random: Random) -> Request:
    """Return a request for `encode` of what may be sent, or may not for its names or its path."""
    request: Request = {"system": _sendable(random), "kind": _sendable(random), "stamp": "0123abcd.7.5.6.7.8"}
    if random.random() < 0.3:
        rows = range(random.randint(1, 3))
        return request | {"items": [{"path": _path(random), "json": _good_json(random)} for _ in rows]}
    data = (
        {"hex": random.randbytes(random.randrange(5)).hex()}
        if random.random() < 0.2
        else {"json": _good_json(random)}
    )
    return request | {"path": _path(random)} | data


def _sendable(random: Random) -> str:
    wrong = ("", "a*", "*", "(a|b)", "a..b", ".a", "a.", "a\0b", "zbus", "zbus.x", "a|b", "zbusy")
    return random.choice(wrong) if random.random() < 0.1 else _name(random)


def _path(random: Random) -> str:
    return (
        random.choice(("/p", "/é", " ", "%s", "\n", "/😀", "/a/b"))
        if random.random() < 0.95
        else random.choice(("", "\0", "/a\0"))
    )


def _good_json(random: Random, depth: int = 3) -> str:
    def value(depth: int) -> Any:
        match random.randrange(7 if depth else 5):
            case 0:
                return random.choice((True, False, None))
            case 1:
                return random.choice((0, 1, -1, 2**31, -(2**31), 2**53, 10**15))
            case 2:
                return random.choice((0.5, -1.25, 1e300, 5e-324, 0.1, 1 / 3))
            case 3 | 4:
                return random.choice(
                    ("", "a", "é", "주문", "😀", "\0", "\n", '"', "\\", "null", "NaN", "%s", "\x7f", "\u2028")
                )
            case 5:
                return [value(depth - 1) for _ in range(random.randrange(4))]
            case _:
                return {
                    random.choice(("a", "b", "é", "", "x y")): value(depth - 1)
                    for _ in range(random.randrange(4))
                }

    return json.dumps(value(depth))
