"""The inside of the sandbox: a program of its own, never imported. It locks itself in, then runs what it was handed.

    outer   new user, mount, network, process, IPC and host-name namespaces; waits for the inner one, ends it at the deadline
    inner   process 1 of its namespace: files read-only, an empty folder in memory, no capabilities, limits, seccomp; the program

The standard library alone, no line of the project's: it runs as `python -I -S`, with an empty environment.
"""

import ctypes
import json
import os
import platform
import resource
import select
import signal
import struct
import sys

LIBC = ctypes.CDLL(None, use_errno=True)
NEW = 0x10000000 | 0x00020000 | 0x40000000 | 0x20000000 | 0x08000000 | 0x04000000  # CLONE_NEW USER NS NET PID IPC UTS
MOUNT_SETATTR, AT_FDCWD, AT_RECURSIVE = 442, -100, 0x8000
READ_ONLY, HARMLESS = 0x1, 0x1 | 0x2 | 0x4  # and no set-user-ID, and no devices: root's would be open to whom root's files are
NO_SUID, NO_DEVICES, PRIVATE, RECURSIVE = 2, 4, 1 << 18, 1 << 14
DEATH_SIGNAL, NO_NEW_PRIVILEGES, SECCOMP = 1, 38, 22
HIDDEN = ("/proc", "/home", "/root", "/run", "/dev/shm", "/tmp")
# Machine: (number of its audit architecture, capset, system calls that are refused): those that make processes and threads;
# that reach other processes (by signal, memory, or a socket that is a file); that open a way into the kernel.
#   clone fork vfork clone3 | kill tkill tgkill *sigqueueinfo (2) pidfd_send_signal process_vm_* (2) ptrace socket |
#   unshare setns mount umount2 bpf add_key request_key keyctl userfaultfd perf_event_open io_uring_* (3)
MACHINES = {
    "x86_64": (0xC000003E, 126, (
        56, 57, 58, 435, 62, 200, 234, 129, 297, 424, 310, 311, 101, 41,
        272, 308, 165, 166, 321, 248, 249, 250, 323, 298, 425, 426, 427)),
    "aarch64": (0xC00000B7, 91, (
        220, 435, 129, 130, 131, 138, 240, 424, 270, 271, 117, 198,
        97, 268, 40, 39, 280, 217, 218, 219, 282, 241, 425, 426, 427)),
}


def main() -> None:
    tell, job = int(sys.argv[1]), json.loads(sys.stdin.buffer.read())
    folder = os.getcwd()
    try:
        if job["isolated"]:
            namespaces()
        child = os.fork()
        if child:
            wait(child, job["deadline"])
        called("prctl", LIBC.prctl(DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0))
        if job["isolated"]:
            hide(folder)
            no_capabilities()
        limits(job)
        seccomp()
    except OSError as error:
        os.write(tell, f"{job['token']} refused {error}\n".encode())
        os._exit(1)
    perform(job, tell)


def called(what: str, result: int) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def namespaces() -> None:
    """The same user, who may do in the new namespaces what root may: mount, and give that up again."""
    uid, gid = os.geteuid(), os.getegid()
    called("unshare", LIBC.unshare(NEW))
    for file, text in (("setgroups", "deny"), ("uid_map", f"65534 {uid} 1"), ("gid_map", f"65534 {gid} 1")):
        with open(f"/proc/self/{file}", "w") as map_of:
            map_of.write(text)


def wait(child: int, deadline: float) -> None:
    """Until the child ends; at the deadline it is killed, and with it its namespace. Never returns."""
    end = os.pidfd_open(child)
    select.select([end], [], [], deadline)
    try:
        os.kill(child, signal.SIGKILL)
    except ProcessLookupError:
        pass
    os.waitpid(child, 0)
    os._exit(0)


