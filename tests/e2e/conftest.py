"""The bundled model, served once for the whole tier."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from serving import running

from ellm.core.units import MIB
from ellm.llm.args import EngineArgs
from ellm.llm.async_llm import AsyncLLM


@pytest.fixture(scope="session")
def bundled() -> Iterator[AsyncLLM]:
    llm = AsyncLLM(EngineArgs(model="ellm-base", dtype="float32", memory=256 * MIB, threads=1))
    yield llm
    llm.close()


@pytest.fixture(scope="session")
def url(bundled: AsyncLLM) -> Iterator[str]:
    with running(bundled) as url:
        yield url
