"""Philox4x32-10 against its published answers, and the counter layout that ``philox`` defines."""

from __future__ import annotations

from zlib import crc32

import pytest
import torch

from mx_plugin.errors import FormatError
from mx_plugin.formats import StochasticKey
from mx_plugin.formats.philox import _GROUPS_AT_ONCE, SIGNS, philox4x32, thresholds, words

# (counter, key, output): Salmon et al., SC 2011; the Random123 library's kat_vectors for philox4x32-10.
KNOWN_ANSWERS = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


def numbers(text: str) -> list[int]:
    return [int(word, 16) for word in text.split()]


def philox_in_plain_python(counter: list[int], key: list[int]) -> list[int]:
    """The paper's round in unbounded integers: an oracle for counters that have no published answer."""
    c, k = list(counter), list(key)
    for _ in range(10):
        a, b = c[0] * 0xD2511F53, c[2] * 0xCD9E8D57
        c = [(b >> 32) ^ c[1] ^ k[0], b % 2**32, (a >> 32) ^ c[3] ^ k[1], a % 2**32]
        k = [(k[0] + 0x9E3779B9) % 2**32, (k[1] + 0xBB67AE85) % 2**32]
    return c


@pytest.mark.parametrize(("counter", "key", "answer"), KNOWN_ANSWERS)
def test_published_answers_are_reproduced(counter: str, key: str, answer: str) -> None:
    k0, k1 = numbers(key)
    got = philox4x32(tuple(torch.tensor([c]) for c in numbers(counter)), (k0, k1))
    assert [int(word) for word in got] == numbers(answer)
    assert philox_in_plain_python(numbers(counter), [k0, k1]) == numbers(answer)


@pytest.mark.parametrize("domain", [0, SIGNS])
def test_words_come_from_the_documented_counter(domain: int) -> None:
    key = StochasticKey(seed=2**32 - 1, step=123456, stream=0xDEADBEEF, call=2**31 - 1)
    one_pass = 4 * _GROUPS_AT_ONCE * torch.get_num_threads()
    got = words(key, one_pass + 7, domain=domain).tolist()
    for index in (0, 1, 2, 3, 4, one_pass - 1, one_pass, one_pass + 6):
        counter = [index // 4, 0, key.step, key.call | domain << 31]
        assert got[index] == philox_in_plain_python(counter, [key.seed, key.stream])[index % 4]


def test_a_shorter_draw_is_the_beginning_of_a_longer_one() -> None:
    key = StochasticKey(0, 0, 0)
    longer = words(key, 100_000)
    for count in (0, 1, 2, 5, 99_999):
        assert torch.equal(words(key, count), longer[:count])


def test_bits_do_not_depend_on_the_number_of_threads() -> None:
    key, before = StochasticKey(5, 6, 7), torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = words(key, 300_000)
        torch.set_num_threads(2)
        assert torch.equal(words(key, 300_000), alone)
    finally:
        torch.set_num_threads(before)


def test_thresholds_are_in_0_excluded_to_1_included_and_uniform() -> None:
    key = StochasticKey(1, 2, 3)
    drawn = thresholds(key, torch.Size((1000, 100)), torch.device("cpu"))
    assert torch.equal(drawn.flatten().double(), ((words(key, 100_000) >> 8) + 1).double() / 2**24)
    assert drawn.min() > 0 and drawn.max() <= 1
    # Mean of n uniforms: standard deviation 1 / sqrt(12 n); six of them.
    assert abs(drawn.double().mean() - 0.5) < 6 / (12 * 100_000) ** 0.5


def test_every_field_of_a_key_changes_the_stream() -> None:
    keys = [StochasticKey(*fields) for fields in ((0, 0, 0, 0), (1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1))]
    first = {tuple(words(key, 8).tolist()) for key in keys} | {tuple(words(keys[0], 8, domain=SIGNS).tolist())}
    assert len(first) == len(keys) + 1


def test_a_key_of_names_hashes_them_by_crc32() -> None:
    key = StochasticKey.of(7, 8, "model.layers.0.q_proj", "wgrad/first", call=9)
    assert key == StochasticKey(7, 8, crc32(b"model.layers.0.q_proj/wgrad/first"), 9)


@pytest.mark.parametrize("field", ["seed", "step", "stream", "call"])
@pytest.mark.parametrize("value", [-1, 2**32])
def test_a_field_out_of_range_is_named(field: str, value: int) -> None:
    fields = {"seed": 0, "step": 0, "stream": 0, "call": 0, field: value}
    with pytest.raises(FormatError, match=rf"StochasticKey\.{field} = {value}"):
        StochasticKey(**fields)
