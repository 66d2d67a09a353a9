"""A language model of a few thousand weights in plain torch, and batches for it."""

from __future__ import annotations

import torch
from torch import nn

from mx_plugin.sensitivity import Batch

VOCABULARY, WIDTH, BLOCKS = 40, 64, 3


class Block(nn.Module):
    """Every position sees the mean of those before it."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(WIDTH, 96)
        self.down = nn.Linear(96, WIDTH, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        past = x.cumsum(1) / torch.arange(1, x.shape[1] + 1).view(1, -1, 1)
        normed = torch.nn.functional.layer_norm(x + past, (WIDTH,))
        return x + self.down(torch.nn.functional.silu(self.up(normed)))


class TinyModel(nn.Module):
    """Token ids (sequences, length) -> logits (sequences, length, vocabulary)."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.embed = nn.Embedding(VOCABULARY, WIDTH)
            self.blocks = nn.ModuleList(Block() for _ in range(BLOCKS))
            self.lm_head = nn.Linear(WIDTH, VOCABULARY, bias=False)

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head

    def hidden(self, input_ids: torch.Tensor) -> torch.Tensor:
        x = self.embed(input_ids)
        for block in self.blocks:
            x = block(x)
        return x

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        return self.lm_head(self.hidden(input_ids))


class TinyScorer(TinyModel):
    """One value a position, (sequences, length, 1): a reward model whose score stands at the end, or a critic."""

    def __init__(self, seed: int = 1) -> None:
        super().__init__(seed)
        del self.lm_head
        self.score = nn.Linear(WIDTH, 1)

    def get_output_embeddings(self) -> None:
        return None

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        return self.score(self.hidden(input_ids))


def tiny_batches(count: int = 2, seed: int = 3) -> list[Batch]:
    """Batches of three sequences of ten tokens; the last sequence of each is padded from its seventh."""
    generator = torch.Generator().manual_seed(seed)
    batches = []
    for _ in range(count):
        mask = torch.ones(3, 10, dtype=torch.int64)
        mask[-1, 6:] = 0
        tokens = torch.randint(VOCABULARY, (3, 10), generator=generator)
        batches.append(Batch({"input_ids": tokens, "attention_mask": mask}))
    return batches


LAYERS = [f"blocks.{i}.{name}" for i in range(BLOCKS) for name in ("up", "down")]
"""The trunk's linear layers, in the order in which they run."""
