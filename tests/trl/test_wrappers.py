"""Adopted Hugging Face models: other architectures, and whatever wraps, copies, saves or writes them."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from mx_plugin import fake_quantize, get_backend
from mx_plugin.errors import AdoptionError
from mx_plugin.execution.engine import Engine
from mx_plugin.execution.freshness import Fingerprint
from mx_plugin.execution.phases import TRACKER
from mx_plugin.precision import PolicyProvider, PrecisionPolicy

from .trainers import SEED, TRUNK, Workshop, formats_in, losses, plain, same_weights, tiny_model

pytest.importorskip("trl")

from mx_trl import MXCallback

if TYPE_CHECKING:
    from mx_trl.embedded import EmbeddedFolder

FAMILIES = ("qwen2", "llama", "gpt2")
PACKED = "MXFP4"


@pytest.fixture
def workshop(embedded: EmbeddedFolder, tmp_path: Path) -> Workshop:
    return Workshop(embedded, tmp_path)


def policy(name: str = "wrapped") -> PrecisionPolicy:
    """MXFP4 weights in rollout, on activations that are not quantised: what is checked is the weight."""
    data = {"version": 1, "name": name, "defaults": {"rollout": f"{PACKED}/FP16", "gradient": "MXFP8"}}
    return PrecisionPolicy.from_dict(data)


@contextmanager
def running(model: torch.nn.Module) -> Iterator[Engine]:
    engine = Engine(PolicyProvider(policy()), get_backend("cpu"))
    with engine:
        engine.adopt({"policy": model})
        yield engine


def tokens(model: Any) -> torch.Tensor:
    torch.manual_seed(SEED)
    return torch.randint(0, model.config.vocab_size, (2, 9))


def rolled(engine: Engine, model: Any, ids: torch.Tensor) -> torch.Tensor:
    with torch.no_grad(), engine.phase("rollout"):
        return model(input_ids=ids).logits


def expected(model: Any, ids: torch.Tensor) -> torch.Tensor:
    """The definition, on an ordinary copy: every layer's weight replaced by its quantised value."""
    from transformers.pytorch_utils import Conv1D

    plain_copy = copy.deepcopy(model)
    names = {"c_attn", "c_proj", "c_fc", *TRUNK}
    with torch.no_grad():
        for path, module in plain_copy.named_modules():
            weight = getattr(module, "weight", None)
            if (
                ".lora_" in path
                or not names.intersection(path.split("."))
                or not isinstance(weight, torch.nn.Parameter)
            ):
                continue
            if isinstance(module, Conv1D):
                weight.copy_(fake_quantize(weight.t(), PACKED, -1, scale_rule="rceil").t())
            elif isinstance(module, torch.nn.Linear):
                weight.copy_(fake_quantize(weight, PACKED, -1, scale_rule="rceil"))
        return plain_copy(input_ids=ids).logits


# ---------------------------------------------------------------------------- architectures


@pytest.mark.parametrize("family", FAMILIES)
def test_an_adopted_model_computes_what_its_quantised_weights_say(family: str, workshop: Workshop) -> None:
    model = tiny_model(family, workshop.tokenizer())
    if family == "qwen2":
        assert model.model.layers[0].self_attn.q_proj.bias is not None
        torch.nn.init.normal_(model.model.layers[0].self_attn.q_proj.bias)
    ids = tokens(model)
    unquantised = model(input_ids=ids).logits
    with running(model) as engine:
        torch.testing.assert_close(rolled(engine, model, ids), expected(model, ids), atol=1e-5, rtol=1e-5)
        assert not torch.allclose(rolled(engine, model, ids), unquantised, atol=1e-3)
    assert torch.equal(model(input_ids=ids).logits, unquantised)


