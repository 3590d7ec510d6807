"""The agent protocol on the wire, without I/O: frames in and out, messages that are legal unless told otherwise.

A frame is a length of 4 octets, big-endian, and one `Message` of at most 65535 octets. A builder gives a legal
message; `encode` turns it into octets and breaks exactly what its one keyword names.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
import re
from typing import Any

from google.protobuf import text_format, timestamp_pb2
from google.protobuf.message import DecodeError

from fixtures.agent import edgecase_agent_pb2 as pb
from harness.model.spec import TunnelSpec

MAX_FRAME = 65535
"""Octets of one message, in both directions."""
ALPN = "rstrm/1"
PROTOCOL_VERSION = "1.4.5"
"""The newest published schema version, which an agent of ours announces."""
_PREFIX = 4
_UNKNOWN_FIELD = 1000
_LENGTH_DELIMITED = 2
_DETAIL_LIMIT = 400


class FrameError(Exception):
    """The other side's octets are no frame of the protocol; the text says why."""


class FrameReader:
    """Cuts a byte stream into frames. Keeps at most what `feed` was given and one frame."""

    def __init__(self, limit: int = MAX_FRAME) -> None:
        self._limit = limit
        self._buffer = bytearray()

    def feed(self, data: bytes) -> None:
        """Take octets that arrived."""
        self._buffer += data

    def next(self) -> bytes | None:
        """The payload of the next whole frame, or `None`. Raises `FrameError` when its length is above the limit."""
        if len(self._buffer) < _PREFIX:
            return None
        length = int.from_bytes(self._buffer[:_PREFIX], "big")
        if length > self._limit:
            raise FrameError(f"a frame of {length} octets, above {self._limit}")
        if len(self._buffer) < _PREFIX + length:
            return None
        payload = bytes(self._buffer[_PREFIX : _PREFIX + length])
        del self._buffer[: _PREFIX + length]
        return payload

    def rest(self) -> bytes:
        """What follows the frames that were taken: the first octets of the stream behind a handshake. Empties it."""
        data = bytes(self._buffer)
        self._buffer.clear()
        return data

    @property
    def partial(self) -> int:
        """Octets that wait for the rest of their frame."""
        return len(self._buffer)


def decode(payload: bytes) -> pb.Message:
    """The message in one frame. Raises `FrameError`."""
    try:
        return pb.Message.FromString(payload)
    except DecodeError as error:
        raise FrameError(f"a frame of {len(payload)} octets that is no message") from error


def kind(message: pb.Message) -> str:
    """The payload case (`open_tunnel_rsp`), or `empty`."""
    return message.WhichOneof("payload") or "empty"


def frame(payload: bytes, *, length: int | None = None) -> bytes:
    """`payload` behind its length; `length` lies about it."""
    return (len(payload) if length is None else length).to_bytes(_PREFIX, "big") + payload


def encode(
    message: pb.Message,
    *,
    length: int | None = None,
    keep: int | None = None,
    pad_to: int | None = None,
    unknown_field: bool = False,
) -> bytes:
    """One frame. `length` announces another size, `keep` sends only the first octets of the frame, `pad_to` makes the
    message that many octets long with a field that nobody knows (65536 is one too many), `unknown_field` adds a short
    such field, which a receiver skips."""
    payload = message.SerializeToString()
    if unknown_field:
        payload += _unknown(b"\x01\x02\x03")
    if pad_to is not None:
        payload += _padding(pad_to - len(payload))
    data = frame(payload, length=length)
    return data if keep is None else data[:keep]


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _unknown(body: bytes) -> bytes:
    return _varint(_UNKNOWN_FIELD << 3 | _LENGTH_DELIMITED) + _varint(len(body)) + body


def _padding(size: int) -> bytes:
    """Unknown fields of exactly `size` octets: one, or two where the length of the length leaves a gap."""
    empty = _unknown(b"")
    if size < len(empty):
        raise ValueError(f"no field is {size} octets long")
    for body in range(max(0, size - 8), size):
        field = _unknown(bytes(body))
        if len(field) == size:
            return field
    return empty + _padding(size - len(empty))


