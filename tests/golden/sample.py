"""The sample: a run of eleven cases' worth of trouble among many that pass, against an engine that does not exist."""

from __future__ import annotations

import hashlib
from dataclasses import replace

from harness.model.event import AGENT, DOWNSTREAM, HARNESS, SAMPLE_OCTETS, UPSTREAM, Event
from harness.model.record import BaselineProblem, CaseResult, EngineInfo, OutcomeRecord, RunRecord
from harness.model.requirement import Requirement
from harness.model.verdict import Outcome, Verdict

ROWS = {
    row.id: row
    for row in (
        Requirement(
            id="TLS-002",
            source="engine documentation",
            file="engine.toml",
            chapter="engine:TLS",
            level="MUST",
            priority=1,
            text="In terminated mode the engine ends TLS at the edge and sends plaintext to the upstream.",
            observable="The upstream reads the client's octets as they were before encryption.",
            marks=("SEED",),
            stated_in="seed page, TLS",
        ),
        Requirement(
            id="ALPN-004",
            source="engine documentation",
            file="engine.toml",
            chapter="engine:ALPN",
            level="MUST",
            priority=1,
            text="Without a protocol in common the handshake ends with the alert no_application_protocol (120).",
            observable="The client reads alert 120; the upstream sees no connection.",
            marks=("SEED",),
            allowed=("alert 120", "connection closed without an alert: recorded"),
            stated_in="seed page, ALPN",
        ),
        Requirement(
            id="HTTP-CONNECT-003",
            source="engine documentation",
            file="engine.toml",
            chapter="engine:HTTP-CONNECT",
            level="MUST",
            priority=1,
            text="Bytes are relayed only after the upstream answered 2xx: nothing that was sent earlier reaches it.",
            observable="The upstream holds its answer past a barrier on both legs and has received no payload by then.",
            marks=("SEED",),
            allowed=("bytes delivered after the 2xx", "bytes or the CONNECT refused: recorded"),
            stated_in="seed page, HTTP",
        ),
        Requirement(
            id="RFC7301-3.2-2",
            source="RFC 7301",
            file="rfc7301.toml",
            chapter="rfc:alpn",
            level="MUST",
            priority=1,
            section="3.2",
            text="A server that supports none of the client's protocols sends a fatal no_application_protocol alert.",
            observable="Alert 120 on the wire.",
        ),
        Requirement(
            id="RFC9112-6.3-6",
            source="RFC 9112",
            file="rfc9112.toml",
            chapter="rfc:http1",
            level="MUST",
            priority=1,
            section="6.3",
            text="A message with Transfer-Encoding and Content-Length is an error, or loses its Content-Length.",
            observable="The upstream sees one framing only, or nothing at all.",
            allowed=("400 and close", "forwarded without Content-Length"),
        ),
        Requirement(
            id="RFC9112-9.5-1",
            source="RFC 9112",
            file="rfc9112.toml",
            chapter="rfc:http1",
            level="SHOULD",
            priority=2,
            section="9.5",
            text="An idle connection is closed gracefully once its timeout has passed.",
            observable="FIN, not RST, after the configured idle time.",
        ),
        Requirement(
            id="RFC8446-6.1-1",
            source="RFC 8446",
            file="rfc8446.toml",
            chapter="rfc:tls",
            level="MUST",
            priority=1,
            section="6.1",
            text="A close of the write side is announced with close_notify.",
            observable="close_notify comes before FIN.",
        ),
        Requirement(
            id="AGENT-017",
            source="agent protocol",
            file="agent.toml",
            chapter="agent:AGENT",
            level="MUST",
            priority=1,
            text="A control channel that misses its liveness deadline is closed and its tunnels go with it.",
            observable="The client is refused after the deadline.",
            marks=("SDK",),
            stated_in="agent protocol section 3",
        ),
        Requirement(
            id="QUIC-001",
            source="engine documentation",
            file="engine.toml",
            chapter="engine:QUIC",
            level="MUST",
            priority=1,
            text="A QUIC tunnel relays streams and datagrams as they are.",
            observable="Octets of each stream arrive unchanged.",
            marks=("SEED",),
            stated_in="seed page, QUIC",
        ),
    )
}
"""Rows that read like the ledger's; the ledger itself is not needed to show a record."""


