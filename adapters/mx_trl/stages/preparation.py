"""The part that all stages share: tokenizer, policy and prompts that are known to fit together."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import PartialState
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from trl import ModelConfig

from ..embedded import EmbeddedFolder, build
from ..errors import StageError
from ..models import context_length, end_tokens, ensure_padding, load_policy, load_tokenizer
from ..prompts import Prompt, fitting_prompts, read_prompts
from .arguments import StageArguments


@dataclass
class Prepared:
    """Tokenizer and policy, prompts with their token ids, and the ids that end a response."""

    tokenizer: PreTrainedTokenizerBase
    policy: PreTrainedModel
    policy_path: str
    prompts: list[Prompt]
    tokens: list[list[int]]
    ends: list[int]
    embedded: EmbeddedFolder | None

    @property
    def prompt_width(self) -> int:
        """Tokens of the longest prompt."""
        return max(map(len, self.tokens))

    @property
    def policy_is_embedded(self) -> bool:
        """Whether the policy is the embedded one."""
        return self.embedded is not None and self.policy_path == str(self.embedded.policy)

    def split(self, held_out: int, at_least: int = 1) -> int:
        """Number of prompts to train with when the last ``held_out`` are kept for evaluation.

        Raises:
            StageError: fewer than ``at_least`` remain.
        """
        remaining = len(self.prompts) - held_out
        if held_out < 0 or remaining < at_least:
            raise StageError(
                f"{remaining} prompts to train with ({len(self.prompts)} without the {held_out} of --num_eval_prompts) "
                f"are fewer than one batch of {at_least}; use more prompts or a smaller batch"
            )
        return remaining


def prepare(
    script: StageArguments,
    model_args: ModelConfig,
    *,
    response_length: int,
    embedded_dir: str,
    policy_path: str | None = None,
) -> Prepared:
    """Load or make the policy, its tokenizer and the prompts, and check them against each other.

    Args:
        policy_path: folder or hub id; None takes ``model_args.model_name_or_path``, and without that the
            embedded model, made in ``embedded_dir``.

    Raises:
        StageError: no prompts, something cannot be loaded, or prompt and response exceed the model's context.
    """
    path = policy_path or model_args.model_name_or_path
    embedded = None
    if path is not None and script.dataset_name is None:
        raise StageError(f"no prompts for {path}: give --dataset_name, a hub id, folder, .jsonl or .jsonl.gz")
    if path is None or script.reward == "embedded":
        embedded = embedded_folder(Path(embedded_dir))
    path = path or str(embedded.policy)  # type: ignore[union-attr]
    options = loading_options(model_args)
    tokenizer = load_tokenizer(path, revision=options["revision"], trust_remote_code=options["trust_remote_code"])
    policy = load_policy(path, **options)
    ends = end_tokens(policy, tokenizer, script.end_token)
    ensure_padding(tokenizer, policy, ends)
    prompts = read_prompts(
        script.dataset_name or str(embedded.prompts),  # type: ignore[union-attr]
        script.prompt_from,
        split=script.dataset_train_split,
        config=script.dataset_config,
        words=script.prompt_words,
        limit=script.num_prompts,
        on_malformed=script.on_malformed,
    )
    longest = _longest_prompt(script.max_prompt_length, response_length, context_length(policy), path)
    prompts, tokens = fitting_prompts(prompts, tokenizer, longest)
    return Prepared(tokenizer, policy, path, prompts, tokens, ends, embedded)


def embedded_folder(folder: Path) -> EmbeddedFolder:
    """The embedded model, prompts and examples in ``folder``, made there by the main process if need be.

    Raises:
        StageError: it cannot be written.
    """
    try:
        with PartialState().main_process_first():
            return build(folder)
    except OSError as error:
        raise StageError(
            f"cannot write the embedded model to {folder}: {error}; choose another --output_dir"
        ) from error


def loading_options(model_args: ModelConfig) -> dict[str, Any]:
    """What ``from_pretrained`` is given, from TRL's ModelConfig.

    Raises:
        StageError: a bitsandbytes quantisation is asked for.
    """
    if model_args.load_in_4bit or model_args.load_in_8bit:
        raise StageError("load_in_4bit and load_in_8bit replace the linear layers that MX executes: leave them out")
    options: dict[str, Any] = {
        "revision": model_args.model_revision,
        "trust_remote_code": getattr(model_args, "trust_remote_code", False),
        "dtype": model_args.dtype or "float32",
    }
    if model_args.attn_implementation:
        options["attn_implementation"] = model_args.attn_implementation
    return options


def _longest_prompt(asked: int | None, response: int, context: int | None, path: str) -> int:
    if context is None:
        return asked or 2**31
    room = context - response
    if room < 1 or (asked or 0) > room:
        prompt = "at least 1" if room < 1 else str(asked)
        raise StageError(
            f"prompts of {prompt} tokens and responses of {response} exceed the context of {path}, "
            f"{context} tokens; lower the response length or --max_prompt_length"
        )
    return asked or room
