"""What several modules of tests share as fixtures."""

from __future__ import annotations

import pytest

from tests import engine_agent_support


@pytest.fixture(params=["tls", "quic"])
def agent_transport(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both links of the engine's agents, the same tests (TRANS-001)."""
    monkeypatch.setattr(engine_agent_support, "TRANSPORT", request.param)
    return str(request.param)
