"""The part that SFT, DPO and the reward model share: model, tokenizer and examples that are known to fit together."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase, set_seed
from trl import ModelConfig

from mx_plugin.config import MXConfig

from ..data.completions import Example
from ..data.examples import Form, read_examples
from ..errors import StageError
from ..models import context_length, end_tokens, ensure_padding, load_policy, load_scorer, load_tokenizer
from .arguments import ExampleArguments
from .preparation import embedded_folder, loading_options

logger = logging.getLogger(__name__)


@dataclass
class Lesson:
    """What is trained, and on what. ``held_out`` is None when no examples are kept out of training."""

    tokenizer: PreTrainedTokenizerBase
    model: PreTrainedModel
    model_path: str
    train: Dataset
    held_out: Dataset | None


def read_lesson(
    script: ExampleArguments, path: str | None, form: Form, *, embedded_dir: str, embedded_file: str
) -> tuple[str, list[Example]]:
    """The model's path and the examples, embedded ones where none are given.

    Args:
        path: folder or hub id of the model, None for the embedded policy.
        embedded_file: which of :class:`~mx_trl.embedded.EmbeddedFolder`'s files holds the embedded examples.

    Raises:
        StageError: a model without data, or data without examples of this form.
    """
    source = script.dataset_name
    if path is not None and source is None:
        raise StageError(f"no data for {path}: give --dataset_name, a hub id, folder, .jsonl or .jsonl.gz")
    if path is None:
        embedded = embedded_folder(Path(embedded_dir))
        path, source = str(embedded.policy), source or str(getattr(embedded, embedded_file))
    examples = read_examples(
        str(source),
        form,
        split=script.dataset_train_split,
        config=script.dataset_config,
        limit=script.num_examples,
        on_malformed=script.on_malformed,
    )
    return path, examples


def make_lesson(
    script: ExampleArguments, training_args: Any, model_args: ModelConfig, path: str, examples: list[Example],
    *, trainer: str, scorer: bool = False,
) -> Lesson:  # fmt: skip
    """Load the model (with ``scorer`` a classifier with one label), and check it against the examples.

    The random state is that of ``training_args.seed`` before loading: a new head draws from it.

    Args:
        trainer: its name, for messages.

    Raises:
        StageError: no end token, no chat template for messages, too few examples, or nothing that loads.
    """
    set_seed(training_args.seed)
    options = loading_options(model_args)
    tokenizer = load_tokenizer(path, revision=options["revision"], trust_remote_code=options["trust_remote_code"])
    model = load_scorer(path, "model", **options) if scorer else load_policy(path, **options)
    ends = _choose_end(script.end_token, model, tokenizer, trainer, scorer)
    ensure_padding(tokenizer, model, ends)
    if not getattr(training_args, "chat_template_path", None):
        _need_template(examples[0], tokenizer, path)
    _cap_length(training_args, context_length(model), path)
    end = len(examples) - script.num_eval_examples
    if script.num_eval_examples < 0 or end < 1:
        raise StageError(
            f"{len(examples)} examples without the {script.num_eval_examples} of --num_eval_examples leave none to "
            "train with"
        )
    held_out = Dataset.from_list(examples[end:]) if examples[end:] else None
    return Lesson(tokenizer, model, path, Dataset.from_list(examples[:end]), held_out)


def mx_callback(script: ExampleArguments, config: MXConfig | None, run_dir: str) -> Any:
    """An MXCallback, or None with ``--no_mx``."""
    if script.no_mx:
        return None
    from ..callback import MXCallback

    return MXCallback(config or MXConfig(), output_dir=run_dir)


def _choose_end(choice: str, model: Any, tokenizer: PreTrainedTokenizerBase, trainer: str, scorer: bool) -> list[int]:
    """TRL ends plain text with the tokenizer's one end token: set the one that is meant."""
    if choice == "none":
        raise StageError(f"{trainer} always ends plain text with an end token: --end_token none is not possible")
    own = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    ends = own if scorer and choice == "auto" else end_tokens(model, tokenizer, choice)
    if not ends:
        raise StageError("neither the model nor its tokenizer names an end token: choose one by --end_token")
    if len(ends) > 1 and tokenizer.eos_token_id in ends:
        logger.warning(
            "the model names %d end tokens (%s), %s learns one, %r: choose by --end_token if it is another",
            len(ends), ", ".join(tokenizer.convert_ids_to_tokens(ends)), trainer, tokenizer.eos_token,
        )  # fmt: skip
    else:
        tokenizer.eos_token = tokenizer.convert_ids_to_tokens(ends[0])
    return ends


def _need_template(example: Example, tokenizer: PreTrainedTokenizerBase, path: str) -> None:
    if any(isinstance(value, list) for value in example.values()) and not tokenizer.chat_template:
        raise StageError(
            f"the examples are chat messages but the tokenizer of {path} has no chat template; use a tokenizer with "
            "one, --chat_template_path where the stage has it, or examples of plain text (hh-rlhf: not hh_chat)"
        )


def _cap_length(training_args: Any, context: int | None, path: str) -> None:
    """TRL's default ``max_length`` of 1024 tokens is more than small models read."""
    asked = training_args.max_length
    if context is not None and (asked is None or asked > context):
        logger.info("max_length %s is capped to the context of %s, %d tokens", asked, path, context)
        training_args.max_length = context