def outcome(name: str, got: Outcome = Outcome.PASS, **more: str) -> OutcomeRecord:
    """An outcome of a row above."""
    row = ROWS[name]
    record = OutcomeRecord(name, row.ledger, got, level=row.level, where=row.where, text=row.text)
    return replace(record, **more)  # type: ignore[arg-type]


def case(name: str, area: str, title: str, *outcomes: OutcomeRecord, variant: str = "", **more: object) -> CaseResult:
    """A result whose verdict follows from its outcomes unless one is given."""
    order = list(Outcome)
    verdict = Verdict(max((item.outcome for item in outcomes), key=order.index, default=Outcome.PASS).value)
    key = f"{name}[{variant}]" if variant else name
    base = CaseResult(
        id=name,
        variant=variant,
        area=area,
        title=title,
        verdict=verdict,
        outcomes=outcomes,
        duration_s=0.0123,
        doc=title,
        requirements=tuple(item.requirement for item in outcomes),
        reproduce=f"edgecase run --engine acme --seed 20260 --case '{key}'",
        file=f"conformance/{area}/{name.rsplit('-', 1)[0].replace('-', '_')}.py",
        line=40,
        family="http" if area == "http" else "tls",
    )
    return replace(base, **more)  # type: ignore[arg-type]


def event(
    at: float,
    route: str,
    what: str,
    detail: str = "",
    payload: bytes = b"",
    *,
    channel: str = "",
    departed: bool = False,
) -> Event:
    """A step by its route: `c>e` client to engine, `e>u` engine to upstream, `a>e` agent to engine, `h` the harness."""
    names = {"c": "client", "e": "engine", "u": "upstream", "a": "agent", "h": "harness"}
    ends = [names[letter] for letter in route.split(">")]
    leg = AGENT if "a" in route else UPSTREAM if "u" in route else DOWNSTREAM if "c" in route else HARNESS
    return Event(
        at,
        leg,
        ends[0],
        ends[-1],
        what,
        detail,
        channel,
        len(payload) if payload else None,
        hashlib.sha256(payload).hexdigest() if payload else None,
        payload[:SAMPLE_OCTETS].hex() if payload else None,
        departed,
    )


def alpn_steps() -> tuple[Event, ...]:
    """An engine that goes on without a common protocol."""
    return (
        event(0.0000, "h", "published tunnel main", "tls, terminated, tls_alpn = ['h2']"),
        event(0.0011, "c>e", "SYN", "to 127.0.0.1:20443", channel="client-1"),
        event(
            0.0014,
            "c>e",
            "ClientHello",
            "TLS 1.3, SNI a.edge.test, ALPN imap, acme/1",
            b"\x16\x03\x01" + bytes(240),
            channel="client-1",
        ),
        event(
            0.0051,
            "e>c",
            "ServerHello",
            "TLS 1.3, no ALPN extension",
            b"\x16\x03\x03" + bytes(122),
            departed=True,
            channel="client-1",
        ),
        event(
            0.0052,
            "e>c",
            "EncryptedExtensions, Certificate, CertificateVerify, Finished",
            "",
            bytes(1403),
            channel="client-1",
        ),
        event(0.0069, "c>e", "Finished", "", bytes(74), channel="client-1"),
        event(0.0075, "e>u", "connection", "plain TCP to the upstream", channel="upstream-1"),
        event(0.0102, "h", "barrier", "round trip on both legs; strength: echo and probe stream"),
        event(0.0110, "c>e", "close_notify", channel="client-1"),
        event(0.0112, "e>u", "FIN", channel="upstream-1"),
    )


def connect_steps(count: int = 140) -> tuple[Event, ...]:
    """A long exchange: early bytes leak through in the middle of it."""
    head = (
        event(0.0000, "h", "published tunnel main", "http, upstream http/1.1"),
        event(
            0.0010,
            "c>e",
            "CONNECT db.example:5432 HTTP/1.1",
            "Host: a.edge.test",
            b"CONNECT db.example:5432 HTTP/1.1\r\n\r\n",
        ),
        event(0.0020, "e>a", "ProxyReq", "tunnel t-1, stream s-7"),
        event(0.0024, "a>e", "ProxyRsp", "accepted"),
        event(
            0.0031,
            "e>u",
            "CONNECT db.example:5432 HTTP/1.1",
            "Via: 1.1 edge",
            b"CONNECT db.example:5432 HTTP/1.1\r\nVia: 1.1 edge\r\n\r\n",
        ),
    )
    early = tuple(
        event(
            0.004 + index / 10_000, "c>e", "early bytes", f"chunk {index + 1} of {count}", f"early {index:04}".encode()
        )
        for index in range(count)
    )
    leak = event(
        0.02, "e>u", "payload before the 2xx", "early 0000 .. early 0012", b"early 0000early 0001", departed=True
    )
    tail = (
        event(0.031, "h", "barrier", "round trip on both legs; strength: echo and probe stream"),
        event(0.032, "u>e", "HTTP/1.1 200 OK", "", b"HTTP/1.1 200 OK\r\n\r\n"),
        event(0.033, "e>c", "HTTP/1.1 200 OK", "Via: 1.1 edge", b"HTTP/1.1 200 OK\r\nVia: 1.1 edge\r\n\r\n"),
    )
    return (*head, *early[: count - 20], leak, *early[count - 20 :], *tail)


