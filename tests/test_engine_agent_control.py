"""The control channel without I/O, and the decisions of the agent link one by one."""

from __future__ import annotations

import hashlib

import pytest

from fixtures.agent import edgecase_agent_pb2 as pb
from reference_engine.agent.control import Action, ControlChannel, Over, Send
from reference_engine.agent.rules import AgentRules, Grant, Liveness, Presented
from reference_engine.config import PERMISSION_STREAMS, PERMISSION_TUNNELS, CertificateGrant, Settings, TokenGrant
from reference_engine.tunnel.model import Tunnel, TunnelProperties
from reference_engine.tunnel.refusal import Refusal

RULES = AgentRules()


class Desk:
    """Opens everything but names that begin with `no`."""

    def __init__(self) -> None:
        self.closed: list[str] = []
        self.refused: list[tuple[str, int, str]] = []
        self.accepted: list[str] = []
        self.ended: list[str] = []
        self.count = 0
        self.tunnels: dict[str, Tunnel] = {}

    def open_tunnel(self, wanted: TunnelProperties) -> Tunnel | Refusal:
        if (wanted.name or "").startswith("no"):
            return Refusal(2000, "name", "name: no")
        self.count += 1
        tunnel = Tunnel(f"t{self.count}", TunnelProperties(id=f"t{self.count}", name=wanted.name), "c", "p")
        self.tunnels[tunnel.id] = tunnel
        return tunnel

    def find_tunnel(self, tunnel_id: str) -> Tunnel | None:
        return self.tunnels.get(tunnel_id)

    def close_tunnel(self, tunnel: Tunnel) -> None:
        self.closed.append(tunnel.id)
        del self.tunnels[tunnel.id]

    def stream_accepted(self, stream_id: str) -> None:
        self.accepted.append(stream_id)

    def channel_closed(self, stream_id: str) -> None:
        self.ended.append(stream_id)

    def stream_refused(self, stream_id: str, code: int, message: str) -> None:
        self.refused.append((stream_id, code, message))


def channel(liveness: Liveness | None = None) -> tuple[ControlChannel, Desk]:
    desk = Desk()
    return ControlChannel(desk, RULES, liveness, now=100.0), desk


def opening(request_id: str, name: str = "a") -> pb.Message:
    request = pb.OpenTunnelReq(request_id=request_id)
    request.tunnel_properties.name.value = name
    return pb.Message(open_tunnel_req=request)


def closing(tunnel_id: str) -> pb.Message:
    return pb.Message(close_tunnel_req=pb.CloseTunnelReq(tunnel_id=tunnel_id))


def beat(sequence: int = 0, acknowledgement: int = 0) -> pb.Message:
    return pb.Message(heartbeat=pb.Heartbeat(sequence=sequence, acknowledgement=acknowledgement))


def sent(actions: list[Action]) -> pb.Message:
    (action,) = actions
    assert isinstance(action, Send)
    return action.message


def test_open_and_refuse_echo_the_request_id() -> None:
    core, _ = channel()
    answer = sent(core.receive(opening("r-1"), 100.0)).open_tunnel_rsp
    assert (answer.request_id, answer.tunnel_properties.id.value) == ("r-1", "t1")
    refusal = sent(core.receive(opening("r-2", "nope"), 100.0)).open_tunnel_rsp
    assert (refusal.request_id, refusal.error.code, refusal.error.message.value) == ("r-2", 2000, "name: no")
    assert list(core.tunnels) == ["t1"]


def test_close_tunnel_is_answered_once_and_unknown_ones_not_at_all() -> None:
    core, desk = channel()
    core.receive(opening("r"), 100.0)
    assert sent(core.receive(closing("t1"), 100.0)).close_tunnel_rsp.tunnel_id == "t1"
    assert core.receive(closing("t1"), 100.0) == []
    assert core.receive(closing("other"), 100.0) == []
    assert desk.closed == ["t1"]


def test_a_revoked_tunnel_is_never_mentioned_again() -> None:
    core, desk = channel()
    core.receive(opening("r"), 100.0)
    tunnel = core.tunnels["t1"]
    assert sent(core.revoke(tunnel)).close_tunnel_rsp.tunnel_id == "t1"
    assert core.revoke(tunnel) == []
    assert core.receive(closing("t1"), 100.0) == []
    assert desk.closed == ["t1"]


