"""The packed folder: its size, and that it comes back as the model that was exported."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, GPT2Config, LlamaConfig

from mx_plugin.errors import ReleasedWeightError
from mx_plugin.execution.packed_module import held_packed
from mx_trl import load_model
from mx_trl.errors import StageError
from mx_trl.export.command import export_model
from mx_trl.export.manifest import MANIFEST, TENSORS

if TYPE_CHECKING:
    from mx_trl.embedded import EmbeddedFolder

LLAMA = LlamaConfig(
    vocab_size=128, hidden_size=64, intermediate_size=176, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=64, tie_word_embeddings=False, attention_bias=True,
)  # fmt: skip
GPT2 = GPT2Config(vocab_size=128, n_positions=64, n_embd=64, n_layer=2, n_head=4)


def saved(config: Any, folder: Path, dtype: torch.dtype = torch.bfloat16) -> Path:
    """A random model of that architecture."""
    model = AutoModelForCausalLM.from_config(config).to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():  # biases start at zero, which would hide one that got lost
            parameter.add_(torch.randn_like(parameter) * 0.05)
    model.save_pretrained(folder)
    return folder


def greedy(model: Any, ids: torch.Tensor) -> torch.Tensor:
    return model.generate(ids, max_new_tokens=12, do_sample=False, pad_token_id=0, eos_token_id=None)


@pytest.mark.parametrize("policy", ["C", "C8"])
def test_a_packed_model_generates_what_the_exported_one_did(
    policy: str, embedded: EmbeddedFolder, tmp_path: Path, prompt_ids: torch.Tensor,
    in_formats: Callable[..., Any], full_model: Callable[..., Any],
) -> None:  # fmt: skip
    export_model(embedded.policy, tmp_path / "out", packed=True, policy=policy)
    exported, loaded = full_model(embedded.policy), load_model(tmp_path / "out")
    wanted = in_formats(exported, policy, lambda: (greedy(exported, prompt_ids), exported(prompt_ids).logits))
    assert torch.equal(greedy(loaded, prompt_ids), wanted[0])
    with torch.no_grad():
        assert torch.equal(loaded(prompt_ids).logits, wanted[1])
        assert not torch.equal(exported(prompt_ids).logits, wanted[1])  # so the formats do matter


@pytest.mark.parametrize("config", [LLAMA, GPT2], ids=["llama", "gpt2"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_other_architectures_and_dtypes(
    config: Any, dtype: torch.dtype, tmp_path: Path, in_formats: Callable[..., Any], full_model: Callable[..., Any]
) -> None:
    folder = saved(config, tmp_path / "in", dtype)
    export_model(folder, tmp_path / "out", packed=True, policy="C")
    exported, loaded = full_model(folder), load_model(tmp_path / "out")
    ids = torch.arange(12).view(2, 6)
    assert loaded.dtype == dtype
    assert torch.equal(greedy(loaded, ids), in_formats(exported, "C", lambda: greedy(exported, ids)))


@pytest.mark.parametrize(("policy", "format_name", "bits"), [("C", "MXFP4", 4.25), ("C8", "MXFP8", 8.25)])
def test_packed_layers_take_their_formats_bits_on_disk(
    policy: str, format_name: str, bits: float, embedded: EmbeddedFolder, tmp_path: Path
) -> None:
    done = export_model(embedded.policy, tmp_path / "out", packed=True, policy=policy)
    assert done.manifest is not None
    # All layers of the embedded model have a multiple of 32 inputs, so no block is ragged.
    assert done.manifest.packed_bytes[format_name] / done.manifest.bfloat16_bytes[format_name] == bits / 16
    tensors = (tmp_path / "out" / TENSORS).stat().st_size
    told = sum(done.manifest.packed_bytes.values()) + done.manifest.other_bytes
    assert told < tensors < told + 16_000  # names and shapes
    assert f"({bits:.2f} bits a weight)" in str(done)


def test_no_packed_layer_has_a_full_precision_weight(embedded: EmbeddedFolder, tmp_path: Path) -> None:
    export_model(embedded.policy, tmp_path / "out", packed=True, policy="C8")
    model = load_model(tmp_path / "out")
    layers = [module for module in model.modules() if isinstance(module, nn.Linear)]
    assert len(layers) == 15 and all(held_packed(layer) is not None for layer in layers)
    held = sum(x.nbytes for x in model.parameters() if type(x) in (torch.Tensor, nn.Parameter))
    assert held == model.get_input_embeddings().weight.nbytes + sum(
        p.nbytes for name, p in model.named_parameters() if "norm" in name or name.endswith("bias")
    )
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_a_tied_head_without_a_format_stays_tied(tmp_path: Path, in_formats: Callable[..., Any]) -> None:
    folder = saved(GPT2, tmp_path / "in")
    policy = tmp_path / "p.yaml"
    policy.write_text("version: 1\nname: p\ndefaults: {rollout: MXFP4}\n", encoding="utf-8")
    export_model(folder, tmp_path / "out", packed=True, policy=str(policy))
    model = load_model(tmp_path / "out")
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert model.config.tie_word_embeddings


def test_a_reward_model_is_packed_as_it_scores(
    embedded: EmbeddedFolder, tmp_path: Path, prompt_ids: torch.Tensor, in_formats: Callable[..., Any]
) -> None:
    done = export_model(embedded.reward, tmp_path / "out", packed=True, policy="C8")
    exported = AutoModelForSequenceClassification.from_pretrained(embedded.reward).eval()
    loaded = load_model(tmp_path / "out")
    assert done.manifest is not None and (done.manifest.role, done.manifest.phase) == ("reward", "reward")
    wanted = in_formats(exported, "C8", lambda: exported(prompt_ids).logits, "reward", "reward")
    with torch.no_grad():
        assert torch.equal(loaded(prompt_ids).logits, wanted)


def test_weights_decode_when_they_are_read(
    embedded: EmbeddedFolder, tmp_path: Path, full_model: Callable[..., Any]
) -> None:
    from mx_plugin import quantize

    export_model(embedded.policy, tmp_path / "out", packed=True, policy="C8")
    loaded = load_model(tmp_path / "out")
    name = "model.layers.0.mlp.up_proj.weight"
    weight = full_model(embedded.policy).state_dict()[name]
    decoded = quantize(weight, "MXFP8", scale_rule="rceil").dequantize()
    assert torch.equal(loaded.state_dict()[name], decoded)
    loaded.save_pretrained(tmp_path / "again")
    assert torch.equal(full_model(tmp_path / "again").state_dict()[name], decoded)


@pytest.mark.real_data
def test_a_trained_model_tells_the_same_story(
    stories15m: Path, tmp_path: Path, in_formats: Callable[..., Any], full_model: Callable[..., Any]
) -> None:
    from mx_trl.models import load_tokenizer

    done = export_model(stories15m, tmp_path / "out", packed=True, policy="C8", dtype="bfloat16")
    assert done.manifest is not None
    share = done.manifest.packed_bytes["MXFP8"] / done.manifest.bfloat16_bytes["MXFP8"]
    assert share == pytest.approx(8.25 / 16, rel=1e-3)
    ids = load_tokenizer(str(stories15m))("Once upon a time", return_tensors="pt")["input_ids"]
    exported, loaded = full_model(stories15m).to(torch.bfloat16), load_model(tmp_path / "out")
    assert torch.equal(greedy(loaded, ids), in_formats(exported, "C8", lambda: greedy(exported, ids)))


# ---------------------------------------------------------------------------- what a packed model refuses


@pytest.fixture(scope="module")
def loaded(embedded: EmbeddedFolder, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("packed") / "out"
    export_model(embedded.policy, folder, packed=True, policy="C8")
    return load_model(folder)


def test_gradients_are_refused_rather_than_lost(loaded: Any, prompt_ids: torch.Tensor) -> None:
    embeddings = loaded.get_input_embeddings()(prompt_ids).requires_grad_()
    with pytest.raises(
        ReleasedWeightError, match=r"q_proj was loaded packed and passes no gradient on.*without --packed"
    ):
        loaded(inputs_embeds=embeddings)


def test_writing_and_converting_are_refused(loaded: Any) -> None:
    layer = loaded.model.layers[0].mlp.up_proj
    with pytest.raises(ReleasedWeightError, match="up_proj: it was loaded packed"):
        layer.weight = nn.Parameter(torch.zeros(192, 64))
    with pytest.raises(ReleasedWeightError, match="loaded packed"):
        layer.weight.data.zero_()
    with pytest.raises(ReleasedWeightError, match=r"cannot go from torch.float32.*loaded packed"):
        copy.deepcopy(loaded).half()
    with pytest.raises(ReleasedWeightError, match="cannot be pickled"):
        pickle.dumps(loaded)


def test_a_copy_shares_the_packed_weights(loaded: Any, prompt_ids: torch.Tensor) -> None:
    copied = copy.deepcopy(loaded)
    ours, theirs = (held_packed(m.model.layers[0].mlp.up_proj) for m in (loaded, copied))
    assert ours is not None and theirs is not None and ours.packed is theirs.packed
    bias = copied.model.layers[0].self_attn.q_proj.bias
    assert bias.data_ptr() != loaded.model.layers[0].self_attn.q_proj.bias.data_ptr()
    assert torch.equal(copied(prompt_ids).logits, loaded(prompt_ids).logits)


def test_a_compiled_model_breaks_its_graph_at_packed_layers(loaded: Any) -> None:
    mlp = loaded.model.layers[0].mlp
    x = torch.randn(3, 64)
    assert torch.equal(torch.compile(mlp, backend="eager")(x), mlp(x))


def test_a_stage_does_not_train_on_a_packed_folder(embedded: EmbeddedFolder, tmp_path: Path) -> None:
    from mx_trl.models import load_policy

    export_model(embedded.policy, tmp_path / "out", packed=True, policy="C8")
    with pytest.raises(StageError, match=r"the policy .* is packed.*without --packed"):
        load_policy(str(tmp_path / "out"))


def test_an_engine_leaves_packed_layers_out_and_says_why(loaded: Any) -> None:
    from mx_plugin.errors import AdoptionError
    from mx_plugin.execution.adoption import select
    from mx_plugin.plugins import layer_types

    plain = AutoModelForCausalLM.from_config(LLAMA)
    _, left_out = select({"policy": plain, "reference": loaded}, layer_types())
    reasons = {item.reason for item in left_out if item.role == "reference" and item.name.endswith("proj")}
    assert reasons == {"loaded packed: MXFP8/MXFP8 in every phase"}
    with pytest.raises(AdoptionError, match="no layer to adopt"):
        select({"policy": loaded}, layer_types())


def test_transformers_does_not_load_a_packed_folder_by_halves(embedded: EmbeddedFolder, tmp_path: Path) -> None:
    export_model(embedded.policy, tmp_path / "out", packed=True, policy="C8")
    with pytest.raises(OSError, match=r"no file named model\.safetensors"):
        AutoModelForCausalLM.from_pretrained(tmp_path / "out")


# ---------------------------------------------------------------------------- broken folders


def test_a_folder_that_is_not_packed_says_how_to_load_it(embedded: EmbeddedFolder) -> None:
    with pytest.raises(StageError, match=r"is no packed model.*--packed.*from_pretrained"):
        load_model(embedded.policy)


def test_tensors_of_another_model_are_named(tmp_path: Path) -> None:
    export_model(saved(LLAMA, tmp_path / "in"), tmp_path / "out", packed=True, policy="C8")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    config["num_hidden_layers"] = 3
    config.pop("layer_types", None)
    (tmp_path / "out" / "config.json").write_text(json.dumps(config))
    with pytest.raises(StageError, match=r"lacks 13 tensors \(model\.layers\.2\."):
        load_model(tmp_path / "out")


def test_a_damaged_folder_is_one_clear_error(tmp_path: Path) -> None:
    export_model(saved(LLAMA, tmp_path / "in"), tmp_path / "out", packed=True, policy="C8")
    file = tmp_path / "out" / TENSORS
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(StageError, match="export again"):
        load_model(tmp_path / "out")
    manifest = json.loads((tmp_path / "out" / MANIFEST).read_text())
    (tmp_path / "out" / MANIFEST).write_text(json.dumps(manifest | {"version": 99}))
    with pytest.raises(StageError, match=r"version 99, this mx-plugin reads 1: update"):
        load_model(tmp_path / "out")
