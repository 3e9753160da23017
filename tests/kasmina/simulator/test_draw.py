from __future__ import annotations

import pytest

from kasmina.simulator.draw import between, normals, uniforms


def test_a_seed_gives_the_same_numbers_for_ever() -> None:
    assert uniforms(1, "host", count=2).tolist() == [0.25811742583790687, 0.44401571245699556]
    assert normals(1, "validation", count=3).tolist() == pytest.approx(
        [0.11285344016315396, 1.6054945481902962, 0.2019715111181566], abs=1e-12
    )


def test_a_stream_depends_on_nothing_but_its_name() -> None:
    alone = uniforms(1, "slot", "slot-0", count=4)
    uniforms(1, "host", count=100)
    assert uniforms(1, "slot", "slot-0", count=4).tolist() == alone.tolist()
    assert uniforms(1, "slot", "slot-0", count=8)[:4].tolist() == alone.tolist()
    for other in ((2, "slot", "slot-0"), (1, "slot", "slot-1")):
        assert not set(uniforms(*other, count=4)) & set(alone)


def test_uniform_numbers_are_uniform_and_normal_ones_normal() -> None:
    uniform, normal = uniforms(3, "many", count=100_000), normals(3, "many", count=100_001)
    assert uniform.min() >= 0.0
    assert uniform.max() < 1.0
    assert uniform.mean() == pytest.approx(1 / 2, abs=0.005)
    assert uniform.var() == pytest.approx(1 / 12, abs=0.002)
    assert normal.shape == (100_001,)
    assert normal.mean() == pytest.approx(0.0, abs=0.02)
    assert normal.std() == pytest.approx(1.0, abs=0.01)
    assert (abs(normal) > 1.96).mean() == pytest.approx(0.05, abs=0.004)


def test_a_share_of_the_way_lies_between_the_ends() -> None:
    assert [between((0.2, 0.4), share) for share in (0.0, 0.5, 1.0)] == pytest.approx(
        [0.2, 0.3, 0.4]
    )
