"""Rules on the course of an exchange, and what hands out the objects that it runs on."""

from __future__ import annotations

from typing import Any

import pytest

from reference_engine.config import Settings
from reference_engine.http.delivery import DeliveryRules
from reference_engine.http.errors import Fault
from reference_engine.http.events import values
from reference_engine.http.syntax import NO_CONTENT, Framing
from reference_engine.tunnel.model import TunnelProperties
from tests.engine_http_support import OK, Edge, on_edge, request

RULES = DeliveryRules()
BODY = Framing("length", 5)


class TestTime:
    def test_each_wait_has_its_own(self) -> None:
        settings = Settings(http_idle_ms=1000, http_header_timeout_ms=2000, http_response_timeout_ms=3000)
        assert RULES.client_time("request", settings) == RULES.client_time("content", settings) == 1.0
        assert RULES.client_time("head", settings) == 2.0
        assert RULES.response_time(settings) == 3.0


class TestRepeats:
    @pytest.mark.parametrize("method", [b"GET", b"HEAD", b"PUT", b"DELETE", b"OPTIONS", b"TRACE"])
    def test_idempotent_without_content_on_a_reused_silent_connection(self, method: bytes) -> None:
        assert RULES.repeats(method, NO_CONTENT, fresh=False, heard=False)
        assert not RULES.repeats(method, NO_CONTENT, fresh=True, heard=False)
        assert not RULES.repeats(method, NO_CONTENT, fresh=False, heard=True)
        assert not RULES.repeats(method, BODY, fresh=False, heard=False)

    @pytest.mark.parametrize("method", [b"POST", b"PATCH", b"CONNECT", b"FROB"])
    def test_others_never(self, method: bytes) -> None:
        assert not RULES.repeats(method, NO_CONTENT, fresh=False, heard=False)


class TestEndsEarly:
    @pytest.mark.parametrize("reason", ["closing", "expects", "deaf"])
    def test_an_unread_request_ends_the_connection(self, reason: str) -> None:
        facts = dict.fromkeys(("closing", "expects", "deaf"), False)
        assert not RULES.ends_early(complete=False, **facts)
        facts[reason] = True
        assert RULES.ends_early(complete=False, **facts)
        assert not RULES.ends_early(complete=True, **facts)


class TestFailures:
    @pytest.mark.parametrize(
        ("reason", "status"), [("upstream-silent", 504), ("upstream-closed", 502), ("capacity", 503), ("new", 502)]
    )
    def test_the_table_says_what_a_client_is_told(self, reason: str, status: int) -> None:
        assert RULES.failure(reason, None).status == status

    def test_a_refusal_counts_more(self) -> None:
        assert RULES.failure("upstream-silent", Fault(408, "late")).status == 408

    @pytest.mark.parametrize("close", [True, False])
    def test_an_answer_is_dated_and_framed(self, close: bool) -> None:
        head, body = RULES.answer(Fault(502, "broken"), close=close)
        assert values(head.fields, b"content-length") == [b"%d" % len(body)]
        assert len(values(head.fields, b"date")) == 1
        assert values(head.fields, b"connection") == ([b"close"] if close else [])


class TestUpstreamTls:
    @pytest.mark.parametrize("asked", ["upstream_tls", "http_use_tls"])
    def test_either_property_asks_for_it(self, asked: str) -> None:
        said: dict[str, Any] = {asked: True}
        assert RULES.encrypts_upstream(TunnelProperties(**said))
        assert not RULES.encrypts_upstream(TunnelProperties())


class TestEndpoints:
    """Whatever is replaced in `Parts` after the engine was made is used for the next connection."""

    @pytest.mark.parametrize("name", ["server_codec", "client_codec", "connection", "exchange"])
    def test_each_is_reached_at_call_time(self, name: str) -> None:
        used: list[str] = []

        async def script(edge: Edge) -> None:
            endpoints = edge.engine.parts.http_endpoints
            original = getattr(endpoints, name)

            def watched(*given: Any, **named: Any) -> Any:
                used.append(name)
                return original(*given, **named)

            setattr(endpoints, name, watched)
            client = edge.client()
            await client.send(request())
            upstream = await edge.upstream()
            await upstream.head()
            await upstream.send(OK)
            assert (await client.response())[0] == 200

        on_edge(script)
        assert used == [name]