# messages of an agent or dialer


def client_details(*, token: str | None = None, version: str | None = PROTOCOL_VERSION) -> pb.ClientDetails:
    """Who we are. `version=None` leaves the protocol version out, `""` sends an empty one."""
    details = pb.ClientDetails()
    details.agent.value = "edgecase"
    details.channel.value = "conformance"
    if token is not None:
        details.token.value = token
    if version is not None:
        details.protocol_version.value = version
    return details


def open_control_channel(
    *,
    token: str | None = None,
    version: str | None = PROTOCOL_VERSION,
    interval_ms: int | None = None,
    timeout_ms: int | None = None,
) -> pb.Message:
    """The first frame of a control channel; `interval_ms` asks for liveness. An agent never sets `timeout_ms`."""
    message = pb.Message()
    request = message.open_control_channel_req
    request.client_details.CopyFrom(client_details(token=token, version=version))
    if interval_ms is not None:
        request.liveness.heartbeat_interval_ms = interval_ms
    if timeout_ms is not None:
        request.liveness.heartbeat_timeout_ms = timeout_ms
    return message


def close_control_channel() -> pb.Message:
    """The agent says goodbye."""
    message = pb.Message()
    message.close_control_channel_req.SetInParent()
    return message


def open_tunnel(request_id: str, properties: pb.TunnelProperties) -> pb.Message:
    """A request for one tunnel."""
    message = pb.Message()
    message.open_tunnel_req.request_id = request_id
    message.open_tunnel_req.tunnel_properties.CopyFrom(properties)
    return message


def close_tunnel(tunnel_id: str) -> pb.Message:
    """A request to close one tunnel."""
    message = pb.Message()
    message.close_tunnel_req.tunnel_id = tunnel_id
    return message


def proxy_conn_rsp(stream_id: str, *, code: int | None = None, text: str = "") -> pb.Message:
    """The answer to a ProxyConnReq on the control channel; with `code` a refusal."""
    message = pb.Message()
    message.proxy_conn_rsp.stream_id = stream_id
    if code is not None:
        _set_error(message.proxy_conn_rsp.error, code, text)
    return message


def proxy_req(
    stream_id: str,
    *,
    secret: str | None = None,
    zero_rtt: bool | None = None,
    version: str | None = PROTOCOL_VERSION,
) -> pb.Message:
    """The first frame of a data stream; `secret` is the one of its ProxyConnReq. `zero_rtt=None` leaves it out."""
    message = pb.Message()
    request = message.proxy_req
    request.client_details.CopyFrom(client_details(token=secret, version=version))
    request.stream_id = stream_id
    if zero_rtt is not None:
        request.zero_rtt.value = zero_rtt
    return message


def stream_req(
    tunnel: str,
    *,
    token: str | None = None,
    zero_rtt: bool | None = None,
    datagram_channel: bool | None = None,
    version: str | None = PROTOCOL_VERSION,
) -> pb.Message:
    """The first frame of a connection that dials `tunnel`, an id or a name."""
    message = pb.Message()
    request = message.stream_req
    request.client_details.CopyFrom(client_details(token=token, version=version))
    request.tunnel_id_name = tunnel
    if zero_rtt is not None:
        request.zero_rtt.value = zero_rtt
    if datagram_channel is not None:
        request.datagram_channel.value = datagram_channel
    return message


def heartbeat(sequence: int = 0, acknowledgement: int = 0) -> pb.Message:
    """A heartbeat; without arguments the empty one of a channel without liveness."""
    message = pb.Message()
    message.heartbeat.SetInParent()
    message.heartbeat.sequence = sequence
    message.heartbeat.acknowledgement = acknowledgement
    return message


def datagram_channel_close(stream_id: str, *, code: int | None = None, text: str = "") -> pb.Message:
    """The end of one datagram channel."""
    message = pb.Message()
    message.datagram_channel_close.stream_id = stream_id
    if code is not None:
        _set_error(message.datagram_channel_close.error, code, text)
    return message


