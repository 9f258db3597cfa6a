"""Token streams on disk, and the windows that a training step reads from them.

Promises: `prepare` writes the same streams for the same corpus and seed, and `Windows.batch`
returns the same windows for the same arguments, so that a resumed run reads on where it stopped.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer

from .corpus import Corpus, Document
from .vocabulary import encode_document, train_tokenizer

LIBRARY_COPIES = 2  # the standard library is the most varied part, and torch is five times larger


def prepare(folder: Path, seed: int) -> None:
    """Collect the corpus, train the tokenizer and write both streams, unless they are there."""
    if (folder / "data.json").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    corpus = Corpus.collect()
    training = [*corpus.files, *corpus.pairs]
    tokenizer = train_tokenizer(document.text for document in corpus.files)
    tokenizer.save(str(folder / "tokenizer.json"))
    training += [item for item in training if item.name.startswith("stdlib/")] * (
        LIBRARY_COPIES - 1
    )
    random.Random(seed).shuffle(training)
    train = write_stream(folder / "train.bin", tokenizer, training)
    held = write_stream(folder / "held.bin", tokenizer, corpus.held_files)
    held_pairs = write_stream(folder / "held_pairs.bin", tokenizer, corpus.held_pairs)
    facts = {
        "seed": seed,
        "train_tokens": train,
        "train_files": len(corpus.files),
        "train_pairs": len(corpus.pairs),
        "train_bytes": sum(size(document) for document in training),
        "pair_bytes": sum(size(document) for document in training if document.answer is not None),
        "held_tokens": held,
        "held_bytes": sum(size(document) for document in corpus.held_files),
        "held_pair_tokens": held_pairs,
        "held_pair_bytes": sum(size(document) for document in corpus.held_pairs),
        "held_modules": [document.name for document in corpus.held_files],
    }
    (folder / "data.json").write_text(json.dumps(facts, indent=1) + "\n")


def size(document: Document) -> int:
    """The document's bytes in UTF-8, markers not counted."""
    return len((document.text + (document.answer or "")).encode())


def write_stream(path: Path, tokenizer: Tokenizer, documents: Iterable[Document]) -> int:
    """Write the documents' ids one after another; return how many there are."""
    stream = [np.array(encode_document(tokenizer, item), dtype=np.uint16) for item in documents]
    joined = np.concatenate(stream)
    joined.tofile(path)
    return int(joined.size)


def read_stream(path: Path) -> NDArray[np.uint16]:
    """The ids that `write_stream` wrote, mapped from disk."""
    return np.memmap(path, dtype=np.uint16, mode="r")


@dataclass(frozen=True)
class Windows:
    """Fixed-length windows over a stream, each epoch in a fresh order with a fresh offset."""

    stream: NDArray[np.uint16]
    seed: int

    def batch(self, length: int, count: int, taken: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs and targets: windows `taken` to `taken + count` of this length's own order."""
        per_epoch = (len(self.stream) - 1) // length - 1
        rows = []
        for index in range(taken, taken + count):
            epoch, position = divmod(index, per_epoch)
            order = np.random.default_rng((self.seed, length, epoch))
            offset = int(order.integers(length))
            start = offset + int(order.permutation(per_epoch)[position]) * length
            rows.append(self.stream[start : start + length + 1].astype(np.int64))
        window = torch.from_numpy(np.stack(rows))
        return window[:, :-1].contiguous(), window[:, 1:].contiguous()
