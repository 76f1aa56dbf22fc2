"""Runs a notebook as Kaggle does at night: inputs read-only, no network, one output.

The kernel is started in a network namespace without any network where the system allows that
(`unshare`), else its Python refuses to connect. It speaks by sockets in the file system, which
both leave alone.
"""

import asyncio
import os
import stat
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.base.cli import UserError, say

if TYPE_CHECKING:
    from nbformat import NotebookNode

TIMEOUT = 12 * 3600  # seconds a cell may take: a session on Kaggle is no longer
NAMESPACE = ["unshare", "--net", "--map-root-user"]
GUARD = """\
import socket

def refuse(*_, **__):
    raise OSError("the rehearsal has no network, as a submission on Kaggle has none")

socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = refuse
"""


def execute(notebook: Path, inputs: Path, working: Path, scratch: Path, output: str) -> str:
    """Run a notebook in a new kernel; returns what it printed.

    Raises UserError when a cell fails, an input was written to, or anything else was made than
    `output` (submission.csv).
    """
    try:
        import nbformat  # late: only a rehearsal needs them
        from ipykernel.kernelspec import make_ipkernel_cmd
        from jupyter_client import AsyncKernelManager
        from nbclient import NotebookClient
        from nbclient.exceptions import CellExecutionError, DeadKernelError
    except ModuleNotFoundError as error:
        raise UserError(f"{error}: a rehearsal needs pip install nbclient ipykernel") from None

    before = contents(inputs)
    manager = AsyncKernelManager(transport="ipc", connection_file=str(scratch / "kernel.json"))
    manager.kernel_spec.argv = [*isolation(), *make_ipkernel_cmd()]
    book = nbformat.read(notebook, as_version=4)
    where = {"metadata": {"path": str(working)}}
    set_writable(inputs, False)
    try:
        client = NotebookClient(book, km=manager, timeout=TIMEOUT, resources=where)
        client.execute(env=environment(inputs, working, scratch))
    except CellExecutionError as error:
        print(printed(book))
        raise UserError(f"{notebook} fails: {error.ename}: {error.evalue}") from None
    except DeadKernelError:
        print(printed(book))
        raise UserError(f"{notebook}: its kernel died: killed for its memory?") from None
    finally:
        set_writable(inputs, True)  # or nobody but root could delete them
        asyncio.run(manager.shutdown_kernel(now=True))
    refuse_writes(inputs, working, before, output)
    return printed(book)


def isolation() -> list[str]:
    """Prefix of a command that takes the network away; nothing where that is not allowed."""
    try:
        subprocess.run([*NAMESPACE, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        say("rehearse", "no network namespaces here: the notebook's Python refuses to connect")
        return []
    return NAMESPACE


def environment(inputs: Path, working: Path, scratch: Path) -> dict[str, str]:
    """Ours, but for what would let the notebook find our files instead of Kaggle's."""
    startup = scratch / "ipython" / "profile_default" / "startup"
    startup.mkdir(parents=True)
    (startup / "offline.py").write_text(GUARD)
    kept = {name: value for name, value in os.environ.items() if not name.endswith("_DIR")}
    kept.pop("PYTHONPATH", None)
    return kept | {
        "KAGGLE_INPUT_DIR": str(inputs),
        "KAGGLE_WORKING_DIR": str(working),
        "KAGGLE_IS_COMPETITION_RERUN": "1",
        "PIP_NO_INDEX": "1",
        "PYTHONWARNINGS": "ignore:IProgress not found",  # a remark of tqdm's on notebooks
        "IPYTHONDIR": str(scratch / "ipython"),
        "TMPDIR": str(scratch),
    }


def set_writable(folder: Path, writable: bool) -> None:
    """For the owner; nobody else may write either way."""
    for path in [folder, *folder.rglob("*")]:
        mode = path.stat().st_mode & ~(stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH)
        path.chmod(mode | (stat.S_IWUSR if writable else 0))


def contents(folder: Path) -> dict[str, tuple[int, int]]:
    """Size and time of every file: root can write into read-only folders, and is found out so."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in files}


def refuse_writes(
    inputs: Path, working: Path, before: dict[str, tuple[int, int]], output: str
) -> None:
    if changed := sorted(set(before.items()) ^ set(contents(inputs).items())):
        raise UserError(f"the notebook wrote to its inputs: {changed[0][0]}")
    made = sorted(path.name for path in working.iterdir())
    if made != [output]:
        raise UserError(f"the notebook made {made}, expected {output} alone")


def printed(book: "NotebookNode") -> str:
    outputs = [output for cell in book.cells for output in cell.get("outputs", [])]
    return "".join(output.text for output in outputs if output.output_type == "stream")
