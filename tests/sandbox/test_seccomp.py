"""The filter, run by an interpreter of the few BPF instructions it uses."""

import re
import struct
from pathlib import Path

import pytest

from infifusion.errors import SandboxError
from infifusion.sandbox.seccomp import ALLOWED, AUDIT_ARCH, seccomp_filter

ALLOW, KILL, DENY = 0x7FFF0000, 0x80000000, 0x0005000D
HEADERS = {
    "x86_64": ("/usr/include/x86_64-linux-gnu/asm/unistd_64.h", 1),
    "aarch64": ("/usr/include/asm-generic/unistd.h", 2),
}


def decide(machine: str, number: int, *arguments: int, arch: int | None = None) -> int:
    arch = AUDIT_ARCH[machine] if arch is None else arch
    data = struct.pack("=IIQ6Q", number, arch, 0, *(*arguments, *[0] * (6 - len(arguments))))
    program = list(struct.iter_unpack("=HBBI", seccomp_filter(machine)))
    at = accumulator = 0
    while True:
        code, if_true, if_false, value = program[at]
        at += 1
        if code == 0x20:
            (accumulator,) = struct.unpack_from("=I", data, value)
        elif code == 0x15:
            at += if_true if accumulator == value else if_false
        elif code == 0x45:
            at += if_true if accumulator & value else if_false
        else:
            assert code == 0x06
            return value


FORBIDDEN = {
    "x86_64": dict(
        socket=41, clone=56, fork=57, vfork=58, execve=59, kill=62, ptrace=101, tgkill=234,
        unlink=87, rename=82, chmod=90, truncate=76, mount=165, prlimit64=302, clone3=435,
        openat2=437, io_uring_setup=425, process_vm_writev=311, ioctl=16, creat=85, mkdir=83,
    ),
    "aarch64": dict(
        socket=198, clone=220, execve=221, kill=129, ptrace=117, tgkill=131, unlinkat=35,
        renameat2=276, fchmodat=53, truncate=45, mount=40, prlimit64=261, clone3=435, openat2=437,
        io_uring_setup=425, process_vm_writev=271, ioctl=29, mkdirat=34,
    ),
}  # fmt: skip


@pytest.mark.parametrize("machine", AUDIT_ARCH)
def test_dangerous_calls_and_unknown_ones_are_denied(machine):
    for name, number in FORBIDDEN[machine].items():
        assert decide(machine, number) == DENY, name
    assert decide(machine, 9999) == DENY
    assert decide(machine, 0x40000000) == DENY  # the x32 door on x86_64


@pytest.mark.parametrize(("machine", "column"), [("x86_64", 1), ("aarch64", 2)])
def test_every_listed_call_is_allowed(machine, column):
    numbers = [row[column] for row in ALLOWED if row[column] is not None]
    assert len(numbers) > 40
    assert all(decide(machine, number) == ALLOW for number in numbers)


@pytest.mark.parametrize(("machine", "openat"), [("x86_64", 257), ("aarch64", 56)])
def test_files_open_for_reading_only(machine, openat):
    directory, cloexec = 0o200000, 0o2000000
    assert decide(machine, openat, 0, 0, cloexec) == ALLOW
    assert decide(machine, openat, 0, 0, directory) == ALLOW
    for flags in (0o1, 0o2, 0o100, 0o1000):  # O_WRONLY, O_RDWR, O_CREAT, O_TRUNC
        assert decide(machine, openat, 0, 0, flags | cloexec) == DENY


@pytest.mark.parametrize(("machine", "fcntl"), [("x86_64", 72), ("aarch64", 25)])
def test_fcntl_may_duplicate_but_not_direct_signals(machine, fcntl):
    assert [decide(machine, fcntl, 0, command) for command in (0, 1, 2, 3, 1030)] == [ALLOW] * 5
    assert [decide(machine, fcntl, 0, command) for command in (4, 8, 10, 15)] == [DENY] * 4


def test_another_architecture_is_killed_or_refused():
    assert decide("x86_64", 0, arch=0x40000003) == KILL  # i386
    with pytest.raises(SandboxError, match="riscv64"):
        seccomp_filter("riscv64")


@pytest.mark.parametrize("machine", AUDIT_ARCH)
def test_numbers_are_those_of_the_kernel_headers(machine):
    header, column = HEADERS[machine]
    if not Path(header).exists():
        pytest.skip(f"no kernel headers at {header}")
    text = Path(header).read_text()
    defined = dict(re.findall(r"#define\s+__NR(?:3264)?_(\w+)\s+(\d+)", text))
    for row in ALLOWED:
        if row[column] is not None:
            name = {"newfstatat": "fstatat"}.get(row[0], row[0])
            found = defined.get(row[0], defined.get(name))
            assert found is not None and int(found) == row[column], row[0]
