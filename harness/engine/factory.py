"""The driver of a profile, by its kind."""

from __future__ import annotations

from harness.engine.driver import Driver
from harness.model.profile import Profile


def make_driver(profile: Profile) -> Driver:
    """A driver that is not started yet."""
    if profile.kind == "launch":
        from harness.engine.launch import LaunchDriver

        return LaunchDriver(profile)
    if profile.kind == "agent":
        from harness.engine.agent_driver import AgentDriver

        return AgentDriver(profile)
    from harness.engine.adapter import AdapterDriver

    return AdapterDriver(profile)
