"""The native library: native/interface.h, struct by struct.

An operation is one struct, and `run` does an array of them without coming back to Python.
"""

from __future__ import annotations

import ctypes
from ctypes import (
    POINTER,
    Structure,
    Union,
    c_char_p,
    c_double,
    c_int,
    c_int32,
    c_int64,
    c_void_p,
)
from enum import IntEnum
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

import ellm.kernels.cpu as home
from ellm.core.errors import ConfigError

NAME = "_native.so"
# ELLM_INTERFACE of the header that the structs below follow.
INTERFACE = 3


class Dtype(IntEnum):
    FLOAT32 = 0
    BFLOAT16 = 1


class Kind(IntEnum):
    LINEAR = 0
    NORM = 1
    ADD = 2
    ANGLES = 3
    ROTARY = 4
    STORE = 5
    ATTENTION = 6
    ACTIVATE = 7
    SELECT = 8
    EMBED = 9
    SAMPLE = 10
    SCORE = 11


def _fields(pointers: str, numbers: str, doubles: str = "") -> list[tuple[str, type]]:
    """Fields of a struct in which addresses come first, then integers, then doubles."""
    return [
        *((name, c_void_p) for name in pointers.split()),
        *((name, c_int64) for name in numbers.split()),
        *((name, c_double) for name in doubles.split()),
    ]


class Linear(Structure):
    _fields_ = _fields("x weight bias out", "rows inputs outputs x_stride out_stride")


class Norm(Structure):
    _fields_ = _fields(
        "x added weight bias out",
        "rows heads width x_stride x_head_stride added_stride out_stride out_head_stride",
        "eps",
    )


class Add(Structure):
    _fields_ = _fields("x residual", "rows width")


class Angles(Structure):
    _fields_ = _fields("positions frequencies cos sin", "rows half", "scale")


class Rotary(Structure):
    _fields_ = _fields("x cos sin", "rows heads half stride head_stride")


class Store(Structure):
    _fields_ = _fields("x planes places", "rows width x_stride plane_stride")


class Attention(Structure):
    _fields_ = _fields(
        "queries planes out segments room",
        "threads count kv_heads group width query_stride out_stride plane_stride window",
        "scale cap",
    )


class Activate(Structure):
    _fields_ = _fields("x out", "rows width x_stride out_stride activation gated")


class Select(Structure):
    _fields_ = _fields("x out places", "rows width x_stride out_stride total")


class Sample(Structure):
    _fields_ = _fields(
        "x how starts places values out room", "threads room_stride rows width x_stride"
    )


class Score(Structure):
    _fields_ = _fields("x targets values ids room", "threads room_stride rows width x_stride top")


class _Any(Union):
    _fields_ = (
        ("linear", Linear),
        ("norm", Norm),
        ("add", Add),
        ("angles", Angles),
        ("rotary", Rotary),
        ("store", Store),
        ("attention", Attention),
        ("activate", Activate),
        ("select", Select),
        ("sample", Sample),
        ("score", Score),
    )


class Op(Structure):
    _fields_ = (("kind", c_int32), ("dtype", c_int32), ("of", _Any))


DTYPES = {torch.float32: Dtype.FLOAT32, torch.bfloat16: Dtype.BFLOAT16}


def operation(kind: Kind, like: Tensor) -> Op:
    """An empty operation on numbers of the dtype of `like`."""
    return Op(kind, DTYPES[like.dtype])


class Library:
    """The loaded library.

    `levels` are the instruction sets it can use here, best first; `run(level, ops, count)` takes
    the index of one of them.
    """

    def __init__(self, path: Path) -> None:
        loaded = ctypes.CDLL(str(path))
        if loaded.ellm_interface() != INTERFACE:
            raise ConfigError(f"{path} was built from other sources: run `make install` again")
        loaded.ellm_levels.restype = c_char_p
        loaded.ellm_threads.argtypes = (c_int,)
        loaded.ellm_threads.restype = None
        loaded.ellm_run.argtypes = (c_int, POINTER(Op), c_int64)
        loaded.ellm_run.restype = None
        loaded.ellm_replay.argtypes = (c_int, POINTER(Op), c_int64, c_int64, c_void_p, c_int64)
        loaded.ellm_replay.restype = None
        loaded.ellm_pack.argtypes = (c_void_p, c_int64, c_int64, c_int32)
        loaded.ellm_pack.restype = None
        loaded.ellm_attention_room.argtypes = (c_int64,) * 5
        loaded.ellm_attention_room.restype = c_int64
        self.levels = tuple(loaded.ellm_levels().decode().split(","))
        self.run = loaded.ellm_run
        self.replay = loaded.ellm_replay
        self.pack = loaded.ellm_pack
        self.attention_room = loaded.ellm_attention_room
        self.threads = loaded.ellm_threads
        self.thread_count = loaded.ellm_thread_count


@cache
def library() -> Library | None:
    """The library that was built with this package; None where it was built without a compiler."""
    for folder in home.__path__:
        path = Path(folder) / NAME
        if path.exists():
            return Library(path)
    return None
