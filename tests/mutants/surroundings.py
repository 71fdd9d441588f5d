"""Faults in what a process makes of odd surroundings: names, limits, what is refused."""

from __future__ import annotations

from .mutant import Mutant

__all__ = ["MUTANTS"]

_HANDLES = "live/test_handles.py::"
_LIMITS = ("live/test_surroundings.py::test_a_limit_of_the_process_is_an_error_of_zbus",)
_REFUSED = ("live/test_surroundings.py::test_what_the_kernel_refuses_is_an_error_of_zbus",)
_SHOWN = ("live/test_surroundings.py::test_a_script_and_a_directory_that_are_not_utf_8_are_shown_escaped",)

MUTANTS = [
    Mutant(
        "a message holds what cannot be printed",
        "errors.py",
        "        message = printable(message)\n",
        "",
        ("unit/test_errors.py::test_every_message_can_be_printed",),
    ),
    Mutant(
        "a process has the name that its script has",
        "roster/process_info.py",
        "    return printable(name or",
        "    return (name or",
        _SHOWN,
    ),
    Mutant(
        "an unlimited number of descriptors is asked for, and nothing less",
        "runtime/descriptors.py",
        "    for limit in (hard, *_LIMITS):",
        "    for limit in (hard,):",
        ("unit/test_descriptors.py::test_the_limit_goes_as_high_as_the_kernel_takes_it",),
    ),
    Mutant(
        "macOS takes paths as long as Linux",
        "roster/location.py",
        'if sys.platform == "linux" else 103',
        'if sys.platform == "linux" else 107',
        ("unit/test_location.py::test_a_path_is_shorter_where_the_kernel_takes_less",),
    ),
    Mutant(
        "an error of zbus within the file system's is taken for one of it",
        "roster/location.py",
        "    except Error:  # some of them are an OSError as well\n        raise\n",
        "",
        ("unit/test_location.py::test_an_error_of_zbus_is_no_error_of_the_file_system",),
    ),
    Mutant(
        "libzmq starts its threads whether there can be any or not",
        "runtime/context.py",
        "            check_threads(_THREADS)\n",
        "",
        _REFUSED,
    ),
    Mutant(
        "libzmq opens its descriptors whether there are any left or not",
        "runtime/context.py",
        "            check_descriptors(CONTEXT)\n",
        "",
        _LIMITS,
    ),
    Mutant(
        "when no descriptor is left, none seems to be in use",
        "runtime/descriptors.py",
        "if error.errno == errno.EMFILE:",
        "if False:",
        ("unit/test_descriptors.py::test_when_none_is_left_all_are_in_use",),
    ),
    Mutant(
        "a bus is opened without memory",
        "node/presence.py",
        "        check_memory()\n",
        "",
        _LIMITS,
    ),
    Mutant(
        "a write that a limit cuts short is taken for whole",
        "roster/file_access.py",
        "    while done < len(data):",
        "    while not done:",
        _LIMITS,
    ),
    Mutant(
        "a bus is copied, and closed with its copy",
        "runtime/uncopyable.py",
        "    def __reduce__(self) -> NoReturn:\n        raise",
        "    def _refuse(self) -> NoReturn:\n        raise",
        (_HANDLES + "test_nothing_is_copied_and_nothing_closes_for_it",),
    ),
    Mutant(
        "a sweep minds that another thread was faster",
        "runtime/deferred_calls.py",
        "        except IndexError:  # a signal handler or another thread was faster\n            return",
        "        except KeyError:\n            return",
        ("unit/test_pending.py::test_that_another_thread_was_faster_is_no_error",),
    ),
    Mutant(
        "a bus whose close is interrupted counts as closed",
        "node/node.py",
        "        self._channels.close()\n",
        "        self._finished = True\n        self._channels.close()\n",
        ("live/test_steps.py::test_a_bus_whose_close_is_interrupted_anywhere_is_closed_by_the_next",),
    ),
    Mutant(
        "who looks at a member takes another who looks for its owner",
        "roster/liveness.py",
        "fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)",
        "fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)",
        ("live/test_litter.py",),
    ),
    Mutant(
        "what an interrupted exit leaves is left",
        "runtime/lifecycle.py",
        "                node.leave()\n",
        "                pass\n",
        ("live/test_steps.py::test_a_close_that_is_interrupted_at_the_exit_leaves_no_file",),
    ),
]
