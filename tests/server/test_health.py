from __future__ import annotations

import threading
import time
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from pyconv.server.background import BackgroundServer
from pyconv.server.settings import Settings
from pyconv.v2 import open_inference_pb2_grpc
from pyconv.v2.open_inference_pb2 import (
    RepositoryModelLoadRequest,
    RepositoryModelUnloadRequest,
)

_CLASSIFIER = "pyconv.v1.Classifier"
_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
_SERVICE_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


def _health(channel: grpc.Channel) -> Any:
    return health_pb2_grpc.HealthStub(channel)


@pytest.mark.parametrize("service", ["", _CLASSIFIER])
def test_check_of_a_service(channel: grpc.Channel, service: str) -> None:
    request = health_pb2.HealthCheckRequest(service=service)
    assert _health(channel).Check(request, timeout=30).status == _SERVING


def test_check_of_an_unknown_service(channel: grpc.Channel) -> None:
    request = health_pb2.HealthCheckRequest(service="no.such.Service")
    with pytest.raises(grpc.RpcError) as caught:
        _health(channel).Check(request, timeout=30)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    assert "no.such.Service" in str(caught.value.details())


def test_list_tells_of_every_service_and_model(channel: grpc.Channel) -> None:
    request = health_pb2.HealthListRequest()  # type: ignore[attr-defined]  # newer than the stubs
    told = _health(channel).List(request, timeout=30).statuses
    names = {"", _CLASSIFIER, "inference.GRPCInferenceService", "small", "plain", "maps"}
    assert {name: each.status for name, each in told.items()} == dict.fromkeys(names, _SERVING)


def test_watchers_hear_of_the_stop_and_do_not_delay_it(settings: Settings) -> None:
    heard: dict[str, list[int]] = {}
    started = threading.Barrier(5)

    def watch(channel: grpc.Channel, key: str, service: str) -> None:
        request = health_pb2.HealthCheckRequest(service=service)
        stream = _health(channel).Watch(request, timeout=30)
        heard[key] = [next(stream).status]
        started.wait(30)
        heard[key].extend(answer.status for answer in stream)

    server = BackgroundServer(settings)
    with grpc.insecure_channel(server.__enter__()) as channel:
        watchers = [
            threading.Thread(target=watch, args=(channel, key, service))
            for key, service in [
                ("all", ""),
                ("first", _CLASSIFIER),
                ("second", _CLASSIFIER),
                ("unknown", "no.such.Service"),
            ]
        ]
        for watcher in watchers:
            watcher.start()
        started.wait(30)
        before = time.monotonic()
        server.__exit__(None, None, None)
        assert time.monotonic() - before < settings.grace_seconds / 2
        for watcher in watchers:
            watcher.join(30)
    assert heard == {
        "all": [_SERVING, _NOT_SERVING],
        "first": [_SERVING, _NOT_SERVING],
        "second": [_SERVING, _NOT_SERVING],
        "unknown": [_SERVICE_UNKNOWN],
    }


def test_reflection_tells_the_whole_protocol(channel: grpc.Channel) -> None:
    stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
    requests = [
        reflection_pb2.ServerReflectionRequest(list_services=""),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol=_CLASSIFIER),
    ]
    listed, described = stub.ServerReflectionInfo(iter(requests), timeout=30)
    assert {service.name for service in listed.list_services_response.service} == {
        _CLASSIFIER,
        "inference.GRPCInferenceService",
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
    }
    file = FileDescriptorProto.FromString(
        described.file_descriptor_response.file_descriptor_proto[0]
    )
    assert [method.name for method in file.service[0].method] == [
        "Classify",
        "ClassifyStream",
        "Activations",
        "ListModels",
        "DescribeModel",
    ]


def test_a_model_is_healthy_while_it_is_loaded(settings: Settings) -> None:
    request = health_pb2.HealthCheckRequest(service="plain")
    with (
        BackgroundServer(settings) as address,
        grpc.insecure_channel(address) as channel,
    ):
        models: Any = open_inference_pb2_grpc.GRPCInferenceServiceStub(channel)
        heard = (answer.status for answer in _health(channel).Watch(request, timeout=30))
        assert _health(channel).Check(request, timeout=30).status == next(heard) == _SERVING
        models.RepositoryModelUnload(RepositoryModelUnloadRequest(model_name="plain"), timeout=30)
        assert _health(channel).Check(request, timeout=30).status == next(heard) == _NOT_SERVING
        models.RepositoryModelLoad(RepositoryModelLoadRequest(model_name="plain"), timeout=30)
        assert _health(channel).Check(request, timeout=30).status == next(heard) == _SERVING
