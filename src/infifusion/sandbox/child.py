"""The two processes in which generated code is judged. Forked by starter.py.

This process is the test's: it alone holds the nonce and the verdict pipe. The program has a
process of its own, forked before the nonce arrives, without the pipe, and neither can reach the
other but by the messages of peer.py. So whatever a program does to its own interpreter
(frames, builtins, ctypes, leaving with status 0), the test is not touched.

An answer on the verdict pipe is two bytes of length, one that says which (P passed, F failed,
R refused: the kernel would not enforce, E no process could be started), and the text. Imports
nothing from the package.
"""

import builtins
import marshal
import os
import sys

import peer as peers  # pyright: ignore[reportMissingImports]
import walls  # pyright: ignore[reportMissingImports]

FROM_PROGRAM = frozenset({"call", "next"})
ONLY_PARSE = 0x400  # ast.PyCF_ONLY_AST, without importing ast


def judge(verdict: int) -> None:
    """Read what is to be judged from descriptor 0 and answer on the descriptor `verdict`."""
    to_program, to_test = os.pipe(), os.pipe()
    if os.fork() == 0:
        for descriptor in (0, verdict, to_program[1], to_test[0]):
            os.close(descriptor)
        be_the_program(peers.Peer(to_program[0], to_test[1], frozenset(peers.ASKED)))
        os._exit(0)
    os.close(to_program[0])
    os.close(to_test[1])
    with open(0, "rb") as payload:
        asked = marshal.load(payload)
    write, leave = os.write, os._exit
    found = be_the_test(peers.Peer(to_test[0], to_program[1], FROM_PROGRAM), asked)
    if found is not None:
        write(verdict, answer(found))
    leave(0)


def answer(found: bytes) -> bytes:
    """As it goes through the verdict pipe."""
    return len(found).to_bytes(2, "big") + found


def be_the_test(peer: peers.Peer, payload: dict) -> bytes | None:
    """The answer: P and the nonce only where the test ran to its end; None where the program's
    process is gone, or spoke nonsense."""
    give_up = {key: payload[key] for key in ("limits", "readable", "seccomp", "enforce", "numpy")}
    program = payload["program"].decode()
    try:
        wall_in(give_up)
        peer.send([program, {**give_up, "seccomp": payload["seccomp"].hex()}])
        kind, said = peer.receive()
        if kind == "walled":
            kind, said = peer.receive()
    except OSError as error:
        kind, said = "refused", str(error)
    except (peers.Gone, ValueError):
        return None
    if kind != "ready":
        letter = b"R" if kind == "refused" else b"F"
        return letter + str(said)[:300].encode("utf-8", "replace")
    try:
        code = compile(payload["test"].decode(), "<test>", "exec")
        module = type(sys)("program")
        sys.modules["program"] = module
        exec_in = module.__dict__
        exec_in.update(names_for(code, program, {k: peer.unpack(v) for k, v in said}))
        exec(code, exec_in)
    except BaseException as error:
        return None if peer.gone else b"F" + words_of(error)
    return None if peer.gone else b"P" + payload["nonce"]


def be_the_program(peer: peers.Peer) -> None:
    """Give up rights, run the program, then answer what the test asks."""
    walls.die_with_parent()
    try:
        program, give_up = peer.receive()
        wall_in({**give_up, "seccomp": bytes.fromhex(give_up["seccomp"])})
    except (OSError, ValueError) as error:
        peer.send(["refused", str(error)])
        return
    peer.send(["walled", ""])
    module = type(sys)("program")
    sys.modules["program"] = module
    try:
        exec(compile(program, "<program>", "exec"), module.__dict__)
        found = {n: v for n, v in module.__dict__.items() if n[:2] != "__"}
        ready = [[n, peer.pack(v)] for n, v in found.items() if type(v) is not type(sys)]
    except BaseException as error:
        peer.send(["failed", words_of(error).decode()])
        return
    try:
        peer.send(["ready", ready])
        peer.serve()
    except peers.Gone:
        pass


def wall_in(give_up: dict) -> None:
    """OSError where the kernel does not enforce what it is asked to. Afterwards NumPy can be
    imported, the one package that tests of public benchmarks need."""
    os.putenv("OPENBLAS_NUM_THREADS", "1")  # there can be no others; os.environ stays empty
    walls.limit_resources(give_up["limits"])
    if give_up["enforce"]:
        walls.restrict(give_up["readable"], give_up["seccomp"])
    if give_up["numpy"]:
        finders: list = sys.meta_path
        finders.append(FindsNumPy(give_up["numpy"]))


class FindsNumPy:
    """Finds the package numpy in its folder, whatever else lies beside it."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def find_spec(self, name: str, path: object = None, target: object = None) -> object:
        """Where numpy is; None for anything else."""
        if name != "numpy":
            return None
        from importlib.util import spec_from_file_location

        first = os.path.join(self.folder, "__init__.py")
        return spec_from_file_location(name, first, submodule_search_locations=[self.folder])


def names_for(code, program: str, defined: dict) -> dict:
    """What the test sees of the program: what it defines, and modules that it imports.

    Modules of the standard library are the test's own. A program that defines a builtin does not
    change it for the test, unless that builtin is the one thing that is tested.
    """
    used = set(names_in(code))
    builtin = vars(builtins).keys()
    tested = used & defined.keys()
    hidden = set() if len(tested) == 1 else builtin & defined.keys()
    imported = {n: v for n, v in imports_of(program, used).items() if n not in builtin}
    return {n: v for n, v in defined.items() if n not in hidden} | imported


def names_in(code):
    """Every name that a code object uses, and those inside it."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, type(code)):
            yield from names_in(constant)


def imports_of(program: str, used: set) -> dict:
    """Modules of the standard library and NumPy, and things in them, that the program's top level
    imports under names that the test uses."""
    found: dict = {}
    for line in vars(compile(program, "<program>", "exec", ONLY_PARSE))["body"]:
        kind, module = type(line).__name__, getattr(line, "module", None)
        for one in line.names if kind in ("Import", "ImportFrom") else ():
            bound = one.asname or one.name.partition(".")[0]
            root = (module or one.name).partition(".")[0]
            known = root == "numpy" or root in sys.stdlib_module_names
            if not known or (bound not in used and bound != "*"):
                continue
            statement = f"import {one.name}" if kind == "Import" else f"from {module} import "
            statement += one.name if kind == "ImportFrom" else ""
            statement += f" as {one.asname}" if one.asname else ""
            try:
                exec(statement, found)
            except (ImportError, OSError):
                continue
    found.pop("__builtins__", None)
    return found


def words_of(error: BaseException) -> bytes:
    """The kind of an exception and what it says, 300 characters at most."""
    try:
        reason = f"{type(error).__name__}: {error}"[:300]
    except BaseException:
        reason = "an exception that cannot be printed"
    return reason.encode("utf-8", "replace")
