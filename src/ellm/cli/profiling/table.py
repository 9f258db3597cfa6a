"""A profile as lines for a person."""

from __future__ import annotations

from collections.abc import Iterator

from ellm.core.load import StepLoad
from ellm.sim.profile import Profile

_PROMPT = 512
_CONTEXT = 1024
_SEQUENCES = (1, 8, 32)


def lines(profile: Profile) -> Iterator[str]:
    """How well it fits, some steps, the server, and the machine for other models."""
    made, device = profile.made, profile.device
    yield f"{profile.model.name}, {profile.model.dtype}, on {device.name}"
    yield ""
    yield f"{'steps':<24}{'kinds':>10}{'mean error':>14}{'largest':>10}"
    for kind, accuracy in profile.accuracy.items():
        errors = f"{100 * accuracy.mean:>12.1f} %{100 * accuracy.largest:>8.1f} %"
        yield f"{kind:<24}{accuracy.steps:>10}{errors}"
    yield ""
    for title, load in _examples(made.get("max_model_len", _CONTEXT)):
        yield _line(title, f"{1e3 * profile.served.seconds([load]):.2f} ms")
    over = device.overhead
    yield _line("a request, before", f"{1e3 * over.request:.2f} ms")
    yield _line("  a token of its prompt", f"{1e6 * over.prompt_token:.2f} us")
    yield _line("  in its first step", f"{1e3 * over.start:.2f} ms")
    yield _line("a token on its way", f"{1e6 * over.output_token:.0f} us")
    yield _line("an answer's end", f"{1e3 * over.completion:.2f} ms")
    yield ""
    speeds = ", ".join(f"{flops / 1e9:.0f} in {name}" for name, flops in device.flops.items())
    yield _line("GFLOP/s", speeds)
    yield _line("memory", f"{device.bandwidth / 1e9:.1f} GB/s")
    if profile.host is not None and profile.host.tier is not None:
        down, up = profile.host.tier.down, profile.host.tier.up
        yield _line("tier below", f"{down / 1e6:.0f} MB/s down, {up / 1e6:.0f} MB/s up")
    for name, error in made.get("roofline_error", {}).items():
        yield _line("by roofline alone", f"{100 * error:.0f} % off, {name}")


def _examples(longest: int) -> Iterator[tuple[str, StepLoad]]:
    prompt, context = min(_PROMPT, longest), min(_CONTEXT, longest)
    yield f"a prompt of {prompt}", StepLoad.of([(prompt, 0)])
    for count in _SEQUENCES:
        yield f"{count} that decode at {context}", StepLoad.of([(1, context - 1)] * count)


def _line(title: str, value: str) -> str:
    return f"{title:<30}{value}"