def test_gpt2_layers_are_adopted_under_their_names_and_its_embeddings_are_not(workshop: Workshop) -> None:
    with running(tiny_model("gpt2", workshop.tokenizer())) as engine:
        names = {layer.name for layer in engine.layers}
        assert {f"transformer.h.0.{part}" for part in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")} <= names
        assert len(names) == 2 * 4 + 1 and "lm_head" in names
        c_fc = next(layer for layer in engine.layers if layer.name == "transformer.h.0.mlp.c_fc")
        assert (c_fc.in_features, c_fc.out_features) == (64, 256)
        left_out = {(item.name, item.reason) for item in engine.left_out}
        assert {name for name, reason in left_out if reason == "embedding"} == {"transformer.wte", "transformer.wpe"}
        assert ("transformer.h.0.attn", "attention products and KV cache") in left_out
        assert {reason for _, reason in left_out} == {"embedding", "norm", "attention products and KV cache"}


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_other_architectures_train_with_grpo_in_quantised_formats(
    family: str, workshop: Workshop, tmp_path: Path
) -> None:
    path = tmp_path / "wrapped.yaml"
    policy().to_yaml(path)
    callback = MXCallback(policy=str(path), output_dir=tmp_path)
    # GPT-2 has dropout, which the policy trains with and the reference scores without.
    trainer = workshop.trainer("grpo", [callback], model=workshop.policy(family), beta=0.1, disable_dropout=True)
    trainer.train()
    assert callback.run_dir is not None
    found = formats_in(callback.run_dir)
    assert f"{PACKED}/FP16" in found["rollout"]["policy"]
    assert "MXFP8/MXFP8" in found["gradient"]["policy"] and "MXFP8/MXFP8" in found["reward"]["reference"]
    assert losses(trainer)[0]["kl"] == 0.0


# ---------------------------------------------------------------------------- writes between rollouts


def lora(model: Any, **options: Any) -> Any:
    from peft import LoraConfig, get_peft_model

    config = {"r": 4, "target_modules": ["q_proj", "down_proj"], "init_lora_weights": False} | options
    return get_peft_model(model, LoraConfig(**config))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_a_peft_merge_or_unmerge_never_leaves_a_packed_weight_stale(dtype: torch.dtype, workshop: Workshop) -> None:
    from mx_trl.writers import peft_writes

    torch.manual_seed(SEED)
    # A faint adapter: in bfloat16 its merge changes few bits of few weights.
    model = lora(tiny_model("llama", workshop.tokenizer()).to(dtype), lora_alpha=0.01)
    ids = tokens(model)
    with running(model) as engine, peft_writes({"policy": model}, engine.invalidate):
        for write in (model.merge_adapter, model.unmerge_adapter, model.merge_adapter):
            rolled(engine, model, ids)
            write()
            assert torch.equal(rolled(engine, model, ids), _fresh(model, ids))


def _fresh(model: Any, ids: torch.Tensor) -> torch.Tensor:
    """The same rollout by an engine that has just adopted an ordinary copy: nothing of it can be stale."""
    twin = copy.deepcopy(model)
    assert plain(twin)
    with running(twin) as engine:
        return rolled(engine, twin, ids)


def test_a_merge_that_no_sampled_weight_shows_is_noticed(workshop: Workshop) -> None:
    """Only the announcement can tell."""
    from mx_trl.writers import peft_writes

    torch.manual_seed(SEED)
    model = lora(tiny_model("llama", workshop.tokenizer()), r=1, target_modules=["down_proj"])
    target = model.base_model.model.model.layers[0].mlp.down_proj
    with torch.no_grad():
        for layer in model.base_model.model.model.layers:
            layer.mlp.down_proj.lora_A["default"].weight.zero_()
        row, column = unsampled(target.base_layer.weight)
        target.lora_A["default"].weight[0, column] = 1.0
        target.lora_B["default"].weight.zero_()
        target.lora_B["default"].weight[row] = 5.0
    before = target.base_layer.weight.detach().clone()
    ids = tokens(model)
    with running(model) as engine, peft_writes({"policy": model}, engine.invalidate):
        rolled(engine, model, ids)
        model.merge_adapter()
        assert int((target.base_layer.weight != before).sum()) == 1
        assert torch.equal(rolled(engine, model, ids), _fresh(model, ids))


def unsampled(weight: torch.Tensor) -> tuple[int, int]:
    """Where a weight can change without its fingerprint changing."""
    for column in range(weight.shape[1]):
        changed = weight.detach().clone()
        mark = Fingerprint(changed)
        changed[3, column] += 0.5
        if mark.matches(changed):
            return 3, column
    raise AssertionError("every element is sampled")


def test_loading_a_state_dict_never_leaves_a_packed_weight_stale(workshop: Workshop) -> None:
    model = tiny_model("llama", workshop.tokenizer())
    other = {name: weight.clone() for name, weight in model.state_dict().items()}
    changed = other["model.layers.1.mlp.down_proj.weight"]
    changed[unsampled(changed)] += 0.5
    ids = tokens(model)
    with running(model) as engine:
        old = rolled(engine, model, ids)
        model.load_state_dict(other)
        new = rolled(engine, model, ids)
        assert torch.equal(new, _fresh(model, ids)) and not torch.equal(new, old)


def test_loading_a_state_dict_into_a_submodule_never_leaves_a_packed_weight_stale(workshop: Workshop) -> None:
    model = tiny_model("llama", workshop.tokenizer())
    target = model.model.layers[1].mlp.down_proj
    other = {"weight": target.weight.detach().clone()}
    other["weight"][unsampled(target.weight)] += 0.5
    ids = tokens(model)
    with running(model) as engine:
        rolled(engine, model, ids)
        target.load_state_dict(other)
        assert torch.equal(rolled(engine, model, ids), _fresh(model, ids))


def test_loading_a_state_dict_while_a_phase_is_in_force_never_leaves_a_packed_weight_stale(workshop: Workshop) -> None:
    model = tiny_model("llama", workshop.tokenizer())
    other = {name: weight * 1.5 for name, weight in model.state_dict().items()}
    ids = tokens(model)
    with running(model) as engine, torch.no_grad(), engine.phase("rollout"):
        model(input_ids=ids)
        model.load_state_dict(other)
        new = model(input_ids=ids).logits
        twin = copy.deepcopy(model)
    with running(twin) as engine:
        assert torch.equal(new, rolled(engine, twin, ids))


# ---------------------------------------------------------------------------- accelerate hooks, compile


def _dispatched(model: Any) -> Any:
    from accelerate import dispatch_model

    return dispatch_model(model, {"": "cpu"}, main_device="cpu", force_hooks=True)


def _hooked(model: Any) -> Any:
    from accelerate.hooks import ModelHook, add_hook_to_module

    for module in model.modules():
        if isinstance(module, torch.nn.Linear):
            add_hook_to_module(module, ModelHook())
    return model


def _aligned(model: Any) -> Any:
    """A hook on every module, as a ``device_map`` over several devices leaves them."""
    from accelerate.hooks import AlignDevicesHook, attach_align_device_hook_on_blocks

    devices = {name: "cpu" for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    attach_align_device_hook_on_blocks(model, execution_device=devices)
    assert any(isinstance(getattr(m, "_hf_hook", None), AlignDevicesHook) for m in model.modules())
    return model


@pytest.mark.parametrize("attach_hooks", [_dispatched, _hooked, _aligned])
def test_a_model_with_accelerate_hooks_runs_in_its_formats_and_is_restored(
    attach_hooks: Callable[[Any], Any], workshop: Workshop
) -> None:
    tokenizer = workshop.tokenizer()
    torch.manual_seed(SEED)
    bare = tiny_model("llama", tokenizer)
    model = attach_hooks(copy.deepcopy(bare))
    ids = tokens(model)
    before = model(input_ids=ids).logits
    hooks = {name: module._hf_hook for name, module in model.named_modules() if hasattr(module, "_hf_hook")}
    assert hooks
    with running(model) as engine:
        torch.testing.assert_close(rolled(engine, model, ids), expected(bare, ids), atol=1e-5, rtol=1e-5)
        assert len(engine.hits()["policy"]["rollout"]) == len(engine.layers)
    assert torch.equal(model(input_ids=ids).logits, before)
    assert {name: module._hf_hook for name, module in model.named_modules() if hasattr(module, "_hf_hook")} == hooks
    from accelerate.hooks import remove_hook_from_module

    remove_hook_from_module(model, recurse=True)
    assert plain(model)
    assert torch.equal(model(input_ids=ids).logits, before)


def test_a_copy_of_an_adopted_model_with_hooks_computes_on_its_own(workshop: Workshop) -> None:
    torch.manual_seed(SEED)
    bare = tiny_model("llama", workshop.tokenizer())
    model = _hooked(copy.deepcopy(bare))
    ids = tokens(model)
    with running(model) as engine:
        rolled(engine, model, ids)
        twin = copy.deepcopy(model)
    assert plain(twin)
    assert torch.equal(twin(input_ids=ids).logits, bare(input_ids=ids).logits)


def test_a_forward_left_behind_by_a_removed_hook_does_not_bypass_the_formats(workshop: Workshop) -> None:
    from accelerate.hooks import remove_hook_from_module

    torch.manual_seed(SEED)
    bare = tiny_model("llama", workshop.tokenizer())
    model = _hooked(copy.deepcopy(bare))
    remove_hook_from_module(model, recurse=True)
    assert "forward" in model.model.layers[0].mlp.up_proj.__dict__
    ids = tokens(model)
    with running(model) as engine:
        torch.testing.assert_close(rolled(engine, model, ids), expected(bare, ids), atol=1e-5, rtol=1e-5)
    assert plain(model) and torch.equal(model(input_ids=ids).logits, bare(input_ids=ids).logits)


def test_hooks_that_come_or_go_while_a_model_is_adopted_do_no_harm(workshop: Workshop) -> None:
    from accelerate.hooks import remove_hook_from_module

    torch.manual_seed(SEED)
    bare = tiny_model("llama", workshop.tokenizer())
    model = copy.deepcopy(bare)
    ids = tokens(model)
    with running(model) as engine:
        _hooked(model)
        torch.testing.assert_close(rolled(engine, model, ids), expected(bare, ids), atol=1e-5, rtol=1e-5)
    assert torch.equal(model(input_ids=ids).logits, bare(input_ids=ids).logits)
    with running(model) as engine:
        remove_hook_from_module(model, recurse=True)
        torch.testing.assert_close(rolled(engine, model, ids), expected(bare, ids), atol=1e-5, rtol=1e-5)
    assert torch.equal(model(input_ids=ids).logits, bare(input_ids=ids).logits)


@pytest.mark.slow
def test_a_compiled_model_runs_in_the_formats_of_each_phase(workshop: Workshop) -> None:
    torch.manual_seed(SEED)
    bare = tiny_model("llama", workshop.tokenizer())
    bare.model.layers = bare.model.layers[:1]  # a graph is compiled between any two adopted layers
    model = copy.deepcopy(bare)
    ids = tokens(model)
    compiled = torch.compile(model, backend="eager")
    with running(model) as engine:
        torch.testing.assert_close(rolled(engine, compiled, ids), expected(bare, ids), atol=1e-5, rtol=1e-5)
        loss = compiled(input_ids=ids, labels=ids).loss
        loss.backward()
        assert set(engine.hits()["policy"]) == {"rollout", "gradient"}
        torch.testing.assert_close(rolled(engine, compiled, ids), expected(bare, ids), atol=1e-5, rtol=1e-5)
    assert torch.equal(compiled(input_ids=ids).logits, bare(input_ids=ids).logits)
    torch._dynamo.reset()


# ---------------------------------------------------------------------------- copies, pickles, folders


def _pickled(model: Any) -> Any:
    return pickle.loads(pickle.dumps(model))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("duplicate", [copy.deepcopy, _pickled])
def test_a_copy_of_an_adopted_model_is_an_ordinary_one(
    duplicate: Callable[[Any], Any], family: str, workshop: Workshop
) -> None:
    model = tiny_model(family, workshop.tokenizer())
    ids = tokens(model)
    with running(model) as engine:
        rolled(engine, model, ids)
        twin = duplicate(model)
        assert plain(twin) and same_weights(twin, model)
        assert [type(module) for module in twin.modules()] == [_original(module) for module in model.modules()]
        with torch.no_grad(), TRACKER.pushed("rollout"):
            assert not torch.equal(twin(input_ids=ids).logits, model(input_ids=ids).logits)
    assert torch.equal(twin(input_ids=ids).logits, model(input_ids=ids).logits)


def _original(module: torch.nn.Module) -> type:
    from mx_plugin.execution.layer import adopted

    layer = adopted(module)
    return type(module) if layer is None else layer.original


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_saved_while_adopted_loads_as_an_ordinary_one(family: str, workshop: Workshop, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = tiny_model(family, workshop.tokenizer())
    ids = tokens(model)
    before = model(input_ids=ids).logits
    with running(model) as engine:
        rolled(engine, model, ids)
        model.save_pretrained(tmp_path / "saved")
        names = list(model.state_dict())
    reloaded = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    assert plain(reloaded) and list(reloaded.state_dict()) == names
    assert same_weights(reloaded, model)
    assert torch.equal(reloaded(input_ids=ids).logits, before)


def test_an_adopted_model_takes_and_loses_an_adapter(workshop: Workshop) -> None:
    """PEFT after adoption: the base layers stay adopted, and unloading gives the model back."""
    torch.manual_seed(SEED)
    bare = tiny_model("llama", workshop.tokenizer())
    model = copy.deepcopy(bare)
    ids = tokens(model)
    with running(model) as engine:
        wrapped = lora(model, init_lora_weights=True)
        torch.testing.assert_close(rolled(engine, wrapped, ids), expected(bare, ids), atol=1e-5, rtol=1e-5)
        assert len(engine.hits()["policy"]["rollout"]) == len(engine.layers)
        model = wrapped.unload()
    assert plain(model) and torch.equal(model(input_ids=ids).logits, bare(input_ids=ids).logits)


# ---------------------------------------------------------------------------- refusals


def test_reentrant_checkpointing_is_refused_with_the_setting_that_works(workshop: Workshop) -> None:
    trainer = workshop.trainer(
        "sft",
        [MXCallback(policy="C8", output_dir=workshop.folder)],
        gradient_checkpointing=True,
        gradient_checkpointing_kwargs={"use_reentrant": True},
    )
    with pytest.raises(AdoptionError, match=r"use_reentrant.*False"):
        trainer.train()
    assert plain(trainer.model)
