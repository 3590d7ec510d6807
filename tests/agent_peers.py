"""Agents of the harness in front of the small engine of `tests.agent_support`, for tests."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine
from pathlib import Path
from typing import Any

from fixtures.agent import edgecase_agent_pb2 as pb
from harness.evidence.transcript import Transcript
from harness.link.deadline import set_default
from harness.peer.agent import Agent, ScriptedAgent
from tests.agent_support import MiniEngine

STREAM = "aabbccddeeff001122334455"


def run(script: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(20):
            await script

    asyncio.run(bounded())


@contextlib.asynccontextmanager
async def mini(folder: Path, **options: Any) -> AsyncIterator[MiniEngine]:
    set_default(2)
    engine = MiniEngine(folder, **options)
    await engine.start()
    try:
        yield engine
    finally:
        await engine.stop()


@contextlib.asynccontextmanager
async def scripted(engine: MiniEngine) -> AsyncIterator[tuple[ScriptedAgent, Transcript]]:
    transcript = Transcript(asyncio.get_running_loop().time)
    agent = ScriptedAgent(engine.access, transcript)
    try:
        yield agent, transcript
    finally:
        await agent.shut()


@contextlib.asynccontextmanager
async def behaved(engine: MiniEngine, **options: Any) -> AsyncIterator[Agent]:
    agent = Agent(engine.access, **options)
    try:
        await agent.open()
        yield agent
    finally:
        await agent.close()


def error_message(kind: str, code: int, text: str, request_id: str = "") -> pb.Message:
    message = pb.Message()
    reply: Any = getattr(message, kind)
    reply.error.code = code
    reply.error.message.value = text
    if request_id:
        reply.request_id = request_id
    return message
