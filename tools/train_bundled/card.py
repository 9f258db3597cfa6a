"""The model card: what a shipped model was made from, how, and how well it predicts."""

from __future__ import annotations

from dataclasses import dataclass, field

from .model import MAX_POSITIONS, Llama


@dataclass(frozen=True)
class Figures:
    """Everything the card states that the weights do not."""

    name: str
    seed: int
    steps: int
    decays: list[tuple[int, int]]
    lanes: int
    tokens: int
    taught: bool
    share: float
    versions: dict[str, str]
    data: dict[str, int] = field(default_factory=dict)
    bits: dict[str, float] = field(default_factory=dict)
    agreement: dict[str, float] = field(default_factory=dict)


HEADER = """\
---
license: bsd-3-clause
license_name: psf-2.0-and-bsd-3-clause
language: [en]
tags: [code, python, llama]
library_name: transformers
---
"""

LIMITS = """\
## Limits

This is a very small model, trained for a very short time, that exists so that an engine has
something real to serve without a download. It continues Python in the style of the standard
library and of torch; it indents and closes brackets well, it does not reason, its functions are
often wrong, and it knows no facts. It may repeat passages of its training text. It is not fit
for use as a programming assistant.
"""


def card(model: Llama, figures: Figures) -> str:
    """The README.md of one model directory."""
    return "\n".join(
        [HEADER, *introduction(model, figures), *data(figures), *training(figures), LIMITS]
    )


def introduction(model: Llama, figures: Figures) -> list[str]:
    """Name, architecture and chat format."""
    shape = model.shape
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return [
        f"# ellm-{figures.name}",
        "",
        f"A Llama-architecture model of Python source text with {parameters:,} parameters:",
        f"hidden {shape.hidden}, {shape.layers} layers, {shape.heads} heads of {shape.head_width}"
        f" with {shape.kv_heads} for keys and values, MLP {shape.mlp},",
        f"vocabulary {shape.vocabulary} (byte-level BPE), tied embeddings, context {MAX_POSITIONS},"
        " weights in bfloat16.",
        "",
        "Text is trained as `<|bos|>text<|eos|>`, pairs as",
        "`<|bos|><|user|>docstring<|end|><|assistant|>function<|end|>`, which the chat template",
        "renders. Generation ends on `<|eos|>` or `<|end|>`.",
        "",
    ]


def data(figures: Figures) -> list[str]:
    """Where the text came from, under which licences, and what was held out."""
    facts, versions = figures.data, figures.versions
    share = 100 * facts["pair_bytes"] / facts["train_bytes"]
    return [
        "## Data",
        "",
        f"- the standard library of Python {versions['python']} (PSF licence), twice",
        f"- torch {versions['torch']}'s Python sources (BSD-3-Clause)",
        f"- numpy {versions['numpy']}'s Python sources (BSD-3-Clause)",
        "",
        "Tests, generated files, data tables and near-identical files are left out. Of the",
        f"{facts['train_bytes'] / 1e6:.1f} MB ({facts['train_tokens'] / 1e6:.1f} M tokens) of"
        f" training text, {share:.0f} % are {facts['train_pairs']} short functions with their",
        "docstrings in chat format. Modules chosen by a hash of their path"
        f" ({facts['held_bytes'] / 1e6:.2f} MB, and their pairs) are held out.",
        "",
    ]


def training(figures: Figures) -> list[str]:
    """The run in figures, its result, and the command that repeats it."""
    lines = ["## Training", "", f"{figures.tokens / 1e6:.2f} M tokens in {figures.steps} steps"]
    if not figures.decays:
        lines += ["so far: an early snapshot, its learning rate not yet decayed.", ""]
    else:
        decays = "".join(f" --decay {start}:{end}" for start, end in figures.decays)
        teacher = " --teacher src/ellm/bundled/base" if figures.taught else ""
        lines += [
            f"of 4096, the learning rate falling to zero from step {figures.decays[0][0]} on.",
            *(
                ["During that decay half of the loss is against ellm-base's distribution."]
                if figures.taught
                else []
            ),
            "Muon for the matrices, AdamW for the rest, bfloat16 autocast. The same steps again:",
            "",
            "```",
            f"python -m tools.train_bundled train {figures.name} --work WORK --seed {figures.seed}"
            f" --lanes {figures.lanes}{decays}{teacher}",
            "```",
            "",
        ]
    lines += ["| held-out text | window | bits per byte |", "|---|---|---|"]
    lines += [
        f"| {text} | {window} | {bits:.3f} |"
        for key, bits in figures.bits.items()
        for text, window in [key.split(" @ ")]
    ]
    lines += [""]
    if figures.share < 1.0:
        lines += [f"Measured on the first {100 * figures.share:g} % of the held-out text.", ""]
    if figures.agreement:
        lines += ["As a draft for ellm-base, on the held-out modules:", ""]
        lines += [f"- {name}: {value:.3f}" for name, value in figures.agreement.items()]
        lines += [""]
    return lines
