"""Writes down what happened, in the words of obs/stats.py."""

from __future__ import annotations

from collections.abc import Iterable

from ellm.core.clock import Clock
from ellm.core.sequence import FinishReason, Sequence
from ellm.obs.stats import EngineStats


class Recorder:
    """Turns moments in a sequence's life into counters and histograms."""

    def __init__(self, stats: EngineStats, clock: Clock) -> None:
        self._stats = stats
        self._clock = clock

    def planned(self, sequences: Iterable[Sequence]) -> None:
        """These are in the step that is about to run."""
        now = self._clock.now()
        for sequence in sequences:
            if sequence.first_scheduled is None:
                sequence.first_scheduled = now
                self._stats.queue_time.observe(now - sequence.request.arrival)
                if sequence.index == 0:
                    self._stats.prompt_tokens += sequence.num_prompt
                    self._stats.prefix_queries += sequence.num_prompt
                    self._stats.cached_tokens += sequence.cached
                    self._stats.fetched_tokens += sequence.fetched

    def stepped(self, tokens: int, seconds: float, preemptions: int) -> None:
        """A step of `tokens` tokens ended; `preemptions` is the total so far."""
        self._stats.steps += 1
        self._stats.preemptions = preemptions
        self._stats.iteration_tokens.observe(tokens)
        self._stats.step_time.observe(seconds)

    def token(self, sequence: Sequence, now: float) -> None:
        """A token was generated at `now`."""
        self._stats.generation_tokens += 1
        if sequence.last_token is None:
            sequence.first_token = now
            self._stats.time_to_first_token.observe(now - sequence.request.arrival)
        else:
            self._stats.inter_token_latency.observe(now - sequence.last_token)
        sequence.last_token = now

    def finished(self, sequence: Sequence) -> None:
        """`sequence` has its finish reason and will not run again."""
        stats, now = self._stats, self._clock.now()
        assert sequence.finish_reason is not None, sequence.seq_id
        stats.finished[sequence.finish_reason.value] += 1
        if sequence.finish_reason is FinishReason.ABORT:
            return
        assert sequence.first_scheduled is not None, sequence.seq_id
        assert sequence.first_token is not None, sequence.seq_id
        stats.e2e_latency.observe(now - sequence.request.arrival)
        stats.prefill_time.observe(sequence.first_token - sequence.first_scheduled)
        stats.decode_time.observe(now - sequence.first_token)
        stats.inference_time.observe(now - sequence.first_scheduled)
        if sequence.num_output > 1:
            share = (now - sequence.first_token) / (sequence.num_output - 1)
            stats.time_per_output_token.observe(share)
        stats.request_generation_tokens.observe(sequence.num_output)
        stats.request_max_generation_tokens.observe(sequence.num_output)
        stats.request_preemptions.observe(sequence.preemptions)
        if sequence.index == 0:
            stats.request_prompt_tokens.observe(sequence.num_prompt)
            stats.request_max_tokens.observe(sequence.request.max_tokens)
            stats.request_n.observe(sequence.request.params.n)
