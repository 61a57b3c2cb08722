"""The package can be imported where there is no Linux, as far as that shows on Linux."""

import subprocess
import sys

IMPORT_EVERYTHING = """
import builtins, importlib, os, pkgutil, signal, sys
import helios_jax

POSIX_MODULES = {"fcntl", "resource", "termios", "tty", "pty", "pwd", "grp", "posix", "syslog"}
POSIX_NAMES = (
    (os, ("O_CLOEXEC", "O_DIRECTORY", "O_NOFOLLOW", "O_NONBLOCK", "O_SYNC", "fork", "getuid",
          "mkfifo", "nice", "pread", "sched_getaffinity", "sync", "sysconf", "wait4")),
    (signal, ("SIGALRM", "SIGHUP", "SIGKILL", "SIGPIPE", "SIGUSR1", "SIGXFSZ", "pthread_kill")),
)

def import_all():
    for module in pkgutil.walk_packages(helios_jax.__path__, "helios_jax."):
        if module.name != "helios_jax.__main__":
            importlib.import_module(module.name)

import_all()  # other packages, which may use what there is

ours = [name for name in sys.modules if name.split(".")[0] == "helios_jax"]
for name in ours:
    if name != "helios_jax":
        del sys.modules[name]
for module, names in POSIX_NAMES:
    for name in names:
        delattr(module, name)
import_any = builtins.__import__

def import_what_windows_has(name, globals=None, *others):
    importer = (globals or {}).get("__name__", "")
    if name in POSIX_MODULES and importer.split(".")[0] == "helios_jax":
        raise ImportError(f"{importer} imports {name}, which Windows does not have")
    return import_any(name, globals, *others)

builtins.__import__ = import_what_windows_has
import_all()
"""


def test_every_module_is_imported_without_what_only_posix_has():
    """Functions may use it, where they ask for the platform first."""
    subprocess.run([sys.executable, "-c", IMPORT_EVERYTHING], check=True)
