from __future__ import annotations

from pathlib import Path

import pytest

from chassis.process import ConfigurationError
from chassis.settings import load
from simic.settings import SimicSettings


def test_the_database_lies_in_the_state_directory_unless_it_is_named(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/simic.sqlite3"
    assert load(SimicSettings, state_dir=tmp_path).url == url
    assert load(SimicSettings, database_url="sqlite:////else.where").url == "sqlite:////else.where"


def test_every_setting_is_a_variable_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEYLINE_SIMIC_TRAIN", "demo")
    monkeypatch.setenv("LEYLINE_SIMIC_STATE_DIR", "/somewhere")
    settings = load(SimicSettings)
    assert (settings.train, settings.state_dir) == ("demo", Path("/somewhere"))


def test_no_training_starts_by_itself_unless_one_is_asked_for() -> None:
    assert load(SimicSettings).train is None
    assert load(SimicSettings, train="none").train is None


def test_an_unknown_preset_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(ConfigurationError, match=r"--train=fast: .*known: none, default, demo"):
        load(SimicSettings, train="fast")
