"""Mutants of the agent link: TLS, frames, the first frame, how a channel opens, and credentials."""

from __future__ import annotations

import asyncio
import dataclasses
import re
from typing import Any

from google.protobuf.message import DecodeError, Message
from google.protobuf.unknown_fields import UnknownFieldSet

from fixtures.agent import edgecase_agent_pb2 as pb
from reference_engine.agent.framing import FrameError, FrameReader
from reference_engine.agent.rules import ROLES, VERSION, Grant
from reference_engine.edge.rules import Front, Route
from reference_engine.mutants.registry import Reached, mutant, swap
from reference_engine.parts import Parts
from reference_engine.tls.rules import TLS12
from reference_engine.tunnel.refusal import INVALID_REQUEST, VERSION_INVALID, Refusal

PREFIX = 4
PROBES = 6
"""Connections without a word after which the suspicious engine lets nobody in."""


# -- TLS on the agent link ------------------------------------------------------------------------------------------


@mutant("agent-tls12", ("TRANS-003",), "takes agents over TLS 1.2")
def _(parts: Parts, reached: Reached) -> None:
    def broken(_: Any) -> int:
        reached()
        return TLS12

    swap(parts.agent, "min_version", broken)


@mutant("agent-no-alpn", ("AGENT-001",), "selects no protocol on the agent link")
def _(parts: Parts, reached: Reached) -> None:
    def broken(original: Any, route: Route) -> tuple[str, ...]:
        if route.front is not Front.AGENTS:
            return original(route)  # type: ignore[no-any-return]
        reached()
        return ()

    swap(parts.edge, "alpns", broken)


@mutant("agent-no-certificate-request", ("AGENT-093", "AGENT-094"), "never asks agents for a client certificate")
def _(parts: Parts, reached: Reached) -> None:
    def broken(_: Any) -> bool:
        reached()
        return False

    swap(parts.agent, "requests_certificate", broken)


# -- frames ---------------------------------------------------------------------------------------------------------


class _Reader(FrameReader):
    """A reader whose octets a mutant may look at."""

    def __init__(self, reached: Reached) -> None:
        super().__init__()
        self._reached = reached

    @property
    def held(self) -> bytes:
        return bytes(self._buffer)

    @property
    def announced(self) -> int | None:
        """The length in front, once its four octets are here."""
        return int.from_bytes(self.held[:PREFIX], "big") if len(self._buffer) >= PREFIX else None

    def take(self) -> bytes | None:
        """The next whole frame's octets, whatever its length says."""
        length = self.announced
        if length is None or len(self._buffer) < PREFIX + length:
            return None
        body = self.held[PREFIX : PREFIX + length]
        del self._buffer[: PREFIX + length]
        return body


def _reader(parts: Parts, reached: Reached, kind: type[_Reader]) -> None:
    def broken(_: Any) -> FrameReader:
        return kind(reached)

    swap(parts.agent, "reader", broken)


@mutant("agent-frame-limit-short", ("AGENT-004",), "takes 65535 octets for one too many")
def _(parts: Parts, reached: Reached) -> None:
    class Reader(_Reader):
        def next(self) -> pb.Message | None:
            if self.announced == 65_535:
                self._reached()
                raise FrameError("too long")
            return super().next()

    _reader(parts, reached, Reader)


@mutant("agent-frame-without-limit", ("AGENT-005",), "collects as many octets as a length announces")
def _(parts: Parts, reached: Reached) -> None:
    class Reader(_Reader):
        def next(self) -> pb.Message | None:
            if (self.announced or 0) <= 65_535:
                return super().next()
            self._reached()
            body = self.take()
            return None if body is None else pb.Message.FromString(body)

    _reader(parts, reached, Reader)


@mutant("agent-frame-one-record", ("AGENT-006",), "expects a frame in one record")
def _(parts: Parts, reached: Reached) -> None:
    class Reader(_Reader):
        def next(self) -> pb.Message | None:
            message = super().next()
            if message is None and self._buffer:
                self._reached()
                self._buffer.clear()
            return message

    _reader(parts, reached, Reader)


@mutant("agent-frame-one-per-record", ("AGENT-007",), "reads one frame of a record and drops what stands behind it")
def _(parts: Parts, reached: Reached) -> None:
    class Reader(_Reader):
        def next(self) -> pb.Message | None:
            message = super().next()
            case = None if message is None else message.WhichOneof("payload")
            if case is not None and self._buffer and case not in ("proxy_req", "stream_req"):
                self._reached()
                self._buffer.clear()
            return message

    _reader(parts, reached, Reader)


