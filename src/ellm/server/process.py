"""What a server asks of its process: short turns between threads, and no long pauses.

The step thread gives the interpreter's lock away in every kernel and wants it back soon, while the
thread that talks to clients would keep it for Python's 5 ms.  And what was loaded before the first
request lives as long as the server: the collector need not look at it again.
"""

from __future__ import annotations

import gc
import sys

# In seconds.  Shorter turns cost more than they save; at 5 ms a step of 2 ms takes up to three
# times as long when clients keep the other thread busy (docs/log.md).
_TURN = 0.0005


def settle_process() -> None:
    """For when everything is loaded, on any thread."""
    sys.setswitchinterval(_TURN)
    gc.collect()
    gc.freeze()
