"""A policy of one's own as a plain function: one seed at a time, the deepest empty slot first.

python examples/policies/rule.py --listen 127.0.0.1:50060
leyline conformance 127.0.0.1:50060 --level full
leyline serve kasmina --policy default=127.0.0.1:50060
"""

import tamiyo
from leyline.v1.decision_pb2 import DecisionQuery
from leyline.v1.snapshot_pb2 import STAGE_BLENDING, STAGE_DORMANT, STAGE_FOSSILIZED
from tamiyo import Choice


def decide(query: DecisionQuery) -> Choice:
    slots = sorted(query.snapshot.slots, key=lambda slot: slot.depth, reverse=True)
    for slot in slots:
        if slot.stage == STAGE_BLENDING and slot.alpha < 1:
            return Choice.wait()  # it is still being mixed in
        if slot.stage not in (STAGE_DORMANT, STAGE_FOSSILIZED):
            return Choice.advance(slot.slot_id)
    for slot in slots:
        if slot.stage == STAGE_DORMANT:
            return Choice.germinate(slot.slot_id)
    return Choice.wait()


if __name__ == "__main__":
    tamiyo.serve(decide, name="one-at-a-time", version="1")
