"""The report of benchmarks fails rather than leave a row out."""

import pytest
from tests.benchmarks.report import LEAST_REPETITIONS, Measurement, load_rows, report, row_of, table

DECLARED = {"name": "a", "unit": "s", "reference": "b", "better": "lower", "bar": 1.5}
PAIRS = Measurement(values=(2.0, 4.0, 3.0, 3.0, 9.0), reference_values=(2.0, 2.0, 2.0, 2.0, 3.0))


def test_a_row_is_the_median_of_its_pairs_with_the_spread_beside_it() -> None:
    row = row_of(DECLARED, PAIRS)
    assert (row.value, row.reference_value, row.ratio) == (3.0, 2.0, 1.5)
    assert row.holds
    assert row.ratio_spread == (1.0, 3.0)


def test_a_row_above_its_bar_does_not_hold() -> None:
    assert not row_of({**DECLARED, "bar": 1.4}, PAIRS).holds
    assert row_of({**DECLARED, "bar": 1.4, "better": "higher"}, PAIRS).holds


def test_a_row_may_be_judged_by_the_worse_ends_of_the_intervals_of_median_and_mean() -> None:
    pairs = Measurement((9.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0), (1.0,) * 9)
    declared = {**DECLARED, "judged": "interval", "bar": 8.0}
    row = row_of(declared, pairs)
    assert row.ratio == 5.0
    assert row.ratio_interval == (2.0, 8.0)
    assert row.holds
    assert not row_of({**declared, "bar": 7.9}, pairs).holds
    assert not row_of({**declared, "bar": 2.1, "better": "higher"}, pairs).holds
    wild = row_of(declared, Measurement((*pairs.values[1:], 40.0), pairs.reference_values))
    assert wild.ratio_interval == (2.0, 8.0)
    assert wild.ratio_mean_interval[1] > 8.0
    assert not wild.holds
    with pytest.raises(ValueError, match="take more pairs"):
        row_of(declared, PAIRS)


def test_a_row_without_a_bar_is_only_reported() -> None:
    row = row_of({**DECLARED, "bar": None}, PAIRS)
    assert row.holds
    assert "reported" in table([row])


def test_a_row_without_a_measurement_fails() -> None:
    with pytest.raises(KeyError, match="without a measurement: \\['a'\\]"):
        report({}, [DECLARED])


def test_a_measurement_without_a_row_fails() -> None:
    with pytest.raises(KeyError, match="'z'"):
        report({"a": PAIRS, "z": PAIRS}, [DECLARED])


def test_fewer_than_five_repetitions_are_no_measurement() -> None:
    with pytest.raises(ValueError, match=str(LEAST_REPETITIONS)):
        Measurement(values=(1.0,) * 4, reference_values=(1.0,) * 4)


def test_every_declared_row_has_all_it_needs() -> None:
    for declared in load_rows():
        needed = {"name", "what", "unit", "reference", "better", "bar"}
        assert needed == set(declared) - {"judged"}
        assert declared.get("judged", "interval") == "interval"
        assert declared["better"] in {"lower", "higher"}
