"""The load of decision_load.py in the V2 inference protocol, in MLServer's environment:

build/venv-mlserver/bin/python -m tests.benchmarks.mlserver_load 127.0.0.1:8081
"""

from __future__ import annotations

from mlserver.grpc.dataplane_pb2 import InferTensorContents, ModelInferRequest, ModelInferResponse
from tests.benchmarks.decision_load import Form, main


def wrapped(query: bytes) -> bytes:
    """A query as the one element of a tensor."""
    tensor = ModelInferRequest.InferInputTensor(
        name="query",
        datatype="BYTES",
        shape=[1, 1],
        contents=InferTensorContents(bytes_contents=[query]),
    )
    request: bytes = ModelInferRequest(model_name="decisions", inputs=[tensor]).SerializeToString()
    return request


def unwrapped(response: bytes) -> bytes:
    """The one element of an answer's tensor."""
    element: bytes = ModelInferResponse.FromString(response).outputs[0].contents.bytes_contents[0]
    return element


SERVICE = "/inference.GRPCInferenceService"
ON_STREAMS = Form(f"{SERVICE}/ModelStreamInfer", True, wrapped, unwrapped)
BY_CALLS = Form(f"{SERVICE}/ModelInfer", False, wrapped, unwrapped)

if __name__ == "__main__":
    main(ON_STREAMS)
