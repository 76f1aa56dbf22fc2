"""Runs a notebook as Kaggle does: in folders of its own, without a network.

Where the system allows it (`unshare`) the kernel has no network at all; else it keeps ours.
"""

import asyncio
import os
import subprocess
from pathlib import Path

from pipeline.base.cli import UserError, warn

TIMEOUT = 12 * 3600  # seconds a cell may take: a session on Kaggle is no longer
NAMESPACE = ["unshare", "--net", "--map-root-user"]


def execute(notebook: Path, inputs: Path, working: Path, scratch: Path) -> str:
    """Run a notebook in a new kernel; returns what it printed. Raises UserError when a cell fails.

    The kernel speaks by sockets in the file system (`ipc`), which need no network.
    """
    try:
        import nbformat  # late: only a rehearsal needs them
        from ipykernel.kernelspec import make_ipkernel_cmd
        from jupyter_client import AsyncKernelManager
        from nbclient import NotebookClient
        from nbclient.exceptions import CellExecutionError, DeadKernelError
    except ModuleNotFoundError as error:
        raise UserError(f"{error}: a rehearsal needs pip install nbclient ipykernel") from None

    manager = AsyncKernelManager(transport="ipc", connection_file=str(scratch / "kernel.json"))
    manager.kernel_spec.argv = [*without_network(), *make_ipkernel_cmd()]
    book = nbformat.read(notebook, as_version=4)
    where = {"metadata": {"path": str(working)}}
    failure = ""
    try:
        client = NotebookClient(book, km=manager, timeout=TIMEOUT, resources=where)
        client.execute(env=environment(inputs, working, scratch))
    except CellExecutionError as error:
        failure = f"{notebook} fails: {error.ename}: {error.evalue}"
    except DeadKernelError:
        failure = f"{notebook}: its kernel died: killed for its memory?"
    finally:
        asyncio.run(manager.shutdown_kernel(now=True))
    outputs = [output for cell in book.cells for output in cell.get("outputs", [])]
    printed = "".join(output.text for output in outputs if output.output_type == "stream")
    if failure:
        print(printed)
        raise UserError(failure)
    return printed


def without_network() -> list[str]:
    """Prefix of a command that takes the network away; nothing where that is not allowed."""
    try:
        subprocess.run([*NAMESPACE, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        warn("rehearse", "no network namespaces here: the notebook has a network, unlike on Kaggle")
        return []
    return NAMESPACE


def environment(inputs: Path, working: Path, scratch: Path) -> dict[str, str]:
    """Ours, but for what would let the notebook find our files instead of Kaggle's."""
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
