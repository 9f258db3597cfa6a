"""The normal equations of step times, kept up with every step and solved now and then."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

from ellm.core.load import StepLoad
from ellm.scheduling.coefficients import KNOTS, Coefficients
from ellm.scheduling.nnls import nonnegative

SIZE = len(KNOTS)
_ENDS = KNOTS[1:]
_WIDTHS = (*(end - start for start, end in zip(KNOTS, _ENDS, strict=False)), 0)
_PROMPTS = [StepLoad.of([(tokens, 0)] if tokens else []) for tokens in KNOTS]
# Kept for each interval: sums over steps of the products of r, a, k, n and 1, of each of them with
# the time, and of weights; r are tokens beyond the interval's beginning.
SUMS = 21
# Where they hold r times a, k, n and 1, and 1 times the same.
_CROSS = ((1, 8), (2, 11), (3, 13), (4, 14))
# The products of a, k, n and 1 with one another, row by row.
_OTHERS = ((5, 6, 7, 8), (6, 9, 10, 11), (7, 10, 12, 13), (8, 11, 13, 14))
# Neighbouring slopes differ by so much of what a token costs on average there, or so one expects.
BEND = 0.2


class Equations:
    """Weighted least squares for what `Coefficients.values` holds; relative errors count.

    A step whose tokens end in one interval of the curve fills all intervals before.  What these
    hold is known then, so it is enough to sum up, for each interval, the steps that end in it,
    and an observation costs the same however many intervals there are:

        knots        0     4     8           16                       32
        a step       ├─────┼─────┼───────────┼──────── r ▶            ┊
                        4     4        8         r tokens
    """

    def __init__(self) -> None:
        self.sums = [[0.0] * SUMS for _ in KNOTS]

    def add(self, load: StepLoad, seconds: float, scale: float, weight: float) -> None:
        """A step with `load` took `seconds`; errors count in units of `scale` seconds."""
        tokens, a, k, n = load
        interval = bisect_left(_ENDS, tokens)
        w = weight / (scale * scale)
        r = tokens - KNOTS[interval]
        wr, wa, wk, wn = w * r, w * a, w * k, w * n
        s = self.sums[interval]
        s[0] += wr * r
        s[1] += wr * a
        s[2] += wr * k
        s[3] += wr * n
        s[4] += wr
        s[5] += wa * a
        s[6] += wa * k
        s[7] += wa * n
        s[8] += wa
        s[9] += wk * k
        s[10] += wk * n
        s[11] += wk
        s[12] += wn * n
        s[13] += wn
        s[14] += w
        s[15] += wr * seconds
        s[16] += wa * seconds
        s[17] += wk * seconds
        s[18] += wn * seconds
        s[19] += w * seconds
        s[20] += weight

    def rescale(self, factor: float) -> None:
        """Let everything count `factor` times as much."""
        self.sums = [[factor * value for value in sums] for sums in self.sums]

    def explained(self) -> list[float]:
        """For each unknown, the mean square of what it multiplies, in units of the scales."""
        found: list[float] = []
        beyond = 0.0
        for width, s in zip(reversed(_WIDTHS), reversed(self.sums), strict=True):
            found.append(s[0] + width * width * beyond)
            beyond += s[14]
        found.reverse()
        found += [sum(s[i] for s in self.sums) for i in (5, 9, 12, 14)]
        weight = self._weight
        return [value / weight for value in found]

    def solved(
        self,
        old: Coefficients,
        slopes: Sequence[float],
        reach: Sequence[float],
        inertia: float,
        error: float,
    ) -> Coefficients:
        """What fits best, none negative, having paid for leaving `old` and the shape of `slopes`.

        Leaving `old` costs each coefficient `inertia` times what its `reach`, as `explained` gives
        it, says that it explains.  Neighbouring slopes are expected to leave `slopes` alike, but
        for `BEND`, and that counts as much as one step that was off by `error`, its usual part.
        So a slope that nothing speaks of, or only noise, follows its neighbour.
        """
        rows, wanted = self._assembled()
        values = old.values
        price = inertia * self._weight
        for i, (value, explained) in enumerate(zip(values, reach, strict=True)):
            rows[i][i] += price * explained
            wanted[i] += price * explained * value
        for i in range(1, SIZE):
            seconds = max(old.seconds(_PROMPTS[i]), 1e-9)
            tie = (error * KNOTS[i] / (BEND * seconds)) ** 2
            rows[i - 1][i - 1] += tie
            rows[i][i] += tie
            rows[i - 1][i] -= tie
            rows[i][i - 1] -= tie
            bend = tie * (slopes[i] - slopes[i - 1])
            wanted[i - 1] -= bend
            wanted[i] += bend
        for i, value in enumerate(values):
            if not rows[i][i]:  # no step had any of it
                rows[i][i], wanted[i] = 1.0, value
        return Coefficients.of(nonnegative(rows, wanted, values))

    @property
    def _weight(self) -> float:
        return sum(s[20] for s in self.sums)

    def _assembled(self) -> tuple[list[list[float]], list[float]]:
        """The symmetric matrix Σ w x xᵀ, and Σ w x seconds."""
        rows = [[0.0] * (SIZE + 4) for _ in range(SIZE + 4)]
        wanted = [0.0] * (SIZE + 4)
        beyond = [0.0] * SUMS  # of steps that end after the interval
        for i in reversed(range(SIZE)):
            s, row, width = self.sums[i], rows[i], _WIDTHS[i]
            row[i] = s[0] + width * width * beyond[14]
            for column, (r, one) in enumerate(_CROSS, SIZE):
                row[column] = rows[column][i] = s[r] + width * beyond[one]
            for j in range(i):
                row[j] = rows[j][i] = _WIDTHS[j] * row[SIZE + 3]
            wanted[i] = s[15] + width * beyond[19]
            beyond = [old + new for old, new in zip(beyond, s, strict=True)]
        for i, places in enumerate(_OTHERS):
            rows[SIZE + i][SIZE:] = [beyond[place] for place in places]
            wanted[SIZE + i] = beyond[16 + i]
        return rows, wanted