def test_close_on_purpose_releases_before_it_answers() -> None:
    core, desk = channel()
    core.receive(opening("r"), 100.0)
    answer, over = core.receive(pb.Message(close_control_channel_req=pb.CloseControlChannelReq()), 100.0)
    assert isinstance(answer, Send)
    assert answer.message.HasField("close_control_channel_rsp")
    assert over == Over("closed", "")
    assert desk.closed == ["t1"]
    assert core.receive(opening("late"), 100.0) == []
    assert core.shut_down() == []


def test_shut_down_is_an_unasked_close_rsp() -> None:
    core, _ = channel()
    answer, over = core.shut_down()
    assert isinstance(answer, Send)
    assert answer.message.HasField("close_control_channel_rsp")
    assert over == Over("shutdown", "")


def test_an_agents_refusal_of_a_stream_is_passed_on_and_its_consent_is_silent() -> None:
    core, desk = channel()
    answer = pb.ProxyConnRsp(stream_id="s")
    assert core.receive(pb.Message(proxy_conn_rsp=answer), 100.0) == []
    answer.error.code = 17  # type: ignore[assignment]
    answer.error.message.value = "busy"
    assert core.receive(pb.Message(proxy_conn_rsp=answer), 100.0) == []
    assert desk.refused == [("s", 17, "busy")]


@pytest.mark.parametrize(
    "case",
    [
        "open_control_channel_req",
        "open_control_channel_rsp",
        "close_control_channel_rsp",
        "open_tunnel_rsp",
        "close_tunnel_rsp",
        "proxy_conn_req",
        "proxy_req",
        "proxy_rsp",
        "stream_req",
        "stream_rsp",
        "server_message",
    ],
)
def test_what_an_agent_may_not_send_ends_the_channel(case: str) -> None:
    core, _ = channel()
    message = pb.Message()
    getattr(message, case).SetInParent()
    (over,) = core.receive(message, 100.0)
    assert isinstance(over, Over)
    assert over.cause == "protocol"
    assert case in over.reason


def test_empty_and_later_messages_are_ignored() -> None:
    core, _ = channel()
    assert core.receive(pb.Message(), 100.0) == []
    assert core.receive(pb.Message.FromString(bytes.fromhex("f20100")), 100.0) == []
    assert core.receive(pb.Message(datagram_channel_close=pb.DatagramChannelClose(stream_id="s")), 100.0) == []


def test_heartbeats_are_acknowledged_once_each_and_only_forwards() -> None:
    core, _ = channel(Liveness(1000, 3000))
    for number in (1, 2, 5):
        answer = sent(core.receive(beat(number), 100.0)).heartbeat
        assert (answer.sequence, answer.acknowledgement) == (0, number)
    for stale in (5, 4, 0):
        assert core.receive(beat(stale), 100.0) == []
    assert core.receive(beat(0, 9), 100.0) == []


def test_without_liveness_no_heartbeat_is_answered_and_nothing_expires() -> None:
    core, _ = channel()
    assert core.receive(beat(), 100.0) == []
    assert core.receive(beat(1), 100.0) == []
    assert core.deadline is None
    assert core.expire(1e9) == []


def test_any_frame_moves_the_deadline() -> None:
    core, _ = channel(Liveness(1000, 3000))
    assert core.deadline == 103.0
    assert core.expire(102.9) == []
    core.receive(pb.Message(), 102.5)
    assert core.expire(104.0) == []
    assert core.deadline == 105.5
    assert core.expire(105.5) == [Over("expired", "no frame within the liveness timeout")]
    assert core.lost("later") == []


def test_a_channel_that_is_over_has_no_deadline() -> None:
    core, _ = channel(Liveness(1000, 3000))
    core.shut_down()
    assert core.deadline is None
    assert core.expire(1e9) == []


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (None, 2010),
        ("", 2010),
        ("x", 2020),
        ("1", 2020),
        ("1.4.5.6", 2020),
        ("1.4.5 ", 2020),
        ("v1.4.5", 2020),
        ("1.٤", 2020),
        ("1." + "9" * 40, 2020),
        ("99.0", 2030),
        ("2.0.0", 2030),
        ("0.9.9", 2030),
    ],
)
def test_versions_refused(text: str | None, code: int) -> None:
    refusal = RULES.version(text)
    assert refusal is not None
    assert (refusal.code, refusal.property) == (code, "protocol_version")


