"""Names and the patterns that select them: one grammar for systems and kinds.

A name is segments joined by dots. A pattern may put in place of a segment `*` (exactly one), `**`
(zero or more) or `(a|b)` (one of these). Matching happens twice: ZeroMQ compares bytes from the
start of a frame, so `prefixes` gives it the literal beginning of what a pattern can match, and a
`Matcher` decides exactly, once per new topic. Everything is checked here, so that code behind this
file never meets an odd name.
"""

from __future__ import annotations

from itertools import product
from typing import Any

from ..errors import Invalid

__all__ = ["ALIKE", "Matcher", "alike", "check_name", "check_text", "covers", "overlaps", "plain", "prefixes"]

_ANY = "*"
_ANY_DEPTH = "**"
# Alternatives multiply; beyond this many prefixes the cut comes before the bracket instead.
_MAX_PREFIXES = 16
_MAX_SAMPLES = 4096

ALIKE: set[type] = {str}
"""Classes of `str` that `alike` has seen and found to be."""

_MAX_ALIKE = 1000  # a program that makes classes all the time must not keep them here
_ASKED = {"__class__", "__contains__", "__eq__", "__hash__"}

Segment = str | frozenset[str]


def plain(value: Any) -> Any:
    """Return the text of a `str` of any class as a plain `str`; anything else as it is.

    A member of a `(str, Enum)` has a text of its own, but prints, hashes and formats as `Kind.CREATED`. Other
    classes compare in a way of their own. Behind this only the text counts.
    """
    if type(value) is str or not issubclass(type(value), str):
        return value
    return str.__str__(value)


def alike(*values: object) -> bool:
    """Return whether all are `str` of classes that hash, compare and search as `str` itself does; note them.

    Enums do. Where this is noted (`ALIKE`), a look-up may take them as they are.
    """
    for cls in map(type, values):
        line = cls.__mro__
        own = line[: line.index(str)] if str in line else (str,)
        if any(_ASKED & vars(base).keys() for base in own):
            return False
        if len(ALIKE) < _MAX_ALIKE:
            ALIKE.add(cls)
    return True


def check_text(value: object, what: str) -> str:
    """Return `value` as a plain `str` if it is non-empty text that UTF-8 can carry and that holds no NUL.

    Raises:
        TypeError: it is not a `str`.
        Invalid: it is empty, or holds NUL or a lone surrogate. `what` names it in the message.
    """
    value = plain(value)
    if type(value) is not str:
        raise TypeError(f"{what} must be a str, not {type(value).__name__}")
    if not value:
        raise Invalid(f"{what} is required", value=value)
    if "\0" in value:
        raise Invalid(f"{what} {value!r} contains NUL, which separates fields: remove it", value=value)
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise Invalid(
            f"{what} {value!r} holds a lone surrogate at position {error.start}, which UTF-8 cannot"
            " carry: decode it with errors='replace' first",
            value=value,
        ) from error
    return value


def check_name(value: object, what: str) -> str:
    """Return `value` as a plain `str` if it can be sent as a system or kind, else raise as `check_text` does.

    Beyond that a name has no empty segment and none of the characters of a pattern.
    """
    name = check_text(value, what)
    for char in "*()|":
        if char in name:
            raise Invalid(
                f"{what} {name!r} contains {char!r}, which only a subscription may use: send a literal name",
                value=name,
            )
    if "" in name.split("."):
        raise Invalid(f"{what} {name!r} has an empty segment: use single dots between words", value=name)
    return name


class Matcher:
    """A compiled pattern; `matches(name)` tells whether a name is selected."""

    def __init__(self, pattern: str, what: str = "pattern") -> None:
        """Compile `pattern`.

        Raises:
            TypeError: not a `str`.
            Invalid: not of the grammar; the message names the form to use.
        """
        text = check_text(pattern, what)
        self.pattern = text
        segments = [_segment(part, text, what) for part in text.split(".")]
        # A lone `*` is everything, as in the original system.
        self.segments: list[Segment] = [_ANY_DEPTH] if segments == [_ANY] else segments

    @property
    def everything(self) -> bool:
        """Whether this pattern selects every name."""
        return all(segment == _ANY_DEPTH for segment in self.segments)

    def matches(self, name: str) -> bool:
        """Return whether `name` is selected. Linear in the name for each `**`: never exponential."""
        return _walk(self.segments, name.split("."))


