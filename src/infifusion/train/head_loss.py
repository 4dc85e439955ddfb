"""The loss behind a language-model head, a few positions at a time, each run over once.

The forward pass computes every chunk's loss and at once its gradients, with respect to the chunk's
hidden states and the head's parameters. What outlives a chunk is the gradient of the hidden states
[R, D] and one of every trained parameter of the head; no [R, V] tensor exists, and the head's
matmul is not repeated in the backward pass, which only multiplies by the incoming gradient (the
loss is a sum, so the scale of a step is one number). The idea of Liger-Kernel's fused linear
losses, for any head and any loss.

Axes: R response positions, C positions of a chunk, D hidden size, V vocabulary.
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
from infifusion.train.gate import Gate
from infifusion.types import SparseTarget

PositionLoss = Callable[[torch.Tensor, SparseTarget], torch.Tensor]
"""(log_CV, target of the C positions) -> loss_C. log_CV is float32 log-probabilities."""

Project = Callable[[torch.Tensor], torch.Tensor]
"""The head's own forward: hidden states [C, D] to raw logits [C, V]."""


@dataclass(frozen=True)
class HeadLoss:
    """Sums of the objective over positions.

    At a taught position it is (1 - w) * CE(gold) + w * loss, w = (1 - gold_weight) * share, at any
    other CE(gold) alone. loss None: CE(gold) everywhere. share: what `gate` says, or 1. Of text
    that the pivot wrote itself (own_R) it is the loss alone; scale_R multiplies it. The sum of
    cross-entropy leaves such text out.
    """

    loss: PositionLoss | None
    gold_weight: float
    loss_rows: int
    gate: Gate | None = None
    domains: int = 1

    def sums(
        self, head: LanguageModelHead, hidden_RD: torch.Tensor, target: SparseTarget
    ) -> torch.Tensor:
        """[3 + 2 D]: sums of the objective, of cross-entropy, of the loss where taught, and there
        by domain of `share`, then of the sources' lead.

        Only the objective carries a gradient. The head is called once, as a module, so that the
        hooks of FSDP and DeepSpeed, which gather its parameters, run once; inside, its own forward
        runs chunk by chunk.
        """
        project = head.head.forward

        def sums_of(hidden_CD: torch.Tensor, part: SparseTarget) -> torch.Tensor:
            log_CV = torch.log_softmax(head.finish(project(hidden_CD)), dim=1)
            gated_2C = self._gated(log_CV, part)
            return self._sums(log_CV, self._divergence(log_CV, part), gated_2C, part)

        def forward(hidden_RD: torch.Tensor) -> torch.Tensor:
            parameters = [p for p in head.head.parameters() if p.requires_grad]
            if not torch.is_grad_enabled() or not (hidden_RD.requires_grad or parameters):
                parts = [sums_of(*chunk) for chunk in self._chunks(hidden_RD, target)]
                return torch.stack(parts).sum(dim=0)
            if _has_loose_weights(head.head):  # plain autograd, chunks run again in the backward
                parts = [
                    checkpoint(sums_of, *chunk, use_reentrant=False)
                    for chunk in self._chunks(hidden_RD, target)
                ]
                sums = torch.stack(parts).sum(dim=0)
                return torch.cat([sums[:1], sums[1:].detach()])
            arguments = (self, head, project, hidden_RD, target, *parameters)
            return cast(torch.Tensor, _GradientsAtOnce.apply(*arguments))

        with _forward_of(head.head, forward):
            return head.head(hidden_RD)

    def _chunks(
        self, hidden_RD: torch.Tensor, target: SparseTarget
    ) -> Iterator[tuple[torch.Tensor, SparseTarget]]:
        """The positions, loss_rows at a time; one empty chunk where there are none."""
        for start in range(0, max(len(hidden_RD), 1), self.loss_rows):
            part = slice(start, start + self.loss_rows)
            yield hidden_RD[part], target.part(part)

    def sums_and_gradient(
        self, log_CV: torch.Tensor, target: SparseTarget
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The chunk's sums, and the gradient [C, V] of the first with respect to log_CV."""
        gated_2C = self._gated(log_CV, target)
        gold_C, weight_C = self._weights_C(gated_2C[0], target)
        if self.loss is None:
            divergence_C = self._divergence(log_CV, target)
            gradient_CV = torch.zeros_like(log_CV)
        else:
            leaf_CV = log_CV.detach().requires_grad_()
            with torch.enable_grad():
                divergence_C = self._divergence(leaf_CV, target)
                total = (weight_C * divergence_C).sum()
            # A loss may give an expanded tensor; below it is written to.
            gradient_CV = torch.autograd.grad(total, leaf_CV)[0].contiguous()
            divergence_C = divergence_C.detach()
        # Cross-entropy by hand: autograd would make a second tensor of this size for it.
        gradient_CV.scatter_add_(1, target.gold_R[:, None], -gold_C[:, None])
        return self._sums(log_CV, divergence_C, gated_2C, target), gradient_CV

    def _divergence(self, log_CV: torch.Tensor, target: SparseTarget) -> torch.Tensor:
        """The loss where taught, 0 elsewhere: [C]."""
        if self.loss is None:
            return log_CV.new_zeros(len(log_CV))
        return torch.where(_taught(target), self.loss(log_CV, target), 0)

    def _gated(self, log_CV: torch.Tensor, target: SparseTarget) -> torch.Tensor:
        """[2, C]: how far the sources count, and their lead; 0 where they do not teach. They carry
        no gradient."""
        if self.loss is None:
            return log_CV.new_zeros(2, len(log_CV))
        taught_C = _taught(target).to(log_CV.dtype)
        if self.gate is None:
            return torch.stack([taught_C, torch.zeros_like(taught_C)])
        with torch.no_grad():
            return torch.where(_taught(target), self.gate(log_CV, target), 0)

    def _weights_C(
        self, share_C: torch.Tensor, target: SparseTarget
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Weights of cross-entropy and of the loss at every position: [C] each."""
        weight_C = (1 - self.gold_weight) * share_C
        if target.own_R is None:
            return 1 - weight_C, weight_C
        scale = 1.0 if target.scale_R is None else target.scale_R
        gold_C = torch.where(target.own_R, 0, 1 - weight_C) * scale
        return gold_C, torch.where(target.own_R, 1, weight_C) * scale

    def _sums(
        self,
        log_CV: torch.Tensor,
        divergence_C: torch.Tensor,
        gated_2C: torch.Tensor,
        target: SparseTarget,
    ) -> torch.Tensor:
        ce_C = _cross_entropy(log_CV, target)
        gold_C, weight_C = self._weights_C(gated_2C[0], target)
        objective_C = gold_C * ce_C + weight_C * divergence_C
        given_C = ce_C if target.own_R is None else ce_C[~target.own_R]
        parts = torch.stack([objective_C.sum(), given_C.sum(), divergence_C.sum()])
        domain_C = target.domain_R
        if domain_C is None:
            domain_C = torch.zeros_like(target.gold_R)
        by_domain_2D = gated_2C.new_zeros(2, self.domains).index_add_(1, domain_C, gated_2C)
        return torch.cat([parts, by_domain_2D.flatten()])


class _GradientsAtOnce(torch.autograd.Function):
    """HeadLoss.sums whose gradients are made in the forward pass."""

    @staticmethod
    def forward(
        ctx: Any,
        loss: HeadLoss,
        head: LanguageModelHead,
        project: Project,
        hidden_RD: torch.Tensor,
        target: SparseTarget,
        *parameters: torch.Tensor,
    ) -> torch.Tensor:
        """The sums. parameters: those of the head that are trained; autograd has to see them go in,
        so that what it brings back reaches them (and the hooks of DDP and FSDP on them)."""
        parts: list[torch.Tensor] = []
        gradient_RD = torch.empty_like(hidden_RD) if hidden_RD.requires_grad else None
        gradients: list[torch.Tensor | None] = [None] * len(parameters)
        done = 0
        for chunk_CD, part in loss._chunks(hidden_RD, target):
            hidden_CD = chunk_CD.detach().requires_grad_(gradient_RD is not None)
            inputs = [*parameters] if gradient_RD is None else [hidden_CD, *parameters]
            # The logits are let go of: log-softmax needs its output alone.
            with torch.enable_grad():
                log_CV = torch.log_softmax(head.finish(project(hidden_CD)), dim=1)
            sums, gradient_CV = loss.sums_and_gradient(log_CV.detach(), part)
            made = list(torch.autograd.grad(log_CV, inputs, gradient_CV, allow_unused=True))
            del log_CV, gradient_CV
            parts.append(sums)
            if gradient_RD is not None:
                gradient_RD[done : done + len(hidden_CD)] = made.pop(0)
            done += len(hidden_CD)
            for n, gradient in enumerate(made):
                gradients[n] = _added(gradients[n], gradient)
        ctx.slots = [one is not None for one in (gradient_RD, *gradients)]
        ctx.save_for_backward(*(one for one in (gradient_RD, *gradients) if one is not None))
        return torch.stack(parts).sum(dim=0)

    @staticmethod
    def backward(ctx: Any, *incoming: torch.Tensor) -> Any:  # pyright: ignore
        """The gradients times the incoming gradient of the objective; once only."""
        saved = list(ctx.saved_tensors)
        # In place: they are as large as the head, and nobody else has them.
        scaled = [saved.pop(0).mul_(incoming[0][0]) if there else None for there in ctx.slots]
        return (None, None, None, scaled[0], None, *scaled[1:])


def _cross_entropy(log_CV: torch.Tensor, target: SparseTarget) -> torch.Tensor:
    return -log_CV.gather(1, target.gold_R[:, None])[:, 0]


def _taught(target: SparseTarget) -> torch.Tensor:
    assert target.taught_R is not None, "a training batch says where it is taught"
    return target.taught_R


def _added(total: torch.Tensor | None, gradient: torch.Tensor | None) -> torch.Tensor | None:
    """total + gradient, in float32: bf16 sums over many chunks would lose the small ones."""
    if gradient is None:
        return total
    return gradient.float() if total is None else total.add_(gradient)


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
