"""What a model is, read from its files before any memory is taken."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ellm.core.bundled import MODELS
from ellm.core.config import SchedulerConfig
from ellm.llm.args import EngineArgs, LoadFormat
from ellm.llm.model_source import find_config, resolve_model
from ellm.llm.processor import end_token_ids
from ellm.llm.tokenizer import Tokenizer
from ellm.models.registry import describe
from ellm.models.spec import DecoderSpec
from ellm.runtime.checkpoint import Checkpoint, read_json
from ellm.runtime.loader import choose_dtype, weight_bytes

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Blueprint:
    """A checked model directory with its tokenizer, and the limits to serve it under.

    `checkpoint` None has weights made up.
    `limits.max_model_len` is the model's own context where the longest that fits was asked for.
    """

    args: EngineArgs
    config: Mapping[str, Any]
    checkpoint: Checkpoint | None
    spec: DecoderSpec
    dtype: torch.dtype
    limits: SchedulerConfig
    tokenizer: Tokenizer
    end_tokens: frozenset[int]

    @classmethod
    def draw(cls, args: EngineArgs) -> Blueprint:
        """Read everything but the weights.

        Raises ModelError for a model that cannot be served, ConfigError for options that make no
        sense.
        """
        directory, config, checkpoint = _read(args)
        spec = describe(config, args.max_model_len or None)
        limits = args.limits(spec.max_positions)
        dtype = choose_dtype(args.dtype, spec, checkpoint)
        tokenizer = Tokenizer.load(_of_tokenizer(args, directory), args.chat_template)
        ends = end_token_ids(directory, config, tokenizer.eos_token_id)
        return cls(args, config, checkpoint, spec, dtype, limits, tokenizer, ends)

    @property
    def weight_bytes(self) -> int:
        return weight_bytes(self.spec, self.dtype)

    @property
    def useful_bytes(self) -> int:
        """Weights, and KV for as many and as long sequences as may be."""
        per_token = sum(layer.token_bytes for layer in self.spec.layers(self.dtype.itemsize))
        rows = self.limits.max_num_seqs * self.limits.max_model_len
        return self.weight_bytes + rows * per_token


def _of_tokenizer(args: EngineArgs, directory: Path) -> Path:
    """The model's own place, but for one that only has a shape, which borrows a tokenizer."""
    if args.tokenizer:
        return resolve_model(args.tokenizer)
    borrows = args.load_format is LoadFormat.DUMMY and not (directory / "tokenizer.json").is_file()
    return MODELS["ellm-base"] if borrows else directory


def _read(args: EngineArgs) -> tuple[Path, Mapping[str, Any], Checkpoint | None]:
    """Where the model is, its config, and its weights if it shall have its own."""
    if args.load_format is LoadFormat.DUMMY:
        file = find_config(args.model)
        _log.warning(
            "%s has random weights (--load-format dummy): its words mean nothing, and tokens that "
            "the tokenizer does not have are no text",
            args.name,
        )
        return file.parent, read_json(file), None
    directory = resolve_model(args.model)
    checkpoint = Checkpoint.open(directory)
    return directory, checkpoint.config, checkpoint
