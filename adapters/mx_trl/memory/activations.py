"""What autograd keeps of a forward pass, and what passes need for a moment: closed forms in tokens and sizes.

Each formula lists the tensors that transformers' modules (5.x, attention by ``scaled_dot_product_attention`` on the
CPU's flash kernel) save for backward; ``tests/memory`` counts them by ``torch.autograd.graph.saved_tensors_hooks`` on
small shapes and compares to the byte. Symbols: B sequences of T tokens, M = B T; h hidden, a attention (heads x head
size), k keys, f inner, H heads, Hk key heads, d head size, V vocabulary, r rank, L layers; e bytes of the model's
dtype. Everything is in bytes.
"""

from __future__ import annotations

from dataclasses import dataclass

from .shape import Shape

FLOAT32 = 4
LORA_LINEARS = 7
"""q, k, v, o, gate, up, down: PEFT's ``all-linear`` in a gated decoder."""


@dataclass(frozen=True)
class Pass:
    """One forward of a model: ``batch`` x ``length`` tokens, ``element`` bytes a number.

    ``masked``: attention is given a mask, because the batch holds padding. ``cached``: keys and values are put into a
    cache, as transformers does unless it is told not to.
    """

    shape: Shape
    batch: int
    length: int
    element: int
    masked: bool = True
    cached: bool = True
    lora_r: int = 0

    @property
    def tokens(self) -> int:
        return self.batch * self.length

    # ------------------------------------------------------------------ kept for backward

    def saved_layer(self) -> int:
        """Of one layer, for backward."""
        if self.shape.family == "gpt2":
            return self._saved_gpt2()
        return self.tokens * self._saved_per_token() + self._attention_extra()

    def _saved_per_token(self) -> int:
        s, e = self.shape, self.element
        if self.lora_r:
            # A frozen norm saves only its input in float32. Adapters are float32: their inputs are the linear layers'
            # own in a float32 model (norms' outputs 2h, attention's a, MLP's f), in another each layer's own copy.
            norms = 2 * s.hidden * FLOAT32
            if e == FLOAT32:
                inputs = (2 * s.hidden + s.inner) * e
            else:
                inputs = (5 * s.hidden + s.attention + s.inner) * FLOAT32
            mlp = 3 * s.inner * e  # gate's output, its SiLU, up's output
            between = LORA_LINEARS * self.lora_r * FLOAT32
            return norms + inputs + mlp + between + self._attention_per_token() + self._head_norms(trained=False)
        # Each of two norms: input in float32, normed, weighted (the input of the linear layers).
        norms = 2 * s.hidden * (FLOAT32 + 2 * e)
        mlp = 4 * s.inner * e  # gate's output, its SiLU, up's output, their product
        return norms + mlp + self._attention_per_token() + self._head_norms(trained=True)

    def _attention_per_token(self) -> int:
        """Query, key, value and output; keys are repeated for every query head where there is a mask."""
        s = self.shape
        keys = s.attention if self.masked or not s.grouped else s.keys
        return (2 * s.attention + 2 * keys) * self.element

    def _head_norms(self, trained: bool) -> int:
        """Qwen3's norms of queries and keys: input in float32, normed, and their root."""
        s = self.shape
        if s.family != "qwen3":
            return 0
        normed = self.element if trained else 0
        return (s.attention + s.keys) * (FLOAT32 + normed) + (s.heads + s.key_heads) * FLOAT32

    def _attention_extra(self) -> int:
        """The kernel's log-sum-exp, the mask that each call converts to the model's dtype, two norms' roots."""
        mask = self.batch * self.length * self.length * self.element if self.masked else 0
        return self.tokens * (self.shape.heads * FLOAT32 + 2 * FLOAT32) + mask

    def _saved_gpt2(self) -> int:
        """LayerNorm: input and output, mean and root, twice; attention: qkv 3h, its output, cached k and v; MLP: inner
        output, three factors of gelu_new, its result."""
        s, e = self.shape, self.element
        per_token = (4 * s.hidden + 6 * s.hidden + 5 * s.inner + 4) * e + s.heads * FLOAT32
        mask = self.batch * self.length * self.length * e if self.masked else 0
        return self.tokens * per_token + mask

    def saved(self, checkpointing: bool = False) -> int:
        """Of the whole trunk: every layer, the last norm, cosines and sines. Checkpointing keeps each layer's input."""
        s, e = self.shape, self.element
        layers = s.layers * (self.tokens * s.hidden * e if checkpointing else self.saved_layer())
        if s.family == "gpt2":
            return layers + self.tokens * (2 * s.hidden + 2) * e
        mask = self.batch * self.length * self.length if self.masked else 0  # the boolean one, once
        last = self.tokens * s.hidden * (FLOAT32 if self.lora_r else FLOAT32 + 2 * e)
        return layers + last + self.tokens * 2 * s.head_size * e + mask

    # ------------------------------------------------------------------ for a moment

    def cache(self, layers: int | None = None) -> int:
        """Keys and values of all tokens in ``layers`` layers, by default all: 2 L M k e."""
        return 2 * (self.shape.layers if layers is None else layers) * self.tokens * self.shape.keys * self.element

    def hidden(self) -> int:
        """One hidden state: M h e."""
        return self.tokens * self.shape.hidden * self.element

    def hidden_states(self) -> int:
        """All that ``output_hidden_states=True`` keeps: (L + 1) M h e."""
        return (self.shape.layers + 1) * self.hidden()

    def within_layer(self) -> int:
        """Inside one layer without gradients: residual, normed input, and the MLP's three inner tensors or attention's
        query, key, value (repeated under a mask) with the converted mask."""
        s, e = self.shape, self.element
        mlp = (3 if s.family != "gpt2" else 4) * s.inner * e
        heads = (4 if self.masked else 3) * s.attention * e
        mask = self.batch * self.length * self.length * e if self.masked else 0
        norm = 3 * s.hidden * FLOAT32
        return 2 * self.hidden() + max(self.tokens * mlp, self.tokens * heads + mask, self.tokens * norm)

    def backward_layer(self) -> int:
        """Inside one layer's backward: gradients of hidden state and of the MLP's inner tensors: M (2h + 3f) e."""
        return self.tokens * (2 * self.shape.hidden + 3 * self.shape.inner) * self.element

    def logits(self, positions: int | None = None) -> int:
        """B x positions (by default T) x V numbers of the model's dtype."""
        rows = self.batch * (self.length if positions is None else positions)
        return rows * self.shape.vocabulary * self.element
