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