def hide(folder: str) -> None:
    """Every mount read-only, private folders empty, and `folder` a small file system in memory: all that can be written."""
    called("mount", LIBC.mount(None, b"/", None, PRIVATE | RECURSIVE, None))
    attributes = struct.pack("QQQQ", HARMLESS, 0, 0, 0)
    size = ctypes.c_size_t(len(attributes))
    called("mount_setattr", LIBC.syscall(MOUNT_SETATTR, AT_FDCWD, b"/", AT_RECURSIVE, attributes, size))
    needed = [os.path.realpath(one) + "/" for one in (sys.prefix, sys.base_prefix)]
    hidden = [place for place in HIDDEN if os.path.isdir(place) and not any(one.startswith(place + "/") for one in needed)]
    for place in hidden:
        called(f"mount {place}", LIBC.mount(b"none", place.encode(), b"tmpfs", NO_SUID | NO_DEVICES | READ_ONLY, b"size=4k"))
    room = "/tmp" if "/tmp" in hidden else folder
    called("mount", LIBC.mount(b"none", room.encode(), b"tmpfs", NO_SUID | NO_DEVICES, b"size=16m,nr_inodes=1k,mode=700"))
    os.chdir(room)


def no_capabilities() -> None:
    header, none = struct.pack("Ii", 0x20080522, 0), bytes(24)
    called("capset", LIBC.syscall(MACHINES[platform.machine()][1], header, none))


def limits(job: dict) -> None:
    """Hard and soft alike: what is under them cannot raise them."""
    size = job["memory_mb"] << 20
    for kind, most in ((resource.RLIMIT_CPU, job["seconds"]), (resource.RLIMIT_AS, size),
                       (resource.RLIMIT_FSIZE, job["file_mb"] << 20), (resource.RLIMIT_NOFILE, 32),
                       (resource.RLIMIT_CORE, 0), (resource.RLIMIT_STACK, 8 << 20)):
        resource.setrlimit(kind, (most, most))


def seccomp() -> None:
    """A filter of system calls: those of `MACHINES` fail with EPERM, those of another architecture's numbers kill."""
    machine = platform.machine()
    if machine not in MACHINES:
        raise OSError(f"seccomp: expected one of {', '.join(MACHINES)}, found {machine}")
    called("prctl", LIBC.prctl(NO_NEW_PRIVILEGES, 1, 0, 0, 0))
    architecture, _, refused = MACHINES[machine]
    load, equal, at_least, answer = 0x20, 0x15, 0x35, 0x06
    rules = [(load, 0, 0, 4), (equal, 1, 0, architecture), (answer, 0, 0, 0x80000000), (load, 0, 0, 0)]
    rules += [(at_least, 0, 1, 0x40000000), (answer, 0, 0, 0x80000000)]  # x86's other table
    for number in refused:
        rules += [(equal, 0, 1, number), (answer, 0, 0, 0x00050000 | 1)]
    rules.append((answer, 0, 0, 0x7FFF0000))
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *rule) for rule in rules))
    program = struct.pack("HxxxxxxP", len(rules), ctypes.addressof(code))
    called("seccomp", LIBC.prctl(SECCOMP, 2, ctypes.c_char_p(program), 0, 0))


def perform(job: dict, tell: int) -> None:
    """The program, then its tests, in one set of names. Never returns."""
    hand_over(job["given"])
    names = {"__name__": "__main__"}
    token = job.pop("token")
    if attempt(job["program"], names, may_exit=not job["tests"]):
        for number, test in enumerate(job["tests"]):
            if attempt(test, names):
                os.write(tell, f"{token} passed {number}\n".encode())
        try:
            sys.stdout.flush()
        except (OSError, ValueError, AttributeError):
            pass
        os.write(tell, f"{token} ended\n".encode())
    os._exit(0)


def hand_over(text: str) -> None:
    """The program's standard input: a file in its folder, so that it may be of any length."""
    with open("input", "w+", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.lseek(file.fileno(), 0, os.SEEK_SET)
        os.dup2(file.fileno(), 0)
    os.unlink("input")
    sys.stdin = open(0, encoding="utf-8", closefd=False)


def attempt(code: str, names: dict, may_exit: bool = False) -> bool:
    """Whether it ran to its end. may_exit: sys.exit() is such an end; before tests it would be a way around them."""
    try:
        exec(compile(code, "<program>", "exec"), names)
    except SystemExit as leaving:
        return may_exit and leaving.code in (None, 0)
    except BaseException:  # whatever a program that somebody else wrote may raise
        return False
    return True


if __name__ == "__main__":
    main()
