"""Writes proto/testdata and the tables of docs/observation.md, always the same.

    python -m tests.contract.make_testdata [ROOT]

ROOT is the folder to write below, the repository where it is not given. What the files mean stands
in proto/testdata/README.md.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf import json_format
from google.protobuf.message import Message
from tests.contract.golden_snapshots import LN_100, golden_snapshots
from tests.contract.heuristic_snapshots import RUN_SEED, heuristic_snapshots
from tests.contract.invalid_messages import invalid_messages

from leyline.identity import sampling_seed
from leyline.observation import SEED_SPEC, slot_order, spec_by_name, spec_names, vectorize
from leyline.v1.decision_pb2 import SELECTION_MODE_SAMPLED, DecisionQuery
from leyline.v1.observation_pb2 import FeatureSpec, ObservationSpec, Scaling
from leyline.v1.snapshot_pb2 import MultiSlotSnapshot
from tamiyo.policies.heuristic import HeuristicPolicy
from tamiyo.policy import decision_from

REPOSITORY = Path(__file__).resolve().parents[2]


def _file_contents() -> dict[str, Any]:
    """What is written, as JSON values by path below proto/testdata."""
    contents: dict[str, Any] = {}
    for name in spec_names():
        contents[f"specs/{name}.json"] = _json(spec_by_name(name))
    for name, (why, snapshot) in golden_snapshots().items():
        contents[f"snapshots/{name}.json"] = {
            "why": why,
            "snapshot": _json(snapshot),
            "slot_order": list(slot_order(snapshot)),
            "vectors": {spec: _vector(snapshot, spec_by_name(spec)) for spec in spec_names()},
        }
    for name, (why, message, expected) in invalid_messages().items():
        contents[f"invalid/{name}.json"] = {
            "why": why,
            "type": message.DESCRIPTOR.full_name,
            "message": _json(message),
            "violations": [{"field": field, "rule_id": rule} for field, rule in sorted(expected)],
        }
    contents["heuristic/decisions.json"] = _heuristic_decisions()
    contents["sampling_seeds.json"] = [
        # 64-bit numbers are strings, as in the JSON form of messages.
        {
            "run_seed": str(run),
            "episode_index": episode,
            "step": step,
            "sampling_seed": str(sampling_seed(run, episode, step)),
        }
        for run, episode, step in [(0, 0, 0), (0, 0, 1), (0, 1, 0), (42, 7, 19), (2**64 - 1, 1, 2)]
    ]
    return contents


def _heuristic_decisions() -> dict[str, Any]:
    policy = HeuristicPolicy(SEED_SPEC)

    def decision(snapshot: MultiSlotSnapshot, temperature: float | None = None) -> dict[str, Any]:
        query = heuristic_query(snapshot, temperature)
        return _json(decision_from(policy, query, policy.decide([query])[0]))

    golden = [
        {"golden": name, "decision": decision(snapshot)}
        for name, (_, snapshot) in golden_snapshots().items()
    ]
    warm = [
        {"golden": name, "temperature": 0.5, "decision": decision(snapshot, 0.5)}
        for name, (_, snapshot) in golden_snapshots().items()
    ]
    random = [
        {"snapshot": _json(snapshot), "decision": decision(snapshot)}
        for snapshot in heuristic_snapshots()
    ]
    return {
        "policy_version": policy.version,
        "thresholds": asdict(policy.thresholds),
        "cases": golden + warm + random,
    }


def heuristic_query(snapshot: MultiSlotSnapshot, temperature: float | None = None) -> DecisionQuery:
    """The query that a decision of heuristic/decisions.json answers."""
    step = snapshot.step_id
    return DecisionQuery(
        snapshot=snapshot,
        spec_fingerprint=SEED_SPEC.fingerprint,
        sampling_seed=sampling_seed(RUN_SEED, step.episode_index, step.step),
        mode=SELECTION_MODE_SAMPLED,
        temperature=temperature,
    )


def _json(message: Message) -> dict[str, Any]:
    return json_format.MessageToDict(message, preserving_proto_field_name=True)


def _vector(snapshot: MultiSlotSnapshot, spec: ObservationSpec) -> dict[str, Any]:
    # The shortest decimals that give the same float32 again; as doubles they would have 17 digits.
    vector = [float(np.format_float_positional(x)) for x in vectorize(snapshot, spec)]
    return {"fingerprint": spec.fingerprint, "vector": vector}


_RULES: Mapping[int, str] = {
    Scaling.SCALING_LINEAR: "{x} / {scale}",
    Scaling.SCALING_LOG1P: "log(1 + max({x}, 0)) / {scale}",
    Scaling.SCALING_SYMLOG: "sign({x}) · log(1 + |{x}|) / {scale}",
    Scaling.SCALING_RESERVED: "—",
}


def _table(features: Iterable[FeatureSpec]) -> str:
    """Features as a Markdown table."""
    rows = ["| | feature | field | unit of x | scaling | bounds | unset |", "|---" * 7 + "|"]
    for place, feature in enumerate(features):
        field = f"`{feature.field}`" if feature.field else "—"
        if feature.age:
            field += f", newest but {feature.age - 1}" if feature.age > 1 else ", newest"
        x = f"(x - {feature.offset:g})" if feature.offset else "x"
        scale = "ln 100" if feature.scale == LN_100 else f"{feature.scale:g}"
        rule = _RULES[feature.scaling].format(x=x, scale=scale).removesuffix(" / 1")
        bounds = f"{feature.lower:g} … {feature.upper:g}"
        cells = (place, f"`{feature.name}`", field, feature.unit, rule, bounds)
        rows.append("| " + " | ".join(str(c) for c in cells) + f" | {feature.unset_value:g} |")
    return "\n".join(rows)


def _with_tables(document: str) -> str:
    """Return docs/observation.md with what stands between its markers written anew."""
    for name in spec_names():
        spec = spec_by_name(name)
        parts = {
            "global": _table(spec.global_features),
            "slot": _table(spec.slot_features),
            "fingerprint": f"`{spec.fingerprint}`",
        }
        for part, text in parts.items():
            marker = f"<!-- {name} {part} -->"
            pattern = re.escape(marker) + ".*?" + re.escape("<!-- end -->")
            body = f"{marker}\n{text}\n<!-- end -->"
            # No text of ours has a backslash, so it stands for itself as a replacement.
            document, found = re.subn(pattern, body, document, flags=re.DOTALL)
            if found != 1:
                raise SystemExit(f"docs/observation.md has {found} times {marker}; wanted once")
    return document


def _text(content: Any) -> str:
    """JSON with what is read as one thing on one line: a list of numbers, and a case of many."""
    cases = content.get("cases", []) if isinstance(content, dict) else []
    shown = {**content, "cases": []} if cases else content
    text = json.dumps(shown, indent=2, ensure_ascii=False)
    text = re.sub(r"\[[-\d.,e\s]+\]", lambda m: " ".join(m[0].split()), text)
    lines = ",\n".join("    " + json.dumps(case) for case in cases)
    return text.replace('"cases": []', f'"cases": [\n{lines}\n  ]')


def main(root: Path) -> None:
    """Write everything below a folder; files there that are not written are removed."""
    testdata = root / "proto" / "testdata"
    for folder in ("specs", "snapshots", "invalid", "heuristic"):
        (testdata / folder).mkdir(parents=True, exist_ok=True)
        for old in (testdata / folder).glob("*.json"):
            old.unlink()
    for path, content in _file_contents().items():
        (testdata / path).write_text(_text(content) + "\n", encoding="utf-8")
    document = _with_tables((REPOSITORY / "docs" / "observation.md").read_text(encoding="utf-8"))
    (root / "docs").mkdir(exist_ok=True)
    (root / "docs" / "observation.md").write_text(document, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else REPOSITORY)
