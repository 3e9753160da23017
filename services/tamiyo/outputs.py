"""What a policy's network says to a batch of observations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]


class Outputs(NamedTuple):
    """What a network says to n observations of S slots, float32.

    Attributes:
        type_logits: ``(n, 4)``.
        slot_logits: ``(n, 4, S)``, slot given type.
        value: ``(n,)``.
    """

    type_logits: Float32
    slot_logits: Float32
    value: Float32

    def rows(self, selection: Sequence[int] | slice) -> Outputs:
        """Return some of the rows."""
        return Outputs(
            self.type_logits[selection], self.slot_logits[selection], self.value[selection]
        )
