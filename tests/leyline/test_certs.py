"""An authority for a stack: what it hands out is what services take, also after a renewal."""

from __future__ import annotations

import asyncio
import datetime
import json
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import grpc
import pytest
from tests.leyline.papers import content

from chassis.access import Tokens
from chassis.channel import ChannelSettings, open_channel
from chassis.errors import LeylineError
from chassis.process import ConfigurationError
from chassis.server import Server
from chassis.settings import ServerSettings, load
from leyline import certificates
from leyline.channel import Credentials
from leyline.cli.application import run
from leyline.v1 import policy_pb2, policy_pb2_grpc

DECIDE = "/leyline.v1.PolicyService/Decide"


@pytest.fixture
def stack(tmp_path: Path) -> Path:
    folder = tmp_path / "certs"
    assert run(["certs", "init", str(folder)]) == 0
    return folder


def shown(folder: Path, capsys: pytest.CaptureFixture[str], code: int = 0) -> dict[str, Any]:
    capsys.readouterr()
    assert run(["certs", "show", str(folder), "--json"]) == code
    return {each["member"]: each for each in json.loads(capsys.readouterr().out)}


def bearer(folder: Path, member: str) -> Any:
    return (("authorization", f"Bearer {(folder / member / 'token').read_text().strip()}"),)


class Policy(policy_pb2_grpc.PolicyServiceServicer):
    async def GetPolicyInfo(
        self, request: policy_pb2.GetPolicyInfoRequest, context: Any
    ) -> policy_pb2.GetPolicyInfoResponse:
        return policy_pb2.GetPolicyInfoResponse(policy="wait")


async def test_members_speak_with_each_other_and_with_nobody_elses(
    stack: Path, tmp_path: Path
) -> None:
    assert await asyncio.to_thread(run, ["certs", "init", str(tmp_path / "other")]) == 0
    settings = load(
        ServerSettings,
        listen="127.0.0.1:0",
        credentials=stack / "tamiyo",
        drain_grace_s=0.5,
    )
    server = Server(settings, ["leyline.v1.PolicyService"])
    policy_pb2_grpc.add_PolicyServiceServicer_to_server(Policy(), server.grpc)
    async with server:
        assert await _outcome(server, stack / "kasmina") == "OK"
        assert await _outcome(server, stack / "operator") == "OK"
        assert await _outcome(server, stack / "tamiyo") == "PERMISSION_DENIED"
        assert await _outcome(server, tmp_path / "other" / "kasmina") == "UNAVAILABLE"


async def test_the_command_line_shows_what_is_in_a_folder(stack: Path) -> None:
    settings = load(
        ServerSettings, listen="127.0.0.1:0", credentials=stack / "tamiyo", drain_grace_s=0.5
    )
    async with Server(settings, []) as server:

        def health(*credentials: str) -> str:
            command = (sys.executable, "-P", "-m", "leyline.cli", "health", str(server.address))
            done = subprocess.run([*command, *credentials], capture_output=True, text=True)
            return done.stdout.strip() or done.stderr.strip()

        shown = ("--credentials", str(stack / "operator"))
        assert await asyncio.to_thread(health, *shown) == "NOT_SERVING", "it has not said so"
        strange = ("--certificate", str(stack / "no-such.pem"))
        assert "no-such.pem cannot be read" in await asyncio.to_thread(health, *shown, *strange)
        assert "SERVING" not in await asyncio.to_thread(health)


async def _outcome(server: Server, member: Path) -> str:
    shown = Credentials.in_folder(member)
    async with open_channel(ChannelSettings(str(server.address), shown)) as channel:
        stub = policy_pb2_grpc.PolicyServiceStub(channel)
        try:
            await stub.GetPolicyInfo(policy_pb2.GetPolicyInfoRequest(), timeout=10)
        except grpc.aio.AioRpcError as error:
            return error.code().name
    return "OK"


def test_each_token_is_for_its_member_s_scope(stack: Path) -> None:
    tokens = Tokens(stack / "tamiyo" / "tokens")
    for member in ("kasmina", "operator"):
        caller = tokens.admit(DECIDE, bearer(stack, member))
        assert caller is not None
        assert caller.name == member
    with pytest.raises(LeylineError, match="not for the token of 'tamiyo'"):
        tokens.admit(DECIDE, bearer(stack, "tamiyo"))
    assert not (stack / "simic" / "token").exists()
    assert not (stack / "operator" / "tokens").exists()


