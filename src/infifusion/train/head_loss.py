"""The loss behind a language-model head, a few positions at a time, each run over once.

The forward pass computes every chunk's loss and at once its gradients, with respect to the chunk's
hidden states and the head's parameters. What outlives a chunk is the gradient of the hidden states
[R, H] and one of every trained parameter of the head; no [R, V] tensor exists, and the head's
matmul is not repeated in the backward pass, which only multiplies by the incoming gradient (the
loss is a sum, so the scale of a step is one number). The idea of Liger-Kernel's fused linear
losses, for any head and any loss.

Axes: R response positions, C positions of a chunk, K kept entries, H hidden, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from infifusion.teacher.lm_head import LanguageModelHead

# log_CV, ids_CK, prob_CK, zscore_CK, gold_C -> loss_C. log_CV is float32 log-probabilities.
PositionLoss = Callable[
    [torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor
]

Project = Callable[[torch.Tensor], torch.Tensor]
"""The head's own forward: hidden states [C, H] to raw logits [C, V]."""


@dataclass(frozen=True)
class Rows:
    """What R positions are trained on: gold_R, taught_R, and ids, prob, zscore [R, K] or None."""

    gold_R: torch.Tensor
    taught_R: torch.Tensor
    target: tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None

    def part(self, rows: slice) -> Rows:
        """Some of the positions."""
        target = None
        if self.target is not None:
            ids_RK, prob_RK, zscore_RK = self.target
            target = (ids_RK[rows], prob_RK[rows], zscore_RK[rows])
        return Rows(self.gold_R[rows], self.taught_R[rows], target)


@dataclass(frozen=True)
class HeadLoss:
    """Sums of the objective over positions.

    At a taught position it is gold_weight * CE(gold) + (1 - gold_weight) * loss, at any other
    CE(gold) alone.
    """

    loss: PositionLoss | None
    gold_weight: float
    loss_rows: int

    def sums(self, head: LanguageModelHead, hidden_RH: torch.Tensor, rows: Rows) -> torch.Tensor:
        """[3]: sums of the objective, of cross-entropy, and of the loss where taught.

        Only the objective carries a gradient. The head is called once, as a module, so that the
        hooks of FSDP and DeepSpeed, which gather its parameters, run once; inside, its own forward
        runs chunk by chunk.
        """
        project = head.head.forward

        def forward(hidden_RH: torch.Tensor) -> torch.Tensor:
            parameters = [p for p in head.head.parameters() if p.requires_grad]
            if not torch.is_grad_enabled() or not (hidden_RH.requires_grad or parameters):
                return self._sums_alone(head, project, hidden_RH, rows)
            if _has_loose_weights(head.head):
                return self._recomputed(head, project, hidden_RH, rows)
            arguments = (self, head, project, hidden_RH, rows, *parameters)
            return cast(torch.Tensor, _GradientsAtOnce.apply(*arguments))

        with _forward_of(head.head, forward):
            return head.head(hidden_RH)

    def _sums_alone(
        self, head: LanguageModelHead, project: Project, hidden_RH: torch.Tensor, rows: Rows
    ) -> torch.Tensor:
        """Where no gradient is asked for."""
        parts = [
            self._chunk_sums(head.finish(project(hidden_CH)), part)
            for hidden_CH, part in self._chunks(hidden_RH, rows)
        ]
        return torch.stack(parts).sum(dim=0)

    def _recomputed(
        self, head: LanguageModelHead, project: Project, hidden_RH: torch.Tensor, rows: Rows
    ) -> torch.Tensor:
        """With plain autograd, every chunk run over again in the backward pass."""

        def sums_of(hidden_CH: torch.Tensor, part: Rows) -> torch.Tensor:
            return self._chunk_sums(head.finish(project(hidden_CH)), part)

        parts = [
            checkpoint(sums_of, hidden_CH, part, use_reentrant=False)
            for hidden_CH, part in self._chunks(hidden_RH, rows)
        ]
        sums = torch.stack(parts).sum(dim=0)
        return torch.cat([sums[:1], sums[1:].detach()])

    def _chunks(self, hidden_RH: torch.Tensor, rows: Rows) -> Iterator[tuple[torch.Tensor, Rows]]:
        """The positions, loss_rows at a time; one empty chunk where there are none."""
        for start in range(0, max(len(hidden_RH), 1), self.loss_rows):
            part = slice(start, start + self.loss_rows)
            yield hidden_RH[part], rows.part(part)

    def _chunk_sums(self, logits_CV: torch.Tensor, rows: Rows) -> torch.Tensor:
        """[3], with whatever graph the logits have."""
        log_CV = torch.log_softmax(logits_CV, dim=1)
        ce_C = _cross_entropy(log_CV, rows)
        return self._reduce(ce_C, self._divergence(log_CV, rows), rows)

    def sums_and_slope(self, log_CV: torch.Tensor, rows: Rows) -> tuple[torch.Tensor, torch.Tensor]:
        """The chunk's [3] sums, and the gradient [C, V] of the first with respect to log_CV."""
        ce_C = _cross_entropy(log_CV, rows)
        if self.loss is None or rows.target is None:
            divergence_C = self._divergence(log_CV, rows)
            slope_CV = torch.zeros_like(log_CV)
        else:
            leaf_CV = log_CV.detach().requires_grad_()
            with torch.enable_grad():
                divergence_C = self._divergence(leaf_CV, rows)
                total = (1 - self.gold_weight) * divergence_C.sum()
            # A loss may give an expanded tensor; below it is written to.
            slope_CV = torch.autograd.grad(total, leaf_CV)[0].contiguous()
            divergence_C = divergence_C.detach()
        sums = self._reduce(ce_C, divergence_C, rows)
        # Cross-entropy by hand: autograd would make a second tensor of this size for it.
        slope_CV.scatter_add_(1, rows.gold_R[:, None], -self._gold_weight_C(rows)[:, None])
        return sums, slope_CV

    def _divergence(self, log_CV: torch.Tensor, rows: Rows) -> torch.Tensor:
        """The loss where taught, 0 elsewhere: [C]."""
        if self.loss is None or rows.target is None:
            return log_CV.new_zeros(len(log_CV))
        return torch.where(rows.taught_R, self.loss(log_CV, *rows.target, rows.gold_R), 0)

    def _gold_weight_C(self, rows: Rows) -> torch.Tensor:
        """Weight of cross-entropy at every position."""
        ones_C = torch.ones(len(rows.gold_R), device=rows.gold_R.device)
        if self.loss is None or rows.target is None:
            return ones_C
        return torch.where(rows.taught_R, self.gold_weight, ones_C)

    def _reduce(self, ce_C: torch.Tensor, divergence_C: torch.Tensor, rows: Rows) -> torch.Tensor:
        objective_C = self._gold_weight_C(rows) * ce_C + (1 - self.gold_weight) * divergence_C
        return torch.stack([objective_C.sum(), ce_C.sum(), divergence_C.sum()])