@mutant("agent-garbage-is-skipped", ("AGENT-008",), "passes over a frame that is no message")
def _(parts: Parts, reached: Reached) -> None:
    class Reader(_Reader):
        def next(self) -> pb.Message | None:
            while (body := self.take() if (self.announced or 0) <= 65_535 else None) is not None:
                try:
                    return pb.Message.FromString(body)
                except DecodeError:
                    self._reached()
            return super().next()

    _reader(parts, reached, Reader)


@mutant("agent-strict-schema", ("AGENT-011",), "refuses messages with fields that it does not know")
def _(parts: Parts, reached: Reached) -> None:
    class Reader(_Reader):
        def next(self) -> pb.Message | None:
            message = super().next()
            if message is not None and message.WhichOneof("payload") and _unknown(message):
                self._reached()
                raise FrameError("unknown fields")
            return message

    _reader(parts, reached, Reader)


def _unknown(message: Message) -> bool:
    """Whether the message, or one in it, has fields of no schema."""
    inside = (value for field, value in message.ListFields() if field.message_type and hasattr(value, "ListFields"))
    return len(UnknownFieldSet(message)) > 0 or any(map(_unknown, inside))


@mutant("agent-empty-message", ("AGENT-009",), "puts a message without payload in front of answers")
def _(parts: Parts, reached: Reached) -> None:
    def broken(original: Any, message: pb.Message) -> bytes:
        data: bytes = original(message)
        if message.WhichOneof("payload") != "open_tunnel_rsp":
            return data
        reached()
        return bytes(PREFIX) + data

    swap(parts.agent, "encode", broken)


@mutant("agent-little-endian", ("AGENT-003",), "writes the length of long frames least significant octet first")
def _(parts: Parts, reached: Reached) -> None:
    def broken(original: Any, message: pb.Message) -> bytes:
        data: bytes = original(message)
        if len(data) < PREFIX + 256:
            return data
        reached()
        return data[:PREFIX][::-1] + data[PREFIX:]

    swap(parts.agent, "encode", broken)


# -- the first frame ------------------------------------------------------------------------------------------------


@mutant("agent-no-dialling", ("AGENT-013",), "has no use for a stream_req as first frame")
def _(parts: Parts, reached: Reached) -> None:
    def broken(original: Any, message: pb.Message) -> str | None:
        role: str | None = original(message)
        if role != "dial":
            return role
        reached()
        return None

    swap(parts.agent, "role", broken)


@mutant("agent-waits-for-a-first-frame", ("AGENT-014",), "passes over first frames that open nothing")
def _(parts: Parts, reached: Reached) -> None:
    class Reader(_Reader):
        opened = False

        def next(self) -> pb.Message | None:
            while (message := super().next()) is not None:
                if self.opened or message.WhichOneof("payload") in ROLES:
                    self.opened = True
                    return message
                self._reached()
            return None

    _reader(parts, reached, Reader)


@mutant("agent-suspects-probes", ("AGENT-015",), "takes connections without a word for an attack, and shuts the door")
def _(parts: Parts, reached: Reached) -> None:
    silent: set[object] = set()

    class Reader(_Reader):
        def __init__(self, reached: Reached) -> None:
            super().__init__(reached)
            silent.add(self)

        def next(self) -> pb.Message | None:
            message = super().next()
            if message is not None:
                silent.discard(self)
            return message

    def admits(original: Any, *arguments: Any) -> Grant | Refusal:
        if len(silent) < PROBES:
            return original(*arguments)  # type: ignore[no-any-return]
        reached()
        return Refusal(INVALID_REQUEST, "", "too many connections without a word")

    _reader(parts, reached, Reader)
    swap(parts.agent, "admit_agent", admits)


@mutant("agent-first-deadline-stays", ("AGENT-016",), "leaves the deadline of the first frame over an open channel")
def _(parts: Parts, reached: Reached) -> None:
    limits: list[float] = []

    class Reader(_Reader):
        def __init__(self, reached: Reached) -> None:
            super().__init__(reached)
            self._started = asyncio.get_running_loop().time()

        def next(self) -> pb.Message | None:
            message = super().next()
            if message is None or asyncio.get_running_loop().time() < self._started + limits[0]:
                return message
            self._reached()
            raise FrameError("too late")

    def seconds(original: Any, settings: Any) -> float:
        limits.append(original(settings))
        return limits[0]

    _reader(parts, reached, Reader)
    swap(parts.agent, "first_frame_seconds", seconds)