def failures() -> tuple[CaseResult, ...]:
    """What did not pass, and why."""
    no_overlap = outcome(
        "ALPN-004",
        Outcome.FAIL,
        message="the handshake went on without a protocol in common",
        expected="alert no_application_protocol (120), and no connection to the upstream",
        actual="ServerHello without ALPN; the handshake completed; 1 connection to the upstream",
    )
    doc = (
        "An offer without a common protocol ends the handshake.\n\n"
        "The client offers imap and acme/1 to a tunnel that lists h2. "
        "It expects alert 120 (RFC 7301 section 3.2), and the upstream must not see a connection."
    )
    log = (
        "2026-10-08T09:12:44.120Z INFO  listener accepted peer=127.0.0.1:51544",
        "2026-10-08T09:12:44.124Z WARN  alpn: no overlap, continuing without (offer=imap,acme/1)",
        "2026-10-08T09:12:44.126Z INFO  upstream connected tunnel=main",
    )
    alpn = case(
        "alpn-overlap-02",
        "alpn",
        "An offer without a common protocol ends the handshake",
        no_overlap,
        outcome("RFC7301-3.2-2", Outcome.FAIL, message="no alert was sent", expected="alert 120", actual="ServerHello"),
        variant="tls1.3-terminated",
        doc=doc,
        transcript=alpn_steps(),
        engine_log=log,
        expected=False,
        capture="evidence/alpn-overlap-02_tls1.3-terminated_-0f3c2b1a.pcapng",
    )
    connect = case(
        "connect-gate-01",
        "http",
        "What the client sends behind CONNECT reaches the proxy only after its 2xx, or is refused",
        outcome(
            "HTTP-CONNECT-003",
            Outcome.FAIL,
            message="20 octets reached the upstream 11 ms before its 2xx",
            expected="no payload before the 2xx, or a refusal",
            actual="b'early 0000early 0001' (20 octets) at 0.0200 s; 200 sent at 0.0320 s",
        ),
        variant="h1-h1",
        transcript=connect_steps(),
        expected=False,
    )
    smuggling = case(
        "framing-both-01",
        "http",
        "A request with Transfer-Encoding and Content-Length is refused or loses its Content-Length",
        outcome(
            "RFC9112-6.3-6",
            Outcome.FAIL,
            message="the upstream saw both fields",
            expected="400 and close, or one framing field at the upstream",
            actual="content-length: 5\ntransfer-encoding: chunked",
        ),
        baseline_reason="tracked by its makers as ACME-1182; fixed in 4.2",
        transcript=(
            event(
                0.0,
                "c>e",
                "POST /a HTTP/1.1",
                "Content-Length: 5, Transfer-Encoding: chunked",
                b"POST /a HTTP/1.1\r\n\r\n",
            ),
            event(0.002, "e>u", "POST /a HTTP/1.1", "both framing fields", b"POST /a HTTP/1.1\r\n\r\n", departed=True),
        ),
    )
    idle = case(
        "idle-close-01",
        "http",
        "An idle connection is closed with FIN",
        outcome("RFC9112-9.5-1", Outcome.WARN, message="closed with RST", expected="FIN", actual="RST after 1.002 s"),
        transcript=(event(0.0, "c>e", "GET / HTTP/1.1"), event(1.002, "e>c", "RST", departed=True)),
        duration_s=1.0104,
    )
    return (alpn, connect, smuggling, idle)


