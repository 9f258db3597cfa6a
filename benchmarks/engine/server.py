"""An engine behind its OpenAI-compatible server, and the client that all of them meet."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar
from urllib.error import URLError
from urllib.request import Request, urlopen

from engines import Engine, Prompts
from peers import LLAMA_SERVER, environment, python
from setting import STEP_TOKENS, Setting

from ellm.cli.bench.client import Endpoint, Outcome, Target
from ellm.cli.bench.load import apply_load
from ellm.cli.bench.question import Question
from harness.machine import busy_seconds, cpu_seconds, forget_peak, peak_rss

Result = TypeVar("Result")
HOST = "127.0.0.1"
MODEL = "model"
LOG_TAIL = 3000


def _ellm(setting: Setting) -> list[str]:
    return [
        *(str(Path(sys.executable).with_name("ellm")), "serve", setting.model),
        *("--served-model-name", MODEL, "--dtype", "bfloat16", "--threads", str(setting.threads)),
        *("--max-model-len", str(setting.context), "--max-num-seqs", str(setting.sequences)),
    ]


def _vllm(setting: Setting) -> list[str]:
    return [
        *(python("vllm"), "-m", "vllm.entrypoints.openai.api_server", "--model", setting.model),
        *("--served-model-name", MODEL, "--dtype", "bfloat16"),
        *("--max-model-len", str(setting.context), "--max-num-seqs", str(setting.sequences)),
        *("--max-num-batched-tokens", str(STEP_TOKENS)),
    ]


def _llama_cpp(setting: Setting) -> list[str]:
    """Its context is that of all slots together; what finished is kept in its slot only."""
    threads, slots = str(setting.threads), setting.sequences
    return [
        *(str(LLAMA_SERVER), "--model", setting.model, "--alias", MODEL),
        *("--threads", threads, "--threads-batch", threads),
        *("--ctx-size", str(slots * setting.context), "--parallel", str(slots)),
        *("--cache-ram", "0"),
    ]


COMMANDS = {"ellm": _ellm, "vllm": _vllm, "llama.cpp": _llama_cpp}


class Server(Engine):
    """Started, waited for, and asked over HTTP from this process."""

    def __init__(self, name: str, setting: Setting) -> None:
        self.name = name
        self._reuse = setting.reuse
        self._log = os.memfd_create("log")
        port = _free_port()
        self._url = f"http://{HOST}:{port}"
        start = time.perf_counter()
        self._process = subprocess.Popen(
            [*COMMANDS[name](setting), "--host", HOST, "--port", str(port)],
            stdout=self._log,
            stderr=self._log,
            env={**os.environ, **environment(name, setting)},
        )
        self._wait()
        self.load_seconds = time.perf_counter() - start
        self.peak_rss = peak_rss(self._process.pid)
        self.other_cpus: list[float] = []

    def seconds(self, prompts: Prompts, n: int) -> float:
        """As for every engine; the client is as little as can be."""

        def work() -> float:
            start = time.perf_counter()
            with ThreadPoolExecutor(len(prompts)) as threads:
                made = list(threads.map(lambda prompt: self._complete(prompt, n), prompts))
            assert made == [n] * len(prompts), (self.name, made, n)
            return time.perf_counter() - start

        return self._watched(work)

    def stream(self, prompts: Prompts, n: int) -> tuple[list[Outcome], float]:
        """What each prompt went through, and seconds from the first request to the last answer."""
        target = Target(self._url, (MODEL,), Endpoint.COMPLETIONS, ignore_eos=True)
        items = [Question(tuple(prompt), n) for prompt in prompts]

        def work() -> tuple[list[Outcome], float]:
            return asyncio.run(apply_load(target, items, None, lambda: None))

        outcomes, duration = self._watched(work)
        for outcome, prompt in zip(outcomes, prompts, strict=True):
            assert outcome.error is None, (self.name, outcome.error)
            made = outcome.prompt_tokens, outcome.output_tokens
            assert made == (len(prompt), n), (self.name, made, len(prompt), n)
        return outcomes, duration

    def stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._log)

    def _complete(self, prompt: Sequence[int], n: int) -> int:
        body = {
            "model": MODEL,
            "prompt": list(prompt),
            "max_tokens": n,
            "temperature": 0,
            "ignore_eos": True,
            "cache_prompt": self._reuse,  # llama.cpp's own
        }
        head = {"Content-Type": "application/json"}
        request = Request(f"{self._url}/v1/completions", json.dumps(body).encode(), head)
        with urlopen(request) as response:
            return int(json.load(response)["usage"]["completion_tokens"])

    def _watched(self, work: Callable[[], Result]) -> Result:
        """What `work` returns, after noting what the server and others took meanwhile."""
        forget_peak(self._process.pid)
        busy, own, start = busy_seconds(), self._cpu_seconds(), time.perf_counter()
        result = work()
        others = busy_seconds() - busy - (self._cpu_seconds() - own)
        self.other_cpus.append(round(max(others, 0.0) / (time.perf_counter() - start), 3))
        self.peak_rss = max(self.peak_rss, peak_rss(self._process.pid))
        return result

    def _cpu_seconds(self) -> float:
        """The server's and the client's."""
        return cpu_seconds(self._process.pid) + time.process_time()

    def _wait(self) -> None:
        while self._process.poll() is None:
            try:
                with urlopen(f"{self._url}/health"):
                    return
            except (URLError, OSError):
                time.sleep(0.2)  # not yet, and other people's servers do not tell when
        size = os.fstat(self._log).st_size
        tail = os.pread(self._log, LOG_TAIL, max(0, size - LOG_TAIL))
        raise SystemExit(f"{self.name} stopped:\n{tail.decode(errors='replace')}")


def _free_port() -> int:
    with socket.socket() as found:
        found.bind((HOST, 0))
        return int(found.getsockname()[1])
