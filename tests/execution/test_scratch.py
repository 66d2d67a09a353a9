"""Operands of training products live in borrowed memory: nothing that outlives the product may, and no two share it."""

from __future__ import annotations

import copy
import gc
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from mx_plugin.execution.operands import Keys, bind_reference_cast
from mx_plugin.execution.phases import TRACKER
from mx_plugin.execution.products import LayerProducts, MXLinearFunction
from mx_plugin.execution.scratch import FIRST, SECOND, Scratch, Workspace
from mx_plugin.execution.tally import Tally
from mx_plugin.formats.spec import Pair
from mx_plugin.interfaces import BoundCast
from mx_plugin.precision.formats import LayerFormats, Product

from .conftest import TwoLayers

MXFP8 = {"defaults": {"rollout": "FP16", "reward": "FP16", "gradient": "MXFP8"}}
FORMATS = LayerFormats(*[Product(Pair("MXFP8", "MXFP8"))] * 3)


def layer_products(scratch: Scratch, bind: Callable[..., BoundCast] = bind_reference_cast) -> LayerProducts:
    return LayerProducts(FORMATS, bind, Keys(0, "layer"), scratch)


def storage(t: torch.Tensor) -> int:
    return t.untyped_storage().data_ptr()


def scratch_storages() -> set[int]:
    """Where the operands of every product in this process lie."""
    spaces = [thing for thing in gc.get_objects() if type(thing) is Workspace]
    return {storage(slot.memory) for space in spaces for slot in space._slots} - {0}


# ---------------------------------------------------------------------------- workspaces


def test_a_slot_grows_to_the_largest_and_serves_every_dtype_and_layout() -> None:
    space = Workspace()
    wide = space.tensor(FIRST, torch.Size([8, 16]), torch.float32)
    narrow = space.tensor(FIRST, torch.Size([8, 16]), torch.bfloat16)
    turned = space.tensor(FIRST, torch.Size([8, 16]), torch.bfloat16, transposed=True)
    assert storage(wide) == storage(narrow) == storage(turned)
    assert turned.shape == (8, 16) and turned.t().is_contiguous()
    assert space.nbytes == 8 * 16 * 4
    other = space.tensor(SECOND, torch.Size([4]), torch.float32)
    assert storage(other) != storage(wide)
    assert space.tensor(FIRST, torch.Size([8, 16]), torch.float32) is wide, "no new view for a known shape"
    space.tensor(FIRST, torch.Size([16, 16]), torch.float32)
    assert space.nbytes == 16 * 16 * 4 + 4 * 4


def test_batches_of_many_lengths_do_not_pile_up_views() -> None:
    space = Workspace()
    space.tensor(FIRST, torch.Size([1000, 8]), torch.float32)
    for rows in range(1, 1000):
        space.tensor(FIRST, torch.Size([rows, 8]), torch.float32)
    assert len(space._slots[FIRST].views) <= 64
    assert space.nbytes == 1000 * 8 * 4


def test_memory_first_used_in_inference_mode_is_written_in_training() -> None:
    space = Workspace()
    with torch.inference_mode():
        space.tensor(FIRST, torch.Size([4]), torch.float32).zero_()
    space.tensor(FIRST, torch.Size([4]), torch.float32).zero_()


def test_what_is_lent_is_not_lent_again_until_it_is_given_back() -> None:
    scratch = Scratch()
    one, two = scratch.borrow(), scratch.borrow()
    assert one is not two
    scratch.give_back(one)
    assert scratch.borrow() is one
    assert scratch.borrow() is not one


def test_a_closed_scratch_keeps_nothing() -> None:
    scratch = Scratch()
    lent = scratch.borrow()
    lent.tensor(FIRST, torch.Size([100]), torch.uint8)
    assert scratch.nbytes == 100
    scratch.close()
    assert scratch.nbytes == 100, "it is still lent, and counted"
    scratch.give_back(lent)
    del lent
    assert scratch.nbytes == 0