def test_a_renewed_token_counts_at_once_and_the_one_before_until_the_next_renewal(
    stack: Path,
) -> None:
    first = bearer(stack, "kasmina")
    assert run(["certs", "renew", str(stack)]) == 0
    second = bearer(stack, "kasmina")
    tokens = Tokens(stack / "tamiyo" / "tokens")
    for token in (first, second):
        assert tokens.admit(DECIDE, token) is not None
    assert run(["certs", "renew", str(stack)]) == 0
    tokens = Tokens(stack / "tamiyo" / "tokens")
    assert tokens.admit(DECIDE, second) is not None
    with pytest.raises(LeylineError, match="not known here"):
        tokens.admit(DECIDE, first)


def test_what_is_secret_is_for_its_owner_alone(stack: Path) -> None:
    secret = {path for path in stack.rglob("*") if path.name in ("token", "key.pem", "ca-key.pem")}
    assert len(secret) == 5 + 3 + 1
    for path in stack.rglob("*"):
        if path.is_file():
            mode = stat.S_IMODE(path.stat().st_mode)
            assert mode == (0o600 if path in secret else 0o644), path


def test_certificates_are_for_the_services_names_and_those_that_were_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "certs"
    hosts = ["--host", "gpu7.example.org", "--host", "10.0.0.7"]
    assert run(["certs", "init", str(folder), *hosts]) == 0
    members = shown(folder, capsys)
    names = ["authority", "kasmina", "tamiyo", "simic", "operator", "prometheus"]
    assert list(members) == names
    names = ["simic", "localhost", "127.0.0.1", "::1", "gpu7.example.org", "10.0.0.7"]
    assert members["simic"]["names"] == names
    assert members["operator"]["names"] == ["operator"]
    left = datetime.datetime.fromisoformat(members["simic"]["expires"]) - datetime.datetime.now(
        datetime.UTC
    )
    assert 396 < left.days < 399


def test_what_is_there_and_lasts_is_not_made_again(stack: Path) -> None:
    before = content(stack)
    assert run(["certs", "init", str(stack)]) == 0
    assert content(stack) == before


def test_a_member_without_one_of_its_files_gets_new_ones_and_the_others_keep_theirs(
    stack: Path,
) -> None:
    before = content(stack)
    (stack / "kasmina" / "token").unlink()
    assert run(["certs", "init", str(stack)]) == 0
    after = content(stack)
    changed = {str(path.relative_to(stack)) for path in before if before[path] != after[path]}
    lists = {f"{name}/tokens" for name in ("kasmina", "tamiyo", "simic")}
    assert changed == {"kasmina/token", "kasmina/key.pem", "kasmina/certificate.pem"} | lists
    assert Tokens(stack / "tamiyo" / "tokens").admit(DECIDE, bearer(stack, "kasmina")) is not None


