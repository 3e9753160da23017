"""Results for programs: JSON, and JUnit's XML, which CI systems read."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Sequence
from typing import Any

from leyline.conformance.suite import Outcome, Result
from leyline.conformance.target import Target


def counts(results: Sequence[Result]) -> dict[str, int]:
    """Return how many cases passed, failed and were skipped."""
    counted = Counter(result.outcome for result in results)
    return {outcome.value: counted[outcome] for outcome in Outcome}


def as_json(target: Target, results: Sequence[Result]) -> dict[str, Any]:
    """Return the report as what JSON can say."""
    return {
        "address": target.address,
        "policy": target.info.policy,
        "implementation": target.info.implementation,
        "policy_version": target.info.policy_version,
        **counts(results),
        "seconds": round(sum(result.seconds for result in results), 3),
        "cases": [
            {
                "id": result.case.id,
                "level": result.case.level,
                "title": result.case.title,
                "outcome": result.outcome.value,
                "seconds": round(result.seconds, 3),
                "message": result.message,
                "means": result.case.means,
            }
            for result in results
        ],
    }


def as_junit(target: Target, results: Sequence[Result]) -> str:
    """Return the report as JUnit's XML: one test suite, one test case for each case."""
    counted = counts(results)
    suite = ElementTree.Element(
        "testsuite",
        name="leyline.conformance",
        hostname=target.address,
        tests=str(len(results)),
        failures=str(counted[Outcome.FAILED]),
        skipped=str(counted[Outcome.SKIPPED]),
        errors="0",
        time=f"{sum(result.seconds for result in results):.3f}",
    )
    for result in results:
        section, _, name = result.case.id.partition(".")
        case = ElementTree.SubElement(
            suite,
            "testcase",
            classname=f"leyline.conformance.{section}",
            name=name,
            time=f"{result.seconds:.3f}",
        )
        if result.outcome is Outcome.FAILED:
            failure = ElementTree.SubElement(case, "failure", message=_printable(result.message))
            failure.text = f"{result.case.title}\n{result.case.means}"
        elif result.outcome is Outcome.SKIPPED:
            ElementTree.SubElement(case, "skipped", message=_printable(result.message))
    ElementTree.indent(suite)
    return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"


def _printable(text: str) -> str:
    """Replace what XML 1.0 does not admit: a server may say anything."""
    return "".join(character if character.isprintable() else " " for character in text)
