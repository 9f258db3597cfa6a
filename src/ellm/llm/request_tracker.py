"""One request on its way back: from the engine's tokens to the caller's text."""

from __future__ import annotations

from dataclasses import dataclass, field

from ellm.core.clock import Clock
from ellm.core.output import SequenceOutput
from ellm.core.request import Request
from ellm.core.result import TokenLogprobs
from ellm.core.sequence import FinishReason
from ellm.llm.detokenizer import Detokenizer, detokenizer
from ellm.llm.outputs import CompletionOutput, Logprob, RequestMetrics, RequestOutput
from ellm.llm.stops import StopStrings
from ellm.llm.tokenizer import Tokenizer


@dataclass(slots=True)
class _Choice:
    """One continuation.  Without a detokenizer it has no text."""

    detokenizer: Detokenizer | None
    stops: StopStrings
    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[dict[int, Logprob]] = field(default_factory=list)
    cumulative_logprob: float = 0.0
    count: int = 0
    changed: bool = False
    finish_reason: FinishReason | None = None
    stop_reason: int | str | None = None

    def forget(self) -> None:
        """Drop what has been handed over."""
        self.text, self.token_ids, self.logprobs, self.changed = "", [], [], False


class RequestTracker:
    """Collects the news of one request until it is asked for an output.

    `request_id` is the caller's name for it; the engine may know it by another.
    With `delta` an output has only what came since the last one, so that a slow reader costs no
    more memory than the text it has not read; otherwise each output has everything.
    """

    def __init__(
        self,
        request: Request,
        request_id: str,
        prompt: str | None,
        tokenizer: Tokenizer,
        clock: Clock,
        delta: bool = False,
    ) -> None:
        self.request = request
        self._request_id = request_id
        self._prompt = prompt
        self._prompt_ids = list(request.prompt)
        self._tokenizer = tokenizer
        self._clock = clock
        self._delta = delta
        self._choices = [self._new_choice() for _ in range(request.params.n)]
        self._scores: list[dict[int, Logprob] | None] = [None]
        self._scores_due = request.params.prompt_logprobs is not None
        self._cached_tokens = 0
        self._first_token: float | None = None
        self._last_token: float | None = None

    def _new_choice(self) -> _Choice:
        params = self.request.params
        machine = None
        if params.detokenize:
            machine = detokenizer(self._tokenizer, self.request.prompt, params.skip_special_tokens)
        assert isinstance(params.stop, tuple)
        return _Choice(machine, StopStrings(params.stop, params.include_stop_str_in_output))

    @property
    def finished(self) -> bool:
        return all(choice.finish_reason is not None for choice in self._choices)

    @property
    def has_news(self) -> bool:
        """Whether some choice has a new token, new text or an end."""
        return any(choice.changed for choice in self._choices)

    def add(self, news: SequenceOutput) -> bool:
        """Take in one step's news; whether the engine must be told to end this choice.

        That is so when a stop string was found.  What comes for an ended choice is dropped.
        """
        choice = self._choices[news.index]
        if choice.finish_reason is not None:
            return False
        if news.index == 0:
            self._cached_tokens = max(self._cached_tokens, news.cached_tokens)
            self._scores += [self._table(score) for score in news.scores]
        if news.token is not None:
            self._add_token(choice, news.token, news)
        if choice.finish_reason is None and news.finish_reason is not None:
            self._finish(choice, news.finish_reason)
        return choice.finish_reason is not None and news.finish_reason is None

    def _add_token(self, choice: _Choice, token: int, news: SequenceOutput) -> None:
        params = self.request.params
        self._last_token = self._clock.now()
        if self._first_token is None:
            self._first_token = self._last_token
        choice.changed = True
        choice.token_ids.append(token)
        choice.count += 1
        if news.logprobs is not None:
            choice.logprobs.append(self._table(news.logprobs))
            choice.cumulative_logprob += news.logprobs.logprob
        stopped = news.finish_reason is FinishReason.STOP
        if stopped and token in (params.stop_token_ids or ()):
            choice.stop_reason = token
        # A token that ends the text is not part of it, unless asked for.
        if choice.detokenizer and (params.include_stop_str_in_output or not stopped):
            self._add_text(choice, choice.detokenizer.push(token))

    def _add_text(self, choice: _Choice, text: str) -> None:
        choice.text += choice.stops.push(text, choice.count >= self.request.params.min_tokens)
        if choice.stops.found is not None:
            choice.finish_reason = FinishReason.STOP
            choice.stop_reason = choice.stops.found

    def _finish(self, choice: _Choice, reason: FinishReason) -> None:
        choice.changed = True
        if choice.detokenizer:
            self._add_text(choice, choice.detokenizer.finish())
        if choice.finish_reason is None:
            choice.text += choice.stops.finish()
            choice.finish_reason = reason

    def _table(self, scores: TokenLogprobs) -> dict[int, Logprob]:
        """The token itself first, then the likeliest in falling order."""
        text = self._tokenizer.token_text
        table = {scores.token: Logprob(scores.logprob, scores.rank, text(scores.token))}
        for rank, (token, logprob) in enumerate(scores.top, start=1):
            table.setdefault(token, Logprob(logprob, rank, text(token)))
        return table

    def output(self) -> RequestOutput:
        """Everything so far, or with `delta` the news, which are then forgotten."""
        choices = list(enumerate(self._choices))
        if self._delta:
            choices = [(index, choice) for index, choice in choices if choice.changed]
        output = RequestOutput(
            request_id=self._request_id,
            prompt=self._prompt,
            prompt_token_ids=self._prompt_ids,
            prompt_logprobs=self._prompt_logprobs(),
            outputs=[self._completion(index, choice) for index, choice in choices],
            finished=self.finished,
            num_cached_tokens=self._cached_tokens,
            metrics=RequestMetrics(self.request.arrival, self._first_token, self._last_token),
        )
        for _, choice in choices:
            if self._delta:
                choice.forget()
            choice.changed = False
        return output

    def _completion(self, index: int, choice: _Choice) -> CompletionOutput:
        scored = self.request.params.logprobs is not None
        reason = choice.finish_reason
        return CompletionOutput(
            index=index,
            text=choice.text,
            token_ids=list(choice.token_ids),
            cumulative_logprob=choice.cumulative_logprob if scored else None,
            logprobs=list(choice.logprobs) if scored else None,
            finish_reason=None if reason is None else reason.value,
            stop_reason=choice.stop_reason,
        )

    def _prompt_logprobs(self) -> list[dict[int, Logprob] | None] | None:
        """Complete or not at all, and with `delta` only once."""
        if not self._scores_due or len(self._scores) < len(self.request.prompt):
            return None
        self._scores_due = not self._delta
        return list(self._scores)
