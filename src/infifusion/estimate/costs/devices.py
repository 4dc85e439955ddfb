"""Accelerators by name: what their makers state, and how much of it a run of ours gets."""

from __future__ import annotations

from dataclasses import dataclass

from infifusion.errors import RecipeError
from infifusion.registry import nearest

CPU = "cpu"


@dataclass(frozen=True)
class Device:
    """One accelerator.

    flops:     dense bfloat16 FLOP/s with float32 accumulation (never the "with sparsity" figure).
    memory:    bytes.
    bandwidth: bytes per second of that memory.
    link:      bytes per second to the other devices of its machine, one direction.
    """

    flops: float
    memory: float
    bandwidth: float
    link: float


# Peak figures of the makers' data sheets; `link` is NVLink where the device has it, else PCIe.
DEVICES = {
    # NVIDIA H200 Tensor Core GPU datasheet (SXM): 1,979 TFLOPS bf16 with sparsity, half of it
    # dense; 141 GB, 4.8 TB/s; NVLink 900 GB/s both directions together.
    "h200": Device(989.5e12, 141e9, 4.8e12, 450e9),
    # NVIDIA H100 Tensor Core GPU datasheet (SXM): 1,979 with sparsity; 80 GB, 3.35 TB/s; 900 GB/s.
    "h100": Device(989.5e12, 80e9, 3.35e12, 450e9),
    # The same datasheet, PCIe / NVL-less card: 1,513 with sparsity; 80 GB, 2 TB/s; PCIe 5 x16.
    "h100-pcie": Device(756.5e12, 80e9, 2.0e12, 64e9),
    # NVIDIA Blackwell datasheet (HGX B200): 2.25 PFLOPS dense bf16; 180 GB, 7.7 TB/s;
    # NVLink 1.8 TB/s.
    "b200": Device(2250e12, 180e9, 7.7e12, 900e9),
    # NVIDIA A100 80GB datasheet (SXM): 312 TFLOPS; 80 GB, 2,039 GB/s; NVLink 600 GB/s.
    "a100-80": Device(312e12, 80e9, 2.039e12, 300e9),
    # NVIDIA A100 40GB datasheet (SXM): 312 TFLOPS; 40 GB, 1,555 GB/s; NVLink 600 GB/s.
    "a100-40": Device(312e12, 40e9, 1.555e12, 300e9),
    # NVIDIA L40S datasheet: 733 TFLOPS with sparsity, 362 dense; 48 GB, 864 GB/s; PCIe 4 x16.
    "l40s": Device(362e12, 48e9, 0.864e12, 32e9),
    # NVIDIA Ada GPU architecture whitepaper, appendix A, RTX 4090: 165.2 TFLOPS bf16 with fp32
    # accumulation; 24 GB, 1,008 GB/s; PCIe 4 x16.
    "rtx4090": Device(165.2e12, 24e9, 1.008e12, 32e9),
    # NVIDIA Ampere GA102 whitepaper, RTX 3090: 71 TFLOPS bf16 with fp32 accumulation; 24 GB,
    # 936 GB/s; PCIe 4 x16.
    "rtx3090": Device(71e12, 24e9, 0.936e12, 32e9),
    # AMD Instinct MI300X data sheet: 1,307.4 TFLOPS dense bf16; 192 GB, 5.3 TB/s; 7 Infinity
    # Fabric links of 64 GB/s each way.
    "mi300x": Device(1307.4e12, 192e9, 5.3e12, 448e9),
}

# Share of the peak that matrix products of each kind get (MFU), averaged over a whole stage.
# PaLM reports 0.46 (arXiv 2204.02311, table 3), Llama 3 0.38 to 0.43 in training (arXiv
# 2407.21783, table 4), both with tuned parallelism; a Hugging Face loop under autocast, with
# padding and float32 norms, stays below. A teacher pass is forward alone, without a step to wait
# for. `decode` is bound by memory, not by arithmetic: see rates.of_device.
UTILISATION = {"forward": 0.40, "train": 0.30, "decode": 0.20}

# Share of the stated memory bandwidth that an elementwise kernel gets.
STREAM_SHARE = 0.7

# One direction of one machine's network: 400 Gbit/s, such as NDR InfiniBand.
NETWORK = 50e9


# What torch.cuda.get_device_name says, the first that fits.
MARKETED = {
    "H200": "h200",
    "H100 PCIe": "h100-pcie",
    "H100": "h100",
    "B200": "b200",
    "A100-SXM4-80GB": "a100-80",
    "A100 80GB": "a100-80",
    "A100": "a100-40",
    "L40S": "l40s",
    "RTX 4090": "rtx4090",
    "RTX 3090": "rtx3090",
    "MI300X": "mi300x",
}


def device_marketed_as(name: str) -> str | None:
    """Our name of a device by the driver's, such as NVIDIA H200; None for one not in the table."""
    return next((ours for theirs, ours in MARKETED.items() if theirs in name), None)


def device_called(name: str) -> Device:
    """The device of that name; RecipeError with the known ones and the nearest spelling."""
    if name in DEVICES:
        return DEVICES[name]
    known = sorted([CPU, *DEVICES])
    raise RecipeError(
        f"There is no device '{name}'.{nearest(name, known)} Known: {', '.join(known)}. Figures of "
        "another one: add a line to src/infifusion/estimate/costs/devices.py."
    )
