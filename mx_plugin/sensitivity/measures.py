"""What a format costs a model: each measure compares passes in some formats with one unquantised pass."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

import torch

from .assigned import Assignment, forward_only
from .batches import Batch
from .distances import gradient_distances, kl_sum, rank_disagreement, score_error
from .errors import ProfileError
from .replay import Replay
from .subject import Subject

Costs = dict[str, float]
"""Metric -> cost; infinite where the model broke."""

Loss = Callable[[torch.Tensor, Batch], torch.Tensor]
"""``(logits, batch) -> scalar``; the losses of all batches are added."""


class Measure(ABC):
    """Costs of one subject. ``units``: metric -> unit; the first is the one that policies read."""

    units: ClassVar[Mapping[str, str]] = {}
    replays: ClassVar[bool] = True
    """Whether blocks before the changed layer may be replayed."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self.metrics: tuple[str, ...] = tuple(self.units)
        self._ready = False

    def prepare(self, record: Replay | None = None) -> None:
        """Run the baseline, once unless there is something to record.

        Raises:
            ProfileError: the unquantised model has no finite output, or nothing that could differ.
        """
        if record is not None or not self._ready:
            self._baseline(record)
            self._ready = True

    @abstractmethod
    def _baseline(self, record: Replay | None) -> None:
        """Run unquantised and keep what the other passes are compared with."""

    @abstractmethod
    def forget(self) -> None:
        """Free what the baseline left; the next ``prepare`` makes it anew."""

    @abstractmethod
    def costs(
        self, formats: Assignment, *, record: Replay | None = None, replay: Replay | None = None, layer: str = ""
    ) -> Costs:
        """The distance between ``formats`` and the baseline; the rest as in :meth:`Subject.outputs`."""

    def broken(self, number: int, what: str) -> ProfileError:
        """The error for a baseline that is not finite."""
        return ProfileError(
            f"{self.subject.role}: the unquantised model gives {what} that are NaN or infinite in batch {number}, so "
            "nothing can be compared with them; look at the model's weights and dtype, and at that batch"
        )


class Distributions(Measure):
    """KL(unquantised || quantised) of next-token distributions, in nats a token, over the positions that count."""

    units: ClassVar[Mapping[str, str]] = {"kl": "nats/token"}

    def __init__(self, subject: Subject) -> None:
        super().__init__(subject)
        self._log_p: list[torch.Tensor] = []

    def forget(self) -> None:
        self._log_p, self._ready = [], False

    def _baseline(self, record: Replay | None) -> None:
        self._log_p = []
        for number, logits in enumerate(self.subject.outputs({}, record=record)):
            log_p = torch.log_softmax(counted(logits, self.subject.batches[number]).float(), -1)
            if bool(log_p.isnan().any()):
                raise self.broken(number, "logits")
            self._log_p.append(log_p)
        self.tokens = sum(len(log_p) for log_p in self._log_p)

    def costs(
        self, formats: Assignment, *, record: Replay | None = None, replay: Replay | None = None, layer: str = ""
    ) -> Costs:
        total = 0.0
        passes = self.subject.outputs(formats, record=record, replay=replay, layer=layer)
        for log_p, batch, logits in zip(self._log_p, self.subject.batches, passes, strict=True):
            total += kl_sum(log_p, counted(logits, batch))
        return {"kl": total / self.tokens}


class Scores(Measure):
    """Error of scores in standard deviations of the unquantised ones, and the share of pairs that change order.

    Args:
        pairs: (pairs, 2) int64, indices of scores in the order of the batches; None: no pairs.
    """

    units: ClassVar[Mapping[str, str]] = {"score_error": "standard deviations", "rank_disagreement": "share of pairs"}

    def __init__(self, subject: Subject, pairs: torch.Tensor | None = None) -> None:
        super().__init__(subject)
        self.pairs = pairs
        if pairs is None:
            self.metrics = ("score_error",)

    def forget(self) -> None:
        self._ready = False

    def _baseline(self, record: Replay | None) -> None:
        found = []
        for number, logits in enumerate(self.subject.outputs({}, record=record)):
            scores = scores_of(logits, self.subject.batches[number], self.subject.role)
            if not bool(scores.isfinite().all()):
                raise self.broken(number, "scores")
            found.append(scores)
        self.plain = torch.cat(found)
        if len(self.plain) < 2 or float(self.plain.std()) == 0.0:
            raise ProfileError(
                f"{self.subject.role}: {len(self.plain)} scores, all alike, have no standard deviation to count errors "
                "in; give more, and different, texts"
            )

    def costs(
        self, formats: Assignment, *, record: Replay | None = None, replay: Replay | None = None, layer: str = ""
    ) -> Costs:
        passes = self.subject.outputs(formats, record=record, replay=replay, layer=layer)
        quantised = torch.cat(
            [
                scores_of(logits, batch, self.subject.role)
                for batch, logits in zip(self.subject.batches, passes, strict=True)
            ]
        )
        return self.costs_of(quantised)

    def costs_of(self, quantised: torch.Tensor) -> Costs:
        """The distance between these scores and the baseline's."""
        costs = {"score_error": score_error(self.plain, quantised)}
        if self.pairs is not None:
            costs["rank_disagreement"] = rank_disagreement(self.plain[self.pairs], quantised[self.pairs])
        return costs