def test_a_certificate_that_ends_within_a_month_is_replaced(
    stack: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = content(stack)
    monkeypatch.setattr(certificates, "RENEWAL_DAYS", certificates.MEMBER_DAYS + 1)
    assert run(["certs", "init", str(stack)]) == 0
    after = content(stack)
    for name in ("kasmina", "tamiyo", "simic", "operator", "prometheus"):
        certificate = stack / name / "certificate.pem"
        assert after[certificate] != before[certificate]
    for of_the_authority in (stack / "ca.pem", stack / "ca-key.pem"):
        assert after[of_the_authority] == before[of_the_authority]


def test_a_certificate_ends_with_its_authority_and_that_is_told_three_weeks_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "certs"
    told = "less than 21 days are left for authority, kasmina, tamiyo, simic, operator, prometheus"
    monkeypatch.setattr(certificates, "AUTHORITY_DAYS", 20)
    assert run(["certs", "init", str(folder)]) == 0
    assert told in capsys.readouterr().err
    members = shown(folder, capsys, code=1)
    assert len({each["expires"] for each in members.values()}) == 1
    assert run(["certs", "show", str(folder)]) == 1
    assert f"{told}: remove {folder}/ca.pem" in capsys.readouterr().err
    before = content(folder)
    assert run(["certs", "init", str(folder)]) == 0
    assert content(folder) == before, "there is nothing better to be had from this authority"


def test_a_member_whose_certificate_ends_is_told_of_alone(
    stack: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(certificates, "MEMBER_DAYS", 20)
    (stack / "operator" / "key.pem").unlink()
    assert run(["certs", "init", str(stack)]) == 0
    capsys.readouterr()
    assert run(["certs", "show", str(stack)]) == 1
    told = f"left for operator: leyline certs init {stack} makes others"
    assert told in capsys.readouterr().err


def test_an_authority_that_has_ended_issues_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "certs"
    monkeypatch.setattr(certificates, "AUTHORITY_DAYS", 0)
    today = datetime.datetime.now(datetime.UTC).date()
    for command in ("init", "init", "renew"):
        assert run(["certs", command, str(folder)]) == 1
        assert f"ended on {today}" in capsys.readouterr().err
    monkeypatch.undo()
    (folder / "ca.pem").unlink()
    assert run(["certs", "init", str(folder)]) == 0


def test_a_renewed_certificate_is_for_the_names_of_the_one_before_until_they_are_forgotten(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "certs"
    first = ["--host", "gpu7.example.org", "--host", "fd00:0:0::07"]
    assert run(["certs", "init", str(folder), *first]) == 0
    before = content(folder)
    assert run(["certs", "init", str(folder), *first]) == 0
    assert content(folder) == before, "an address is the same however it is written"
    assert run(["certs", "renew", str(folder), "--host", "gpu8.example.org"]) == 0
    of_each = ["simic", "localhost", "127.0.0.1", "::1"]
    added = ["gpu7.example.org", "fd00::7", "gpu8.example.org"]
    assert shown(folder, capsys)["simic"]["names"] == [*of_each, *added]
    assert shown(folder, capsys)["operator"]["names"] == ["operator"]
    again = ["--host", "gpu9.example.org", "--forget-hosts"]
    assert run(["certs", "renew", str(folder), *again]) == 0
    assert shown(folder, capsys)["simic"]["names"] == [*of_each, "gpu9.example.org"]


def test_services_that_get_another_name_get_another_certificate(
    stack: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = content(stack)
    assert run(["certs", "init", str(stack), "--host", "kasmina-2"]) == 0
    assert "kasmina-2" in shown(stack, capsys)["kasmina"]["names"]
    after = content(stack)
    assert after[stack / "operator" / "token"] == before[stack / "operator" / "token"]
    assert run(["certs", "init", str(stack)]) == 0
    assert content(stack) == after, "a name too many is none too few"


def test_an_authority_that_was_not_finished_is_made_again(stack: Path) -> None:
    (stack / "ca.pem").unlink()
    before = content(stack)
    assert run(["certs", "init", str(stack)]) == 0
    after = content(stack)
    for name in ("kasmina", "tamiyo", "simic", "operator", "prometheus"):
        assert after[stack / name / "ca.pem"] == after[stack / "ca.pem"]
        certificate = stack / name / "certificate.pem"
        assert after[certificate] != before[certificate]


def test_where_there_is_no_authority_there_is_nothing_to_renew(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in ("renew", "show"):
        assert run(["certs", command, str(tmp_path)]) == 1
        assert f"leyline certs init {tmp_path} makes" in capsys.readouterr().err
    for folder in ("one", "two"):
        assert run(["certs", "init", str(tmp_path / folder)]) == 0
    (tmp_path / "one" / "ca-key.pem").write_bytes((tmp_path / "two" / "ca-key.pem").read_bytes())
    assert run(["certs", "init", str(tmp_path / "one")]) == 1
    assert "ca-key.pem is another authority's" in capsys.readouterr().err
    (tmp_path / "ca.pem").write_text("nonsense")
    (tmp_path / "ca-key.pem").write_text("nonsense")
    assert run(["certs", "init", str(tmp_path)]) == 1
    assert "holds no authority" in capsys.readouterr().err


async def test_a_server_takes_no_key_of_another_member(stack: Path) -> None:
    settings = load(
        ServerSettings,
        listen="127.0.0.1:0",
        tls_certificate=stack / "tamiyo" / "certificate.pem",
        tls_key=stack / "simic" / "key.pem",
    )
    with pytest.raises(ConfigurationError, match="no PEM certificate with its key"):
        await Server(settings, []).start()
