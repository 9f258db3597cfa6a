"""What a model is, read from its files before any memory is taken."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ellm.core.config import SchedulerConfig
from ellm.llm.args import EngineArgs
from ellm.llm.model_source import resolve_model
from ellm.llm.processor import end_token_ids
from ellm.llm.tokenizer import Tokenizer
from ellm.models.registry import describe
from ellm.models.spec import DecoderSpec
from ellm.runtime.checkpoint import Checkpoint
from ellm.runtime.loader import choose_dtype, weight_bytes


@dataclass(frozen=True, slots=True)
class Blueprint:
    """A checked model directory with its tokenizer, and the limits to serve it under.

    `limits.max_model_len` is the model's own context where the longest that fits was asked for.
    """

    args: EngineArgs
    checkpoint: Checkpoint
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
        directory = resolve_model(args.model)
        checkpoint = Checkpoint.open(directory)
        spec = describe(checkpoint.config, args.max_model_len or None)
        limits = args.limits(spec.max_positions)
        dtype = choose_dtype(args.dtype, spec, checkpoint)
        own = resolve_model(args.tokenizer) if args.tokenizer else directory
        tokenizer = Tokenizer.load(own, args.chat_template)
        ends = end_token_ids(directory, checkpoint.config, tokenizer.eos_token_id)
        return cls(args, checkpoint, spec, dtype, limits, tokenizer, ends)

    @property
    def weight_bytes(self) -> int:
        return weight_bytes(self.spec, self.dtype)

    @property
    def useful_bytes(self) -> int:
        """Weights, and KV for as many and as long sequences as may be."""
        per_token = sum(layer.token_bytes for layer in self.spec.layers(self.dtype.itemsize))
        rows = self.limits.max_num_seqs * self.limits.max_model_len
        return self.weight_bytes + rows * per_token
