"""The set of command-line options: a new one is a decision, not an accident."""

from __future__ import annotations

from dataclasses import fields

import typer

from ellm.cli.main import application
from ellm.llm.args import EngineArgs

ENGINE = {
    "--tokenizer", "--served-model-name", "--load-format", "--dtype", "--device", "--max-model-len",
    "--max-num-seqs", "--max-num-batched-tokens", "--max-num-queued-reqs", "--memory",
    "--kv-layout", "--block-size", "--chunk-size", "--enable-prefix-caching",
    "--no-enable-prefix-caching", "--chat-template", "--seed", "--threads", "--memory-mode",
    "--ablate", "--kv-offloading-size", "--kv-offloading-dir", "--ttft-slo", "--tpot-slo",
    "--scheduling-policy", "--enable-chunked-prefill", "--no-enable-chunked-prefill",
}  # fmt: skip
# What changes nothing of a step's time.
UNPROFILED = {
    "--served-model-name", "--max-num-batched-tokens", "--max-num-queued-reqs",
    "--scheduling-policy", "--ttft-slo", "--tpot-slo", "--memory-mode", "--ablate",
    "--enable-chunked-prefill", "--no-enable-chunked-prefill", "--enable-prefix-caching",
    "--no-enable-prefix-caching", "--chat-template",
}  # fmt: skip
# What needs neither a machine nor text.
UNSIMULATED = {
    "--chat-template", "--kv-offloading-dir", "--served-model-name", "--threads", "--tokenizer",
    "--load-format",
}  # fmt: skip
WORKLOAD = {
    "--trace", "--lengths", "--input-len", "--output-len", "--num-prompts", "--max-requests",
    "--rate", "--request-rate", "--burstiness", "--rate-scale", "--scale-lengths", "--drop-longer",
}  # fmt: skip
SIMULATED = (ENGINE - UNSIMULATED) | WORKLOAD | {
    "--model", "--kv-cache-dtype", "--dispatch", "--extension", "--output", "-o",
}  # fmt: skip
SAMPLING = {"--max-tokens", "--temperature", "--top-p", "--top-k"}
FROZEN = {
    "": {"--version"},
    "serve": ENGINE | {
        "models", "--model", "--idle-release", "--model-floor", "--model-ceiling",
        "--host", "--port", "--uds", "--api-key", "--shutdown-timeout",
        "--allowed-origins", "--root-path", "--enable-log-requests",
        "--trust-request-chat-template",
    },
    "chat": (ENGINE - {"--max-num-queued-reqs"}) | SAMPLING | {
        "--model", "--url", "--api-key", "--system-prompt",
    },
    "complete": (ENGINE - {"--max-num-queued-reqs", "--served-model-name", "--chat-template"})
    | SAMPLING | {"--model", "prompt", "--stop", "--stream", "--no-stream"},
    "collect-env": set(),
    "profile": (ENGINE - UNPROFILED) | {"--model", "--seconds", "--output", "-o"},
    "simulate": SIMULATED | {
        "--data-parallel-size", "-dp", "--pipeline-parallel-size", "-pp", "--tensor-parallel-size",
        "-tp", "--enable-expert-parallel", "--plan",
    },
    "plan": (SIMULATED - {"--max-num-queued-reqs"}) | {
        "--max-gpus", "--objective", "--min-goodput", "--jobs", "--thorough",
    },
    "bench": set(),
    "bench latency": ENGINE | {
        "--model", "--input-len", "--output-len", "--batch-size", "--num-iters-warmup",
        "--num-iters", "--output-json",
    },
    "bench throughput": ENGINE | {
        "--model", "--input-len", "--output-len", "--num-prompts", "--output-json",
    },
    "bench serve": {
        "--base-url", "--host", "--port", "--model", "--endpoint", "--api-key", "--dataset-name",
        "--dataset-path", "--scale-lengths", "--rate-scale", "--num-prompts", "--max-requests",
        "--input-len", "--output-len", "--request-rate",
        "--burstiness", "--max-concurrency", "--ignore-eos", "--temperature", "--seed", "--goodput",
        "more_goodput", "--output-json",
    },
}  # fmt: skip


def found() -> dict[str, set[str]]:
    """Every command, by its words, and the names it takes."""
    options: dict[str, set[str]] = {}

    def visit(command: object, words: tuple[str, ...]) -> None:
        names = {
            name
            for parameter in command.params  # type: ignore[attr-defined]
            for name in [*parameter.opts, *parameter.secondary_opts]
        }
        options[" ".join(words)] = names - {"-h", "--help"}
        for word, inner in getattr(command, "commands", {}).items():
            visit(inner, (*words, word))

    visit(typer.main.get_command(application()), ())
    return options


def test_the_options_are_the_frozen_ones() -> None:
    assert found() == FROZEN


def test_every_field_of_the_engine_has_its_flag() -> None:
    positive = {flag for flag in ENGINE if not flag.startswith("--no-")}
    assert len(positive) + len({"model"}) == len(fields(EngineArgs))
