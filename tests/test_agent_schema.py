"""The wire schema: generated code is current, numbers are the protocol's, and it lives beside the SDK's."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from fixtures.agent import edgecase_agent_pb2 as pb

ROOT = Path(__file__).resolve().parent.parent
SOURCE = "fixtures/agent/edgecase_agent.proto"


def test_generated_code_is_current(tmp_path: Path) -> None:
    """`protoc` over the committed schema writes exactly the committed modules."""
    plugin = Path(sys.executable).parent / "protoc-gen-mypy"
    subprocess.run(
        [
            sys.executable,
            "-m",
            "grpc_tools.protoc",
            f"-I{ROOT}",
            f"--plugin=protoc-gen-mypy={plugin}",
            f"--python_out={tmp_path}",
            f"--mypy_out=quiet:{tmp_path}",
            str(ROOT / SOURCE),
        ],
        check=True,
        timeout=60,
    )
    for name in ("edgecase_agent_pb2.py", "edgecase_agent_pb2.pyi"):
        made = (tmp_path / "fixtures" / "agent" / name).read_text()
        kept = (ROOT / "fixtures" / "agent" / name).read_text()
        assert made == kept, f"fixtures/agent/{name} is older than {SOURCE}: generate it again"


def shape(field: FieldDescriptor) -> tuple[object, ...]:
    """What decides a field's form on the wire."""
    oneof = field.containing_oneof.name if field.containing_oneof is not None else None
    inner = field.message_type.name if field.message_type is not None else None
    return field.name, field.type, field.is_repeated, oneof, inner


def fields(message: Descriptor) -> dict[int, tuple[object, ...]]:
    return {field.number: shape(field) for field in message.fields}


def test_numbers_and_types_are_those_of_the_sdk() -> None:
    """Both schemas are loaded in one process, and agree field by field."""
    theirs = pytest.importorskip("rstream._proto.rstream_pb2")
    assert theirs.DESCRIPTOR.package != pb.DESCRIPTOR.package
    ours = pb.DESCRIPTOR.message_types_by_name
    other = theirs.DESCRIPTOR.message_types_by_name
    assert set(ours) == set(other)
    for name, message in ours.items():
        assert fields(message) == fields(other[name]), name
        for nested in message.nested_types:
            assert fields(nested) == fields(other[name].nested_types_by_name[nested.name]), f"{name}.{nested.name}"
    codes = {value.name: value.number for value in pb.ErrorCode.DESCRIPTOR.values}
    assert codes == {value.name: value.number for value in theirs.ErrorCode.DESCRIPTOR.values}


def test_bytes_of_one_are_read_by_the_other() -> None:
    theirs = pytest.importorskip("rstream._proto.rstream_pb2")
    ours = pb.Message()
    ours.open_tunnel_req.request_id = "r"
    ours.open_tunnel_req.tunnel_properties.publish.value = False
    ours.open_tunnel_req.tunnel_properties.labels["k"] = "v"
    read = theirs.Message.FromString(ours.SerializeToString())
    assert read.open_tunnel_req.tunnel_properties.HasField("publish")
    assert dict(read.open_tunnel_req.tunnel_properties.labels) == {"k": "v"}
    assert pb.Message.FromString(read.SerializeToString()) == ours


def test_schema_carries_no_options() -> None:
    """No option extension: nothing of the protocol depends on them, and two registrations of one would clash."""
    text = (ROOT / SOURCE).read_text()
    assert "option " not in text
    assert "extend " not in text
