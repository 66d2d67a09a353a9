"""The books of a board's memory: nothing overlaps, the least recently used goes first, nothing leaks."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mx_fpga.errors import DoesNotFit
from mx_fpga.fake import DEFAULT
from mx_fpga.memory import Memory, Space

SMALL = replace(DEFAULT, element_bytes=4096, scale_bytes=256, handles=8)  # words of 64 bytes, scales by 2


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 900)), max_size=60))
def test_what_is_taken_never_overlaps_and_comes_back_whole(steps: list[tuple[bool, int]]) -> None:
    space = Space(4096, 64)
    taken: dict[int, int] = {}
    for give_back, number in steps:
        if give_back and taken:
            base = sorted(taken)[number % len(taken)]
            space.give_back(base)
            del taken[base]
        else:
            base = space.take(number)
            if base is None:
                continue
            assert base % 64 == 0 and base + number <= 4096
            assert all(base + number <= other or other + size <= base for other, size in taken.items())
            taken[base] = number
    for base in taken:
        space.give_back(base)
    assert space.free == 4096 and space.take(4096) == 0


def test_an_odd_end_that_no_word_fills_is_not_given_out() -> None:
    space = Space(200, 64)
    assert space.free == 192 and space.take(193) is None and space.take(192) == 0


def test_the_least_recently_used_makes_room() -> None:
    memory = Memory(SMALL)
    for name in "abc":
        assert memory.place(name, 1024, 32)[1] == []
    assert memory.find("a") is not None and memory.find("b") is not None
    place, evicted = memory.place("d", 2048, 32)
    assert evicted == ["c"] and memory.evictions == 1, "c was used longest ago, and leaves a hole of 1024 + 1024"
    assert memory.find("c") is None and memory.find("d") == place
    assert memory.used_bytes == 4096 + 3 * 32


def test_scattered_holes_are_not_taken_for_room() -> None:
    memory = Memory(SMALL)
    for name in "abcd":
        memory.place(name, 1024, 2)
    memory.drop("a")
    memory.drop("c")
    _, evicted = memory.place("e", 2048, 2)
    assert evicted == ["b"], "2048 bytes are free, but not in one piece"


def test_handles_and_scales_run_out_too() -> None:
    memory = Memory(replace(SMALL, handles=2))
    first, _ = memory.place("a", 64, 2)
    memory.place("b", 64, 2)
    place, evicted = memory.place("c", 64, 2)
    assert evicted == ["a"] and place.handle == first.handle
    memory = Memory(SMALL)
    memory.place("a", 64, 200)
    assert memory.place("b", 64, 100)[1] == ["a"]


def test_what_exceeds_the_whole_memory_is_refused_with_the_sizes_and_leaves_it_empty() -> None:
    memory = Memory(SMALL)
    memory.place("a", 64, 2)
    with pytest.raises(
        DoesNotFit, match=r"8192 bytes of elements and 2 of scales do not fit board fake, which holds 4096"
    ):
        memory.place("b", 8192, 2)
    assert memory.used_bytes == 0 and len(memory) == 0


def test_dropping_twice_or_clearing_frees_everything_once() -> None:
    memory = Memory(SMALL)
    memory.place("a", 100, 3)
    memory.drop("a")
    memory.drop("a")
    assert memory.used_bytes == 0
    for name in range(8):
        memory.place(name, 64, 2)
    memory.clear()
    assert memory.used_bytes == 0 and len({memory.place(n, 64, 2)[0].handle for n in range(8)}) == 8


def test_groups_that_fit_are_bounded_by_the_scarcer_memory() -> None:
    assert Memory(SMALL).groups_that_fit(1, "MXFP8") == 8  # 16 rows x 32 bytes, 16 scales: both memories hold 8, 16
    assert Memory(replace(SMALL, scale_bytes=64)).groups_that_fit(1, "MXFP8") == 4
    assert Memory(SMALL).groups_that_fit(1, "MXFP4") == 16
    assert Memory(SMALL).groups_that_fit(100, "MXFP8") == 0
