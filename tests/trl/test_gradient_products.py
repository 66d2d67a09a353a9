"""What a float32 trainer multiplies in training: chosen, recorded, freed, and without effect on the loss's meaning."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from mx_plugin import get_backend
from mx_trl import MXCallback

from .trainers import MX_GRADIENT, Workshop, config_of, csv_rows, losses

if TYPE_CHECKING:
    from mx_trl.embedded import EmbeddedFolder


@pytest.fixture
def workshop(embedded: EmbeddedFolder, tmp_path: Path) -> Workshop:
    return Workshop(embedded, tmp_path)


def train(workshop: Workshop, choice: str, **config: Any) -> tuple[Any, dict[str, Any], set[str], float]:
    """The trainer, its config.json, the dtypes of its quantised gradient rows, and its first loss."""
    path = workshop.folder / "gradient.yaml"
    path.write_text(MX_GRADIENT)
    callback = MXCallback(policy=str(path), output_dir=workshop.folder, gradient_product_dtype=choice)
    trainer = workshop.trainer("sft", [callback], **config)
    trainer.train()
    rows = csv_rows(callback.run_dir, "energy.csv", phase="gradient", format="MXFP8/MXFP8")
    return trainer, config_of(callback.run_dir), {row["dtype"] for row in rows}, losses(trainer)[0]["loss"]


def test_config_json_and_energy_csv_say_what_was_multiplied(workshop: Workshop) -> None:
    exact = get_backend("cpu").bfloat16_product(torch.device("cpu")) is not None
    found = {}
    for choice, dtype, results in (
        ("float32", "float32", None),
        ("auto", "bfloat16" if exact else "float32", "float32" if exact else None),
        ("bfloat16", "bfloat16", "float32" if exact else "bfloat16"),
    ):
        _, config, dtypes, found[choice] = train(workshop, choice)
        assert config["mx"]["gradient_product_dtype"] == choice
        described = config["gradient_products"]
        assert described["dtype"] == choice and described["scratch_bytes"] > 0
        (what,) = described["layers"]
        assert what == (dtype if results is None else f"{dtype}, results {results}")
        assert dtypes == {dtype}
    # Sums in another order, or rounded: the first loss, before any update, is the same number to a few digits.
    assert found["auto"] == pytest.approx(found["float32"], rel=1e-4)
    assert found["bfloat16"] == pytest.approx(found["float32"], rel=2e-2)


def test_a_bfloat16_trainer_is_not_concerned(workshop: Workshop) -> None:
    model = workshop.policy().to(torch.bfloat16)
    _, config, dtypes, _ = train(workshop, "float32", model=model)
    assert dtypes == {"bfloat16"} and set(config["gradient_products"]["layers"]) == {"bfloat16"}
