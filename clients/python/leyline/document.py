"""Messages of the contract as people write them: YAML, of which JSON is a part.

    document = Document.read(Path("run.yaml"))
    document.change("training.horizon=12")
    spec = document.message(RunSpec)

The contract says what every field is, so nothing is guessed from how a value looks: `title: no` is
a text, and `weight_decay: 5e-4` a number. Enums may leave out what their values begin with
(`schedule: cosine`), and durations are seconds (`5s`).
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml
from google.protobuf import json_format
from google.protobuf.descriptor import EnumDescriptor, FieldDescriptor
from google.protobuf.message import Message
from yaml import MappingNode, Node, ScalarNode

from leyline.filling import Filling, Problem, enum_prefix
from leyline.rules import violations

Kind = TypeVar("Kind", bound=Message)

_TEXT = "tag:yaml.org,2002:str"
_MAPPING = "tag:yaml.org,2002:map"


class InvalidDocument(Exception):
    """What was written is no message of the contract. Its text has a line for each problem."""

    def __init__(self, source: str, problems: Sequence[Problem]) -> None:
        super().__init__("\n".join(problem.within(source) for problem in problems))
        self.problems = tuple(problems)


@dataclass
class Document:
    """A YAML mapping, from a file or made of changes alone."""

    source: str
    """What people call it: the file's name."""
    root: MappingNode

    @classmethod
    def read(cls, path: Path) -> Document:
        """Read a file; `-` is the standard input.

        Raises:
            OSError: it cannot be read.
            InvalidDocument: it is not YAML, or holds no mapping.
        """
        if str(path) == "-":
            return cls.parse(sys.stdin.read(), "standard input")
        try:
            return cls.parse(path.read_text(encoding="utf-8"), str(path))
        except UnicodeDecodeError as error:
            raise InvalidDocument(str(path), [Problem("", f"is not UTF-8: {error}")]) from None

    @classmethod
    def parse(cls, text: str, source: str) -> Document:
        """Take a text that people call `source`. Raises `InvalidDocument` as `read` does."""
        try:
            if text.lstrip().startswith("{"):
                # JSON has tabs between its tokens, and nowhere else; YAML would refuse them.
                text = text.replace("\t", " ")
            root = yaml.compose(text, Loader=yaml.SafeLoader)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            line = None if mark is None else mark.line + 1
            what = ", ".join(part for part in (error.context, error.problem) if part)
            raise InvalidDocument(source, [Problem("", f"is not YAML: {what}", line)]) from None
        except yaml.YAMLError as error:
            raise InvalidDocument(source, [Problem("", f"is not YAML: {error}")]) from None
        if root is None:
            return cls.empty(source)
        if not isinstance(root, MappingNode):
            problem = Problem("", "must be fields and their values", root.start_mark.line + 1)
            raise InvalidDocument(source, [problem])
        return cls(source, root)

    @classmethod
    def empty(cls, source: str) -> Document:
        """Begin with nothing."""
        return cls(source, _mapping())

    def change(self, change: str) -> None:
        """Set a field by its path: `training.horizon=12`. Its value is YAML.

        Raises:
            InvalidDocument: it is no change, or there is a value where its path leads through.
        """
        path, separator, text = change.partition("=")
        if not separator or not all(path.split(".")):
            raise InvalidDocument(change, [Problem("", "is not FIELD=VALUE")])
        *parents, field = path.split(".")
        place = self.root
        for parent in parents:
            inner = _value(place, parent)
            if inner is None:
                inner = _mapping()
                place.value.append((ScalarNode(_TEXT, parent), inner))
            if not isinstance(inner, MappingNode):
                raise InvalidDocument(change, [Problem(path, f"{parent} has no fields")])
            place = inner
        kept = [pair for pair in place.value if pair[0].value != field]
        place.value = [*kept, (ScalarNode(_TEXT, field), _given(text))]

    def message(self, kind: type[Kind]) -> Kind:
        """Return the message that was written, once it keeps every rule of the contract.

        Raises:
            InvalidDocument: with every problem: unknown fields, values of another type, rules that
            are broken.
        """
        filling = Filling()
        message = kind()
        filling.fill(message, self.root)
        problems = filling.problems or [
            Problem(broken.field, broken.description, filling.line_of(broken.field))
            for broken in violations(message)
        ]
        if problems:
            raise InvalidDocument(self.source, problems)
        return message


def write(message: Message) -> str:
    """Return a message as YAML that `Document` reads as the same message. What is unset is left
    out.
    """
    if not message.ListFields():
        return "{}\n"
    return yaml.dump(
        _plain(message),
        Dumper=_Dumper,
        default_flow_style=False,
        sort_keys=False,
        allow_unicode=True,
        width=100,
    )


class _Dumper(yaml.SafeDumper):
    """Puts a list of numbers or names on one line, and everything else on lines of its own."""

    def represent_sequence(
        self, tag: str, sequence: Iterable[Any], flow_style: bool | None = None
    ) -> yaml.SequenceNode:
        node = super().represent_sequence(tag, sequence, flow_style=flow_style)
        node.flow_style = all(isinstance(item, ScalarNode) for item in node.value)
        return node

    def represent_str(self, data: str) -> ScalarNode:
        # In single quotes, which PyYAML would choose, each of these is read again as a space.
        style = '"' if any(character in data for character in "\x85\u2028\u2029") else None
        return self.represent_scalar(_TEXT, data, style=style)


_Dumper.add_representer(str, _Dumper.represent_str)


def _mapping() -> MappingNode:
    return MappingNode(_MAPPING, [])


def _value(place: MappingNode, key: str) -> Node | None:
    return next((value for name, value in place.value if name.value == key), None)


def _given(text: str) -> Node:
    """Read the value of a change; what only looks like YAML is a text."""
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError:
        node = None
    if isinstance(node, ScalarNode) or (node is not None and text.lstrip()[:1] in ("[", "{")):
        _forget_lines(node)
        return node
    return ScalarNode(_TEXT, text)


def _forget_lines(node: Node) -> None:
    """Lines of a change would be taken for lines of the file."""
    node.start_mark = None
    if not isinstance(node, ScalarNode):
        for part in node.value:
            for inner in part if isinstance(part, tuple) else (part,):
                _forget_lines(inner)


def _plain(message: Message) -> dict[str, Any]:
    """Return a message as mappings, lists and scalars that YAML writes as people would."""
    return dict(_fields(message))


def _fields(message: Message) -> Iterator[tuple[str, Any]]:
    for field, value in message.ListFields():
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            inner = field.message_type.fields_by_name["value"]
            yield field.name, {key: _scalar(inner, value[key]) for key in sorted(value)}
        elif field.is_repeated:
            yield field.name, [_scalar(field, item) for item in value]
        else:
            yield field.name, _scalar(field, value)


def _scalar(field: FieldDescriptor, value: Any) -> Any:
    if field.message_type is not None:
        if field.message_type.full_name.startswith("google.protobuf."):
            return json_format.MessageToDict(value)
        return _plain(value)
    if field.enum_type is not None:
        return _short(field.enum_type, value)
    return value


def _short(kind: EnumDescriptor, number: int) -> str | int:
    known = kind.values_by_number.get(number)
    if known is None:
        return number
    return str(known.name).removeprefix(enum_prefix(kind)).lower().replace("_", "-")
