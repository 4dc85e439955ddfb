"""What a process gives up before it runs generated code: resources, files, system calls.

Imported by child.py, by its name alone: it imports nothing from the package.
"""

import ctypes
import os
import resource
import struct
import sys

PR_SET_PDEATHSIG, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 1, 22, 38
SECCOMP_MODE_FILTER = 2
LANDLOCK_CREATE_RULESET, LANDLOCK_ADD_RULE, LANDLOCK_RESTRICT_SELF = 444, 445, 446
LANDLOCK_RULE_PATH_BENEATH = 1
EXECUTE, READ_FILE, READ_DIR = 1 << 0, 1 << 2, 1 << 3
ABI_1_RIGHTS = (1 << 13) - 1  # every right of Landlock's first version, Linux 5.13
SIGKILL = 9
LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/dev/null", "/dev/urandom")
"""What every Python reads beside its own library."""


def die_with_parent() -> None:
    """The kernel kills this process when the thread that started it ends. Linux alone does so."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0)


def limit_resources(limits: dict[str, int]) -> None:
    """Hard limits by their names in the module resource."""
    for name, value in limits.items():
        resource.setrlimit(getattr(resource, name), (value, value))


def restrict(readable: list[str], bpf: bytes) -> None:
    """No new rights, no files but `readable` ones, no system calls but those of the filter.

    Raises OSError where the kernel does not take one of them.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_NO_NEW_PRIVS)")
    restrict_files(libc, readable)
    restrict_calls(libc, bpf)


def restrict_files(libc: ctypes.CDLL, readable: list[str]) -> None:
    """Landlock: nothing can be opened but files under `readable`, and those for reading."""
    attribute = struct.pack("=Q", ABI_1_RIGHTS)
    ruleset = _call(libc, "landlock_create_ruleset", LANDLOCK_CREATE_RULESET, attribute, 8, 0)
    for path in readable:
        try:
            beneath = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        rights = READ_FILE | (READ_DIR if os.path.isdir(path) else 0)
        rule = struct.pack("=Qi", rights, beneath)
        number = (LANDLOCK_ADD_RULE, ruleset, LANDLOCK_RULE_PATH_BENEATH)
        _call(libc, "landlock_add_rule", *number, rule, 0)
        os.close(beneath)
    _call(libc, "landlock_restrict_self", LANDLOCK_RESTRICT_SELF, ruleset, 0)
    os.close(ruleset)


def restrict_calls(libc: ctypes.CDLL, bpf: bytes) -> None:
    """seccomp: only the system calls of the filter."""
    buffer = ctypes.create_string_buffer(bpf, len(bpf))
    program = struct.pack("@HxxxxxxP", len(bpf) // 8, ctypes.addressof(buffer))
    if libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, program, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_SECCOMP)")


def _call(libc: ctypes.CDLL, what: str, *arguments: int | bytes) -> int:
    result = libc.syscall(*[ctypes.c_long(a) if isinstance(a, int) else a for a in arguments])
    if result < 0:
        raise OSError(ctypes.get_errno(), what)
    return result
