"""Faults in the pure core, for which the tests of a module stand as a whole: they take a second."""

from __future__ import annotations

from .mutant import Mutant

__all__ = ["MUTANTS"]

_TESTS = {
    "protocol/loss.py": ("unit/test_loss.py", "unit/test_marks.py", "conformance/test_loss.py"),
    "protocol/decoder.py": (
        "unit/test_short_cut.py",
        "unit/test_decoder.py",
        "unit/test_marks.py",
        "conformance/test_loss.py",
    ),
    "protocol/wire.py": ("unit/test_wire.py", "conformance/test_vectors.py"),
    "protocol/nulls.py": ("unit/test_nulls.py",),
    "protocol/patterns.py": ("unit/test_patterns.py", "conformance/test_vectors.py"),
    "protocol/sentinels.py": ("conformance/test_names.py",),
    "policy.py": ("unit/test_policy.py",),
    "options.py": ("unit/test_timeouts.py",),
    "runtime/timeouts.py": ("unit/test_timeouts.py",),
    "event.py": ("unit/test_event.py",),
}


def _of(file: str, *faults: tuple[str, str, str]) -> list[Mutant]:
    return [Mutant(name, file, old, new, _TESTS[file]) for name, old, new in faults]


_LOSS = _of(
    "protocol/loss.py",
    ("a stream born at the join is due from 1", "if born > self._joined_at:", "if born >= self._joined_at:"),
    (
        "what settled just as the join began was meant",
        "if settled <= self._announced_at:",
        "if settled < self._announced_at:",
    ),
    (
        "a mark for those who settled before counts",
        "            and settled > self._announced_at\n",
        "",
    ),
    ("a forged mark tells any number of lost events", "< stream.begin <= first + MAX_GAP", "< stream.begin"),
    ("a number that is due is a gap", "0 <= self.next < seq", "0 <= self.next <= seq"),
    ("a gap begins one too late", "self.next, seq - 1)", "self.next + 1, seq - 1)"),
    ("a gap ends with what came", "self.next, seq - 1)", "self.next, seq)"),
    ("a filtered-out stream has gaps", "if self.wanted and 0 <= self.next", "if 0 <= self.next"),
    ("a first of 0 counts", "first if 0 < first <= seq", "first if 0 <= first <= seq"),
    (
        "a forgetful channel believes the first number",
        "<= seq and not self._forgetful else seq",
        "<= seq else seq",
    ),
    ("what was forgotten is due from 1", "self._joined_at = max(self._joined_at, self._latest_born)", "pass"),
    ("forgetting is not noted", "                self._forgetful = True\n", ""),
    (
        "the first generation that is full makes a channel forgetful",
        "            if self._old:\n",
        "            if True:\n",
    ),
    (
        "a generation is one stream too large",
        "len(self._young) >= self._limit",
        "len(self._young) > self._limit",
    ),
    (
        "a stream that is found again stays old",
        "            self._keep(key, stream)\n        return stream\n\n    def add",
        "            pass\n        return stream\n\n    def add",
    ),
    ("the youngest birth is the latest", "max(self._latest_born, born)", "born"),
    ("a late join is unknown", "self._joined_at = now if known", "self._joined_at = announced_at if known"),
    (
        "nothing is known before the join",
        "self._announced_at: float = inf",
        "self._announced_at: float = -1",
    ),
    (
        "the old generation is kept for good",
        "self._old, {}, self._young",
        "{}, {}, {**self._old, **self._young}",
    ),
    ("a batch counts as one event", "stream.expect(seq + events)", "stream.expect(seq + 1)"),
    (
        "nothing is due where a frame was not meant",
        "            self.uncounted += events * stream.wanted\n        elif events",
        "            pass\n        if events",
    ),
)