@pytest.mark.parametrize("text", ["1.4.5", "1.0", "1.99.0", "1.3.0"])
def test_versions_accepted(text: str) -> None:
    assert RULES.version(text) is None


@pytest.mark.parametrize(
    ("interval", "floor", "timeout"),
    [(1000, 15_000, 15_000), (5000, 15_000, 15_000), (5001, 15_000, 15_003), (300_000, 15_000, 900_000), (10, 1, 30)],
)
def test_liveness_is_three_intervals_within_floor_and_ceiling(interval: int, floor: int, timeout: int) -> None:
    assert RULES.liveness(interval, floor) == Liveness(interval, timeout)


def test_liveness_is_not_offered_unasked_and_not_beyond_the_longest() -> None:
    assert RULES.liveness(None, 1) is None
    assert RULES.liveness(0, 1) is None
    assert RULES.liveness(900_000, 1) == Liveness(900_000, 900_000)
    assert isinstance(RULES.liveness(900_001, 1), Refusal)


CERTIFICATE = b"der"
CLOSED = Settings(
    tokens=(TokenGrant("tok", "p", (PERMISSION_TUNNELS,)),),
    agent_certificates=(CertificateGrant(hashlib.sha256(CERTIFICATE).hexdigest(), "q"),),
)


@pytest.mark.parametrize(
    "shown",
    [
        Presented(),
        Presented("wrong"),
        Presented("to"),
        Presented(certificate=b"other"),
        Presented("tok", CERTIFICATE),
        Presented("wrong", CERTIFICATE),
    ],
    ids=["none", "wrong", "prefix", "unknown-certificate", "both", "both-wrong"],
)
def test_credentials_refused(shown: Presented) -> None:
    refusal = RULES.credentials(shown, CLOSED)
    assert isinstance(refusal, Refusal)
    assert refusal.code == 1000
    assert "tok" not in refusal.message.replace("a token", "")


def test_credentials_accepted() -> None:
    assert RULES.credentials(Presented("tok"), CLOSED) == Grant("p", (PERMISSION_TUNNELS,))
    by_certificate = RULES.credentials(Presented(certificate=CERTIFICATE), CLOSED)
    assert isinstance(by_certificate, Grant)
    assert by_certificate.project == "q"


def test_open_mode_takes_everybody_but_not_two_proofs() -> None:
    assert RULES.credentials(Presented(), Settings()) == Grant("default")
    assert RULES.credentials(Presented("anything"), Settings()) == Grant("default")
    assert isinstance(RULES.credentials(Presented("a", b"b"), Settings()), Refusal)


def test_permissions() -> None:
    grant = Grant("p", (PERMISSION_TUNNELS,))
    assert RULES.permits(grant, PERMISSION_TUNNELS) is None
    refusal = RULES.permits(grant, PERMISSION_STREAMS)
    assert refusal is not None
    assert refusal.code == 1000


@pytest.mark.parametrize(
    ("secret", "taken", "token", "code"),
    [
        (None, False, None, 4000),
        (None, False, "s", 4000),
        ("s", False, None, 1000),
        ("s", False, "S", 1000),
        ("s", True, "x", 1000),
        ("s", True, "s", 4000),
    ],
)
def test_proxy_requests_refused(secret: str | None, taken: bool, token: str | None, code: int) -> None:
    refusal = RULES.proxy_request(secret=secret, taken=taken, token=token)
    assert refusal is not None
    assert refusal.code == code


def test_the_first_valid_proxy_request_gets_the_stream() -> None:
    assert RULES.proxy_request(secret="s", taken=False, token="s") is None


def test_ids_are_24_lower_case_hex_digits() -> None:
    ids = {RULES.new_id() for _ in range(100)}
    assert len(ids) == 100
    assert all(len(one) == 24 and set(one) <= set("0123456789abcdef") for one in ids)


@pytest.mark.parametrize(
    ("expired", "silent", "lease", "hold"),
    [(False, 1000.0, 0, 14_000.0), (False, 20_000.0, 0, 0.0), (True, 15_000.0, 0, 0.0), (True, 15_000.0, 7, 7.0)],
)
def test_lease(expired: bool, silent: float, lease: int, hold: float) -> None:
    assert RULES.lease_ms(expired=expired, silent_ms=silent, timeout_ms=15_000, lease_ms=lease) == hold
