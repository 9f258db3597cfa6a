"""What a step takes, in the one form that is learned, profiled and simulated.

    seconds = curve(tokens) + attention · pairs + kv_token · tokens of KV
              + sequence · sequences + step

The form is SmartSpec's (arXiv 2406.14066) with one term more, as a prompt's attention grows with
the square of its length and a decoding step's with the KV it reads, and with a curve where it has
a line.  Between two `KNOTS` the curve has one slope:

    a dense model on a GPU                  ▁▁▁▁▁▁▁▁▂▄▆█   reads its weights, then computes longer
    kernels in tiles of 16 rows             ▁▁▂▂▃▄▅▆▇███   cheap rows, then dear ones
    a mixture of experts                    ▁▃▅▆▇▇▇▇▇▇██   reads more experts, until it reads all

Nothing is negative, so more work never seems to cost less.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field

from ellm.core.load import StepLoad

# Where the curve may bend.  Bends of real machines lie anywhere between ten tokens (CPU kernels)
# and some thousands (a mixture of experts), and lines between knots that double miss the corner of
# a roofline, max(1, tokens / r), by at most 3 - 2√2 = 17 %; a least-squares fit by half of that.
KNOTS = (0, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
_ENDS = KNOTS[1:]


@dataclass(frozen=True, slots=True)
class Coefficients:
    """Seconds for each unit of load; `step` is what the emptiest step takes.

    `slopes` are seconds a token from each knot to the next; the last holds for any number beyond.
    """

    slopes: tuple[float, ...]
    attention: float
    kv_token: float
    sequence: float
    step: float
    # `step` and the curve at each knot: times are asked for often, by every planned step.
    _at_knots: tuple[float, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        assert len(self.slopes) == len(KNOTS), self.slopes
        seconds = [self.step]
        for slope, start, end in zip(self.slopes, KNOTS, _ENDS, strict=False):
            seconds.append(seconds[-1] + slope * (end - start))
        object.__setattr__(self, "_at_knots", tuple(seconds))

    @classmethod
    def even(
        cls,
        token: float = 0.0,
        attention: float = 0.0,
        kv_token: float = 0.0,
        sequence: float = 0.0,
        step: float = 0.0,
    ) -> Coefficients:
        """Every token costs the same."""
        return cls((token,) * len(KNOTS), attention, kv_token, sequence, step)

    @classmethod
    def of(cls, values: Sequence[float]) -> Coefficients:
        """What has these `values`."""
        attention, kv_token, sequence, step = values[-4:]
        return cls(tuple(values[:-4]), attention, kv_token, sequence, step)

    @property
    def values(self) -> tuple[float, ...]:
        """The slopes, then attention, kv_token, sequence and step."""
        return (*self.slopes, self.attention, self.kv_token, self.sequence, self.step)

    def seconds(self, load: StepLoad) -> float:
        tokens, attention, kv_tokens, sequences = load
        interval = bisect_left(_ENDS, tokens)
        return (
            self._at_knots[interval]
            + self.slopes[interval] * (tokens - KNOTS[interval])
            + self.attention * attention
            + self.kv_token * kv_tokens
            + self.sequence * sequences
        )

    def __add__(self, other: Coefficients) -> Coefficients:
        """What two parts of a step take one after the other."""
        pairs = zip(self.values, other.values, strict=True)
        return Coefficients.of([one + another for one, another in pairs])

    def times(self, factor: float) -> Coefficients:
        return Coefficients.of([factor * value for value in self.values])

    def largest_chunk(self, load: StepLoad, computed: int, most: int, seconds: float) -> int:
        """The most tokens, up to `most`, that a step with `load` can add within `seconds`.

        They belong to one more sequence, of which `computed` tokens are computed.  0 if none fits.
        `seconds` may be infinite.
        """

        def fits(chunk: int) -> bool:
            return self.seconds(load.with_sequence(chunk, computed + chunk)) <= seconds

        if most <= 0:
            return 0
        if fits(most):
            return most
        room = seconds - self.seconds(load) - self.kv_token * computed - self.sequence
        chunk = min(self._tokens_within(max(0.0, room), load.tokens, computed, most), most - 1)
        if (chunk == 0 or fits(chunk)) and not fits(chunk + 1):
            return chunk
        # Rounding matters, most of all on a flat curve.
        return bisect_left(range(1, most), True, key=lambda tokens: not fits(tokens))

    def _tokens_within(self, room: float, before: int, computed: int, most: int) -> int:
        """How many tokens more than `before`, up to `most`, take `room` seconds; rounded."""
        # Beside the curve a chunk costs its KV, and pairs that grow from token to token.
        flat = self.kv_token + self.attention * (computed + 0.5)
        grows = self.attention / 2
        first, last = bisect_left(_ENDS, before), bisect_left(_ENDS, before + most)
        room += self._at_knots[first] + self.slopes[first] * (before - KNOTS[first])

        def seconds_at(interval: int) -> float:
            chunk = KNOTS[interval] - before
            return self._at_knots[interval] + (flat + grows * chunk) * chunk

        # In the last interval that begins in time, time is a quadratic in the tokens.
        interval = first + bisect_right(range(first + 1, last + 1), room, key=seconds_at)
        start = max(0, KNOTS[interval] - before)
        slope = self.slopes[interval]
        spent = self._at_knots[interval] + slope * (before + start - KNOTS[interval])
        room = max(0.0, room - spent - (flat + grows * start) * start)
        linear = slope + flat + 2 * grows * start
        divisor = linear + math.sqrt(linear * linear + 4 * grows * room)
        return start + int(2 * room / divisor) if divisor * most > 2 * room else most
