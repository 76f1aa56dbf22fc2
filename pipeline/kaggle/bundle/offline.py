"""Runs the cells of a notebook as Kaggle does: in folders of its own, without a network.

Where the system allows it (`unshare`) their process has no network at all; else it keeps ours.
"""

import os
import subprocess
import sys
from pathlib import Path

from pipeline.base import records
from pipeline.base.cli import UserError, warn

NAMESPACE = ["unshare", "--net", "--map-root-user"]


def execute(notebook: Path, inputs: Path, working: Path, scratch: Path) -> str:
    """Run a notebook in a new process; returns what it printed. Raises UserError when it fails."""
    cells = records.read_json(notebook)["cells"]
    code = "\n\n".join(cell["source"] for cell in cells if cell["cell_type"] == "code")
    process = subprocess.run(
        [*without_network(), sys.executable, "-u", "-c", code],  # -c: a spawned child skips it
        cwd=working,
        env=environment(inputs, working, scratch),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if status := process.returncode:
        print(process.stdout)
        why = (
            "killed for its memory?" if status < 0 else process.stdout.rstrip().rpartition("\n")[2]
        )
        raise UserError(f"{notebook} fails ({status}): {why}")
    return process.stdout


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
        "TMPDIR": str(scratch),
    }
