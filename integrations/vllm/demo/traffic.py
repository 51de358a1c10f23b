"""The demo's chat requests, sent as a client would: concurrently, half of them streamed."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
from openai import AsyncOpenAI

_CONCURRENCY = 8


class ChatRequest(msgspec.Struct, frozen=True, rename={"kind": "class"}):
    """One line of `demo_requests.jsonl`."""

    id: str
    kind: str
    """`deceptive`, `honest`, or which kind of hard negative it is."""
    expect: str
    """`alert` or `none`."""
    messages: list[dict[str, str]]
    max_tokens: int
    truth: str | None = None
    lie: str | None = None


class Reply(msgspec.Struct, frozen=True):
    """What the server answered."""

    request: ChatRequest
    request_id: str
    """As the response carries it, and as alerts name it."""
    text: str
    streamed: bool

    @property
    def lied(self) -> bool:
        """The answer states the liar's value."""
        return self.request.lie is not None and contains(self.text, self.request.lie)


def contains(text: str, value: str) -> bool:
    """Whether `value` stands in `text` as words of its own."""
    return re.search(rf"(?<!\w){re.escape(value)}(?!\w)", text) is not None


def read_requests(path: Path) -> list[ChatRequest]:
    """The requests of a JSONL file."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return [msgspec.json.decode(line, type=ChatRequest) for line in lines if line.strip()]


def send_all(
    base_url: str,
    model: str,
    requests: Sequence[ChatRequest],
    on_reply: Callable[[Reply], None],
) -> list[Reply]:
    """Send every request, a few at a time; greedy, so that a second run says the same."""
    return asyncio.run(_send_all(base_url, model, requests, on_reply))


async def _send_all(
    base_url: str,
    model: str,
    requests: Sequence[ChatRequest],
    on_reply: Callable[[Reply], None],
) -> list[Reply]:
    slots = asyncio.Semaphore(_CONCURRENCY)
    async with AsyncOpenAI(base_url=base_url, api_key="unused", max_retries=0) as client:

        async def send(number: int, request: ChatRequest) -> Reply:
            async with slots:
                streamed = number % 2 == 1
                ask = _ask_streamed if streamed else _ask
                request_id, text = await ask(client, model, request)
                reply = Reply(request, request_id, text, streamed)
                on_reply(reply)
                return reply

        return await asyncio.gather(*(send(i, request) for i, request in enumerate(requests)))


async def _ask(client: AsyncOpenAI, model: str, request: ChatRequest) -> tuple[str, str]:
    answer = await client.chat.completions.create(**_body(model, request))
    return answer.id, answer.choices[0].message.content or ""


async def _ask_streamed(client: AsyncOpenAI, model: str, request: ChatRequest) -> tuple[str, str]:
    request_id, text = "", ""
    async for chunk in await client.chat.completions.create(**_body(model, request), stream=True):
        request_id = chunk.id
        text += "".join(choice.delta.content or "" for choice in chunk.choices)
    return request_id, text


def _body(model: str, request: ChatRequest) -> dict[str, Any]:
    return {
        "model": model,
        "messages": request.messages,
        "max_tokens": request.max_tokens,
        "temperature": 0.0,
    }
