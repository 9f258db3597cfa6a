"""When a sequence has said all it will."""

from __future__ import annotations

from ellm.core.sequence import FinishReason, Sequence


def finish_reason(sequence: Sequence) -> FinishReason | None:
    """Why the newest token ends `sequence`; None if it goes on.

    End tokens count once `min_tokens` are out, unless the request ignores them; stop tokens
    always count.  Stop strings need text, and are looked for where the text is.
    """
    request = sequence.request
    params = request.params
    token, made = sequence.tokens[-1], sequence.num_output
    if made >= params.min_tokens:
        if not params.ignore_eos and token in request.end_token_ids:
            return FinishReason.STOP
        if params.stop_token_ids and token in params.stop_token_ids:
            return FinishReason.STOP
    if sequence.is_full:
        return FinishReason.LENGTH
    return None
