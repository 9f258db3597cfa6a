"""Trace a computation once, decide its order, lanes and memory ahead of time, and replay it."""

from ellm.aot.compiled import Compiled, Report, compile

__all__ = ["Compiled", "Report", "compile"]
