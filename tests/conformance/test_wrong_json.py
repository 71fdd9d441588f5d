"""The vectors notice a parser of JSON that takes too much, or too little."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest

from . import plain_peer
from .plain_peer import Malformed
from .test_json import wrong

Parser = Callable[[bytes], Any]


def changed(before: Callable[[str], str] | None = None, **loads: Any) -> Parser:
    """Return the plain parser with a mistake: a change of the text, or other options for its JSON parser."""

    def parse(data: bytes) -> Any:
        text = plain_peer.utf8(data)
        bare = plain_peer.without_strings(text)
        if plain_peer.depth(bare) > 1024 or plain_peer.overflows(bare) or plain_peer.has_half_pair(text):
            raise Malformed
        options = {"parse_constant": plain_peer.refuse, **loads}
        try:
            return json.loads(before(text) if before else text, **options)
        except RecursionError:
            return None
        except ValueError:
            raise Malformed from None

    return parse


def without(check: str, instead: Any) -> Parser:
    """Return the plain parser with another `check`."""

    def parse(data: bytes) -> Any:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(plain_peer, check, instead)
            return plain_peer.decode_json(data)

    return parse


def plain_json(data: bytes) -> Any:
    try:
        return json.loads(data.decode())
    except RecursionError:
        return None
    except ValueError:
        raise Malformed from None


def first_wins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    return dict(reversed(pairs))


def no_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) < len(pairs):
        raise ValueError
    return dict(pairs)


def at_most_64_bits(text: str) -> int:
    if not -(2**63) <= int(text) < 2**64:
        raise ValueError
    return int(text)


def wrapping(text: str) -> int:
    return int(text) % 2**64


PARSERS = {
    "Python's own": plain_json,
    "numbers may overflow": without("overflows", lambda bare: False),  # noqa: ARG005
    "half pairs are taken": without("has_half_pair", lambda text: False),  # noqa: ARG005
    "any depth": without("depth", lambda bare: 0),  # noqa: ARG005
    "a depth of 128, as in Rust": without("MAX_DEPTH", 128),
    "a depth of 1,023": without("MAX_DEPTH", 1023),
    "a depth of 1,025": without("MAX_DEPTH", 1025),
    "brackets in strings count": without("without_strings", str),
    "bytes that are not UTF-8 are replaced": without("utf8", lambda raw: raw.decode(errors="replace")),
    "bytes that are not UTF-8 are kept": without("utf8", lambda raw: raw.decode(errors="surrogateescape")),
    "surrogates as bytes": without("utf8", lambda raw: raw.decode(errors="surrogatepass")),
    "Latin-1": without("utf8", lambda raw: raw.decode("latin-1")),
    "a byte order mark is taken off": without("utf8", lambda raw: raw.decode("utf-8-sig")),
    "NaN and Infinity": changed(parse_constant=float),
    "raw control characters": changed(strict=False),
    "any white space": changed(str.strip),
    "commas at the end": changed(lambda text: re.sub(r",\s*([]}])", r"\1", text)),
    "comments": changed(lambda text: re.sub(r"/\*.*?\*/", "", text)),
    "leading zeros": changed(lambda text: re.sub(r"(^|[^.0-9a-zA-Z+\"-])-?0+([0-9])", r"\1\2", text)),
    "a plus sign": changed(lambda text: text.removeprefix("+")),
    "hexadecimal": changed(lambda text: str(int(text, 16)) if text.startswith("0x") else text),
    "no digit after the point": changed(lambda text: re.sub(r"\.$", "", text)),
    "no digit before the point": changed(lambda text: re.sub(r"^\.", "0.", text)),
    "more after the value": changed(lambda text: text.split("\n")[0] if text[:1].isdigit() else text),
    "the first of two keys": changed(object_pairs_hook=first_wins),
    "no two keys alike": changed(object_pairs_hook=no_twins),
    "64 bits at most": changed(parse_int=at_most_64_bits),
    "64 bits that wrap": changed(parse_int=wrapping),
    "integers as text": changed(parse_int=str),
    "names in capitals": changed(lambda text: text.lower() if text.isupper() else text),
    "escapes of other languages": changed(lambda text: text.replace("\\a", "a").replace("\\x41", "A")),
}


@pytest.mark.parametrize("parser", PARSERS)
def test_a_parser_of_json_with_a_mistake_fails(parser: str) -> None:
    assert wrong(PARSERS[parser], Exception)
