"""`zbus link` as people use it, and what its how-to says."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import nkeys
import pytest

from .cli import ended, run, run_without, started, subscribed
from .nats import Server, api, nats_server, needs_nats
from .process import LIMIT
from .test_cli_help import listed

HOWTO = Path(__file__).parents[2] / "docs" / "howto" / "off-the-machine.md"
pytestmark = needs_nats


def until_connected(process: subprocess.Popen[bytes]) -> None:
    assert process.stderr is not None
    assert process.stderr.readline().startswith(b"zbus: connected to 127.0.0.1:")


async def until_it_listens(server: Server) -> None:
    async with asyncio.timeout(60):
        while not (await api(server, "CONSUMER.NAMES.zbus")).get("consumers"):
            await asyncio.sleep(0.05)


def test_the_example_of_the_how_to_works(machines: Path) -> None:
    commands = [
        ("link", "nats://hub:4222", "--out", "orders.**"),
        ("send", "orders", "order.created", "/orders/123", '{"total": 9.5}'),
        ("link", "nats://hub:4222", "--in", "orders.**"),
        ("sub", "orders.**"),
    ]
    text = HOWTO.read_text(encoding="utf-8").replace("'", "")
    for command in commands:
        assert f"zbus {' '.join(command)}" in text
    left, right = ("--dir", str(machines / "left")), ("--dir", str(machines / "right"))
    with nats_server(machines) as server:
        program = text.partition("<<END\n")[2].partition("END\n")[0].replace("nats://hub:4222", server.url)
        subprocess.run([sys.executable, "-c", program], check=True, timeout=LIMIT)
        out, send, into, sub = [
            [server.url if word.startswith("nats:") else word for word in c] for c in commands
        ]
        with started(*out, *left) as sending, started(*into, *right, "--json") as receiving:
            until_connected(sending)
            until_connected(receiving)
            asyncio.run(until_it_listens(server))
            with subscribed(*sub[1:], *right) as reading:
                assert run(*send, *left).returncode == 0
                assert reading.stdout is not None
                assert b'orders  order.created  /orders/123  {"total":9.5}' in reading.stdout.readline()
            sending.send_signal(signal.SIGTERM)
            assert "1 sent" in ended(sending)[1]
            assert sending.returncode == 143
            receiving.send_signal(signal.SIGINT)
            numbers, _, code = ended(receiving)
            assert code == 0
            assert json.loads(numbers)["received"] == 1
            assert {*json.loads(numbers)} == listed("link")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--out", "a*"], "'a*' is not a system pattern"),
        ([], "nothing to carry"),
        (["--out", "a", "--policy", "/nope"], "policy /nope"),
        (["--out", "a", "--creds", "/nope"], "cannot read /nope"),
        (["--out", "a", "--when-down", "spill=x"], "spill=link.spill:1G"),
        (["--out", "a", "--when-down", "spill=/nope/x:1G"], "cannot open the spill file /nope/x"),
        (["--out", "a", "--name", "a.b"], "'a.b' is no name of a link"),
    ],
)
def test_bad_input_is_one_line(zbus_dir: str, arguments: list[str], says: str) -> None:
    result = run("link", "nats://127.0.0.1:1", *arguments)
    assert result.returncode
    assert says in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("address", ["nats://127.0.0.1:x", "nats://", "nats://a:99999", "nats://[", ""])
def test_what_is_no_address_is_one_line(zbus_dir: str, address: str) -> None:
    result = run("link", address, "--out", "a")
    assert (result.returncode, result.stderr.count("\n")) == (1, 2)
    assert f"\nzbus: {address} is no address of a NATS server: " in result.stderr


def test_without_nats_py_it_says_what_to_install(zbus_dir: str) -> None:
    failed = run_without("nats", "link", "nats://127.0.0.1:1", "--out", "a")
    hint = "zbus: this command needs nats-py, the extra `nats`: pip install nats-py\n"
    assert (failed.returncode, failed.stdout, failed.stderr) == (1, "", hint)


def test_a_server_that_does_not_let_the_link_in_ends_it(machines: Path, zbus_dir: str) -> None:
    with nats_server(machines, "--user", "me", "--pass", "secret") as server:
        result = run("link", server.url, "--out", "a", NATS_USER="me", NATS_PASSWORD="wrong")
        assert (result.returncode, "does not let this link in" in result.stderr) == (1, True), result.stderr
        with started("link", server.url, "--out", "a", NATS_USER="me", NATS_PASSWORD="secret") as process:
            until_connected(process)
            process.send_signal(signal.SIGINT)
            assert ended(process)[2] == 0


def test_a_token_lets_the_link_in(machines: Path) -> None:
    with nats_server(machines, "--auth", "secret") as server:
        with started("link", server.url, "--out", "a", NATS_TOKEN="secret") as process:
            until_connected(process)
            process.send_signal(signal.SIGINT)
            assert ended(process)[2] == 0
        refused = run("link", server.url, "--out", "a", NATS_TOKEN="wrong")
        assert (refused.returncode, "does not let this link in" in refused.stderr) == (1, True), (
            refused.stderr
        )


def test_an_nkey_lets_the_link_in(machines: Path) -> None:
    good, other = (nkeys.encode_seed(bytes([number]) * 32, nkeys.PREFIX_BYTE_USER) for number in (1, 2))
    public = nkeys.from_seed(bytearray(good)).public_key.decode()
    config, seed = machines / "nats.conf", machines / "link.nk"
    config.write_text(f"authorization {{ users: [ {{ nkey: {public} }} ] }}")
    with nats_server(machines, "-c", str(config)) as server:
        seed.write_bytes(good)
        with started("link", server.url, "--out", "a", "--nkey", str(seed)) as process:
            until_connected(process)
            process.send_signal(signal.SIGINT)
            assert ended(process)[2] == 0
        seed.write_bytes(other)
        refused = run("link", server.url, "--out", "a", "--nkey", str(seed))
        assert (refused.returncode, "does not let this link in" in refused.stderr) == (1, True), (
            refused.stderr
        )


def test_ls_top_and_metrics_show_a_link(server: Server, machines: Path) -> None:
    where = ("--dir", str(machines))
    with started("link", server.url, "--out", "a", *where) as process:
        until_connected(process)
        while "link to 127.0.0.1:" not in (shown := run("ls", *where).stdout):  # published once a second
            assert process.poll() is None
        assert "carried 0 out and 0 in" in shown
        [row] = json.loads(run("top", "--once", "--json", *where).stdout)["members"]
        assert row["link"]["server"] == server.url.removeprefix("nats://")
        assert {*row["link"]} == listed("link")
        assert "link to 127.0.0.1:" in run("top", "--once", *where).stdout
        assert "\nzbus_link_connected{" in run("metrics", *where).stdout
        process.send_signal(signal.SIGINT)
        assert ended(process)[2] == 0


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with an authority, and a certificate each of a server and of a link."""
    d = tmp_path_factory.mktemp("tls")
    key = ("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    for name, extension in (
        ("ca", "basicConstraints=critical,CA:TRUE"),
        ("other", "basicConstraints=critical,CA:TRUE"),
        ("server", "subjectAltName=IP:127.0.0.1"),
        ("link", "extendedKeyUsage=clientAuth"),
    ):
        by = () if extension.endswith("TRUE") else ("-CA", d / "ca.pem", "-CAkey", d / "ca.key")
        out = ("-keyout", d / f"{name}.key", "-out", d / f"{name}.pem", "-subj", f"/CN={name}")
        command = [*map(str, (*key, *by, *out, "-addext", extension))]
        subprocess.run(command, check=True, capture_output=True, timeout=LIMIT)
    return d


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")
def test_with_tls_both_sides_are_checked(machines: Path, certificates: Path) -> None:
    d = certificates
    options = ("--tlsverify", "--tlscert", d / "server.pem", "--tlskey", d / "server.key", "--tlscacert")
    with nats_server(machines, *map(str, (*options, d / "ca.pem"))) as server:
        url = server.url.replace("nats://", "tls://")
        own = ("--tls-cert", str(d / "link.pem"), "--tls-key", str(d / "link.key"))
        trusted = ("--tls-ca", str(d / "ca.pem"))
        with started("link", url, "--out", "a", *trusted, *own) as process:
            until_connected(process)
            process.send_signal(signal.SIGINT)
            assert ended(process)[2] == 0
        # A server that is not trusted, and a link without a certificate, which may both change.
        for refused in ((*own, "--tls-ca", str(d / "other.pem")), trusted):
            with started("link", url, "--out", "a", *refused) as process:
                assert process.stderr is not None
                line = process.stderr.readline()
                assert line.endswith(b": trying again\n")  # what comes before it may differ each time
                process.send_signal(signal.SIGINT)
                ended(process)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")
def test_a_key_with_a_passphrase_is_one_line_and_asks_nobody(zbus_dir: str, certificates: Path) -> None:
    d = certificates
    secret = ("openssl", "ec", "-in", d / "link.key", "-aes256", "-passout", "pass:x", "-out", d / "secret")
    subprocess.run([*map(str, secret)], check=True, capture_output=True, timeout=LIMIT)
    own = ("--tls-cert", str(d / "link.pem"), "--tls-key", str(d / "secret"))
    refused = run("link", "tls://127.0.0.1:1", "--out", "a", *own, stdin="x\n")
    assert (refused.returncode, refused.stderr.count("\n")) == (1, 1)
    assert "the key must have no passphrase" in refused.stderr
