"""Names, and the patterns that select them: one grammar for systems and kinds.

A name is segments joined by dots. In a pattern a segment may also be `*` (exactly one segment), `**` (zero or
more) or `(a|b)` (one of these). Matching happens twice. ZeroMQ compares the first bytes of a frame, so
`prefixes` gives it the literal beginning of what a pattern can match. Then a `Matcher` decides exactly, once
for each new topic. Names and patterns are checked here, so no other module has to.
"""

from __future__ import annotations

from itertools import product
from typing import Any

from ..errors import Invalid

__all__ = ["ALIKE", "Matcher", "alike", "check_name", "check_text", "covers", "overlaps", "plain", "prefixes"]

_ANY = "*"
_ANY_DEPTH = "**"
_FOREIGN = {">", "#", "+"}  # wildcards of other systems
# Alternatives multiply. If there would be more prefixes than this, they end before the bracket.
_MAX_PREFIXES = 16
_MAX_SAMPLES = 4096

ALIKE: set[type] = {str}
"""The subclasses of `str` that `alike` has accepted, and `str`."""

_MAX_ALIKE = 1000  # so that a program that makes classes all the time does not keep them all here
_ASKED = {"__class__", "__contains__", "__eq__", "__hash__"}

Segment = str | frozenset[str]


def plain(value: Any) -> Any:
    """Return the text of a `str` or of a subclass as a plain `str`; return anything else as it is.

    A member of a `(str, Enum)` prints and formats as `Kind.CREATED`, and other subclasses compare in their
    own way. After this, only the text counts.
    """
    if type(value) is str or not issubclass(type(value), str):
        return value
    return str.__str__(value)


def alike(*values: object) -> bool:
    """Return whether all are of classes that hash, compare and search as `str` does; add these to `ALIKE`.

    Enums are. An object of a class in `ALIKE` can be used for lookups as it is.
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
    """Return `value` as a plain `str` if it is not empty, can be encoded as UTF-8, and has no NUL.

    Raises:
        TypeError: it is not a `str`.
        Invalid: it is empty, or has a NUL or a lone surrogate. `what` names it in the message.
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
    """Return `value` as a plain `str` if it can be sent as a system or kind; raise as `check_text` does.

    A name also has no empty segment, and none of the characters that only patterns use.
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
    """A compiled pattern.

    Attributes:
        pattern: its text.
        segments: its segments; alternatives are a set.
    """

    def __init__(self, pattern: str, what: str = "pattern") -> None:
        """Compile `pattern`.

        Raises:
            TypeError: not a `str`.
            Invalid: it breaks the grammar; the message names the form to use.
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
        """Return whether the pattern selects `name`. The time is linear for each `**`, never exponential."""
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
        literal = all(choices) and _FOREIGN.isdisjoint(choices)
        if literal and not any(char in choice for choice in choices for char in "*()"):
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
    # On a mismatch, go back to the last `**` and let it take one word more. Going back further is not needed.
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
    """Return whether both patterns select some name."""
    a, b = left.segments, right.segments
    # reach[j] says whether the first i segments of `a` and the first j of `b` can match the same words.
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
    """Return whether `outer` selects every name that `inner` selects; `False` if that would take too long.

    It tries samples of `inner`. `*` becomes a word that no literal equals. `**` becomes zero, one, and so on
    words, up to one more than `outer` has segments that match one word. In the longest of these, some `**` of
    `outer` must match a word, so it would match more words too.
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

    They may admit more, because ZeroMQ compares only the first bytes. So the caller filters what arrives with
    `Matcher`. `kind=None` admits every kind.
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
    """Return the literal texts of the segments before the first wildcard, and whether that was all."""
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