# -- opening a channel ----------------------------------------------------------------------------------------------


@mutant("agent-answers-twice", ("AGENT-017",), "sends the answer to an opening twice")
def _(parts: Parts, reached: Reached) -> None:
    def broken(original: Any, message: pb.Message) -> bytes:
        data: bytes = original(message)
        if not message.open_control_channel_rsp.HasField("ok"):
            return data
        reached()
        return data + data

    swap(parts.agent, "encode", broken)


@mutant("agent-no-server-details", ("AGENT-019",), "leaves server_details out")
def _(parts: Parts, reached: Reached) -> None:
    def broken(original: Any, message: pb.Message) -> bytes:
        if message.open_control_channel_rsp.HasField("ok"):
            reached()
            message.open_control_channel_rsp.ok.ClearField("server_details")
        return original(message)  # type: ignore[no-any-return]

    swap(parts.agent, "encode", broken)


@mutant("agent-version-optional", ("AGENT-020",), "takes an agent that names no protocol version")
def _(parts: Parts, reached: Reached) -> None:
    def broken(original: Any, text: str | None) -> Refusal | None:
        if text:
            return original(text)  # type: ignore[no-any-return]
        reached()
        return None

    swap(parts.agent, "version", broken)


@mutant("agent-version-by-digits", ("AGENT-020",), "looks only for the first digit of a version")
def _(parts: Parts, reached: Reached) -> None:
    def broken(original: Any, text: str | None) -> Refusal | None:
        refusal: Refusal | None = original(text)
        if refusal is None or (re.search("[0-9]", text or "") or " ")[0] != "1":
            return refusal
        reached()
        return None

    swap(parts.agent, "version", broken)


@mutant("agent-one-version-error", ("AGENT-021", "VAL-030"), "has one error for every bad version")
def _(parts: Parts, reached: Reached) -> None:
    def broken(original: Any, text: str | None) -> Refusal | None:
        refusal: Refusal | None = original(text)
        if refusal is None or refusal.code == VERSION_INVALID:
            return refusal
        reached()
        return dataclasses.replace(refusal, code=VERSION_INVALID)

    swap(parts.agent, "version", broken)


@mutant("agent-version-exact", ("AGENT-022",), "serves the newest minor version only")
def _(parts: Parts, reached: Reached) -> None:
    def broken(original: Any, text: str | None) -> Refusal | None:
        refusal: Refusal | None = original(text)
        if refusal is not None or (VERSION.fullmatch(text or "") and (text or "").startswith("1.4.5")):
            return refusal
        reached()
        return Refusal(VERSION_INVALID, "protocol_version", "protocol_version: not 1.4.5")

    swap(parts.agent, "version", broken)


@mutant("agent-no-channel-limit", ("AGENT-024",), "never counts its control channels")
def _(parts: Parts, reached: Reached) -> None:
    def broken(original: Any, count: int, limit: int, what: str) -> Refusal | None:
        refusal: Refusal | None = original(count, limit, what)
        if refusal is None or what != "control channels":
            return refusal
        reached()
        return None

    swap(parts.agent, "has_room", broken)


@mutant("agent-full-is-final", ("TRANS-011",), "calls a request invalid where there is only no room for it")
def _(parts: Parts, reached: Reached) -> None:
    def broken(original: Any, count: int, limit: int, what: str) -> Refusal | None:
        refusal: Refusal | None = original(count, limit, what)
        if refusal is None:
            return None
        reached()
        return dataclasses.replace(refusal, code=INVALID_REQUEST)

    swap(parts.agent, "has_room", broken)


@mutant("agent-opens-again", ("AGENT-025",), "answers a second opening on an open channel")
def _(parts: Parts, reached: Reached) -> None:
    again: list[pb.Message] = []

    def belongs(original: Any, message: pb.Message) -> bool:
        if message.WhichOneof("payload") != "open_control_channel_req":
            return original(message)  # type: ignore[no-any-return]
        reached()
        answer = pb.OpenControlChannelRsp()
        answer.ok.client_id = "again"
        again.append(pb.Message(open_control_channel_rsp=answer))
        return True

    def broken(original: Any, message: pb.Message) -> bytes:
        return b"".join(original(again.pop()) for _ in tuple(again)) + original(message)  # type: ignore[no-any-return]

    swap(parts.agent, "belongs_on_control_channel", belongs)
    swap(parts.agent, "encode", broken)