def _set_error(error: pb.Error, code: int, text: str) -> None:
    # The enum is open: an agent of another make sends numbers that nobody listed.
    error.code = code  # type: ignore[assignment]
    error.message.value = text


# reading


def error_of(message: pb.Message) -> pb.Error | None:
    """The error that a reply carries, or `None`."""
    name = message.WhichOneof("payload")
    reply: Any = getattr(message, name) if name else message
    if "error" not in reply.DESCRIPTOR.fields_by_name:
        return None
    return reply.error if reply.HasField("error") else None


def describe_error(error: pb.Error) -> str:
    """`error 3000: tunnel not found`."""
    return f"error {int(error.code)}: {error.message.value or '(no text)'}"


def address_text(address: pb.IpAddress) -> str | None:
    """An IpAddress in its usual notation; `None` where it is absent or no address."""
    form = address.WhichOneof("addr")
    if form == "v4":
        return str(ipaddress.IPv4Address(address.v4))
    if form == "v6" and len(address.v6) == 16:
        return str(ipaddress.IPv6Address(address.v6))
    return None


def redacted(message: pb.Message) -> pb.Message:
    """The message with an agent's own token blanked out, at the same length. The secret of one stream stays: it is
    worth nothing afterwards, and evidence."""
    name = message.WhichOneof("payload")
    if name not in ("open_control_channel_req", "stream_req"):
        return message
    copy = pb.Message()
    copy.CopyFrom(message)
    request: Any = getattr(copy, name)
    details = request.client_details
    if details.HasField("token"):
        details.token.value = "*" * len(details.token.value)
    return copy


def describe(message: pb.Message) -> str:
    """One line for the transcript, without tokens."""
    name = message.WhichOneof("payload")
    if name is None:
        return ""
    text = text_format.MessageToString(getattr(redacted(message), name), as_one_line=True, as_utf8=True)
    text = re.sub(r'(\w+) { value: ("(?:[^"\\]|\\.)*"|\S+) }', r"\1: \2", text).strip()
    return text if len(text) <= _DETAIL_LIMIT else text[: _DETAIL_LIMIT - 3] + "..."


# properties


def to_properties(spec: TunnelSpec) -> pb.TunnelProperties:
    """The properties that `spec` asks for. Raises `ValueError` for a number that the field cannot hold."""
    properties = pb.TunnelProperties()
    for name, value in spec.properties():
        target: Any = getattr(properties, name)
        if name == "labels":
            target.update(dict(value))
        elif isinstance(value, tuple):
            target.extend(value)
        else:
            target.value = value
            target.SetInParent()
    return properties


def from_properties(properties: pb.TunnelProperties) -> dict[str, Any]:
    """Name and value of each property that is present: `str`, `bool`, `int`, tuple of `str`, labels as `dict`, the
    creation date as RFC 3339 text."""
    found: dict[str, Any] = {}
    for field, value in properties.ListFields():
        if field.name == "labels":
            found[field.name] = dict(value)
        elif isinstance(value, timestamp_pb2.Timestamp):
            found[field.name] = _timestamp_text(value)
        elif hasattr(value, "value"):
            found[field.name] = value.value
        else:
            found[field.name] = tuple(value)
    return found


def _timestamp_text(value: timestamp_pb2.Timestamp) -> str:
    try:
        return value.ToDatetime(dt.UTC).isoformat()
    except (ValueError, OverflowError):
        return f"{value.seconds} s and {value.nanos} ns, which is no date"


def carries_datagrams(properties: pb.TunnelProperties) -> bool:
    """Whether a tunnel with these properties, as the engine returned them, carries packets: an agent goes by this and
    not by what it asked for (agent protocol, section 4.6)."""
    return to_spec(properties).datagrams


def to_spec(properties: pb.TunnelProperties) -> TunnelSpec:
    """The spec that the present properties spell out; what only an engine or an old agent sets is left out."""
    values = from_properties(properties)
    for name in ("id", "creation_date", "mtls_cacert_pem"):
        values.pop(name, None)
    if "labels" in values:
        values["labels"] = tuple(sorted(values["labels"].items()))
    return TunnelSpec(**values)
