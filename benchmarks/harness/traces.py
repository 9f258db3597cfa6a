"""Where request traces are: `$TRACES_HOME`, or `~/.cache/traces`; none is kept in this repository.

| file | from |
| --- | --- |
| `azure/AzureLLMInferenceTrace_conv.csv` | Azure/AzurePublicDataset, `data/` (CC-BY 4.0) |
| `mooncake/conversation_trace.jsonl` | kvcache-ai/Mooncake, `FAST25-release/traces/` (Apache-2.0) |
| `multimodel-prism/real_trace_27models.csv` | Multi-LLM/prism-research, `benchmark/multi-model/` |

The last is derived from `real_trace.pkl` there; its columns are arrived_at_s, model_index,
prompt_tokens and output_tokens.
"""

from __future__ import annotations

import os
from pathlib import Path

HOME = Path(os.environ.get("TRACES_HOME", Path.home() / ".cache/traces"))


def find(name: str) -> Path:
    """The file of that name; ends the program with what to do where there is none."""
    path = HOME / name
    if not path.exists():
        raise SystemExit(
            f"{path} is missing: set TRACES_HOME to where it is "
            f"({Path(__file__).relative_to(Path(__file__).parents[2])} says where it is from)"
        )
    return path
