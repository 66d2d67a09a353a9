"""TRL's RewardTrainer for answers with scores instead of pairs: least squares on the score."""

from __future__ import annotations

from typing import Any

import torch
from datasets import Dataset
from torch.nn.functional import mse_loss
from trl import RewardTrainer


class ScoreTrainer(RewardTrainer):  # type: ignore[misc]
    """Rows hold ``text`` or ``messages``, and ``score``; the loss is the mean squared error of the model's score.

    Everything else - optimiser, schedule, checkpoints, logging - is RewardTrainer's. It logs ``mean_reward``.
    """

    def __init__(self, *, processing_class: Any, **options: Any) -> None:
        super().__init__(processing_class=processing_class, data_collator=_Collator(processing_class), **options)

    def _prepare_dataset(self, dataset: Dataset, processing_class: Any, args: Any, dataset_name: str) -> Dataset:
        """Token ids of answers that are not longer than ``max_length``. Plain text gets the end token."""
        if "input_ids" in dataset.column_names:
            return dataset

        def tokenised(row: dict[str, Any]) -> dict[str, Any]:
            if "messages" in row:
                text = processing_class.apply_chat_template(row["messages"], tokenize=False)
                return {"input_ids": processing_class(text, add_special_tokens=False)["input_ids"]}
            end = "" if row["text"].endswith(processing_class.eos_token) else processing_class.eos_token
            return {"input_ids": processing_class(row["text"] + end)["input_ids"]}

        dataset = dataset.map(tokenised, remove_columns=[c for c in dataset.column_names if c != "score"])
        if args.max_length is None:
            return dataset
        return dataset.filter(lambda row: len(row["input_ids"]) <= args.max_length)

    def _set_signature_columns_if_needed(self) -> None:
        self._signature_columns = ["input_ids", "score"]

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Mean squared error over the batch."""
        wanted = inputs.pop("score")
        outputs = model(**inputs, use_cache=False)
        scores = outputs.logits.squeeze(-1).float()
        loss = mse_loss(scores, wanted)
        mode = "train" if self.model.training else "eval"
        self._metrics[mode]["mean_reward"].append(self.accelerator.gather(scores.detach()).mean().item())
        return (loss, outputs) if return_outputs else loss


class _Collator:
    """Pads on the right."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        width = max(len(row["input_ids"]) for row in rows)
        pad = self.tokenizer.pad_token_id
        return {
            "input_ids": torch.tensor([row["input_ids"] + [pad] * (width - len(row["input_ids"])) for row in rows]),
            "attention_mask": torch.tensor(
                [[1] * len(row["input_ids"]) + [0] * (width - len(row["input_ids"])) for row in rows]
            ),
            "score": torch.tensor([row["score"] for row in rows], dtype=torch.float32),
        }
