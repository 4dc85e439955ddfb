"""The process in which generated code runs. Started by sandbox.py as a script: python -I -S.

Reads one marshalled dict from standard input, gives up every right it does not need, runs the
program and then its test, and writes to the verdict pipe either the nonce or why not. An answer
is two bytes of length, one that says which (P passed, F failed, R refused: the kernel would not
enforce), and the text.
Imports nothing from the package, so that it starts in some 30 ms.
"""

import ctypes
import marshal
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


def limit_resources(limits):
    for name, value in limits.items():
        resource.setrlimit(getattr(resource, name), (value, value))


def call(libc, what, *arguments):
    result = libc.syscall(*[ctypes.c_long(a) if isinstance(a, int) else a for a in arguments])
    if result < 0:
        raise OSError(ctypes.get_errno(), what)
    return result


def restrict_files(libc, readable):
    """Landlock: nothing can be opened but files under `readable`, and those for reading."""
    attribute = struct.pack("=Q", ABI_1_RIGHTS)
    ruleset = call(libc, "landlock_create_ruleset", LANDLOCK_CREATE_RULESET, attribute, 8, 0)
    for path in readable:
        try:
            beneath = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        rights = READ_FILE | (READ_DIR if os.path.isdir(path) else 0)
        rule = struct.pack("=Qi", rights, beneath)
        call(
            libc,
            "landlock_add_rule",
            LANDLOCK_ADD_RULE,
            ruleset,
            LANDLOCK_RULE_PATH_BENEATH,
            rule,
            0,
        )
        os.close(beneath)
    call(libc, "landlock_restrict_self", LANDLOCK_RESTRICT_SELF, ruleset, 0)
    os.close(ruleset)


def restrict_calls(libc, bpf):
    """seccomp: only the system calls of the filter."""
    buffer = ctypes.create_string_buffer(bpf, len(bpf))
    program = struct.pack("@HxxxxxxP", len(bpf) // 8, ctypes.addressof(buffer))
    if libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, program, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_SECCOMP)")


def main():
    verdict = int(sys.argv[1])
    payload = marshal.loads(sys.stdin.buffer.read())
    os.close(0)
    write, leave = os.write, os._exit

    def say(answer):
        write(verdict, len(answer).to_bytes(2, "big") + answer)

    try:
        limit_resources(payload["limits"])
        libc = ctypes.CDLL(None, use_errno=True)
        libc.prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0)
        if payload["enforce"]:
            if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
                raise OSError(ctypes.get_errno(), "prctl(PR_SET_NO_NEW_PRIVS)")
            restrict_files(libc, payload["readable"])
            restrict_calls(libc, payload["seccomp"])
    except Exception as error:
        say(("R" + str(error)[:300]).encode())
        leave(1)
    module = type(sys)("program")
    sys.modules["program"] = module
    try:
        for text, name in ((payload["program"], "<program>"), (payload["test"], "<test>")):
            exec(compile(text, name, "exec"), module.__dict__)
    except BaseException as error:
        try:
            reason = f"{type(error).__name__}: {error}"[:300]
        except BaseException:
            reason = "an exception that cannot be printed"
        say(b"F" + reason.encode("utf-8", "replace"))
        leave(1)
    say(b"P" + payload["nonce"])
    leave(0)


main()
