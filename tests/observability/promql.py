"""What an expression of PromQL asks for: enough of its grammar to find the metrics and labels."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

_TOKEN = re.compile(
    r"""\s*(?: (?P<string>"(?:[^"\\]|\\.)*") | (?P<range>\[[^\]]*\]) | (?P<number>[0-9][\w.]*)
    | (?P<name>[a-zA-Z_:][\w:]*) | (?P<sign>=~|!~|!=|==|.) )""",
    re.VERBOSE | re.DOTALL,
)
_LISTS = {"by", "without", "on", "ignoring", "group_left", "group_right"}
_AGGREGATIONS = {"sum", "min", "max", "avg", "count", "topk", "bottomk", "quantile", "stddev"}
_WORDS = _LISTS | _AGGREGATIONS | {"and", "or", "unless", "bool", "offset", "inf", "nan"}


@dataclass(frozen=True)
class Matcher:
    """A condition on a label, which is `__name__` for the metric's own name."""

    label: str
    operator: str
    value: str

    def accepts(self, value: str) -> bool:
        """Whether a series with this value is meant."""
        if self.operator in ("=~", "!~"):
            return bool(re.fullmatch(self.value, value)) == (self.operator == "=~")
        return (self.value == value) == (self.operator == "=")

    def __str__(self) -> str:
        value = self.value.replace("\\", "\\\\").replace('"', '\\"')
        return f'{self.label}{self.operator}"{value}"'


@dataclass(frozen=True)
class Selector:
    """The series that one place of an expression asks for, without its range and offset."""

    matchers: tuple[Matcher, ...]

    def loosened(self, *labels: str) -> Selector:
        """The same, with any value of these labels."""
        return Selector(
            tuple(
                Matcher(each.label, "!=", "") if each.label in labels else each
                for each in self.matchers
            )
        )

    def __str__(self) -> str:
        return "{" + ", ".join(map(str, self.matchers)) + "}"


def selectors(expression: str) -> Iterator[Selector]:
    """Every selector of an expression, in order."""
    tokens = [
        (str(match.lastgroup), match.group(str(match.lastgroup)))
        for match in _TOKEN.finditer(expression.strip())
    ]
    at = 0
    while at < len(tokens):
        kind, text = tokens[at]
        after = tokens[at + 1][1] if at + 1 < len(tokens) else ""
        at += 1
        if kind == "name" and text.lower() in _WORDS:
            if text in _LISTS and after == "(":
                at = tokens.index(("sign", ")"), at) + 1
        elif (kind == "name" and after != "(") or text == "{":
            matchers = [Matcher("__name__", "=", text)] if kind == "name" else []
            if "{" in (text, after):
                begin = at + (after == "{") if kind == "name" else at
                at = tokens.index(("sign", "}"), begin) + 1
                matchers += _matchers([token for _, token in tokens[begin : at - 1]])
            yield Selector(tuple(matchers))


def grouping_labels(expression: str) -> set[str]:
    """Labels by which an expression groups or joins."""
    lists = re.findall(rf"\b(?:{'|'.join(_LISTS)})\s*\(([^)]*)\)", expression)
    return {label.strip() for names in lists for label in names.split(",") if label.strip()}


def _matchers(tokens: list[str]) -> Iterator[Matcher]:
    parts = [token for token in tokens if token != ","]
    for label, operator, value in zip(parts[::3], parts[1::3], parts[2::3], strict=True):
        yield Matcher(label, operator, re.sub(r"\\(.)", r"\1", value[1:-1]))
