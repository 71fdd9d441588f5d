"""Files that say who a link is: those that let it in, those that don't, and those that are none."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import nkeys
import pytest

import zbus.aio
from zbus.links.nats import Credentials

from .cli import run
from .nats import add_stream, nats_server, needs_nats
from .nats_accounts import credentials_file, operator_config, user_seed
from .test_link import LONG, receive, running, until, until_it_listens

pytestmark = needs_nats
GOOD = user_seed(8)
ACCOUNT_SEED = nkeys.encode_seed(b"a" * 32, nkeys.PREFIX_BYTE_ACCOUNT).decode()
JWT = "-----BEGIN NATS USER JWT-----\ne30.e30.AAAA\n------END NATS USER JWT------\n"


async def test_credentials_files_let_links_in(machines: Path) -> None:
    left, right = machines / "left", machines / "right"
    files = [credentials_file(machines / f"{user}.creds", 7, user) for user in (8, 9)]
    # As written on Windows: nats-py alone would send the carriage return.
    files[1].write_bytes(files[1].read_bytes().replace(b"\n", b"\r\n"))
    out, into = (Credentials(creds=str(file)) for file in files)
    with nats_server(machines, "-c", str(operator_config(machines, 7))) as server:
        server.login = {"user_credentials": str(files[0])}
        await add_stream(server)
        async with (
            running(server, left, out=["orders"], credentials=out),
            running(server, right, into=["orders"], credentials=into),
            zbus.aio.Bus(dir=left) as sender,
            zbus.aio.Bus(dir=right) as receiver,
        ):
            await until_it_listens(server)
            sub = await receiver.subscribe("orders")
            for number in range(100):
                await sender.send("orders", "x", "/x", number)
            assert [evt.data for evt in await receive(sub.channel(), 100)] == [*range(100)]


@pytest.mark.parametrize(("account", "expires"), [(6, 0), (7, 1_700_000_001)])
def test_who_has_no_account_or_only_an_old_one_is_not_let_in(
    machines: Path, zbus_dir: str, account: int, expires: int
) -> None:
    creds = credentials_file(machines / "link.creds", account, 8, expires)
    with nats_server(machines, "-c", str(operator_config(machines, 7)), jetstream=False) as server:
        result = run("link", server.url, "--out", "a", NATS_CREDS=str(creds))
    summary, error = result.stderr.splitlines()
    assert result.returncode == 1
    assert summary.startswith("zbus: the link has ended: ")
    assert error.startswith("zbus: the NATS server does not let this link in: ")


@pytest.mark.parametrize(
    ("option", "text", "says"),
    [
        ("--creds", None, "cannot read {}: No such file or directory"),
        ("--creds", "", "{} is no credentials file, with the JWT of a user and its seed: `nsc generate"),
        ("--creds", JWT, "{} is no credentials file"),
        ("--creds", f"{JWT}-----BEGIN USER NKEY SEED-----\n{GOOD[:-1]}A\n-----", "{} is no credentials file"),
        ("--creds", f"{JWT}-----BEGIN USER NKEY SEED-----\n{ACCOUNT_SEED}\n-----", "{} is no credentials"),
        ("--creds", f"-----BEGIN USER NKEY SEED-----\n{GOOD}\n-----", "{} is no credentials file"),
        ("--creds", f"{GOOD}\n", "its seed: give it as --nkey"),
        ("--nkey", None, "cannot read {}: No such file or directory"),
        ("--nkey", "", "{} has no seed of a user, which begins with SU: `nk -gen user` makes one"),
        ("--nkey", "größe\0", "{} has no seed of a user"),
        ("--nkey", f"{GOOD[:-1]}A", "{} has no seed of a user"),
        ("--nkey", ACCOUNT_SEED, "{} has no seed of a user"),
        ("--nkey", f"{JWT}-----BEGIN USER NKEY SEED-----\n{GOOD}\n-----", "give it as --creds"),
        ("--tls-ca", None, "cannot use the TLS files"),
        ("--tls-ca", "x", "cannot use the TLS files"),
        ("--tls-cert", "x", "cannot use the TLS files"),
    ],
)
def test_a_file_that_is_none_is_one_line_before_anything_is_done(
    machines: Path, option: str, text: str | None, says: str
) -> None:
    path, bus = machines / "file", machines / "bus"
    if text is not None:
        path.write_text(text)
    result = run("link", "nats://127.0.0.1:1", "--out", "a", "--dir", str(bus), option, str(path))
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith("zbus: ")
    assert says.format(path) in result.stderr
    assert result.stderr.count("\n") == 1
    assert not bus.exists()


async def test_files_are_read_again_for_each_connection(
    machines: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And one that is just written again, and empty, leaves the link what it had before."""
    path = credentials_file(machines / "link.creds", 6, 8)
    config, read = operator_config(machines, 6), asyncio.Event()
    options = Credentials.options

    def noted(credentials: Credentials) -> Any:
        read.set()
        return options(credentials)

    monkeypatch.setattr(Credentials, "options", noted)
    with nats_server(machines, "-c", str(config), jetstream=False) as server:
        async with running(
            server, machines, out=["orders"], core=True, credentials=Credentials(creds=str(path))
        ) as link:
            for turn in (1, 2):
                server.kill()
                await until(lambda: not link.numbers.server)
                if turn == 1:
                    path.write_text("")
                else:
                    credentials_file(path, 7, 8)
                    operator_config(machines, 7)
                read.clear()
                await asyncio.wait_for(read.wait(), LONG)
                server.start()
                await until(lambda: link.numbers.server)
                assert link.numbers.reconnects == turn
