"""The command line of ``mx-plugin memory``. Imports neither torch nor a framework."""

from __future__ import annotations

import argparse

from .request import BACKENDS, DTYPES, NO_POLICY, STAGES


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Fill the parser."""
    models = parser.add_argument_group("models")
    models.add_argument(
        "--model", required=True, metavar="M",
        help="folder, config.json, hub id, or stories15m, smollm2-135m, qwen2.5-0.5b; no weights are read",
    )  # fmt: skip
    models.add_argument("--reward_model", metavar="M", help="another shape, or 'rule' (default: the policy's shape)")
    models.add_argument("--value_model", metavar="M", help="the critic's shape (default: the policy's)")
    models.add_argument("--dtype", default="float32", metavar="D", help=f"{' or '.join(DTYPES)} (default: float32)")
    models.add_argument("--lora_r", type=int, default=0, metavar="R", help="adapters of this rank on all linear layers")
    run = parser.add_argument_group("run")
    run.add_argument("--stage", default="ppo", metavar="S", help=f"{', '.join(STAGES)} (default: ppo)")
    run.add_argument(
        "--policy", default=NO_POLICY, metavar="C", help="precision policy: A, B, C, C8, D, a file (default: none)"
    )
    run.add_argument("--batch", type=int, default=4, metavar="B", help="per_device_train_batch_size (default: 4)")
    run.add_argument("--accumulation", type=int, default=1, metavar="N", help="gradient_accumulation_steps (1)")
    run.add_argument("--prompt_length", type=int, default=64, metavar="T", help="tokens (default: 64)")
    run.add_argument("--response_length", type=int, default=64, metavar="T", help="tokens (default: 64)")
    run.add_argument(
        "--rollout_batch", type=int, default=64, metavar="B", help="PPO's local_rollout_forward_batch_size (64)"
    )
    run.add_argument("--mini_batches", type=int, default=1, metavar="N", help="PPO's num_mini_batches (default: 1)")
    run.add_argument("--generations", type=int, default=4, metavar="N", help="GRPO's num_generations (default: 4)")
    run.add_argument("--beta", type=float, default=0.0, help="GRPO's; above 0 there is a reference (default: 0)")
    run.add_argument("--gradient_checkpointing", action="store_true", help="keep layers' inputs, compute the rest anew")
    run.add_argument("--release_frozen", action="store_true", help="frozen layers keep their packed copy alone")
    run.add_argument("--shared_trunk", action="store_true", help="PPO's critic is a head on the policy's own layers")
    run.add_argument("--devices", type=int, default=1, metavar="K", help="place whole models over K devices or hosts")
    run.add_argument("--unpadded", action="store_true", help="all sequences of a batch are equally long: no mask")
    run.add_argument("--backend", default="cpu", metavar="NAME", help=f"{' or '.join(BACKENDS)} (default: cpu)")
    out = parser.add_argument_group("answer")
    out.add_argument("--limit", metavar="SIZE", help="such as 16GiB: which batch fits; exit 1 if the run does not")
    out.add_argument("--json", action="store_true", help="as JSON, in bytes")
    out.add_argument(
        "--validate", action="store_true", help="train a few steps in a fresh process; predicted beside measured"
    )
    out.add_argument("--steps", type=int, default=2, metavar="N", help="with --validate: optimiser steps (default: 2)")