class Gradients(Measure):
    """Relative error and cosine distance of the gradients of all parameters that are trained.

    ``gradient_error`` and ``gradient_cosine`` with all three products quantised, as training runs them; the
    metrics that end in ``_forward`` with the forward product alone.

    Args:
        loss: what is differentiated; None takes the mean negative log-likelihood of the tokens that follow
            counted ones.
    """

    units: ClassVar[Mapping[str, str]] = {
        "gradient_error": "relative",
        "gradient_cosine": "1 - cosine",
        "gradient_error_forward": "relative",
        "gradient_cosine_forward": "1 - cosine",
    }
    replays: ClassVar[bool] = False

    def __init__(self, subject: Subject, loss: Loss | None = None) -> None:
        super().__init__(subject)
        self._plain: list[torch.Tensor] = []
        self.loss = loss or likelihood(subject.batches)
        self.parameters = [p for p in subject.model.parameters() if p.requires_grad]
        if not self.parameters:
            raise ProfileError(
                f"{subject.role}: no parameter requires a gradient; leave the phase gradient out, or unfreeze some"
            )

    def forget(self) -> None:
        self._plain, self._ready = [], False

    def _baseline(self, record: Replay | None) -> None:
        self._plain = self._gradients({})
        self.norm = math.sqrt(sum(float(g.float().square().sum(dtype=torch.float64)) for g in self._plain))
        if not 0.0 < self.norm < math.inf:
            raise ProfileError(
                f"{self.subject.role}: the gradient of the unquantised model has norm {self.norm}, so no error can be "
                "relative to it; look at the loss, the model's weights and dtype"
            )

    def costs(
        self, formats: Assignment, *, record: Replay | None = None, replay: Replay | None = None, layer: str = ""
    ) -> Costs:
        whole = gradient_distances(self._plain, self._gradients(formats))
        only = {name: forward_only(chosen) for name, chosen in formats.items()}
        forward = gradient_distances(self._plain, self._gradients(only))
        return dict(zip(self.units, (*whole, *forward), strict=True))

    def _gradients(self, formats: Assignment) -> list[torch.Tensor]:
        """Of the loss over all batches; ``.grad`` of the parameters is not touched."""
        total: list[torch.Tensor] = []
        with self.subject.training(formats):
            for batch in self.subject.batches:
                loss = self.loss(self.subject.run(batch), batch)
                parts = torch.autograd.grad(loss, self.parameters, allow_unused=True)
                found = [torch.zeros_like(p) if g is None else g for g, p in zip(parts, self.parameters, strict=True)]
                total = [t + g for t, g in zip(total, found, strict=True)] if total else found
        return total


def likelihood(batches: Sequence[Batch]) -> Loss:
    """Mean negative log-likelihood, in nats, of the tokens that follow counted positions in these batches.

    Raises:
        ProfileError: batches without token ids, or without a token that follows.
    """
    if any("input_ids" not in batch.inputs for batch in batches):
        raise ProfileError("the loss needs input_ids in every batch; give another by losses={role: function}")
    tokens = sum(int(_followed(batch).sum()) for batch in batches)
    if tokens == 0:
        raise ProfileError("no counted position is followed by a token, so there is no likelihood to differentiate")

    def loss(logits: torch.Tensor, batch: Batch) -> torch.Tensor:
        followed = _followed(batch).to(logits.device)
        targets = batch.inputs["input_ids"].to(logits.device)[:, 1:][followed]
        picked = logits[:, :-1][followed].float()
        return torch.nn.functional.cross_entropy(picked, targets, reduction="sum") / tokens

    return loss


def _followed(batch: Batch) -> torch.Tensor:
    """(sequences, length - 1) bool: counted, and the next token is no padding."""
    present = batch.inputs.get("attention_mask")
    counted = batch.mask[:, :-1]
    return counted if present is None else counted & present[:, 1:].bool().cpu()


def counted(logits: torch.Tensor, batch: Batch) -> torch.Tensor:
    """The logits of the positions that count: (positions, vocabulary).

    Raises:
        ProfileError: the model does not give one distribution a position.
    """
    if logits.shape[:2] != batch.mask.shape:
        raise ProfileError(
            f"logits of shape {tuple(logits.shape)} do not speak about {tuple(batch.mask.shape)} positions; "
            "a language model gives (sequences, length, vocabulary)"
        )
    return logits[batch.mask.to(logits.device)]


def scores_of(logits: torch.Tensor, batch: Batch, role: str) -> torch.Tensor:
    """(scores,) float32: one a sequence, or of a critic one a counted position.

    Of (sequences, length, 1) a reward model's score stands at the last counted position.
    """
    if logits.dim() == 3:
        values = logits[..., 0].float()
        if role == "value":
            return values[batch.mask.to(values.device)]
        return values[torch.arange(len(values)), batch.last_counted.to(values.device)]
    if logits.dim() == 2 and logits.shape[1] != 1:
        raise ProfileError(f"{role} gives {logits.shape[1]} scores a sequence; a score is one number (num_labels=1)")
    return logits.reshape(-1).float()