_DECODER = _of(
    "protocol/decoder.py",
    (
        "the short way counts a batch as one",
        "stream.expect(stream.next + len(events))",
        "stream.expect(stream.next + 1)",
    ),
    (
        "the width of a number is not kept",
        "if seq != stream.next or len(digits) > stream.width:",
        "if seq != stream.next:",
    ),
    ("the short way takes any number", "if seq != stream.next or len(digits)", "if len(digits)"),
    ("the short way forgets the kind", "or kind != stream.kind_key or", "or"),
    (
        "the short way forgets the system",
        "stream.kind_key or system != stream.system_key:",
        "stream.kind_key:",
    ),
    ("the short way forgets the origin", "if origin != stream.origin_key or kind", "if kind"),
    (
        "the short way takes what is not wanted",
        "                if not known.wanted:\n                    return None\n",
        "",
    ),
    ("the short way does not count on", "            stream.next = seq + 1\n", ""),
    (
        "control frames are malformed",
        "        if fields[0][:1] == CONTROL:  # a barrier, ours or another channel's\n            return\n",
        "",
    ),
    ("malformed frames are not counted", "        self.malformed += 1\n", ""),
    (
        "malformed frames of other topics are counted",
        "            if self._concerns(fields):\n",
        "            if True:\n",
    ),
    (
        "malformed frames of no topic are not counted",
        "        except Malformed:\n            return True\n",
        "        except Malformed:\n            return False\n",
    ),
    (
        "what a filter rejects is kept",
        "        if not stream.wanted:\n            return\n",
        "",
    ),
    (
        "frames without a stamp are numbered",
        "if stamp.origin and not self._account",
        "if not self._account",
    ),
    ("gaps are not kept", "            self.gaps.append(gap)\n", ""),
    ("gaps are not told", "            self.pending_reports.append(gap)\n", ""),
    (
        "gaps are kept without a bound",
        "deque(maxlen=_GAPS_KEPT)\n        self.mismatches",
        "deque()\n        self.mismatches",
    ),
    (
        "reports are kept without a bound",
        "self.pending_reports: deque[Gap | Mismatch] = deque(maxlen=_GAPS_KEPT)",
        "self.pending_reports: deque[Gap | Mismatch] = deque()",
    ),
    ("mismatches are kept without a bound", "deque(maxlen=_MISMATCHES_KEPT)", "deque()"),
    ("mismatches are not told", "            self.pending_reports.append(mismatch)\n", ""),
    ("the kind is not asked", "system.matches(s) and (kind is None or kind.matches(k))", "system.matches(s)"),
    ("an empty path is one", "            if not path:\n                return batch(stream, fields)\n", ""),
)

_WIRE = _of(
    "protocol/wire.py",
    ("a seq may have 20 digits", '_SEQ = re.compile(rb"[0-9]{1,19}")', '_SEQ = re.compile(rb"[0-9]{1,20}")'),
    ("a seq may be 0", "int(numbers[0]) < 1", "int(numbers[0]) < 0"),
    ("an origin may have 7 digits", "[0-9a-f]{8,16}", "[0-9a-f]{7,16}"),
    ("an origin may have 17 digits", "[0-9a-f]{8,16}", "[0-9a-f]{8,17}"),
    ("an origin may have large letters", 'rb"[0-9a-f]{8,16}"', 'rb"[0-9a-fA-F]{8,16}"'),
    ("an origin is matched at its beginning only", "_ORIGIN.fullmatch", "_ORIGIN.match"),
    (
        "a seq is matched at its beginning only",
        "not _SEQ.fullmatch(numbers[0])",
        "not _SEQ.match(numbers[0])",
    ),
    ("further fields must be numbers", "int(text) if _SEQ.fullmatch(text) else -1", "int(text)"),
    ("a path in a batch may be empty", "or not row[0] or", "or"),
    ("a path in a batch may hold NUL", 'or "\\0" in row[0]:', "or False:"),
    ("a batch item may have three parts", "len(row) not in (1, 2)", "len(row) not in (1, 2, 3)"),
    ("systems below zbus are open", 'or name.startswith("zbus.")', "or False"),
    ("all systems that begin with zbus are reserved", 'name.startswith("zbus.")', 'name.startswith("zbus")'),
    ("bytes lose their first byte", "return data[1:]", "return data[2:]"),
    ("a per cent sign is a format", '.replace("%", "%%")', ""),
    ("NaN goes as null", '        verify(data, text, "data")', "        pass"),
    ("NaN in a batch goes as null", '        verify(rows, text, "items")', "        pass"),
    ("numbers of a batch all equal", "range(seq, seq + count) if origin", "repeat(seq, count) if origin"),
    (
        "a batch without a stamp is numbered",
        "if origin else repeat(0, count)",
        "if True else repeat(0, count)",
    ),
    (
        "a memoryview goes as it is",
        "data.tobytes() if isinstance(data, memoryview) else data",
        "bytes(data)[1:] if isinstance(data, memoryview) else data",
    ),
    (
        "what is settled is told without the first",
        'since = f"{stamp.settled}.{stamp.first}"',
        'since = f"{stamp.settled}."',
    ),
)

