"""Faults in the bus directory: entries, sockets, the token, members, and cleaning up."""

from __future__ import annotations

from .mutant import Mutant

__all__ = ["MUTANTS"]

_CLEANING = "live/test_cleaning.py::"
_FIRST = (_CLEANING + "test_a_first_subscription_looks_for_leftovers_and_a_second_does_not",)
_FAILS = (_CLEANING + "test_a_first_join_that_fails_leaves_no_file_thread_or_socket",)
_OPENING = (_CLEANING + "test_opening_a_bus_looks_for_leftovers",)
_LEAVES = (_CLEANING + "test_whoever_leaves_removes_entry_socket_and_then_tells",)
_CLEANS = (_CLEANING + "test_whoever_cleans_up_removes_entries_before_the_socket",)
_TOKEN = (_CLEANING + "test_a_new_token_is_random_and_no_hole",)
_REPLACED = (
    "live/test_ingress.py::test_a_new_entry_is_there_before_the_token_moves_and_the_old_one_goes_after",
)
_HEADROOM = (_CLEANING + "test_own_connections_count_for_the_descriptors_that_a_join_leaves",)

MUTANTS = [
    Mutant(
        "the lowest epoch wins",
        "roster/file_names.py",
        "return max(entries, key",
        "return min(entries, key",
        (_CLEANING + "test_of_several_entries_the_highest_epoch_counts",),
    ),
    Mutant(
        "epochs are compared as text",
        "roster/file_names.py",
        "return Entry(match[1], int(match[2]), match[3])",
        "return Entry(match[1], match[2], match[3])",
        (_CLEANING + "test_of_several_entries_the_highest_epoch_counts",),
    ),
    Mutant(
        "whoever leaves removes the socket first",
        "roster/directory.py",
        "[*(self.path / name for name in names), self.socket_path(ident), self.scratch_path(ident)]",
        "[self.socket_path(ident), self.scratch_path(ident), *(self.path / name for name in names)]",
        _LEAVES,
    ),
    Mutant(
        "whoever leaves leaves its socket",
        "roster/directory.py",
        "self.socket_path(ident), self.scratch_path(ident)]",
        "self.scratch_path(ident)]",
        _LEAVES,
    ),
    Mutant(
        "whoever leaves does not tell",
        "roster/directory.py",
        "        if remove(*paths):\n            self._announce_removal()",
        "        remove(*paths)",
        _LEAVES,
    ),
    Mutant(
        "whoever cleans up removes the socket first",
        "roster/reaping.py",
        '[*(self._path / name for name in names), self._path / f"{ident}.sock"]',
        '[self._path / f"{ident}.sock", *(self._path / name for name in names)]',
        (*_CLEANS, _CLEANING + "test_a_publisher_that_meets_the_dead_removes_entries_before_the_socket"),
    ),
    Mutant(
        "whoever cleans up does not tell",
        "roster/directory.py",
        "        if self._reaper.reap(_REAP_SECONDS):\n            self._announce_removal()",
        "        self._reaper.reap(_REAP_SECONDS)",
        _CLEANS,
    ),
    Mutant(
        "a publisher that cleans up does not tell",
        "roster/directory.py",
        "names, _REMOVE_SECONDS):\n            self._announce_removal()",
        "names, _REMOVE_SECONDS):\n            pass",
        (_CLEANING + "test_a_publisher_that_meets_the_dead_removes_entries_before_the_socket",),
    ),
    Mutant(
        "no look for leftovers after the first entry",
        "node/channels.py",
        "        if fresh:\n            self._roster.reap()",
        "        if fresh:\n            pass",
        _FIRST,
    ),
    Mutant(
        "a look for leftovers after every entry",
        "node/channels.py",
        "        if fresh:\n            self._roster.reap()",
        "        if ingress:\n            self._roster.reap()",
        _FIRST,
    ),
    Mutant(
        "no look for leftovers when a bus is opened",
        "node/presence.py",
        "self.roster.reap()",
        "None",
        _OPENING,
    ),
    Mutant(
        "sockets without an entry stay",
        "roster/reaping.py",
        "                entries.setdefault(name[:-5], [])\n",
        "                pass\n",
        _OPENING,
    ),
    Mutant(
        "what is about to get its name is removed at once",
        "roster/reaping.py",
        "_SCRATCH_SECONDS = 86_400.0",
        "_SCRATCH_SECONDS = 8_640.0",
        _OPENING,
    ),
    Mutant(
        "what never got its name stays",
        "roster/reaping.py",
        "_SCRATCH_SECONDS = 86_400.0",
        "_SCRATCH_SECONDS = 864_000.0",
        _OPENING,
    ),
    Mutant(
        "the member files of the living are removed",
        "roster/reaping.py",
        "if unlocked(path) if is_member(name)",
        "if not unlocked(path) if is_member(name)",
        _OPENING,
    ),
    Mutant(
        "a failed first join leaves its files",
        "node/channels.py",
        "                ingress.withdraw()\n                ingress.close()\n            raise",
        "                ingress.close()\n            raise",
        _FAILS,
    ),
    Mutant(
        "a failed first join leaves its threads",
        "node/channels.py",
        "                ingress.withdraw()\n                ingress.close()\n            raise",
        "                ingress.withdraw()\n            raise",
        _FAILS,
    ),
    Mutant(
        "a failed announcement leaves its file",
        "roster/directory.py",
        "            except OSError:\n                remove(scratch)\n                raise",
        "            except OSError:\n                raise",
        (_CLEANING + "test_a_further_join_that_fails_leaves_what_was_there",),
    ),
    Mutant(
        "a member that cannot be announced leaves its file",
        "roster/members.py",
        "                    scratch.unlink()\n                raise",
        "                    pass\n                raise",
        (_CLEANING + "test_a_bus_that_cannot_be_opened_leaves_no_file_or_descriptor",),
    ),
    Mutant(
        "a member that cannot be announced keeps its descriptor",
        "roster/members.py",
        "            except OSError:\n                os.close(fd)\n",
        "            except OSError:\n",
        (_CLEANING + "test_a_bus_that_cannot_be_opened_leaves_no_file_or_descriptor",),
    ),
    Mutant(
        "an epoch that could not be announced is tried again",
        "receiving/ingress.py",
        "(self._sentinels or [0])[-1] + 1",
        "self.entry.epoch + 1",
        ("live/test_directory.py::test_a_join_that_could_not_be_announced_does_not_break_the_next",),
    ),
    Mutant(
        "an empty token is left as a hole",
        "roster/token.py",
        "st_size < _BYTES:\n                    self.write()",
        "st_size < _BYTES:\n                    os.ftruncate(self._fd, _BYTES)",
        _TOKEN,
    ),
    Mutant(
        "a token that is cut short is left as it is",
        "roster/token.py",
        ".st_size < _BYTES:",
        ".st_size < 1:",
        _TOKEN,
    ),
    Mutant(
        "every newcomer writes the token",
        "roster/token.py",
        ".st_size < _BYTES:",
        ".st_size <= _BYTES:",
        (_CLEANING + "test_a_token_that_is_there_stays_as_it_is",),
    ),
    Mutant(
        "own connections do not count for the headroom",
        "node/channels.py",
        "own = 2 * (len(self.ingresses()) + 1)",
        "own = 0",
        _HEADROOM,
    ),
    Mutant(
        "own connections count once for the headroom",
        "node/channels.py",
        "own = 2 * (len(self.ingresses()) + 1)",
        "own = len(self.ingresses())",
        _HEADROOM,
    ),
    Mutant(
        "there is no headroom",
        "runtime/descriptors.py",
        "check_descriptors(needed + _HEADROOM)",
        "check_descriptors(0)",
        _HEADROOM,
    ),
    Mutant(
        "the old entry goes before the token is written",
        "roster/directory.py",
        "        names = self._own[entry.id]\n        try:",
        "        names = self._own[entry.id]\n        remove(self.path / previous.name)\n        try:",
        _REPLACED,
    ),
    Mutant(
        "the old entry stays",
        "roster/directory.py",
        "        if previous.epoch and remove(self.path / previous.name):\n",
        "        if False:\n",
        _REPLACED,
    ),
    Mutant(
        "the token is written before the entry",
        "roster/directory.py",
        "        self._write_entry(entry, info)\n        names",
        "        self.touch()\n        self._write_entry(entry, info)\n        names",
        _REPLACED,
    ),
    Mutant(
        "a listing is not repeated",
        "roster/directory.py",
        "            if self.token[0] == before:\n",
        "            if True:\n",
        ("live/test_ingress.py::test_a_listing_is_repeated_while_the_token_moves",),
    ),
    Mutant(
        "a socket has its name before it listens",
        "receiving/ingress.py",
        "        scratch = roster.scratch_path(self.id)\n",
        "        scratch = roster.socket_path(self.id)\n",
        ("live/test_ingress.py::test_the_socket_has_its_name_only_once_it_listens",),
    ),
    Mutant(
        "an entry is rewritten under another name",
        "roster/directory.py",
        'open(open_regular(self.path / entry.name, os.O_RDWR), "r+b") as file:\n            file.write(',
        "open(self.path / f'{entry.id}.new', \"w+b\") as file:\n"
        "            os.rename(file.name, self.path / entry.name)\n            file.write(",
        ("live/test_directory.py::test_a_closing_channel_leaves_the_names_in_the_directory_alone",),
    ),
    Mutant(
        "a rewritten entry keeps the end of the old text",
        "roster/directory.py",
        "            file.write(orjson.dumps(info))\n            file.truncate()\n\n    def withdraw",
        "            file.write(orjson.dumps(info))\n\n    def withdraw",
        ("live/test_directory.py::test_a_closing_channel_leaves_the_names_in_the_directory_alone",),
    ),
    Mutant(
        "in doubt an ingress is dead",
        "roster/liveness.py",
        "            return False\n        except OSError:\n            return True\n    return True",
        "            return False\n        except OSError:\n            return False\n    return True",
        (_CLEANING + "test_whoever_has_a_full_backlog_is_alive",),
    ),
    Mutant(
        "a refused socket is alive",
        "roster/liveness.py",
        "except (ConnectionRefusedError, FileNotFoundError):\n            return False",
        "except FileNotFoundError:\n            return False",
        _CLEANS,
    ),
]
