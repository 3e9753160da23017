from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from tests.kasmina.simulator.episodes import family

from kasmina.simulator import parameters
from kasmina.simulator.parameters import (
    FROZEN,
    Parameters,
    ParametersError,
    family_bytes,
    load_family,
    load_parameters,
)


def default_with(old: str, new: str) -> str:
    """The default family's file with one passage changed."""
    text = family_bytes("default").decode()
    assert text.count(old) == 1
    return text.replace(old, new)


@pytest.mark.parametrize(
    ("name", "sha256"),
    [
        ("default", "a3766301c051837930ff24a51c8335ac1f2568784ce2153720b489612112fc5b"),
        ("held-out", "df72d245cb1863580da17e2bce6fab5e0347e6e06e75d0d0cff2f12fec1053a0"),
    ],
)
def test_a_shipped_family_is_frozen(name: str, sha256: str) -> None:
    assert FROZEN[name] == sha256
    assert hashlib.sha256(family_bytes(name)).hexdigest() == sha256
    load_family(name)


def test_there_are_two_shipped_families_and_they_differ() -> None:
    assert set(FROZEN) == {"default", "held-out"}
    default, held_out = load_family("default"), load_family("held-out")
    for section in ("host", "seeds", "growth", "noise", "telemetry"):
        assert getattr(default, section) != getattr(held_out, section)


def test_a_shipped_family_that_was_changed_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    content = family_bytes("default")
    monkeypatch.setattr(parameters, "family_bytes", lambda name: content + b"\n")
    with pytest.raises(ParametersError, match=r"'default' was changed: .* SHA-256") as caught:
        load_family("default")
    assert FROZEN["default"] in str(caught.value)


def test_a_family_that_is_not_shipped_is_refused_with_those_that_are() -> None:
    with pytest.raises(ParametersError, match="'mine'; there are default, held-out"):
        load_family("mine")


@pytest.mark.parametrize("name", list(FROZEN))
def test_a_shipped_familys_file_is_a_file_of_ones_own_too(tmp_path: Path, name: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_bytes(family_bytes(name))
    assert load_parameters(path) == load_family(name)


@pytest.mark.parametrize(
    ("old", "new", "place"),
    [
        ("bad_share = 0.4", "bad_share = nan", "seeds.bad_share"),
        ("[4.0, 8.0]", "[4.0, nan]", "host.time_constant.1"),
        ("training_time = 0.8", "training_time = inf", "growth.training_time"),
        ("training_time = 0.8", "training_time = 0.0", "growth.training_time"),
        ("bad_share = 0.4", "bad_share = 1.1", "seeds.bad_share"),
        ("harm = [0.02, 0.05]", "harm = [0.05, 0.02]", r"seeds.harm: .*ends before it begins"),
        ("harm = [0.02, 0.05]", "harm = [0.02]", "seeds.harm"),
        ("sparsity = 0.03", "sparsity = -0.03", "noise.sparsity"),
        ("slots = 3", "slots = 65", "episode.slots"),
        ("horizon = 30\n", "", "episode.horizon: Field required"),
        ("headroom = 0.4", "headrom = 0.4", r"seeds.headroom: .*seeds.headrom: Extra"),
        ("[noise]", "[nose]", r"noise: Field required; .*nose: Extra"),
        ('choice = "random"', 'choice = "best"', "seeds.choice"),
        ('"norm"]', '"norm", "magic"]', "no cost is given for the candidates magic"),
        ("[blueprints.norm]", "[blueprints.norms]", "no cost is given for the candidates norm"),
        ("parameters = 0.004", "parameters = nan", "blueprints.norm.parameters"),
        ("slots = 3", "slots = ", r"line 5\b"),
    ],
)
def test_a_file_that_is_no_family_is_refused_with_the_place(
    tmp_path: Path, old: str, new: str, place: str
) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(default_with(old, new))
    with pytest.raises(ParametersError, match=place) as caught:
        load_parameters(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("content", [b"\xff\xfe", b"", b"a = " + b"[" * 5000])
def test_what_is_no_toml_of_a_family_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "mine.toml"
    path.write_bytes(content)
    with pytest.raises(ParametersError, match=r"mine.toml is not a family"):
        load_parameters(path)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ParametersError, match=r"cannot read the family .*absent.toml"):
        load_parameters(tmp_path / "absent.toml")


def test_a_family_comes_back_from_json() -> None:
    held_out = load_family("held-out")
    assert Parameters.from_dict(json.loads(json.dumps(held_out.to_dict()))) == held_out


def test_episodes_of_a_family_can_be_longer_and_have_other_slots() -> None:
    other = family().with_episode(slots=6, horizon=50)
    assert (other.episode.slots, other.episode.horizon) == (6, 50)
    assert other.with_episode(slots=3, horizon=30) == family()
    with pytest.raises(ParametersError, match=r"episode\.slots"):
        family().with_episode(slots=0)
