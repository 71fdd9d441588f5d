"""Faults in what zbus reports, says of itself, and promises to type checkers."""

from __future__ import annotations

from .mutant import Mutant

__all__ = ["MUTANTS"]

_REPORTS = "live/test_reports.py::"
_REPORTING = "live/test_reporting.py::"
_LOGGING = "live/test_logging.py::"
_IN_ORDER = (_REPORTING + "test_what_is_reported_under_a_lock_is_said_after_it_in_order",)

MUTANTS = [
    Mutant(
        "the end of a channel says that all is well",
        "event.py",
        "    ok: Literal[False] = False",
        "    ok = True",
        ("unit/test_event.py::test_the_end_is_a_pair_too",),
    ),
    Mutant(
        "the functions of the module do not explain themselves",
        "runtime/docstrings.py",
        "        function.__doc__ = inspect.getdoc(method)",
        "        pass",
        ("unit/test_help.py",),
    ),
    Mutant(
        "a type that is asked for is unknown to type checkers",
        "bus.py",
        "type: type[T] | None = None",
        "type: object = None",
        ("typing/test_checkers.py",),
    ),
    Mutant("a report is said under a lock", "runtime/reports.py", " and not any_held()", "", _IN_ORDER),
    Mutant(
        "a handler is called within itself",
        "runtime/reports.py",
        "not _emitting.held()",
        "True",
        (_REPORTING + "test_a_handler_that_causes_a_report_is_not_called_within_itself",),
    ),
    Mutant(
        "what a handler raises comes out of a receive",
        "runtime/reports.py",
        "        except Exception:  # of",
        "        except AssertionError:  # of",
        (_REPORTING + "test_a_handler_that_raises_breaks_nothing",),
    ),
    Mutant(
        "a forked child says what its parent has to",
        "runtime/reports.py",
        "os.register_at_fork(after_in_child=_waiting.clear)",
        "",
        (_REPORTING + "test_what_waits_in_a_forked_child_is_the_parents",),
    ),
    Mutant(
        "nobody says what was reported amid a send",
        "sending/publisher.py",
        "            self.lock.release_if_held()\n            emit_reports()\n",
        "            self.lock.release_if_held()\n",
        (_REPORTS + "test_a_joiner_that_is_given_up",),
    ),
    Mutant(
        "a task that is due is dropped if the thread ends before it is called",
        "runtime/housekeeping.py",
        "                if alarm.ended:\n"
        "                    return\n"
        "                if self._due.pop(task, None) is not None or",
        "                due_at = self._due.pop(task, None)\n"
        "                if alarm.ended:\n"
        "                    return\n"
        "                if due_at is not None or",
        (
            "live/test_housekeeping.py::test_a_task_that_is_due_at_once_is_called_though_nothing_else_is_to_be_done",
        ),
    ),
    Mutant(
        "what nobody has said stays unsaid",
        "runtime/housekeeping.py",
        "                emit_reports()\n",
        "",
        (_REPORTING + "test_what_nobody_says_housekeeping_does",),
    ),
    Mutant(
        "the end of the process leaves reports unsaid",
        "runtime/lifecycle.py",
        "    _close_all()\n    emit_reports()\n",
        "    _close_all()\n",
        (_REPORTING + "test_the_end_of_the_process_says_what_waits",),
    ),
    Mutant(
        "a policy that uses its bus is asked for ever",
        "node/policy_check.py",
        "        self._asking.add(thread)\n",
        "",
        (_REPORTS + "test_a_policy_may_log_too",),
    ),
    Mutant(
        "what zbus logs is sent, too",
        "logging.py",
        " or _of_zbus(record)",
        "",
        (_LOGGING + "test_what_zbus_itself_logs_does_not_go_round",),
    ),
    Mutant(
        "who logs waits for a full subscriber",
        "logging.py",
        "            bus.send(self._system, kind, path, data, timeout=timeout)",
        "            bus.send(self._system, kind, path, data)",
        (_LOGGING + "test_nobody_waits_for_a_full_subscriber",),
    ),
    Mutant(
        "who logs gets the errors of the bus",
        "logging.py",
        "        except Exception:  # logging never",
        "        except AssertionError:  # logging never",
        (_LOGGING + "test_a_signal_handler_amid_a_send",),
    ),
    Mutant(
        "a handler sends when the program has ended",
        "logging.py",
        " or process_exiting()",
        "",
        (_LOGGING + "test_programs",),
    ),
    Mutant(
        "what is too large is dropped",
        "logging.py",
        '            if "limit" not in error.details:',
        "            if True:",
        (_LOGGING + "test_what_is_too_large_is_cut",),
    ),
]
