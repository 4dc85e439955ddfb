#!/usr/bin/env bash
# Guess: topk(10) is the first ten of topk(20), and topk(1) is argmax.
# What happens: not for bfloat16 logits. Of 64 rows of 32,000 (normal, deviation 3) more than half have
#   another order, several have other tokens in the ten, and in some the first of topk(10) is not argmax.
#   Nothing is random: the same call gives the same answer each time, and k decides.
# Versions: torch 2.13.0, CPU.
# Cause: bfloat16 keeps 8 bits, so neighbours at the top of a large vocabulary are often exactly equal,
#   and topk promises no order among equals. Its partial sort leaves them in an order that depends on k.
# Who meets it: a cache of the teachers' K = 20 best, cut to 10 afterwards, is not the cache of K = 10; two
#   runs that differ in K alone differ in which token a teacher puts first; agreement of "top-1" between
#   topk and argmax is not 100 % for one and the same tensor.
# Documented: that ties come in any order is. That the kept set hangs on k follows, and is easily missed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -qq --no-compile --disable-pip-version-check "torch==2.13.0"
cd "$work"
"$work/venv/bin/python" -W ignore - <<'PY'
import torch

torch.set_num_threads(1)
torch.manual_seed(0)
logits = (3 * torch.randn(64, 32000)).bfloat16()
ten, twenty = logits.topk(10).indices, logits.topk(20).indices[:, :10]
order = int((ten != twenty).any(1).sum())
members = sum(set(a.tolist()) != set(b.tolist()) for a, b in zip(ten, twenty, strict=True))
first = int((ten[:, 0] != logits.argmax(-1)).sum())
again = torch.equal(ten, logits.topk(10).indices)
print(f"rows of 64 whose ten differ: in order {order}, as sets {members}; first is not argmax: {first}")
exact = logits.float() + torch.arange(32000) * 1e-6  # all values different
same = torch.equal(exact.topk(10).indices, exact.topk(20).indices[:, :10])
print("the same call twice:", again, "  without ties a prefix:", same)
assert again and order > 16 and members > 2 and first > 0
assert same or int((exact.topk(10).values != exact.topk(20).values[:, :10]).sum()) == 0
PY
