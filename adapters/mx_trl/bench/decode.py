"""``mx-plugin bench decode``: transformers' ``generate`` under policy C against the same model left alone."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedModel, Qwen2Config, Qwen2ForCausalLM

from mx_plugin import get_backend, load_policy
from mx_plugin.bench import Bench, Row, Run
from mx_plugin.errors import MXError
from mx_plugin.execution.engine import Engine
from mx_plugin.execution.phases import ROLLOUT
from mx_plugin.precision import PolicyProvider

POLICY = "C"
BATCH, PROMPT = 4, 16
"""Sequences, and tokens of each prompt."""

TARGETS: dict[str, dict[torch.dtype, tuple[float | None, float | None]]] = {
    "cpu": {torch.bfloat16: (2.3, 3.0), torch.float32: (5.0, 7.0)},
    "cuda": {torch.bfloat16: (1.0, None), torch.float32: (None, None)},
}
"""(target, stretch) by kind of device, and by the dtype of the plain model."""


def qwen2_half_billion() -> Qwen2Config:
    """The shape of Qwen2-0.5B: 494 million weights, embeddings tied."""
    return Qwen2Config(
        vocab_size=151936,
        hidden_size=896,
        intermediate_size=4864,
        num_hidden_layers=24,
        num_attention_heads=14,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
    )


def decode_rows(bench: Bench, config: Qwen2Config | None = None) -> Iterator[Row]:
    """Random weights, greedy, as many new tokens as ``--tokens`` says; models in bfloat16 and in float32.

    Seconds are those of a whole ``generate``, the prompt included. Policy C's model shares the plain one's
    parameters and is adopted once; packing is not in the seconds but in a note.

    Raises:
        MXError: ``--tokens`` below 1.
    """
    tokens = int(bench.arguments.tokens)
    if tokens < 1:
        raise MXError(f"--tokens {tokens}: at least one token must be generated")
    full = Qwen2ForCausalLM(config or qwen2_half_billion()).float().eval().to(bench.device)
    models: dict[torch.dtype, PreTrainedModel] = {torch.bfloat16: copy.deepcopy(full).bfloat16(), torch.float32: full}
    prompt = torch.randint(1, full.config.vocab_size, (BATCH, PROMPT), device=bench.device)
    with ExitStack() as stack:
        engines = {dtype: _adopted(bench, twin(model), stack) for dtype, model in models.items()}
        runs: dict[str, Run] = {}
        for dtype, model in models.items():
            runs[_name(dtype, "plain")] = partial(_generate, model, prompt, tokens)
            runs[_name(dtype, f"policy {POLICY}")] = partial(_in_rollout, *engines[dtype], prompt, tokens)
        seconds = bench.effort.medians(runs, least=3)
        yield from _table(seconds, tokens, torch.device(bench.device).type)
        for dtype, (engine, _) in engines.items():
            engine.check_hits()
            name = _name(dtype, f"policy {POLICY}")
            engine.invalidate()
            packing = bench.effort.seconds(runs[name]) - seconds[name]
            bench.note(f"decode, {name}: packing anew, as after each update, takes {max(packing, 0.0):.2f} s")


def _name(dtype: torch.dtype, what: str) -> str:
    return f"{str(dtype).removeprefix('torch.')}, {what}"


def twin(model: PreTrainedModel) -> PreTrainedModel:
    """A second model over the very same parameters: adopting one leaves the other as it is."""
    made: PreTrainedModel = copy.deepcopy(model, {id(parameter): parameter for parameter in model.parameters()})
    return made


def _adopted(bench: Bench, model: PreTrainedModel, stack: ExitStack) -> tuple[Engine, PreTrainedModel]:
    backend = get_backend(bench.backend)
    stack.callback(backend.close)
    engine = stack.enter_context(Engine(PolicyProvider(load_policy(POLICY)), backend))
    engine.adopt({"policy": model})
    return engine, model


def _in_rollout(engine: Engine, model: PreTrainedModel, prompt: torch.Tensor, tokens: int) -> None:
    with engine.phase(ROLLOUT):
        _generate(model, prompt, tokens)


def _generate(model: Any, prompt: torch.Tensor, tokens: int) -> None:
    # A configuration of its own: nothing that the model's may say, such as an end token, cuts the answer short.
    greedy = GenerationConfig(max_new_tokens=tokens, do_sample=False, pad_token_id=0, use_cache=True)
    with torch.no_grad():
        answer = model.generate(prompt, attention_mask=torch.ones_like(prompt), generation_config=greedy)
    if answer.shape[1] != prompt.shape[1] + tokens:
        raise AssertionError(f"generate made {answer.shape[1] - prompt.shape[1]} tokens instead of {tokens}")


def _table(seconds: dict[str, float], tokens: int, kind: str) -> Iterator[Row]:
    for dtype, (target, stretch) in TARGETS[kind].items():
        case = f"{str(dtype).removeprefix('torch.')} batch {BATCH}, {tokens} tokens"
        plain, quantised = seconds[_name(dtype, "plain")], seconds[_name(dtype, f"policy {POLICY}")]
        yield Row("decode", case, "plain", plain, 1.0, note=_rate(plain, tokens))
        ratio = plain / quantised
        yield Row("decode", case, f"policy {POLICY}", quantised, ratio, target, stretch, note=_rate(quantised, tokens))


def _rate(seconds: float, tokens: int) -> str:
    return f"{BATCH * tokens / seconds:.1f} tokens/s"
