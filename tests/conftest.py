"""What several modules of tests share as fixtures."""

from __future__ import annotations

import hypothesis
import pytest

from tests import engine_agent_support

# No test is judged by how long it takes: machines are noisy.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")


@pytest.fixture(params=["tls", "quic"])
def agent_transport(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both links of the engine's agents, the same tests (TRANS-001)."""
    monkeypatch.setattr(engine_agent_support, "TRANSPORT", request.param)
    return str(request.param)
