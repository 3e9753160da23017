"""The model behind MLServer, in MLServer's environment:

    build/venv-mlserver/bin/python -m tests.benchmarks.served_by_mlserver STATE PORT HTTP_PORT HOW

HOW is "tuned", with batches, or "plain", without them, as MLServer comes. A query is the one
element of a BYTES tensor, and so is its answer. Says "ready" when the model is.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from pathlib import Path

import uvloop
from mlserver import MLModel, MLServer, ModelSettings, Settings
from mlserver.settings import ModelParameters
from mlserver.types import InferenceRequest, InferenceResponse, ResponseOutput, TensorData
from tests.benchmarks.served_model import ServedModel

from leyline.v1.policy_pb2 import StreamDecisionsRequest


class Decisions(MLModel):  # type: ignore[misc] # mypy does not see into that environment
    """The model, as MLServer wants it."""

    async def load(self) -> bool:
        """Reads the version."""
        self._model = ServedModel(Path(self.settings.parameters.uri))
        print("ready", flush=True)
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Decides a batch, which MLServer has gathered."""
        requests = [StreamDecisionsRequest.FromString(one) for one in payload.inputs[0].data.root]
        answers = [answer.SerializeToString() for answer in self._model.answers(requests)]
        # Constructed, not validated: that is a tenth quicker, and MLServer's own code does it.
        output = ResponseOutput.model_construct(
            name="decision",
            datatype="BYTES",
            shape=[len(answers), 1],
            data=TensorData.model_construct(root=answers),
            parameters=None,
        )
        return InferenceResponse.model_construct(
            model_name=self.name, model_version=None, id=None, parameters=None, outputs=[output]
        )

    async def predict_stream(
        self, payloads: AsyncIterator[InferenceRequest]
    ) -> AsyncIterator[InferenceResponse]:
        """Decides query after query, in batches with those of other streams."""
        async for payload in payloads:
            yield await self.predict(payload)


async def serve(state_dir: str, port: int, http_port: int, how: str) -> None:
    """Serves until it is told to end."""
    batches = {"max_batch_size": 16, "max_batch_time": 0.005} if how == "tuned" else {}
    server = MLServer(
        Settings(
            debug=False,
            parallel_workers=0,
            host="127.0.0.1",
            http_port=http_port,
            grpc_port=port,
            metrics_endpoint=None,
        )
    )
    model = ModelSettings(
        name="decisions",
        implementation=Decisions,
        parameters=ModelParameters(uri=state_dir),
        **batches,
    )
    await server.start([model])


if __name__ == "__main__":
    uvloop.run(serve(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]))