def others() -> tuple[CaseResult, ...]:
    """Verdicts without outcomes, and a baseline entry that no longer holds."""
    crash = case(
        "liveness-05",
        "agent",
        "A control channel that misses its deadline is closed",
        requirements=("AGENT-017",),
        verdict=Verdict.CRASH,
        cause="engine: exited with signal 11 (SIGSEGV), 0.4 s after the last heartbeat",
        expected=False,
        duration_s=0.4312,
        engine_log=(
            "heartbeat late by 312 ms",
            "panic: runtime error: invalid memory address or nil pointer dereference",
        ),
        transcript=(
            event(0.0, "a>e", "Hello", "control channel, liveness 300 ms"),
            event(0.001, "e>a", "HelloAck", "agent id ag-1"),
            event(0.31, "h", "liveness deadline passed"),
            event(0.43, "h", "engine exited", "signal 11", departed=True),
        ),
    )
    setup = case(
        "passthrough-07",
        "tls",
        "The ClientHello is relayed octet for octet",
        requirements=("TLS-002",),
        verdict=Verdict.SETUP,
        cause="adapter acme-adapter: no answer to publish within 5.0 s",
        expected=False,
        duration_s=5.0031,
        transcript=(event(0.0, "h", "publish", "waiting for the adapter"),),
    )
    unsupported = tuple(
        case(
            f"quic-stream-{number:02}",
            "quic",
            f"Stream {words} arrive unchanged",
            requirements=("QUIC-001",),
            verdict=Verdict.UNSUPPORTED,
            cause="the profile does not claim tunnel.quic",
            duration_s=0.0,
        )
        for number, words in enumerate(("octets", "resets", "limits"), 1)
    )
    stale = case(
        "close-notify-02",
        "tls",
        "The engine announces the end of its side with close_notify",
        outcome("RFC8446-6.1-1"),
        expected=False,
        baseline_reason="sends FIN only (ACME-980)",
    )
    info = case(
        "connect-gate-02",
        "http",
        "A CONNECT with early bytes is refused or delayed",
        outcome("HTTP-CONNECT-003", Outcome.INFO, branch="bytes or the CONNECT refused: recorded"),
        variant="h1-h1",
        settings="short idle timeouts",
        revision=2,
    )
    return (crash, setup, *unsupported, stale, info)


def passing() -> tuple[CaseResult, ...]:
    """What went well."""
    modes = [f"tls1.{minor}-{mode}" for minor in (2, 3) for mode in ("terminated", "upstream-tls", "passthrough")]
    relays = tuple(
        case(
            f"relay-{number:02}",
            "tls",
            title,
            outcome("TLS-002"),
            outcome("RFC8446-6.1-1"),
            variant=mode,
            transcript=(event(0.0, "c>e", "ClientHello"), event(0.01, "e>u", "payload", payload=b"hello")),
        )
        for number, title in enumerate(
            ("Octets reach the upstream unchanged", "Half-close of the client is relayed"), 1
        )
        for mode in modes
    )
    overlap = tuple(
        case("alpn-overlap-01", "alpn", "The first common protocol is chosen", outcome("RFC7301-3.2-2"), variant=mode)
        for mode in modes
    )
    return (*relays, *overlap)


def record() -> RunRecord:
    """The whole run."""
    engine = EngineInfo(
        profile="acme",
        name="Acme Edge",
        version="4.1.7",
        edition="community",
        driver="adapter acme-adapter (JSON-RPC over stdio)",
        features=(
            "tunnel.tls",
            "tunnel.http",
            "tls.passthrough",
            "tls.terminated",
            "tls.alpn",
            "http.1.1",
            "http.connect",
            "agent",
        ),
        command="acme-edge --config edge.toml",
    )
    return RunRecord(
        engine=engine,
        cases=(*passing(), *failures(), *others()),
        suite_version="0.1.0",
        ledger_digest=hashlib.sha256(b"ledger").hexdigest(),
        started="2026-10-08T09:12:40+00:00",
        duration_s=11.42,
        seed=20260,
        argv=("edgecase", "run", "--engine", "acme", "-n", "2"),
        workers=2,
        baseline_problems=(
            BaselineProblem("unexpected-pass", "close-notify-02", "the case passes now; take the entry off"),
            BaselineProblem("matches-nothing", "sni-routing-1*", "no case of this run has such an id"),
        ),
        notes=("quiet window 50 ms (relay time measured: 0.31 ms)",),
    )


RECORD = record()
