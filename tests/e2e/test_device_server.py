"""The conformance of servers on a device, where the device is this machine's processor."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from device_conformance import *  # noqa: F403
from device_conformance import Setting, ask, check, config, prompts, reference_of
from serving import running

from ellm.llm.args import EngineArgs
from ellm.llm.async_llm import AsyncLLM

SMALL = {
    "hidden_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 256,
    "vocab_size": 9000,
}


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    place = tmp_path_factory.mktemp("whole")
    (place / "config.json").write_text(json.dumps(config(SMALL)))
    return Setting(
        device="cpu",
        dtype="bfloat16",
        slack=0.4,
        mean=0.05,
        cut=SMALL,
        memory="128MiB",
        whole=(str(place), "--load-format", "dummy", "--memory", "128MiB"),
    )


def test_a_reference_of_other_weights_is_told_apart(setting: Setting, shape: Path) -> None:
    """That the comparison can fail."""
    args = EngineArgs(
        model=str(shape), load_format="dummy", memory="128MiB", max_model_len=1024, threads=1
    )
    llm = AsyncLLM(args)
    with running(llm) as url:
        answers = asyncio.run(ask(url, prompts(8000)))
    llm.close()
    other = EngineArgs(**{**reference_of(args), "seed": 1, "threads": 1, "memory": "128MiB"})
    with pytest.raises(AssertionError):
        check(other, setting, answers)
