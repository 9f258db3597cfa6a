"""Overload a running server for minutes with every kind of client, and look for errors and leaks.

    python tools/soak.py --pid $(pgrep -f 'ellm serve') --minutes 10

Clients stream to the end, wait for whole answers, hang up in the middle, and send nonsense.  The
verdict is good when nothing but the expected answers and 503s came back, the server is idle and
holds no KV afterwards, and its memory, file descriptors and threads have not grown since the end
of the warm-up.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import statistics
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import httpx

MIB = 1 << 20
GROWTH = 48 * MIB  # what allocator noise may add to the resident set
WORDS = ("def", "return", "self", "import", "the", "for", "class", "value", "list", "of", "raise")
_GAUGE = re.compile(r"^(\w[\w:]*)(?:\{(.*)\})? (\S+)$")


@dataclass(frozen=True, slots=True)
class Sample:
    """The server at one moment; bytes and counts."""

    at: float
    rss: int
    fds: int
    threads: int
    running: float
    waiting: float
    kv_chunks: float
    physical: float

    @property
    def idle(self) -> bool:
        return self.running == 0 and self.waiting == 0


@dataclass(slots=True)
class Tally:
    """What came back, by kind of client; `surprises` are what should not have."""

    answers: Counter[str] = field(default_factory=Counter)
    surprises: Counter[str] = field(default_factory=Counter)

    def note(self, kind: str, status: int, expected: set[int], detail: str = "") -> int:
        self.answers[f"{kind} {status}"] += 1
        if status not in expected | {503}:
            self.surprises[f"{kind}: {status} {detail[:200]}"] += 1
        return status


class Clients:
    """One kind of behaviour a method; each plays one request and returns the HTTP status."""

    def __init__(
        self, http: httpx.AsyncClient, model: str, rng: random.Random, tally: Tally
    ) -> None:
        self._http = http
        self._model = model
        self._rng = rng
        self.tally = tally
        self._kinds: dict[Callable[[], Awaitable[int]], int] = {
            self.read_stream: 40,
            self.read_whole: 20,
            self.hang_up_streaming: 15,
            self.hang_up_waiting: 15,
            self.send_nonsense: 10,
        }

    async def play(self) -> None:
        """One request of a random kind; a moment of patience when the server is full."""
        (kind,) = self._rng.choices(list(self._kinds), list(self._kinds.values()))
        try:
            status = await kind()
        except (httpx.HTTPError, OSError, ValueError, KeyError) as error:
            name = getattr(kind, "__name__", "?")
            self.tally.surprises[f"{name}: {type(error).__name__} {str(error)[:200]}"] += 1
            return
        if status == 503:
            await asyncio.sleep(self._rng.uniform(0.1, 0.5))

    def _body(self, **more: Any) -> dict[str, Any]:
        rng = self._rng
        words = rng.choices(WORDS, k=rng.choice((4, 30, 120, 400)))
        body: dict[str, Any] = {
            "model": self._model,
            "prompt": " ".join(words),
            "max_tokens": rng.randint(1, 160),
            "temperature": rng.choice((0, 0.7, 1.5)),
            "seed": rng.randrange(1000),
        }
        extras: list[dict[str, Any]] = [
            {},
            {},
            {"n": 3},
            {"logprobs": 3},
            {"stop": ["\n\n"]},
            {"top_p": 0.9, "top_k": 20, "min_p": 0.05},
            {"repetition_penalty": 1.1, "ignore_eos": True},
        ]
        return body | rng.choice(extras) | more

    async def read_stream(self) -> int:
        """Read a stream to its end, which must be `[DONE]`."""
        body = self._body(stream=True)
        async with self._http.stream("POST", "/v1/completions", json=body) as answer:
            lines = [line async for line in answer.aiter_lines() if line]
            status = self.tally.note("stream", answer.status_code, {200}, "".join(lines))
            if answer.status_code == 200 and (
                lines[-1:] != ["data: [DONE]"]
                or any(line.startswith('data: {"error"') for line in lines)
            ):
                self.tally.surprises[f"stream broke off: {lines[-2:]}"] += 1
        return status

    async def read_whole(self) -> int:
        """Wait for a whole chat answer."""
        body = self._body()
        body["messages"] = [{"role": "user", "content": body.pop("prompt")}]
        if "logprobs" in body:
            body |= {"logprobs": True, "top_logprobs": 3}
        answer = await self._http.post("/v1/chat/completions", json=body)
        status = self.tally.note("whole", answer.status_code, {200}, answer.text)
        if answer.status_code == 200 and not answer.json()["choices"]:
            self.tally.surprises["whole: no choices"] += 1
        return status

    async def hang_up_streaming(self) -> int:
        """Leave a stream after a few events."""
        left = self._rng.randint(0, 20)
        body = self._body(stream=True)
        async with self._http.stream("POST", "/v1/completions", json=body) as answer:
            status = self.tally.note("hang up streaming", answer.status_code, {200})
            async for _ in answer.aiter_lines():
                left -= 1
                if left < 0:
                    break
        return status

    async def hang_up_waiting(self) -> int:
        """Leave before an answer that is not streamed."""
        patience = self._rng.uniform(0.01, 2.0)
        asked = self._http.post("/v1/completions", json=self._body())
        try:
            answer = await asyncio.wait_for(asked, patience)
        except TimeoutError:
            self.tally.answers["hang up waiting"] += 1
            return 0
        return self.tally.note("hang up waiting", answer.status_code, {200}, answer.text)

    async def send_nonsense(self) -> int:
        """Send what must be refused."""
        nonsense: list[tuple[bytes | dict[str, Any], set[int]]] = [
            (b"{", {400}),
            (b"[]", {400}),
            (self._body(model="no-such-model"), {404}),
            (self._body(max_tokens=-1), {400}),
            (self._body(temperature="hot"), {400}),
            (self._body(top_p=7), {400}),
            (self._body(prompt=[10**9]), {400}),
            (self._body(prompt="word " * 20_000), {400}),
            (self._body(n=100_000), {400}),
        ]
        body, expected = self._rng.choice(nonsense)
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        answer = await self._http.post("/v1/completions", content=content, headers=headers)
        return self.tally.note(
            "nonsense", answer.status_code, expected, f"{content[:80]!r} {answer.text}"
        )


async def gauges(http: httpx.AsyncClient) -> dict[str, float]:
    """Every sample of /metrics, by name; chunk gauges by name and owner."""
    answer = await http.get("/metrics")
    answer.raise_for_status()
    found: dict[str, float] = {}
    for line in answer.text.splitlines():
        if match := _GAUGE.match(line):
            owner = re.search(r'owner="([^"]*)"', match[2] or "")
            found[match[1] + (f"/{owner[1]}" if owner else "")] = float(match[3])
    return found


async def sample(http: httpx.AsyncClient, pid: int, start: float) -> Sample:
    """Look at the server through its metrics and through the kernel."""
    metrics = await gauges(http)
    status = Path(f"/proc/{pid}/status").read_text()
    fields = dict(line.split(":", 1) for line in status.splitlines())
    return Sample(
        at=time.monotonic() - start,
        rss=int(fields["VmRSS"].split()[0]) * 1024,
        fds=len(list(Path(f"/proc/{pid}/fd").iterdir())),
        threads=int(fields["Threads"]),
        running=metrics["vllm:num_requests_running"],
        waiting=metrics["vllm:num_requests_waiting"],
        kv_chunks=metrics.get("ellm:memory_chunks/kv", 0.0),
        physical=metrics["ellm:memory_physical_bytes"],
    )


async def settle(http: httpx.AsyncClient, pid: int, start: float) -> Sample:
    """A sample once the server is idle, or as it is after a minute."""
    for _ in range(60):
        now = await sample(http, pid, start)
        if now.idle:
            break
        await asyncio.sleep(1)
    await asyncio.sleep(2)  # for connections to close
    return await sample(http, pid, start)


async def overload(clients: Clients, concurrency: int, seconds: float) -> None:
    """Keep `concurrency` clients busy for that long, then wait for the last."""
    end = time.monotonic() + seconds

    async def one() -> None:
        while time.monotonic() < end:
            await clients.play()

    await asyncio.gather(*(one() for _ in range(concurrency)))


def faults(before: Sample, after: Sample, during: list[Sample], tally: Tally) -> list[str]:
    """What speaks against the server; empty is a good verdict."""
    found = [f"{count} x {text}" for text, count in tally.surprises.most_common(20)]
    if not after.idle:
        found.append(f"not idle: {after.running:g} running, {after.waiting:g} waiting")
    if after.kv_chunks > 0:
        found.append(f"{after.kv_chunks:g} KV chunks are held by nobody's request")
    if after.rss > before.rss + GROWTH:
        found.append(f"resident set grew from {before.rss // MIB} to {after.rss // MIB} MiB")
    if after.fds > before.fds + 4:
        found.append(f"file descriptors grew from {before.fds} to {after.fds}")
    if after.threads > before.threads + 2:
        found.append(f"threads grew from {before.threads} to {after.threads}")
    quarter = len(during) // 4
    if quarter >= 4:
        early = statistics.median(s.rss for s in during[quarter : 2 * quarter])
        late = statistics.median(s.rss for s in during[-quarter:])
        if late > early + GROWTH:
            found.append(f"under load, memory rose from {early / MIB:.0f} to {late / MIB:.0f} MiB")
    return found


async def soak(asked: argparse.Namespace) -> int:
    """Warm up, overload, settle, judge; the exit status."""
    start = time.monotonic()
    during: list[Sample] = []
    rng, tally = random.Random(asked.seed), Tally()

    async def load(seconds: float, into: Tally) -> None:
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=asked.concurrency)
        async with httpx.AsyncClient(base_url=asked.url, timeout=600, limits=limits) as http:
            models = (await http.get("/v1/models")).json()
            clients = Clients(http, models["data"][0]["id"], rng, into)
            await overload(clients, asked.concurrency, seconds)

    async with httpx.AsyncClient(base_url=asked.url, timeout=60) as observer:
        await load(asked.warm_up, Tally())
        before = await settle(observer, asked.pid, start)
        print(f"warm: {before}", file=sys.stderr)
        async with asyncio.TaskGroup() as tasks:
            task = tasks.create_task(load(60 * asked.minutes, tally))
            while not (await asyncio.wait({task}, timeout=asked.interval))[0]:
                during.append(await sample(observer, asked.pid, start))
                print(f"{sum(tally.answers.values())} answers, {during[-1]}", file=sys.stderr)
        after = await settle(observer, asked.pid, start)
    found = faults(before, after, during, tally)
    report = {
        "minutes": asked.minutes,
        "concurrency": asked.concurrency,
        "seed": asked.seed,
        "answers": dict(tally.answers.most_common()),
        "before": asdict(before),
        "peak_rss": max((s.rss for s in during), default=0),
        "after": asdict(after),
        "faults": found,
    }
    print(json.dumps(report, indent=2))
    print("verdict: " + ("bad" if found else "good"))
    return 1 if found else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--pid", type=int, required=True, help="the server's process")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--warm-up", type=float, default=45, help="seconds of unjudged load")
    parser.add_argument("--concurrency", type=int, default=128)
    parser.add_argument("--interval", type=float, default=5, help="seconds between samples")
    parser.add_argument("--seed", type=int, default=0)
    try:
        return asyncio.run(soak(parser.parse_args()))
    except* (httpx.HTTPError, OSError, KeyError) as group:
        print(f"verdict: bad; the server cannot be observed any more: {group.exceptions[0]!r}")
    return 1


if __name__ == "__main__":
    sys.exit(main())
