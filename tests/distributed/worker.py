"""What each rank of a distributed test runs: real trainers one after another, and what this rank saw of each.

Started by :mod:`tests.distributed.launch`: ``worker.py <repository> <job.json>``.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from itertools import islice
from pathlib import Path
from typing import Any

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def main(repository: str, job_file: str) -> None:
    sys.path.insert(0, repository)
    import torch.distributed as dist
    from accelerate import PartialState

    from mx_trl.embedded import EmbeddedFolder  # noqa: F401  (fails here, not in the middle, without an installation)

    job = json.loads(Path(job_file).read_text(encoding="utf-8"))
    state = PartialState(cpu=True)
    # accelerate launch --cpu once made a world of one rank of two: nothing below would have noticed.
    assert state.num_processes == job["ranks"], f"world size {state.num_processes}, asked for {job['ranks']}"
    assert job["ranks"] == 1 or dist.get_world_size() == job["ranks"]
    for run in job["runs"]:
        seen = {"world": state.num_processes, "rank": state.process_index, **one_run(job, run)}
        file = Path(job["folder"]) / run["name"] / f"rank{state.process_index}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(seen), encoding="utf-8")
    state.wait_for_everyone()
    if dist.is_initialized():
        dist.destroy_process_group()


def one_run(job: dict[str, Any], run: dict[str, Any]) -> dict[str, Any]:
    """Train once; what this rank saw: log, digest of the weights, hits, and calls of the layers."""
    from mx_trl import MXCallback

    folder = Path(job["folder"]) / run["name"]
    callback = None
    if run.get("policy"):
        callback = MXCallback(policy=run["policy"], output_dir=folder / "mx", **run.get("mx", {}))
    trainer = make_trainer(job, run, folder, [] if callback is None else [callback])
    trainer.train()
    model = trainer.accelerator.unwrap_model(trainer.model)
    seen = {
        "log": list(trainer.state.log_history),
        "weights": digest(model),
        "distributed": str(trainer.accelerator.distributed_type),
    }
    if callback is not None:
        engine = callback.last_session.engine
        seen["hits"] = engine.hits()
        seen["run_dir"] = None if callback.run_dir is None else str(callback.run_dir)
        seen["left_out"] = [f"{item.name}: {item.reason}" for item in engine.left_out]
        seen["summary"] = callback.summary()
    return seen


def make_trainer(job: dict[str, Any], run: dict[str, Any], folder: Path, callbacks: list[Any]) -> Any:
    from tests.trl.trainers import Workshop

    embedded = embedded_folder(Path(job["embedded"]))
    if run["kind"] == "ppo":
        return make_ppo(embedded, folder, callbacks, run.get("settings", {}))
    shop = Workshop(embedded, folder)
    model = shop.policy(run.get("family", "qwen2"))
    return shop.trainer(run["kind"], callbacks, model=model, **run.get("settings", {}))


def embedded_folder(folder: Path) -> Any:
    """The embedded model that the test made before the ranks were started."""
    from mx_trl.stages.preparation import embedded_folder as made

    return made(folder)


def make_ppo(embedded: Any, folder: Path, callbacks: list[Any], settings: dict[str, Any]) -> Any:
    """TRL 1.12's own PPOTrainer, two steps of 8 episodes over all ranks; it saves nothing."""
    from datasets import Dataset
    from transformers import set_seed
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    from mx_trl.models import load_policy, load_scorer, load_tokenizer
    from mx_trl.prompts import fitting_prompts, read_prompts

    common: dict[str, Any] = {
        "output_dir": str(folder / "trainer"), "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2,
        "per_device_eval_batch_size": 4, "num_ppo_epochs": 2, "total_episodes": 16, "response_length": 8,
        "learning_rate": 1e-3, "temperature": 1.0, "num_sample_generations": 0, "seed": 7, "use_cpu": True,
        "bf16": False, "save_strategy": "no", "report_to": "none", "disable_tqdm": True,
    }  # fmt: skip
    set_seed(7)
    tokenizer = load_tokenizer(str(embedded.policy))
    prompts = list(islice(read_prompts(str(embedded.prompts), "prompt"), 32))
    rows = Dataset.from_dict({"input_ids": fitting_prompts(prompts, tokenizer, 48)[1]})
    return PPOTrainer(
        args=PPOConfig(**(common | settings)),
        processing_class=tokenizer,
        model=load_policy(str(embedded.policy)),
        ref_model=None,
        reward_model=load_scorer(str(embedded.reward), "reward"),
        value_model=load_scorer(str(embedded.policy), "value"),
        train_dataset=rows,
        eval_dataset=rows.select(range(8)),
        callbacks=callbacks,
    )


def digest(model: Any) -> str:
    """SHA-256 over the names and bits of every tensor of the model; a sharded one is gathered first."""
    found = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        whole = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
        found.update(name.encode())
        found.update(whole.detach().contiguous().cpu().numpy().tobytes())
    return found.hexdigest()


if __name__ == "__main__":
    main(*sys.argv[1:])
