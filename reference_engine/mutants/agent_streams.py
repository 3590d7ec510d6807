"""Mutants of the streams that an engine asks for, and of the ends that they carry on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fixtures.agent import edgecase_agent_pb2 as pb
from reference_engine.agent.framing import FrameReader
from reference_engine.mutants.registry import Reached, mutant, swap
from reference_engine.parts import Parts
from reference_engine.relay.stream import ByteStream
from reference_engine.tunnel.refusal import Refusal

LISTED_CODES = frozenset(int(code) for code in pb.ErrorCode.values())


# -- identifiers and secrets ----------------------------------------------------------------------------------------


@mutant("agent-ids-upper-case", ("AGENT-056",), "writes stream ids in upper-case letters")
def _(parts: Parts, reached: Reached) -> None:
    def broken(original: Any) -> str:
        reached()
        return str(original()).upper()

    swap(parts.agent, "new_id", broken)


@mutant("agent-ids-short", ("AGENT-056",), "makes stream ids of four octets")
def _(parts: Parts, reached: Reached) -> None:
    def broken(original: Any) -> str:
        reached()
        return str(original())[:8]

    swap(parts.agent, "new_id", broken)


@mutant("agent-one-secret", ("AGENT-057", "AGENT-059"), "has one secret for all streams")
def _(parts: Parts, reached: Reached) -> None:
    def broken(original: Any) -> str:
        reached()
        return "the-secret-of-this-engine"

    swap(parts.agent, "new_secret", broken)


def _secrets(parts: Parts, reached: Reached, accepts: Any) -> None:
    def broken(original: Any, secret: str, token: str | None) -> bool:
        if original(secret, token):
            return True
        if not accepts(secret, token):
            return False
        reached()
        return True

    swap(parts.agent, "secret_matches", broken)


@mutant("agent-secret-ignored", ("AGENT-059",), "gives a stream to whoever knows its id")
def _(parts: Parts, reached: Reached) -> None:
    _secrets(parts, reached, lambda secret, token: True)


@mutant("agent-secret-optional", ("AGENT-059",), "looks at a secret only where one is shown")
def _(parts: Parts, reached: Reached) -> None:
    _secrets(parts, reached, lambda secret, token: not token)


@mutant("agent-secret-by-prefix", ("AGENT-059",), "compares a secret only as far as its own goes")
def _(parts: Parts, reached: Reached) -> None:
    _secrets(parts, reached, lambda secret, token: token is not None and token.startswith(secret))


@mutant("agent-secret-of-any-stream", ("AGENT-059",), "takes the secret of any stream that was ever asked for")
def _(parts: Parts, reached: Reached) -> None:
    issued: set[str] = set()

    def new(original: Any) -> str:
        secret: str = original()
        issued.add(secret)
        return secret

    swap(parts.agent, "new_secret", new)
    _secrets(parts, reached, lambda secret, token: token in issued)


@mutant("agent-secret-or-token", ("AGENT-059",), "takes the agent's own token for the secret of its streams")
def _(parts: Parts, reached: Reached) -> None:
    tokens: set[str] = set()

    def admits(original: Any, shown: Any, settings: Any) -> Any:
        tokens.update(row.token for row in settings.tokens)
        return original(shown, settings)

    swap(parts.agent, "admit_agent", admits)
    _secrets(parts, reached, lambda secret, token: token in tokens)


# -- claims ---------------------------------------------------------------------------------------------------------


@mutant("agent-claims-in-order", ("AGENT-058",), "joins claims to streams in the order in which they come")
def _(parts: Parts, reached: Reached) -> None:
    def broken(original: Any, stream_id: str, offered: Mapping[str, Any]) -> Any:
        meant = original(stream_id, offered)
        first = next((row for row in offered.values() if not row.taken), None)
        if meant is None or first is None or first is meant:
            return meant
        reached()
        # Each keeps its secret: only the connection goes astray.
        meant.secret, first.secret = first.secret, meant.secret
        return first

    swap(parts.agent, "claimed", broken)


@mutant("agent-claims-by-secret", ("AGENT-061",), "finds a stream by its secret where it does not know the id")
def _(parts: Parts, reached: Reached) -> None:
    def broken(original: Any, stream_id: str, offered: Mapping[str, Any]) -> Any:
        meant = original(stream_id, offered)
        open_ones = [row for row in offered.values() if not row.taken]
        if meant is not None or len(open_ones) != 1:
            return meant
        reached()
        return open_ones[0]

    swap(parts.agent, "claimed", broken)


@mutant("agent-claims-twice", ("AGENT-067",), "takes a second claim for a good one")
def _(parts: Parts, reached: Reached) -> None:
    def broken(original: Any, *, secret: str | None, taken: bool, token: str | None) -> Refusal | None:
        if taken:
            reached()
        return original(secret=secret, taken=False, token=token)  # type: ignore[no-any-return]

    swap(parts.agent, "proxy_request", broken)


@mutant("agent-claims-late", ("AGENT-068",), "joins a claim that comes too late to whoever waits")
def _(parts: Parts, reached: Reached) -> None:
    issued: set[str] = set()

    def new(original: Any) -> str:
        secret: str = original()
        issued.add(secret)
        return secret

    def finds(original: Any, stream_id: str, offered: Mapping[str, Any]) -> Any:
        meant = original(stream_id, offered)
        if meant is not None:
            return meant
        return next((row for row in offered.values() if not row.taken), None)

    def accepts(original: Any, *, secret: str | None, taken: bool, token: str | None) -> Refusal | None:
        refusal: Refusal | None = original(secret=secret, taken=taken, token=token)
        if refusal is None or secret is None or taken or token not in issued:
            return refusal
        reached()
        return None

    swap(parts.agent, "new_secret", new)
    swap(parts.agent, "claimed", finds)
    swap(parts.agent, "proxy_request", accepts)


# -- zero_rtt -------------------------------------------------------------------------------------------------------


def _answers(parts: Parts, reached: Reached, change: Any) -> None:
    """`change(zero_rtt, refused)` says instead of the rule whether there is an answer; None leaves it to the rule."""

    def broken(original: Any, zero_rtt: bool | None, *, refused: bool) -> bool:
        due: bool = original(zero_rtt, refused=refused)
        changed: bool | None = change(zero_rtt, refused)
        if changed is None or changed == due:
            return due
        reached()
        return changed

    swap(parts.agent, "answers_first_frame", broken)


@mutant("agent-answers-refusals", ("AGENT-062", "AGENT-082"), "tells a refusal also where zero_rtt leaves no answer")
def _(parts: Parts, reached: Reached) -> None:
    _answers(parts, reached, lambda zero_rtt, refused: True if refused else None)


@mutant("agent-refuses-silently", ("AGENT-082",), "just closes where it refuses a claim or a dial")
def _(parts: Parts, reached: Reached) -> None:
    _answers(parts, reached, lambda zero_rtt, refused: False if refused else None)


@mutant("agent-never-answers", ("AGENT-064", "AGENT-081"), "sends no answer in front of a stream")
def _(parts: Parts, reached: Reached) -> None:
    _answers(parts, reached, lambda zero_rtt, refused: None if refused else False)


@mutant("agent-zero-rtt-by-default", ("AGENT-064", "AGENT-081"), "takes zero_rtt for true where it is absent")
def _(parts: Parts, reached: Reached) -> None:
    _answers(parts, reached, lambda zero_rtt, refused: False if zero_rtt is None else None)


@mutant("agent-answers-early-octets", ("AGENT-062", "AGENT-063"), "answers a claim behind which octets came already")
def _(parts: Parts, reached: Reached) -> None:
    early: list[bool] = []

    class Reader(FrameReader):
        def next(self) -> pb.Message | None:
            message = super().next()
            if message is not None and message.WhichOneof("payload") == "proxy_req":
                early[:] = [bool(self._buffer)]
            return message

    def broken(_: Any) -> FrameReader:
        return Reader()

    def answers(original: Any, zero_rtt: bool | None, *, refused: bool) -> bool:
        # Between the frame and its answer no other connection gets a turn.
        if refused or not zero_rtt or early != [True]:
            return original(zero_rtt, refused=refused)  # type: ignore[no-any-return]
        reached()
        early.clear()
        return True

    swap(parts.agent, "reader", broken)
    swap(parts.agent, "answers_first_frame", answers)


@mutant("agent-early-octets-lost", ("AGENT-063", "AGENT-080", "EDGE-029"), "loses octets behind a first frame")
def _(parts: Parts, reached: Reached) -> None:
    class Reader(FrameReader):
        def rest(self) -> bytes:
            if super().rest():
                reached()
            return b""

    def broken(_: Any) -> FrameReader:
        return Reader()

    swap(parts.agent, "reader", broken)


@mutant(
    "agent-early-octets-twice", ("AGENT-063", "AGENT-080", "EDGE-029"), "hands on octets behind a first frame twice"
)
def _(parts: Parts, reached: Reached) -> None:
    class Reader(FrameReader):
        def rest(self) -> bytes:
            rest = super().rest()
            if rest:
                reached()
            return rest + rest

    def broken(_: Any) -> FrameReader:
        return Reader()

    swap(parts.agent, "reader", broken)


# -- what agents say of streams ---------------------------------------------------------------------------------------


@mutant("agent-refusal-by-number", ("AGENT-069",), "takes an error for a refusal only if it knows its number")
def _(parts: Parts, reached: Reached) -> None:
    def broken(original: Any, answer: pb.ProxyConnRsp) -> bool:
        if not original(answer) or int(answer.error.code) in LISTED_CODES:
            return original(answer)  # type: ignore[no-any-return]
        reached()
        return False

    swap(parts.agent, "is_refusal", broken)


@mutant("agent-refusal-ends-channel", ("AGENT-069",), "ends the channel of an agent that refuses a stream")
def _(parts: Parts, reached: Reached) -> None:
    def broken(original: Any, message: pb.Message) -> bool:
        if not message.proxy_conn_rsp.HasField("error"):
            return original(message)  # type: ignore[no-any-return]
        reached()
        return False

    swap(parts.agent, "belongs_on_control_channel", broken)


@mutant("agent-refusal-by-anybody", ("AGENT-071",), "lets any agent refuse any stream")
def _(parts: Parts, reached: Reached) -> None:
    def broken(_: Any, *, own: bool) -> bool:
        if not own:
            reached()
        return True

    swap(parts.agent, "may_refuse", broken)


@mutant("agent-success-is-refusal", ("AGENT-070",), "gives a stream up when its agent confirms it before the claim")
def _(parts: Parts, reached: Reached) -> None:
    taken: set[str] = set()

    def claims(original: Any, stream_id: str, offered: Mapping[str, Any]) -> Any:
        taken.add(stream_id)
        return original(stream_id, offered)

    def broken(original: Any, answer: pb.ProxyConnRsp) -> bool:
        if original(answer) or answer.stream_id in taken:
            return original(answer)  # type: ignore[no-any-return]
        reached()
        return True

    swap(parts.agent, "claimed", claims)
    swap(parts.agent, "is_refusal", broken)


@mutant("agent-no-cap", ("AGENT-072",), "asks an agent for as many streams as clients come")
def _(parts: Parts, reached: Reached) -> None:
    def broken(original: Any, outstanding: int, limit: int) -> bool:
        if not original(outstanding, limit):
            reached()
        return True

    swap(parts.agent, "may_ask", broken)


@mutant("agent-cap-of-one-more", ("AGENT-072",), "asks for one stream more than an agent may have outstanding")
def _(parts: Parts, reached: Reached) -> None:
    def broken(original: Any, outstanding: int, limit: int) -> bool:
        if outstanding == limit:
            reached()
        return original(outstanding, limit + 1)  # type: ignore[no-any-return]

    swap(parts.agent, "may_ask", broken)


@mutant("agent-source-reversed", ("AGENT-073",), "writes the octets of source_ip in the wrong order")
def _(parts: Parts, reached: Reached) -> None:
    def broken(original: Any, message: pb.Message) -> bytes:
        if message.proxy_conn_req.source_ip.WhichOneof("addr") == "v4":
            reached()
            address = message.proxy_conn_req.source_ip
            address.v4 = int.from_bytes(address.v4.to_bytes(4, "big"), "little")
        return original(message)  # type: ignore[no-any-return]

    swap(parts.agent, "encode", broken)


# -- the ends of a stream -------------------------------------------------------------------------------------------


@mutant(
    "agent-end-stays",
    ("AGENT-075", "AGENT-077", "AGENT-085", "PRIV-005"),
    "keeps the end of one direction to itself",
)
def _(parts: Parts, reached: Reached) -> None:
    async def broken(original: Any, sink: ByteStream) -> None:
        reached()

    swap(parts.relay, "pass_end", broken)


@mutant("agent-end-ends-both", ("PRIV-005", "AGENT-076"), "ends both directions with the first one that ends")
def _(parts: Parts, reached: Reached) -> None:
    async def broken(original: Any, sink: ByteStream) -> None:
        reached()
        await original(sink)
        sink.abort("the other direction has ended")

    swap(parts.relay, "pass_end", broken)
