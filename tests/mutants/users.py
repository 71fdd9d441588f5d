"""Faults in what several users of a machine may do, and in the rights of what zbus makes."""

from __future__ import annotations

from .mutant import Mutant

__all__ = ["MUTANTS"]

_USERS = "live/test_users.py::"
_REFUSALS = "live/test_refusals.py::"
_SHARED = (_USERS + "test_every_user_of_the_group_joins_sends_receives_and_looks",)
_PREPARED = (_REFUSALS + "test_a_directory_that_is_not_prepared_is_refused_with_what_to_do",)
_STRANGER = (_REFUSALS + "test_who_is_not_in_the_group_is_told_so",)
_PRIVATE = (_REFUSALS + "test_a_private_bus_is_its_owner_s_whatever_the_umask",)
_DEFAULT = (_REFUSALS + "test_a_default_root_that_somebody_else_prepared_is_refused",)
_RUNTIME = (_REFUSALS + "test_root_leaves_the_runtime_directory_of_a_user_alone",)
_LOOK = (_REFUSALS + "test_root_may_look_at_a_private_bus_and_nobody_else",)
_DEEPER = (_REFUSALS + "test_the_directory_that_was_prepared_may_be_the_root_or_beneath",)

MUTANTS = [
    Mutant(
        "the umask decides about the rights of files",
        "roster/file_access.py",
        "        os.fchmod(fd, mode)\n",
        "        pass\n",
        _SHARED,
    ),
    Mutant(
        "the umask decides about the rights of sockets",
        "roster/directory.py",
        "            set_permissions(self.scratch_path(ident), self.permissions)\n",
        "",
        _SHARED,
    ),
    Mutant(
        "the umask decides about the rights of directories",
        "roster/permissions.py",
        "        os.fchmod(fd, permissions.directory_mode)\n",
        "        pass\n",
        _SHARED,
    ),
    Mutant(
        "files in a directory of a group are private",
        "roster/permissions.py",
        "return 0o600 if self.group is None else 0o660",
        "return 0o600",
        _SHARED,
    ),
    Mutant(
        "files in a private directory are the group's",
        "roster/permissions.py",
        "return 0o600 if self.group is None else 0o660",
        "return 0o660",
        _PRIVATE,
    ),
    Mutant(
        "directories in a directory of a group are private",
        "roster/permissions.py",
        "    elif not os.path.lexists(path):\n",
        "    elif path.mkdir(0o700):\n",
        _SHARED,
    ),
    Mutant(
        "a private directory has the rights of the umask",
        "roster/permissions.py",
        "    directory_mode: int = 0o700",
        "    directory_mode: int = 0o777",
        _PRIVATE,
    ),
    Mutant(
        "a directory without the setgid bit is a group's",
        "roster/permissions.py",
        "_GROUP_DIRECTORY = stat.S_ISGID | stat.S_IRWXG",
        "_GROUP_DIRECTORY = stat.S_IRWXG",
        _PREPARED,
    ),
    Mutant(
        "a directory in which the group cannot write is a group's",
        "roster/permissions.py",
        "_GROUP_DIRECTORY = stat.S_ISGID | stat.S_IRWXG",
        "_GROUP_DIRECTORY = stat.S_ISGID",
        _PREPARED,
    ),
    Mutant(
        "the sticky bit does no harm",
        "roster/permissions.py",
        "info.st_mode & stat.S_ISVTX:",
        "False:",
        _PREPARED,
    ),
    Mutant(
        "who is not in the group is not told so",
        "roster/permissions.py",
        "return os.geteuid() == 0 or group == os.getegid() or group in os.getgroups()",
        "return True",
        _STRANGER,
    ),
    Mutant(
        "only the first group of a process counts",
        "roster/permissions.py",
        " or group in os.getgroups()",
        "",
        _SHARED,
    ),
    Mutant(
        "only the further groups of a process count",
        "roster/permissions.py",
        " or group == os.getegid()",
        "",
        _SHARED,
    ),
    Mutant(
        "somebody else may prepare the default root",
        "roster/permissions.py",
        "    if info.st_uid != me and default:\n",
        "    if False:\n",
        _DEFAULT,
    ),
    Mutant(
        "a named root counts as the default one",
        "roster/directory.py",
        "self._default = chosen_root(root) is None",
        "self._default = True",
        _SHARED,
    ),
    Mutant(
        "a private directory of another user will do",
        "roster/permissions.py",
        "(last or not _is_way(path, info))",
        "False",
        _PRIVATE,
    ),
    Mutant(
        "a prepared directory below one of root is out of reach",
        "roster/permissions.py",
        "(last or not _is_way(path, info))",
        "True",
        _DEEPER,
    ),
    Mutant(
        "a directory open to others hands down its group to a root",
        "roster/directory_handle.py",
        "PRIVATE if default or permissions.directory_mode & stat.S_IRWXO else permissions",
        "PRIVATE if default else permissions",
        (_REFUSALS + "test_a_directory_open_to_others_prepares_no_root",),
    ),
    Mutant(
        "a default root gets the group of its parent",
        "roster/directory_handle.py",
        "PRIVATE if default or permissions.directory_mode & stat.S_IRWXO else permissions",
        "PRIVATE if permissions.directory_mode & stat.S_IRWXO else permissions",
        (_REFUSALS + "test_a_default_root_in_a_prepared_directory_is_private",),
    ),
    Mutant(
        "a directory that was removed is made anew for its maker alone",
        "roster/directory_handle.py",
        "permissions if previous == PRIVATE else previous",
        "permissions",
        (_REFUSALS + "test_a_root_that_is_removed_is_made_anew_for_its_group",),
    ),
    Mutant(
        "a directory made twice at a time is an error",
        "roster/directory_handle.py",
        'if error.details.get("errno") != errno.ENOENT:',
        "if True:",
        (_USERS + "test_who_meets_a_directory_that_is_replaced_looks_again",),
    ),
    Mutant(
        "root makes directories in those of other users",
        "roster/directory_handle.py",
        "        check_parent(top)\n",
        "        pass\n",
        (_REFUSALS + "test_root_makes_nothing_in_a_directory_of_another_user_who_is_not_shut_out",),
    ),
    Mutant(
        "the runtime directory of another user counts",
        "roster/location.py",
        "return None if owner == os.geteuid() else owner",
        "return None",
        _RUNTIME,
    ),
    Mutant(
        "root may not look at a private bus",
        "roster/permissions.py",
        "    if look and me == 0:\n",
        "    if False:\n",
        _LOOK,
    ),
    Mutant(
        "everybody may look at a private bus",
        "roster/permissions.py",
        "    if look and me == 0:\n",
        "    if look:\n",
        _LOOK,
    ),
    Mutant(
        "a token that is for its maker alone is just refused",
        "roster/token.py",
        "        except PermissionError as error:\n",
        "        except ZeroDivisionError as error:\n",
        (_REFUSALS + "test_a_token_that_is_not_the_group_s_says_whose_fault_it_is",),
    ),
    Mutant(
        "a link in place of a socket is followed",
        "roster/permissions.py",
        "os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)\n"
        "    try:\n"
        "        if not stat.S_ISSOCK(os.fstat(fd).st_mode):",
        "os.open(path, os.O_PATH | os.O_CLOEXEC)\n    try:\n        if False:",
        (_REFUSALS + "test_a_link_in_place_of_a_socket_gives_nobody_rights",),
    ),
    Mutant(
        "the setgid bit is set without need",
        "roster/permissions.py",
        "    if stat.S_IMODE(os.fstat(fd).st_mode) != permissions.directory_mode:\n        os.fchmod",
        "    if True:\n        os.fchmod",
        (_REFUSALS + "test_a_service_that_may_not_set_the_setgid_bit_needs_no_chmod_or_is_told",),
    ),
]
