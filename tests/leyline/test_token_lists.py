"""The lists of tokens that services take: what others wrote there stays, and what was taken back
stays out.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.leyline.papers import SERVICES, assert_goes_together, content, is_known

from leyline.cli.application import run
from leyline.secret import digest, new_token


@pytest.fixture
def stack(tmp_path: Path) -> Path:
    folder = tmp_path / "certs"
    assert run(["certs", "init", str(folder)]) == 0
    return folder


@pytest.fixture
def own(stack: Path, tmp_path: Path) -> Path:
    """A second token of the operator's, whose line the operator wrote, with a remark."""
    token = tmp_path / "own"
    token.write_bytes(new_token())
    line = f"operator operator sha256:{digest(token.read_bytes())}"
    for service in SERVICES:
        path = stack / service / "tokens"
        path.write_text(f"# ours\n\n{path.read_text()}\n  {line}  # of the night shift\n")
    return token


def lines(stack: Path, service: str) -> list[str]:
    return (stack / service / "tokens").read_text().splitlines()


def test_what_others_wrote_in_a_list_stays_as_it_is(stack: Path, own: Path) -> None:
    before = lines(stack, "tamiyo")
    for _ in range(3):
        assert run(["certs", "renew", str(stack)]) == 0
        after = lines(stack, "tamiyo")
        assert after[:2] == ["# ours", ""]
        assert after.count(before[-1]) == 1
        assert is_known(stack / "tamiyo", own)
        assert_goes_together(stack)
    assert len(after) == 2 + 1 + 1 + 3 * 2, "remarks, a blank line, a line, two tokens for each"


def test_a_token_that_somebody_listed_again_is_replaced_with_its_member_s(stack: Path) -> None:
    first = (stack / "operator" / "token").read_bytes()
    for service in SERVICES:
        path = stack / service / "tokens"
        path.write_text("".join(f"{line.partition(' #')[0]}\n" for line in lines(stack, service)))
    for _ in range(2):
        assert run(["certs", "renew", str(stack)]) == 0
    (stack / "first").write_bytes(first)
    assert not is_known(stack / "tamiyo", stack / "first")


@pytest.mark.parametrize("command", ["renew", "init", "revoke"])
def test_a_list_that_no_service_takes_is_refused_before_anything_is_written(
    stack: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (stack / "operator" / "token").unlink()
    with (stack / "simic" / "tokens").open("a") as file:
        file.write("alice king sha256:12\n")
    before = content(stack)
    of = ["kasmina"] if command == "revoke" else []
    assert run(["certs", command, str(stack), *of]) == 1
    assert f"{stack}/simic/tokens, line 4: no service takes it" in capsys.readouterr().err
    assert content(stack) == before


def test_a_revoked_token_is_known_nowhere_and_its_member_gets_another(
    stack: Path, own: Path, tmp_path: Path
) -> None:
    stolen = [own, tmp_path / "stolen"]
    stolen[1].write_bytes((stack / "operator" / "token").read_bytes())
    kept = (stack / "kasmina" / "token").read_bytes()
    assert run(["certs", "revoke", str(stack), "operator"]) == 0
    for _ in range(2):
        for service in SERVICES:
            assert not any(is_known(stack / service, token) for token in stolen)
        assert_goes_together(stack)
        assert (stack / "kasmina" / "token").read_bytes() == kept
        assert run(["certs", "init", str(stack)]) == 0


def test_whoever_is_no_member_is_revoked_for_good(
    stack: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with (stack / "simic" / "tokens").open("a") as file:
        file.write(f"alice trainer sha256:{'0' * 64}\n")
    assert run(["certs", "revoke", str(stack), "alice"]) == 0
    assert "alice" not in (stack / "simic" / "tokens").read_text()
    for name in ("alice", "prometheus"):
        assert run(["certs", "revoke", str(stack), name]) == 1
        assert f"takes a token of '{name}'" in capsys.readouterr().err


@pytest.mark.parametrize("service", [*SERVICES, "all"])
def test_a_line_that_was_deleted_does_not_come_back(
    stack: Path, tmp_path: Path, service: str
) -> None:
    stolen = tmp_path / "stolen"
    stolen.write_bytes((stack / "operator" / "token").read_bytes())
    where = SERVICES if service == "all" else (service,)
    for each in where:
        kept = [line for line in lines(stack, each) if not line.startswith("operator")]
        (stack / each / "tokens").write_text("".join(f"{line}\n" for line in kept))
    (stack / "kasmina" / "key.pem").unlink()  # so that something is issued to others, too
    assert run(["certs", "init", str(stack)]) == 0
    assert not any(is_known(stack / each, stolen) for each in where)
    assert_goes_together(stack)
