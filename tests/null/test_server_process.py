"""What a server asks of its process."""

from __future__ import annotations

import subprocess
import sys

SETTLED = """
import gc, sys
from ellm.server.process import settle_process
before = sys.getswitchinterval()
settle_process()
assert sys.getswitchinterval() < before, sys.getswitchinterval()
assert gc.get_freeze_count() > len(gc.get_objects()), gc.get_freeze_count()
"""


def test_threads_take_short_turns_and_what_is_loaded_is_not_collected() -> None:
    subprocess.run([sys.executable, "-c", SETTLED], check=True)