_PATTERNS = _of(
    "protocol/patterns.py",
    (
        "wildcards of other systems are literal in brackets",
        "all(choices) and _FOREIGN.isdisjoint(choices)",
        "all(choices)",
    ),
    ("a lone star is one segment", "[_ANY_DEPTH] if segments == [_ANY] else segments", "segments"),
    ("a name may have an empty segment", 'if "" in name.split("."):', "if False:"),
    ("a name may hold a bar", 'for char in "*()|":', 'for char in "*()":'),
    ("seventeen prefixes", "_MAX_PREFIXES = 16", "_MAX_PREFIXES = 17"),
    ("fifteen prefixes", "_MAX_PREFIXES = 16", "_MAX_PREFIXES = 15"),
    ("a prefix does not end", 'end = "\\0" if exact else ""', 'end = ""'),
    ("a prefix of a kind does not end", 'end = "\\0" if closed else ""', 'end = ""'),
    (
        "two stars need a segment",
        "return all(segment == _ANY_DEPTH for segment in pattern[p:])",
        "return p == len(pattern)",
    ),
)

_NULLS = _of(
    "protocol/nulls.py",
    ("what says that it is None is counted", "if value is None:", "if value == None:"),
    ("a dict counts what its class shows", "if type(data) is dict else", "if isinstance(data, dict) else"),
    (
        "what is deep counts what its class shows",
        "if type(item) is dict else",
        "if isinstance(item, dict) else",
    ),
    ("a number that comes again is not seen", "or _NON_FINITE_AGAIN(written)", ""),
    ("infinity is not seen", "and 127 not in written", ""),
    ("private fields are counted", 'if not field.name.startswith("_")', ""),
    ("what a class says of its fields is counted", "lambda item: take(item.__dict__)", "attrgetter(*names)"),
    ("a dict that is a dataclass is one", "(str, int, list, dict, Enum)", "(str, int, list, Enum)"),
    ("text that holds the word is a null", '(b"null,", b"null}", b"null]")', '(b"null",)'),
    ("dataclasses are followed", "return attrgetter(*names)", "return _nothing"),
    ("dates are not plain", "if not nulls:", "if False:"),
)

_POLICY = _of(
    "policy.py",
    (
        "allow wins over deny",
        "                if hit:\n                    return False",
        "                if hit:\n                    verdict = False",
    ),
    (
        "a rule speaks of every action",
        '            if rule.action not in (action, "*"):\n                continue\n',
        "",
    ),
    (
        "an allowed overlap is enough",
        "elif covers(matcher, wanted) if wanted",
        "elif overlaps(matcher, wanted) if wanted",
    ),
    ("a denied cover is needed", "hit = overlaps(matcher, wanted)", "hit = covers(matcher, wanted)"),
    ("the default is deny", 'verdict = self.default == "allow"', "verdict = False"),
    ("a rule of a file is for sending", 'row.get("action", "*")', 'row.get("action", SEND)'),
)

_OPTIONS = _of(
    "options.py",
    ("NaN is a time", "if not timeout >= 0:", "if timeout < 0:"),
    ("True is a second", "isinstance(timeout, bool) or not", "not"),
)

_TIMEOUTS = _of(
    "runtime/timeouts.py",
    ("milliseconds round down", "min(ceil(", "min(int("),
    ("libzmq gets too large a number", "2**31 - 1)", "2**32 - 1)"),
)

_EVENT = _of(
    "event.py",
    ("a time is in milliseconds", "int(digits) / 1e6", "int(digits) / 1e3"),
    ("a time of 20 digits is one", "len(digits) <= 19", "len(digits) <= 20"),
    ("a time is the field before it", "digits = fields[3]", "digits = fields[2]"),
    ("the end of a stamp is its time", 'rest.split(b".", 4)', 'rest.split(b".", 3)'),
)

_SENTINELS = _of(
    "protocol/sentinels.py",
    ("a sentinel of epoch 0", "([1-9][0-9]{0,17})", "([0-9]{1,18})"),
    ("a sentinel may go on", "_SENTINEL.fullmatch(", "_SENTINEL.match("),
)

MUTANTS = [
    *_EVENT,
    *_LOSS,
    *_DECODER,
    *_WIRE,
    *_PATTERNS,
    *_NULLS,
    *_SENTINELS,
    *_POLICY,
    *_OPTIONS,
    *_TIMEOUTS,
]
