"""One trainer of TRL that generates with vLLM, in a process of its own: vLLM can be made once a process.

``python child.py SPEC.json`` trains what the file describes and leaves ``result.json`` and, for each generation of a
colocated vLLM, what it held and what the trainer had: ``NNNN.pt``.
"""

from __future__ import annotations

import copy
import json
import logging
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch


def length_reward(completions: list[Any], **_: Any) -> list[float]:
    return [float(len(set(str(completion)))) for completion in completions]


def made(spec: dict[str, Any], callbacks: list[Any]) -> Any:
    from datasets import Dataset
    from transformers import set_seed

    set_seed(3)
    kind, folder = spec["kind"], Path(spec["folder"])
    if kind == "online_dpo":
        from trl.experimental.online_dpo import OnlineDPOConfig as Config
        from trl.experimental.online_dpo import OnlineDPOTrainer as Trainer

        settings: dict[str, Any] = {"max_new_tokens": 8, "max_length": 48, "bf16": False}
    elif kind == "rloo":
        from trl import RLOOConfig as Config
        from trl import RLOOTrainer as Trainer

        settings = {"num_generations": 4, "max_completion_length": 8, "vllm_max_model_length": 64, "beta": 0.0}
    else:
        from trl import GRPOConfig as Config
        from trl import GRPOTrainer as Trainer

        settings = {"num_generations": 4, "max_completion_length": 8, "vllm_max_model_length": 64}
    settings |= {
        "output_dir": str(folder / "trainer"), "use_vllm": True, "vllm_mode": "colocate", "bf16": False,
        "vllm_gpu_memory_utilization": 0.1, "per_device_train_batch_size": 4, "max_steps": 3, "learning_rate": 1e-2,
        "logging_steps": 1, "use_cpu": True, "report_to": "none", "save_strategy": "no", "seed": 3,
        "gradient_checkpointing": False, "disable_tqdm": True,
    }  # fmt: skip
    prompts = [{"prompt": text} for text in ("the cat sat", "a dog", "one", "my tree is", "we go", "it", "so", "and")]
    peft = None
    if spec.get("lora"):
        from peft import LoraConfig

        peft = LoraConfig(r=4, lora_alpha=16, target_modules=["q_proj", "v_proj", "down_proj"], task_type="CAUSAL_LM")
    model: Any = spec["model"]
    if kind == "online_dpo":
        from transformers import AutoModelForCausalLM

        model = AutoModelForCausalLM.from_pretrained(spec["model"], dtype=torch.float32)
    return Trainer(
        model=model,
        args=Config(**(settings | spec.get("config", {}))),
        reward_funcs=[length_reward],
        train_dataset=Dataset.from_list(prompts * 4),
        eval_dataset=Dataset.from_list(prompts[:4]),
        processing_class=tokenizer(spec["model"]),
        peft_config=peft,
        callbacks=callbacks,
    )


def tokenizer(model: str) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(model, padding_side="left")


def merged(model: Any) -> dict[str, torch.Tensor]:
    """The trainer's weights as a plain model's, adapters merged."""
    if hasattr(model, "peft_config"):
        model = copy.deepcopy(model).merge_and_unload()
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def watch(trainer: Any, llm: Any, folder: Path) -> None:
    """Before each generation, write down what vLLM holds and what the trainer has."""
    original = llm.generate
    model = llm.llm_engine.model_executor.driver_worker.model_runner.model

    def generate(*args: Any, **kwargs: Any) -> Any:
        held = {name: tensor.detach().clone() for name, tensor in model.named_parameters()}
        step = trainer.state.global_step
        has = {"held": held, "trained": merged(trainer.accelerator.unwrap_model(trainer.model)), "step": step}
        torch.save(has, folder / f"{len(list(folder.glob('*.pt'))):04d}.pt")
        return original(*args, **kwargs)

    llm.generate = generate


def broken_sync(trainer: Any, model: Any) -> list[str]:
    """vLLM's parameters that a sync which breaks off after the first part of a fused module has changed."""
    before = {name: tensor.detach().clone() for name, tensor in model.named_parameters()}
    plain = merged(trainer.accelerator.unwrap_model(trainer.model))

    def weights() -> Any:
        for name, tensor in plain.items():
            yield name, torch.zeros_like(tensor)
            if "q_proj" in name:
                raise ConnectionError("unplugged")

    try:
        model.load_weights(weights())
    except ConnectionError:
        after = dict(model.named_parameters())
        return [name for name, tensor in before.items() if not torch.equal(tensor.float(), after[name].float())]
    raise AssertionError("the sync did not break off")


def reported(trainer: Any, llm: Any, model: Any) -> list[list[str]]:
    """What the reload says of a whole sync, and of one without the k_proj of the first layer."""
    plain = merged(trainer.accelerator.unwrap_model(trainer.model))
    told = []
    for left_out in ("nothing", "layers.0.self_attn.k_proj"):
        model.load_weights([(name, tensor.bfloat16()) for name, tensor in plain.items() if left_out not in name])
        llm.reset_prefix_cache()
        told.append(llm.mx_reload.differing)
    return told


def main(path: str) -> None:
    spec = json.loads(Path(path).read_text())
    folder = Path(spec["folder"])
    logging.basicConfig(level=logging.INFO)
    callbacks = []
    if spec.get("policy"):
        from mx_trl import MXCallback

        callbacks = [
            MXCallback(policy=spec["policy"], output_dir=folder / "mx", mismatch_every=1, **spec.get("mx", {}))
        ]
    # OnlineDPO asks for an accelerator's type before it talks to a server; this machine has none.
    named = patch("torch.accelerator.current_accelerator", lambda *_: torch.device("cpu"))
    beside_server = spec.get("config", {}).get("vllm_mode") == "server"
    with named if spec["kind"] == "online_dpo" and beside_server else nullcontext():
        trainer = made(spec, callbacks)
    owner = getattr(trainer, "vllm_generation", trainer)
    colocated = getattr(owner, "llm", None)
    if colocated is not None:
        watch(trainer, colocated, folder)
    if spec.get("evaluate_first"):
        trainer.evaluate()
    before = {key: id(value) for key, value in owner.__dict__.items() if callable(value)}
    trainer.train()
    if spec.get("evaluate_last"):
        trainer.evaluate()
    model = None if colocated is None else colocated.llm_engine.model_executor.driver_worker.model_runner.model
    result = {
        "log": trainer.state.log_history,
        "restored": {key: id(value) for key, value in owner.__dict__.items() if callable(value)} == before,
        "load_weights_restored": model is None or "load_weights" not in model.__dict__,
        "run_dir": str(callbacks[0].run_dir) if callbacks else "",
    }
    if spec.get("broken_sync"):
        result["changed"] = broken_sync(trainer, model)
        result["differing"] = reported(trainer, colocated, model)
    (folder / "result.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main(sys.argv[1])
