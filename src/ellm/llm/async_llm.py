"""One model on a step thread of its own: a fleet of one."""

from __future__ import annotations

from ellm.llm.args import EngineArgs
from ellm.llm.build import Progress
from ellm.llm.configured import Configured
from ellm.llm.fleet import AsyncFleet
from ellm.llm.served_model import ServedModel


class AsyncLLM(Configured, ServedModel):
    """One model in this process, for many callers at once.

    llm = AsyncLLM("path/to/model", memory="4GiB")
    async for output in llm.generate("Hello", SamplingParams(), "my-id"):
        print(output.outputs[0].text)
    """

    def _open(self, args: EngineArgs, progress: Progress | None) -> None:
        self._fleet = AsyncFleet([args], progress=progress)
        ServedModel.__init__(self, *self._fleet.backend(args.name).parts)

    async def __aenter__(self) -> AsyncLLM:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the step thread and release all memory; twice is harmless.

        Requests that still run fail with EngineDead.  A step that hangs keeps its memory.
        """
        self._fleet.close()
