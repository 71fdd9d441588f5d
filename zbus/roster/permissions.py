"""Who may use a bus directory, and the permissions of what is created in it.

A directory is private to its owner, or it was prepared for a group: the group may write, nobody else may, and
the setgid bit passes the group on. Whatever is created in such a directory gets the permissions of the group,
regardless of the umask, and before it gets its name, so nobody finds it half prepared.
"""

from __future__ import annotations

import errno
import grp
import os
import pwd
import stat
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, NoReturn

from ..errors import PermissionDenied
from .location import file_errors

__all__ = [
    "PRIVATE",
    "Permissions",
    "check_directory",
    "check_parent",
    "make_directory",
    "permissions_below",
    "set_permissions",
]

_GROUP_DIRECTORY = stat.S_ISGID | stat.S_IRWXG


class Permissions(NamedTuple):
    """The permissions of what is created in a directory.

    Attributes:
        group: the id of the group that may use it; `None` if it is private to its owner.
        directory_mode: the mode of a directory.
    """

    group: int | None = None
    directory_mode: int = 0o700

    @property
    def file_mode(self) -> int:
        """The mode of a file or socket."""
        return 0o600 if self.group is None else 0o660


PRIVATE = Permissions()


def _prepared(info: os.stat_result) -> Permissions:
    """Return the permissions of what is created in a directory, from its own mode."""
    if info.st_mode & _GROUP_DIRECTORY == _GROUP_DIRECTORY and not info.st_mode & stat.S_IWOTH:
        return Permissions(info.st_gid, stat.S_IMODE(info.st_mode) | 0o700)
    return PRIVATE


def permissions_below(directory: Path) -> Permissions:
    """Return the permissions of what is created in `directory`; private if it does not exist."""
    with suppress(OSError):
        return _prepared(os.lstat(directory))
    return PRIVATE


def check_directory(path: Path, *, default: bool, last: bool, look: bool = False) -> Permissions:
    """Refuse a directory that another user controls or can write to.

    Args:
        path: the directory.
        default: whether it is this user's default root, which no other user may have created.
        last: whether it is the bus directory itself, rather than one of its parents.
        look: whether it is only read, which root may do everywhere.

    Returns:
        The permissions of what is created in it.

    Raises:
        PermissionDenied: it is refused; the message says what to do.
    """
    with file_errors("use", path):
        info = _reach(path)
    if stat.S_ISLNK(info.st_mode):
        _refuse(path, "is a symbolic link: name the directory itself")
    if not stat.S_ISDIR(info.st_mode):
        _refuse(path, "is not a directory: remove it or set ZBUS_DIR")
    if info.st_mode & stat.S_IWOTH:
        _refuse(path, "is writable by everybody, who could forge events: chmod o-w it")
    permissions, me = _prepared(info), os.geteuid()
    if look and me == 0:
        return permissions
    if info.st_uid != me and default:
        _refuse(
            path,
            f"belongs to {_user(info.st_uid)}, and it is where {_user(me)} has buses of their own: remove it,"
            f" or set ZBUS_DIR. {_to_share()}",
        )
    if permissions.group is not None and not _in_group(info.st_gid):
        _refuse(path, _not_in_group(info.st_gid))
    if permissions.group is not None and info.st_mode & stat.S_ISVTX:
        _refuse(path, "has the sticky bit, so nobody could clean up after another user: chmod -t it")
    if permissions.group is None and info.st_uid != me and (last or not _is_way(path, info)):
        _refuse(path, _not_for_us(path, info))
    return permissions


def _reach(path: Path) -> os.stat_result:
    try:
        return os.lstat(path)
    except PermissionError as error:
        barred = next((parent for parent in reversed(path.parents) if not _may_pass(parent)), path.parent)
        info = os.stat(barred)
        group = _prepared(info).group
        why = _not_for_us(barred, info) if group is None else _not_in_group(group)
        raise PermissionDenied(f"{path} cannot be reached: {barred} {why}", path=str(path)) from error


def _may_pass(directory: Path) -> bool:
    return os.access(directory, os.X_OK, effective_ids=os.access in os.supports_effective_ids)


def _in_group(group: int) -> bool:
    return os.geteuid() == 0 or group == os.getegid() or group in os.getgroups()


def _not_in_group(group: int) -> str:
    return (
        f"is for {_group(group)}, and this process of {_user(os.geteuid())} is not in it: add the user to the"
        " group (usermod -aG) and log in again, or give a service SupplementaryGroups="
    )


def _is_way(path: Path, info: os.stat_result) -> bool:
    """Return whether this is a directory of root, such as `/run`, that may contain a prepared one."""
    return info.st_uid == 0 and not info.st_mode & stat.S_IWGRP and _may_pass(path)


