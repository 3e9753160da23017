from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from chassis.process import ConfigurationError, ExitCode
from chassis.settings import ServerSettings, load


def test_a_flag_wins_over_the_environment_and_that_over_the_default(
    desk_settings: type[ServerSettings], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert load(desk_settings).drain_grace_s == 10.0
    monkeypatch.setenv("LEYLINE_DESK_DRAIN_GRACE_S", "3")
    assert load(desk_settings).drain_grace_s == 3.0
    assert load(desk_settings, drain_grace_s=4.0, listen=None).drain_grace_s == 4.0


def test_an_empty_variable_is_an_unset_one(
    desk_settings: type[ServerSettings], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LEYLINE_DESK_TLS_KEY", "")
    assert load(desk_settings).tls_key is None


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("LOG_LEVEL", "loud", "LEYLINE_DESK_LOG_LEVEL=loud: input should be 'debug', 'info', "),
        ("LISTEN", "50051", "LEYLINE_DESK_LISTEN=50051: must be HOST:PORT or unix:/"),
        ("KEEPALIVE_S", "1", "LEYLINE_DESK_KEEPALIVE_S=1: input should be greater than or "),
        ("INSECURE", "perhaps", "LEYLINE_DESK_INSECURE=perhaps: input should be a valid boolean"),
    ],
)
def test_a_wrong_variable_is_named_with_its_value_and_what_is_allowed(
    desk_settings: type[ServerSettings],
    monkeypatch: pytest.MonkeyPatch,
    variable: str,
    value: str,
    message: str,
) -> None:
    monkeypatch.setenv(f"LEYLINE_DESK_{variable}", value)
    with pytest.raises(ConfigurationError) as refused:
        load(desk_settings)
    assert str(refused.value).startswith(message)
    assert refused.value.exit_code is ExitCode.CONFIGURATION


def test_a_wrong_flag_is_named_as_a_flag(desk_settings: type[ServerSettings]) -> None:
    with pytest.raises(ConfigurationError, match=r"^--drain-grace-s=-1: "):
        load(desk_settings, drain_grace_s=-1)


def test_every_wrong_setting_has_its_own_line(desk_settings: type[ServerSettings]) -> None:
    with pytest.raises(ConfigurationError) as refused:
        load(desk_settings, drain_grace_s=-1, max_concurrent_rpcs=0)
    assert [line.split("=")[0] for line in str(refused.value).splitlines()] == [
        "--drain-grace-s",
        "--max-concurrent-rpcs",
    ]


def test_a_misspelt_variable_is_refused_with_the_right_spelling(
    desk_settings: type[ServerSettings], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LEYLINE_DESK_LISTN", "127.0.0.1:1")
    with pytest.raises(ConfigurationError, match="did you mean LEYLINE_DESK_LISTEN"):
        load(desk_settings)


def test_the_variables_that_kubernetes_adds_for_a_service_are_let_be(
    desk_settings: type[ServerSettings], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SERVICE_HOST", "PORT", "PORT_50052_TCP_ADDR", "SERVICE_PORT_GRPC"):
        monkeypatch.setenv(f"LEYLINE_DESK_{name}", "tcp://10.0.0.7:50052")
    load(desk_settings)


@pytest.mark.parametrize("listen", ["0.0.0.0:0", "[::]:0", "example.org:0", "10.1.2.3:0"])
def test_plain_text_for_other_machines_is_refused_unless_it_is_asked_for(
    desk_settings: type[ServerSettings], listen: str
) -> None:
    with pytest.raises(ConfigurationError) as refused:
        load(desk_settings, listen=listen)
    assert "--insecure" in str(refused.value)
    assert "LEYLINE_DESK_TLS_CERTIFICATE" in str(refused.value)
    assert str(load(desk_settings, listen=listen, insecure=True).listen) == listen


def test_calls_of_whoever_comes_from_other_machines_are_refused_unless_it_is_asked_for(
    desk_settings: type[ServerSettings],
) -> None:
    certificate = {"tls_certificate": Path("a.pem"), "tls_key": Path("b.pem")}
    with pytest.raises(ConfigurationError) as refused:
        load(desk_settings, listen="0.0.0.0:0", **certificate)
    for remedy in ("LEYLINE_DESK_TOKENS", "LEYLINE_DESK_TLS_CLIENT_CA", "--insecure"):
        assert remedy in str(refused.value)
    for asked in ({"tokens": Path("t")}, {"tls_client_ca": Path("c.pem")}, {"insecure": True}):
        load(desk_settings, listen="0.0.0.0:0", **certificate, **asked)
    load(desk_settings, listen="127.0.0.1:0", **certificate)


@pytest.mark.parametrize(
    ("flags", "missing"),
    [
        ({"tls_certificate": Path("a.pem")}, "LEYLINE_DESK_TLS_KEY is missing"),
        ({"tls_key": Path("a.pem")}, "LEYLINE_DESK_TLS_CERTIFICATE is missing"),
        ({"tls_client_ca": Path("a.pem")}, "needs LEYLINE_DESK_TLS_CERTIFICATE and"),
    ],
)
def test_half_a_tls_configuration_is_refused(
    desk_settings: type[ServerSettings], flags: dict[str, Any], missing: str
) -> None:
    with pytest.raises(ConfigurationError, match=missing):
        load(desk_settings, **flags)


def test_a_folder_of_credentials_stands_for_its_files_and_a_file_given_beside_it_wins(
    desk_settings: type[ServerSettings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LEYLINE_DESK_CREDENTIALS", str(tmp_path))
    settings = load(desk_settings, tls_client_ca=Path("theirs.pem"))
    assert settings.tls_certificate == tmp_path / "certificate.pem"
    assert settings.tls_key == tmp_path / "key.pem"
    assert settings.tls_client_ca == Path("theirs.pem")
    assert settings.peer_ca == tmp_path / "ca.pem"
    assert settings.tokens == tmp_path / "tokens"
    assert settings.peer_token is None, "who calls nobody has none"
    (tmp_path / "token").write_text("mine")
    assert load(desk_settings).peer_token == tmp_path / "token"
