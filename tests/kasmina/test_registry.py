from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from kasmina.registry import PlugInBroken, Registry

Thing = Callable[[], str]


def registry() -> Registry[Thing]:
    def unknown(name: str, known: object) -> Exception:
        return KeyError(f"no {name!r} among {known}")

    return Registry("thing", "leyline.things", {"own": lambda: "own"}, unknown)


def install(folder: Path, distribution: str, **offers: str) -> None:
    (folder / f"{distribution}.py").write_text("def thing():\n    return __name__\n\nvalue = 3\n")
    info = folder / f"{distribution}-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.2\n")
    lines = [f"{name} = {target}" for name, target in offers.items()]
    (info / "entry_points.txt").write_text("\n".join(["[leyline.things]", *lines]))


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_what_a_package_brings_is_known_by_its_name(packages: Path) -> None:
    install(packages, "things_of_theirs", theirs="things_of_theirs:thing")
    things = registry()
    assert things.names() == ("own", "theirs")
    assert things.get("theirs")() == "things_of_theirs"


def test_what_is_built_in_stays_whatever_packages_offer(packages: Path) -> None:
    install(packages, "usurper", own="usurper:thing")
    things = registry()
    assert things.names() == ("own",)
    assert things.get("own")() == "own"


@pytest.mark.parametrize(
    ("target", "why"),
    [
        ("nowhere_at_all:thing", "ModuleNotFoundError"),
        ("broken:nothing", "AttributeError"),
        ("broken:value", "broken:value is not callable"),
    ],
)
def test_a_broken_package_is_named_when_its_name_is_asked_for_and_not_before(
    packages: Path, target: str, why: str
) -> None:
    install(packages, "broken", bad=target)
    things = registry()
    assert things.names() == ("bad", "own")
    assert things.get("own")() == "own"
    with pytest.raises(PlugInBroken, match=f"{why}.*the distribution broken 1.2"):
        things.get("bad")


def test_a_name_that_two_packages_offer_is_refused_with_both(packages: Path) -> None:
    install(packages, "one_package", same="one_package:thing")
    install(packages, "two_package", same="two_package:thing")
    with pytest.raises(PlugInBroken, match=r"one_package.*two_package|two_package.*one_package"):
        registry().get("same")


def test_a_name_is_registered_once(packages: Path) -> None:
    install(packages, "things_of_yours", yours="things_of_yours:thing")
    things = registry()
    things.register("mine", lambda: "mine")
    assert things.get("mine")() == "mine"
    for name in ("own", "mine", "yours"):
        with pytest.raises(ValueError, match=f"a thing named '{name}' is registered already"):
            things.register(name, lambda: "again")


def test_an_unknown_name_is_refused_with_those_there_are() -> None:
    with pytest.raises(KeyError, match="no 'other' among"):
        registry().get("other")