class _GradientsAtOnce(torch.autograd.Function):
    """HeadLoss.sums whose gradients are made in the forward pass."""

    @staticmethod
    def forward(
        ctx: Any,
        loss: HeadLoss,
        head: LanguageModelHead,
        project: Project,
        hidden_RH: torch.Tensor,
        rows: Rows,
        *parameters: torch.Tensor,
    ) -> torch.Tensor:
        """[3] sums. parameters: those of the head that are trained; autograd has to see them go in,
        so that what it brings back reaches them (and the hooks of DDP and FSDP on them)."""
        parts: list[torch.Tensor] = []
        slope_RH = torch.empty_like(hidden_RH) if hidden_RH.requires_grad else None
        slopes: list[torch.Tensor | None] = [None] * len(parameters)
        done = 0
        for chunk_CH, part in loss._chunks(hidden_RH, rows):
            hidden_CH = chunk_CH.detach().requires_grad_(slope_RH is not None)
            inputs = [*parameters] if slope_RH is None else [hidden_CH, *parameters]
            with (
                torch.enable_grad()
            ):  # the logits are let go of: log-softmax needs its output alone
                log_CV = torch.log_softmax(head.finish(project(hidden_CH)), dim=1)
            sums, slope_CV = loss.sums_and_slope(log_CV.detach(), part)
            found = list(torch.autograd.grad(log_CV, inputs, slope_CV, allow_unused=True))
            del log_CV, slope_CV
            parts.append(sums)
            if slope_RH is not None:
                slope_RH[done : done + len(hidden_CH)] = found.pop(0)
            done += len(hidden_CH)
            for n, slope in enumerate(found):
                slopes[n] = _added(slopes[n], slope)
        ctx.slots = [slope is not None for slope in (slope_RH, *slopes)]
        ctx.save_for_backward(*(slope for slope in (slope_RH, *slopes) if slope is not None))
        return torch.stack(parts).sum(dim=0)

    @staticmethod
    def backward(ctx: Any, *incoming: torch.Tensor) -> Any:  # pyright: ignore
        """The gradients times the incoming gradient of the objective; once only."""
        saved = list(ctx.saved_tensors)
        # In place: they are as large as the head, and nobody else has them.
        slopes = [saved.pop(0).mul_(incoming[0][0]) if there else None for there in ctx.slots]
        return (None, None, None, slopes[0], None, *slopes[1:])


def _cross_entropy(log_CV: torch.Tensor, rows: Rows) -> torch.Tensor:
    return -log_CV.gather(1, rows.gold_R[:, None])[:, 0]


def _added(total: torch.Tensor | None, slope: torch.Tensor | None) -> torch.Tensor | None:
    """total + slope, in float32: bf16 sums over many chunks would lose the small ones."""
    if slope is None:
        return total
    return slope.float() if total is None else total.add_(slope)


def _has_loose_weights(head: nn.Module) -> bool:
    """Whether the head computes with tensors that need a gradient and are no parameters of its.

    FSDP 1 puts views of one flat parameter there. The gradients made in the forward pass would miss
    them.
    """
    return any(
        isinstance(value, torch.Tensor) and value.requires_grad
        for module in head.modules()
        for value in vars(module).values()
    )


@contextmanager
def _forward_of(module: nn.Module, forward: Project) -> Iterator[None]:
    """Within it, calling the module calls its hooks and `forward`."""
    before = vars(module).get("forward")
    module.forward = forward
    try:
        yield
    finally:
        if before is None:
            del module.forward
        else:  # accelerate's wrappers lie there
            module.forward = before
