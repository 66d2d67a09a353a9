"""One rank of SFT under DeepSpeed ZeRO-2: ``torchrun ... zero2.py MODEL FOLDER [POLICY]``."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path


def main(model: str, folder: str, policy: str = "") -> None:
    from datasets import Dataset
    from transformers import AutoTokenizer, set_seed
    from trl import SFTConfig, SFTTrainer

    from mx_trl import MXCallback

    set_seed(3)
    callbacks = [MXCallback(policy=policy, output_dir=Path(folder) / "mx")] if policy else []
    auto = dict.fromkeys(("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps"), "auto")
    trainer = SFTTrainer(
        model=model,
        args=SFTConfig(
            output_dir=str(Path(folder) / "trainer"),
            per_device_train_batch_size=2,
            max_steps=3,
            learning_rate=1e-3,
            logging_steps=1,
            use_cpu=True,
            bf16=False,
            report_to="none",
            save_strategy="no",
            seed=3,
            max_length=32,
            gradient_checkpointing=False,
            disable_tqdm=True,
            deepspeed={"zero_optimization": {"stage": 2}, "zero_allow_untested_optimizer": True, **auto},
        ),
        train_dataset=Dataset.from_list([{"text": f"the cat {letter} sat on"} for letter in "abcdefgh"] * 4),
        processing_class=AutoTokenizer.from_pretrained(model),
        callbacks=callbacks,
    )
    trainer.train()
    if int(os.environ["RANK"]) == 0:
        result = {
            "engine": type(trainer.model_wrapped).__name__,
            "stage": trainer.accelerator.state.deepspeed_plugin.zero_stage,
            "ranks": trainer.accelerator.num_processes,
            "log": trainer.state.log_history,
            "run_dir": str(callbacks[0].run_dir) if callbacks else "",
        }
        (Path(folder) / "result.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main(*sys.argv[1:])
