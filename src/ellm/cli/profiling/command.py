"""`ellm profile`: measure this machine and this model, for `ellm simulate` and for servers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ellm.cli.engine_options import takes_engine_args
from ellm.core.errors import ConfigError
from ellm.llm.args import EngineArgs

# Fields of EngineArgs that change nothing of what is measured.
UNUSED = (
    "served_model_name", "max_num_batched_tokens", "enable_chunked_prefill", "max_num_queued_reqs",
    "scheduling_policy", "ttft_slo", "tpot_slo", "memory_mode", "ablate", "enable_prefix_caching",
    "chat_template",
)  # fmt: skip


@takes_engine_args(without=UNUSED)
def profile(
    args: EngineArgs,
    seconds: Annotated[
        float, typer.Option("--seconds", help="How long to measure steps, at least two rounds.")
    ] = 60.0,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The profile: a device for ellm simulate.")
    ] = Path("profile.json"),
) -> int:
    """Measure a model on this machine, for the simulator.  In some minutes, on an idle one."""
    if not seconds > 0:
        raise ConfigError(f"--seconds must be above 0, not {seconds:g}")
    if output.suffix != ".json":
        raise ConfigError(f"--output {output} must end in .json: ellm simulate tells it by that")
    from ellm.cli.profiling.run import Run
    from ellm.cli.profiling.table import lines

    found = Run(args, seconds).profile()
    found.save(output)
    print("\n".join(lines(found)))
    print(f"\nprofile  {output}")
    return 0