def _segment(part: str, pattern: str, what: str) -> Segment:
    def no(advice: str) -> Invalid:
        return Invalid(f"{pattern!r} is not a {what}: {advice}", value=pattern)

    if part in (_ANY, _ANY_DEPTH):
        return part
    if part in (">", "#"):
        raise no(f"for everything below use '**', not {part!r}")
    if part == "+":
        raise no("for exactly one segment use '*', not '+'")
    if not part:
        raise no("it has an empty segment, use single dots between words, or '**' for any depth")
    if part.startswith("(") and part.endswith(")"):
        choices = part[1:-1].split("|")
        if all(choices) and not any(char in choice for choice in choices for char in "*()"):
            return frozenset(choices)
        raise no("a bracket lists whole literal segments, use '(a|b)'")
    if "*" in part:
        raise no("a wildcard is a whole segment, use 'orders.*' or 'orders.**'")
    if any(char in part for char in "()|"):
        raise no("a bracket opens and closes within one segment, use '(a|b)'")
    return part


def _admits(segment: Segment, word: str) -> bool:
    if isinstance(segment, frozenset):
        return word in segment
    return segment in (_ANY, word)


def _walk(pattern: list[Segment], words: list[str]) -> bool:
    # The classic two-finger match: on failure, go back to the last `**` and let it eat one more.
    p = w = 0
    star = mark = -1
    while w < len(words):
        if p < len(pattern) and pattern[p] == _ANY_DEPTH:
            star, mark = p, w
            p += 1
        elif p < len(pattern) and _admits(pattern[p], words[w]):
            p += 1
            w += 1
        elif star >= 0:
            mark += 1
            p, w = star + 1, mark
        else:
            return False
    return all(segment == _ANY_DEPTH for segment in pattern[p:])


def overlaps(left: Matcher, right: Matcher) -> bool:
    """Return whether some name is selected by both patterns."""
    a, b = left.segments, right.segments
    # reach[j]: the first i segments of `a` and the first j of `b` can stand for the same words.
    reach = [True] + [False] * len(b)
    for j in range(1, len(b) + 1):
        reach[j] = reach[j - 1] and b[j - 1] == _ANY_DEPTH
    for x in a:
        row = [reach[0] and x == _ANY_DEPTH]
        for j, y in enumerate(b, start=1):
            if _ANY_DEPTH in (x, y):
                row.append(reach[j] or row[j - 1])
            else:
                row.append(reach[j - 1] and _meet(x, y))
        reach = row
    return reach[-1]


def _meet(x: Segment, y: Segment) -> bool:
    if _ANY in (x, y):
        return True
    left = x if isinstance(x, frozenset) else frozenset((x,))
    right = y if isinstance(y, frozenset) else frozenset((y,))
    return bool(left & right)


def covers(outer: Matcher, inner: Matcher) -> bool:
    """Return whether `outer` selects every name that `inner` does; in doubt, `False`.

    Tried on samples: `*` stands for a word that no literal equals, `**` for none, one and so on, up to one
    more than `outer` has segments of one word: in so long a run its `**` takes a word, so it takes any more.
    """
    words = sum(segment != _ANY_DEPTH for segment in outer.segments) + 1
    runs = [".".join([_ANY] * length) for length in range(words + 1)]
    choices: list[list[str]] = []
    count = 1
    for segment in inner.segments:
        if isinstance(segment, frozenset):
            choices.append(sorted(segment))
        else:
            choices.append(runs if segment == _ANY_DEPTH else [segment])
        count *= len(choices[-1])
    if count > _MAX_SAMPLES:
        return outer.everything
    samples = (".".join(filter(None, parts)) for parts in product(*choices))
    return all(outer.matches(name or _ANY) for name in samples)


def prefixes(system: Matcher, kind: Matcher | None = None) -> tuple[bytes, ...]:
    """Return the ZeroMQ subscriptions that together admit every topic the patterns can match.

    They may admit more: ZeroMQ compares bytes from the start only, so the caller filters what arrives
    with `Matcher`. `kind=None` is no filter.
    """
    heads, exact = _literal_heads(system.segments)
    if exact and kind is not None and not kind.everything:
        tails, closed = _literal_heads(kind.segments)
        end = "\0" if closed else ""
        both = [f"{head}\0{tail}{end}" for head in heads for tail in tails]
        if len(both) <= _MAX_PREFIXES:
            return tuple(sorted(text.encode() for text in both))
    end = "\0" if exact else ""
    return tuple(sorted(f"{head}{end}".encode() for head in heads))


def _literal_heads(segments: list[Segment]) -> tuple[list[str], bool]:
    """Expand the segments before the first wildcard; also whether that was all of them."""
    choices: list[list[str]] = []
    count = 1
    exact = True
    for segment in segments:
        options = sorted(segment) if isinstance(segment, frozenset) else [segment]
        if segment in (_ANY, _ANY_DEPTH) or count * len(options) > _MAX_PREFIXES:
            exact = False
            # `a.**` also matches `a` itself, so its prefix stops before the dot.
            dot = "" if segment == _ANY_DEPTH or not choices else "."
            break
        choices.append(options)
        count *= len(options)
    heads = [".".join(words) for words in product(*choices)]
    return (heads, True) if exact else ([head + dot for head in heads], False)
