"""The system calls that generated code may make, as a seccomp filter.

An allow list: whatever is not on it fails with EACCES, so a system call that is new in a later
kernel is denied too. Not on it, among others: socket, clone, fork, execve, kill, ptrace, mount,
truncate, unlink, rename, chmod, prlimit, io_uring. Files open for reading only. The numbers are the
kernel's (arch/x86/entry/syscalls/syscall_64.tbl; include/uapi/asm-generic/unistd.h for aarch64); on
any other architecture there is no filter and nothing runs.
"""

from __future__ import annotations

import functools
import struct

from infifusion.errors import SandboxError

# Name, number on x86_64, number on aarch64 (-: the architecture has no such call).
TABLE = """
read 0 63; write 1 64; close 3 57; stat 4 -;
fstat 5 80; lstat 6 -; poll 7 -; lseek 8 62;
mmap 9 222; mprotect 10 226; munmap 11 215; brk 12 214;
rt_sigaction 13 134; rt_sigprocmask 14 135; rt_sigreturn 15 139; pread64 17 67;
readv 19 65; writev 20 66; access 21 -; select 23 -;
sched_yield 24 124; mremap 25 216; madvise 28 233; dup 32 23;
nanosleep 35 101; getpid 39 172; exit 60 93; uname 63 160;
getcwd 79 17; readlink 89 -; gettimeofday 96 169; getrlimit 97 163;
getrusage 98 165; sysinfo 99 179; times 100 153; getuid 102 174;
getgid 104 176; geteuid 107 175; getegid 108 177; getppid 110 173;
sigaltstack 131 132; gettid 186 178; time 201 -; futex 202 98;
sched_getaffinity 204 123; getdents64 217 61; restart_syscall 219 128; clock_gettime 228 113;
clock_getres 229 114; clock_nanosleep 230 115; exit_group 231 94; newfstatat 262 79;
readlinkat 267 78; faccessat 269 48; pselect6 270 72; ppoll 271 73;
getrandom 318 278; membarrier 324 283; statx 332 291; faccessat2 439 439
"""


def _allowed(entry: str) -> tuple[str, int | None, int | None]:
    name, *numbers = entry.split()
    x86_64, aarch64 = (None if number == "-" else int(number) for number in numbers)
    return name, x86_64, aarch64


ALLOWED = tuple(_allowed(entry) for entry in TABLE.split(";"))
# Calls that are allowed when one argument has the right value: number, index of that argument.
OPEN = {"x86_64": ((2, 1), (257, 2)), "aarch64": ((56, 2),)}
FCNTL = {"x86_64": 72, "aarch64": 25}
# alarm, setitimer: a signal to oneself after a time, for the worker of mathematical answers.
ALARMS = {"x86_64": (37, 38), "aarch64": (103,)}
AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}  # include/uapi/linux/audit.h

# O_WRONLY | O_RDWR | O_CREAT | O_TRUNC, the same on both architectures.
OPEN_FOR_WRITING = 0o3 | 0o100 | 0o1000
# F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_DUPFD_CLOEXEC; not F_SETOWN, which can signal others.
FCNTL_COMMANDS = (0, 1, 2, 3, 1030)

# include/uapi/linux/{bpf_common,filter,seccomp}.h
LOAD, JUMP_EQUAL, JUMP_SET, RETURN = 0x20, 0x15, 0x45, 0x06
ALLOW, KILL = 0x7FFF0000, 0x80000000
DENY = 0x00050000 | 13  # SECCOMP_RET_ERRNO with EACCES, which Python raises as PermissionError
NUMBER_AT, ARCH_AT, ARGUMENTS_AT = 0, 4, 16  # offsets in struct seccomp_data


@functools.cache
def seccomp_filter(machine: str, *, alarms: bool = False) -> bytes:
    """The filter as an array of struct sock_filter; SandboxError for an unknown architecture.

    alarms: the process may also set itself an alarm.

    A process that enters by another architecture's door (int 0x80 on x86_64) is killed.
    """
    if machine not in AUDIT_ARCH:
        raise SandboxError(
            f"the system-call numbers of {machine} are not in the table of "
            f"sandbox/seccomp.py, which has {', '.join(AUDIT_ARCH)}"
        )
    column = 1 if machine == "x86_64" else 2
    program = [_op(LOAD, ARCH_AT), _op(JUMP_EQUAL, AUDIT_ARCH[machine], 1, 0), _op(RETURN, KILL)]
    program.append(_op(LOAD, NUMBER_AT))
    for number, argument in OPEN[machine]:
        program += [
            _op(JUMP_EQUAL, number, 0, 4),
            _op(LOAD, ARGUMENTS_AT + 8 * argument),
            _op(JUMP_SET, OPEN_FOR_WRITING, 0, 1),
            _op(RETURN, DENY),
            _op(RETURN, ALLOW),
        ]
    commands = len(FCNTL_COMMANDS)
    program += [
        _op(JUMP_EQUAL, FCNTL[machine], 0, commands + 3),
        _op(LOAD, ARGUMENTS_AT + 8),
        *(_op(JUMP_EQUAL, c, commands - i, 0) for i, c in enumerate(FCNTL_COMMANDS)),
        _op(RETURN, DENY),
        _op(RETURN, ALLOW),
    ]
    numbers = [number for row in ALLOWED if isinstance(number := row[column], int)]
    for number in [*numbers, *(ALARMS[machine] if alarms else ())]:
        program += [_op(JUMP_EQUAL, number, 0, 1), _op(RETURN, ALLOW)]
    program.append(_op(RETURN, DENY))
    return b"".join(program)


def _op(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, value)