# ---------------------------------------------------------------------------- products


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_result_and_no_saved_tensor_lies_in_the_scratch(engines: Any, backend: str, dtype: torch.dtype) -> None:
    model = TwoLayers().to(dtype)
    engine = engines(MXFP8, {"policy": model}, backend)
    saved: list[torch.Tensor] = []

    def pack(t: torch.Tensor) -> torch.Tensor:
        saved.append(t)
        return t

    x = torch.randn(40, 64, dtype=dtype, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        hidden = model.up(x)
        y = model(x)
    (y.float().sum() + hidden.float().sum()).backward()
    scratch = scratch_storages()
    assert scratch and engine.scratch_bytes > 0
    kept = [hidden, y, x.grad, *saved, *(p.grad for p in model.parameters())]
    assert not scratch & {storage(t) for t in kept}


def test_results_survive_later_products(engines: Any) -> None:
    torch.manual_seed(1)
    layer = nn.Linear(64, 64)
    engines(MXFP8, {"policy": nn.ModuleDict({"up": layer})}, "cpu")
    y = layer(torch.randn(33, 64))
    before = y.detach().clone()
    for _ in range(3):
        layer(torch.randn(33, 64)).sum().backward()
    assert torch.equal(y, before)


def test_memory_does_not_grow_from_step_to_step_and_goes_with_the_engine(engines: Any, model: TwoLayers) -> None:
    engine = engines(MXFP8, {"policy": model}, "cpu")
    assert engine.scratch_bytes == 0
    held = []
    for _ in range(4):
        model(torch.randn(40, 64)).sum().backward()
        held.append(engine.scratch_bytes)
    assert held[0] > 0 and len(set(held)) == 1
    # The largest operands: up's weight or the tokens of either layer; in float32 at most.
    assert held[0] <= 4 * 3 * max(64 * 48, 40 * 64)
    y = model(torch.randn(40, 64))
    engine.restore()
    assert engine.scratch_bytes == 0
    y.sum().backward()  # a graph that outlives the engine still has its gradient
    TRACKER.rest()
    assert model.up.weight.grad is not None
    assert engine.scratch_bytes == 0


def test_a_product_inside_another_ones_cast_has_its_own_memory() -> None:
    scratch = Scratch()
    inner = layer_products(scratch)
    inside: list[torch.Tensor] = []

    def bind(*args: Any, **options: Any) -> BoundCast:
        cast = bind_reference_cast(*args, **options)

        def nested(x: torch.Tensor, *rest: Any) -> torch.Tensor:
            y = cast(x, *rest)
            inside.append(inner.forward(x, x[:8].contiguous(), None, None)[0])
            return y

        return nested

    x, w = torch.randn(16, 32), torch.randn(8, 32)
    outer = layer_products(scratch, bind)
    alone, _ = layer_products(Scratch()).forward(x, w, None, None)
    for _ in range(2):  # the second finds workspaces that the first gave back
        assert torch.equal(outer.forward(x, w, None, None)[0], alone)
    assert len(inside) == 4


def test_an_error_in_a_cast_leaves_the_scratch_usable() -> None:
    scratch = Scratch()
    x, w = torch.randn(16, 32), torch.randn(8, 32)
    with pytest.raises(RuntimeError):
        layer_products(scratch).forward(x, torch.randn(8, 31), None, None)
    got, _ = layer_products(scratch).forward(x, w, None, None)
    alone, _ = layer_products(Scratch()).forward(x, w, None, None)
    assert torch.equal(got, alone)


# ---------------------------------------------------------------------------- threads, checkpoints, trainers


def one_pass(layer: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    leaf = x.clone().requires_grad_()
    y = layer(leaf)
    weight = layer.weight
    assert isinstance(weight, torch.Tensor)
    gradients = torch.autograd.grad(y, (leaf, weight), torch.tanh(y.detach()))
    return [y.detach(), *gradients]


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_threads_that_train_the_same_layer_at_once_compute_what_each_does_alone(engines: Any, backend: str) -> None:
    torch.manual_seed(2)
    layer = nn.Linear(96, 160)
    engine = engines(MXFP8, {"policy": nn.ModuleDict({"up": layer})}, backend)
    batches = [torch.randn(20 + 7 * i, 96) for i in range(8)]
    with engine.phase("gradient"):
        alone = [one_pass(layer, x) for x in batches]
        start = threading.Barrier(4)

        def work(index: int) -> list[list[torch.Tensor]]:
            start.wait(timeout=60)
            return [one_pass(layer, batches[(index + i) % 8]) for i in range(8)]

        with ThreadPoolExecutor(4) as pool:
            results = list(pool.map(work, range(4)))
    for index, passes in enumerate(results):
        for i, got in enumerate(passes):
            for a, b in zip(got, alone[(index + i) % 8], strict=True):
                assert torch.equal(a, b)


def test_two_engines_in_one_process_do_not_touch_each_other(engines: Any) -> None:
    torch.manual_seed(4)
    layers = [nn.Linear(64, 64) for _ in range(2)]
    made = [engines(MXFP8, {"policy": nn.ModuleDict({"up": layer})}, "cpu") for layer in layers]
    x = torch.randn(33, 64)
    first, second = (one_pass(layer, x) for layer in layers)
    made[0].restore()
    assert made[0].scratch_bytes == 0 < made[1].scratch_bytes
    for a, b in zip(second, one_pass(layers[1], x), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(first[0], second[0])


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_a_forward_that_is_recomputed_in_backward_changes_nothing(engines: Any, backend: str) -> None:
    torch.manual_seed(5)
    plain = nn.ModuleDict({"up": nn.Linear(64, 96), "down": nn.Linear(96, 64)})
    again = copy.deepcopy(plain)

    def both(x: torch.Tensor, layers: nn.ModuleDict) -> torch.Tensor:
        y: torch.Tensor = layers["down"](torch.tanh(layers["up"](x)))
        return y

    x = torch.randn(50, 64)
    engines(MXFP8, {"policy": plain, "value": again}, backend)
    for _ in range(2):
        both(both(x, plain), plain).sum().backward()
        y = checkpoint(both, x, again, use_reentrant=False)
        checkpoint(both, y, again, use_reentrant=False).sum().backward()
    for a, b in zip(plain.parameters(), again.parameters(), strict=True):
        assert torch.equal(a.grad, b.grad)


def test_saved_tensors_are_the_sources_and_not_their_casts() -> None:
    products, tally = layer_products(Scratch()), Tally()
    x, w = torch.randn(8, 32, requires_grad=True), torch.randn(16, 32, requires_grad=True)
    y = MXLinearFunction.apply(x, w, None, products, tally, None)
    assert y.grad_fn.saved_tensors[0].data_ptr() == x.data_ptr()
    assert y.grad_fn.saved_tensors[1].data_ptr() == w.data_ptr()
