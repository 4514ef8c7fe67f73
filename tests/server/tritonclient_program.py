"""Drives NVIDIA's client against a server, and prints what came back as JSON.

Run by test_tritonclient.py with the Python of an environment that holds the client and not pyconv.
"""

from __future__ import annotations

import importlib
import json
import queue
import sys
from typing import Any

import numpy as np

protocol, address, file = sys.argv[1:]
triton: Any = importlib.import_module(f"tritonclient.{protocol}")
from tritonclient.utils import InferenceServerException  # noqa: E402

arrays = np.load(file)
client = triton.InferenceServerClient(address)
over_grpc = protocol == "grpc"
as_json = {"as_json": True} if over_grpc else {}


def given(array: np.ndarray, datatype: str = "FP32", name: str = "pixels", **how: Any) -> Any:
    item = triton.InferInput(name, list(array.shape), datatype)
    item.set_data_from_numpy(array, **how)
    return item


def refusal(call: Any) -> list[str]:
    try:
        call()
    except InferenceServerException as error:
        return [str(error.status()), str(error.message())]
    raise AssertionError("not refused")


images = arrays["images"]
answers: dict[str, Any] = {
    "live": client.is_server_live(),
    "ready": client.is_server_ready(),
    "model_ready": client.is_model_ready("small"),
    "version_ready": client.is_model_ready("small", "1"),
    "nobody_ready": client.is_model_ready("nobody"),
    "server": client.get_server_metadata(**as_json),
    "model": client.get_model_metadata("small", **as_json),
    "layers": client.get_model_metadata("small", headers={"pyconv-layers": "true"}, **as_json),
    "config": client.get_model_config("small", **as_json),
    "index": client.get_model_repository_index(**as_json),
}

result = client.infer("small", [given(images)], request_id="seven")
answers["scores"] = result.as_numpy("scores").tolist()
answers["response"] = result.get_response(**as_json)
wanted = [triton.InferRequestedOutput(name) for name in ("conv2d", "scores", "relu")]
result = client.infer("small", [given(images)], outputs=wanted)
answers["layer"] = result.as_numpy("conv2d").tolist()
answers["tensor"] = result.as_numpy("relu").tolist()
classes = [triton.InferRequestedOutput("scores", class_count=2)]
result = client.infer("small", [given(images)], outputs=classes)
answers["classes"] = [[item.decode() for item in row] for row in result.as_numpy("scores")]
engine = {"parameters": {"engine": "onnxruntime"}}
answers["onnxruntime"] = (
    client.infer("small", [given(images)], **engine).as_numpy("scores").tolist()
)

answers["types"] = {}
for datatype in json.loads(str(arrays["datatypes"])):
    array = arrays[datatype]
    if datatype == "BYTES":
        array = array.astype(object)
    how = {} if over_grpc else {"binary_data": datatype in ("FP16", "BYTES")}
    got = client.infer(f"same-{datatype}", [given(array, datatype, "x", **how)]).as_numpy("y")
    answers["types"][datatype] = [
        item.decode() if isinstance(item, bytes) else item for item in got.ravel().tolist()
    ]

answers["refused"] = {
    "model": refusal(lambda: client.infer("smal", [given(images)])),
    "version": refusal(lambda: client.infer("small", [given(images)], model_version="9")),
    "output": refusal(
        lambda: client.infer(
            "small", [given(images)], outputs=[triton.InferRequestedOutput("conv2")]
        )
    ),
    "shape": refusal(lambda: client.infer("small", [given(images[:, :5])])),
    "datatype": refusal(lambda: client.infer("small", [given(images.astype("f8"), "FP64")])),
    "unload": refusal(lambda: client.unload_model("nobody")),
}

if over_grpc:
    came: queue.Queue[Any] = queue.Queue()
    client.start_stream(lambda result, error: came.put((result, error)))
    for number in range(20):
        name = "small" if number != 7 else "smal"
        client.async_stream_infer(name, [given(images[:1])], request_id=str(number))
    pairs = [came.get(timeout=30) for _ in range(20)]
    client.stop_stream()
    answers["stream"] = [
        result.get_response().id if error is None else str(error.message())
        for result, error in pairs
    ]
    answers["streamed"] = pairs[-1][0].as_numpy("scores").tolist()

client.unload_model("plain")
answers["unloaded"] = client.is_model_ready("plain")
client.load_model("plain")
answers["loaded"] = client.is_model_ready("plain")
answers["statistics"] = client.get_inference_statistics("small", **as_json)

print(json.dumps(answers, default=str))