def _not_for_us(path: Path, info: os.stat_result) -> str:
    owner = _user(info.st_uid)
    if info.st_mode & stat.S_IRWXG == stat.S_IRWXG:
        return (
            f"belongs to {owner}, and is not prepared for its group: each user could use only their own"
            f" files in it. Its owner can change that: chmod 2770 {path}"
        )
    if permissions_below(path.parent).group is not None:
        return (
            f"belongs to {owner}, for them alone, though {path.parent} is prepared for a group: once nobody"
            " uses it, remove it, and it is created again for the group"
        )
    as_owner = f"run this as {owner}, or " if os.geteuid() == 0 else ""
    return f"belongs to {owner}, for them alone: {as_owner}share another directory with them. {_to_share()}"


def _to_share() -> str:
    return (
        "Several users share a bus in a directory prepared for a group of theirs, with ZBUS_DIR set to it for"
        " all of them: install -d -g GROUP -m 2770 DIRECTORY"
    )


def check_parent(path: Path) -> None:
    """Refuse to create `path` as root in a directory of another user, who then could not use it.

    Raises:
        PermissionDenied: it is refused.
    """
    parent = next((parent for parent in path.parents if os.path.lexists(parent)), path)
    with file_errors("use", parent):
        with suppress(FileNotFoundError, NotADirectoryError):
            _reach(path)
        info = os.stat(parent)
    if os.geteuid() == 0 != info.st_uid and not info.st_mode & stat.S_IWOTH and _prepared(info) == PRIVATE:
        _refuse(
            path,
            f"would be root's, in a directory of {_user(info.st_uid)}, who could not use it: run this as that"
            f" user, or create it for them first: install -d -o {info.st_uid} -m 700 {path}. {_to_share()}",
        )


def make_directory(path: Path, permissions: Permissions) -> None:
    """Create a directory unless it exists.

    Raises:
        OSError: the file system refused.
        PermissionDenied: this process may not create it there, or may not set the setgid bit.
    """
    try:
        if permissions.group is None:
            with suppress(FileExistsError):
                path.mkdir(permissions.directory_mode)
        elif not os.path.lexists(path):
            _make_for_group(path, permissions)
    except PermissionDenied:
        raise
    except PermissionError:
        if (owner := os.stat(path.parent).st_uid) == os.geteuid():
            raise
        _refuse(
            path,
            f"is missing, and {path.parent} belongs to {_user(owner)}: this process may not create it there."
            f" {_to_share()}",
        )


def _make_for_group(path: Path, permissions: Permissions) -> None:
    """Create it under another name, so that nobody finds it before it has the permissions of the group.

    The rename may replace a directory that was created at the same time, if that is empty. Whoever has that
    one open notices.
    """
    scratch = path.with_name(f".{os.urandom(8).hex()}.new")
    scratch.mkdir(permissions.directory_mode & 0o777)
    try:
        fd = os.open(scratch, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            _pass_on_group(fd, permissions)
        finally:
            os.close(fd)
        scratch.rename(path)
    except BaseException as error:
        with suppress(OSError):
            scratch.rmdir()
        if not isinstance(error, OSError):
            raise
        if error.errno == errno.EPERM:
            _refuse(
                path,
                "would need the setgid bit, which this process may not set (as a service with DynamicUser= or"
                " RestrictSUIDSGID= may not): give it UMask=0007, or prepare this directory, too:"
                f" install -d -g {permissions.group} -m 2770 {path}",
            )
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):  # otherwise it exists by now
            raise


def _pass_on_group(fd: int, permissions: Permissions) -> None:
    assert permissions.group is not None
    if os.fstat(fd).st_gid != permissions.group:
        os.fchown(fd, -1, permissions.group)
    # Only if needed: a service may not be allowed to, although the kernel has already set the bit.
    if stat.S_IMODE(os.fstat(fd).st_mode) != permissions.directory_mode:
        os.fchmod(fd, permissions.directory_mode)
    if stat.S_IMODE(os.fstat(fd).st_mode) != permissions.directory_mode:
        raise PermissionError(errno.EPERM, "the setgid bit was not set")


def set_permissions(path: Path, permissions: Permissions) -> None:
    """Give a socket, whose mode depends on the umask, the permissions of its directory.

    In a private directory the mode does not matter, since no other user can reach the socket.

    Raises:
        OSError: the file system refused.
    """
    if permissions.group is None or stat.S_IMODE(os.lstat(path).st_mode) == permissions.file_mode:
        return
    if os.chmod in os.supports_follow_symlinks:
        os.chmod(path, permissions.file_mode, follow_symlinks=False)
        return
    # Another user of the group could replace it by a link, which a `chmod` by root would follow.
    fd = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if not stat.S_ISSOCK(os.fstat(fd).st_mode):
            raise OSError(errno.EINVAL, "not a socket", str(path))
        os.chmod(f"/proc/self/fd/{fd}", permissions.file_mode)
    finally:
        os.close(fd)


def _refuse(path: Path, why: str) -> NoReturn:
    raise PermissionDenied(f"{path} {why}", path=str(path))


def _user(uid: int) -> str:
    with suppress(KeyError):
        return f"user {uid} ({pwd.getpwuid(uid).pw_name})"
    return f"user {uid}"


def _group(gid: int) -> str:
    with suppress(KeyError):
        return f"group {gid} ({grp.getgrgid(gid).gr_name})"
    return f"group {gid}"
