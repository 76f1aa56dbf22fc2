"""Lists the stages (`python -m pipeline`) or runs one (`python -m pipeline train demo`)."""

import ast
import runpy
import sys
from pathlib import Path

FLOW = ["prepare", "folds", "train", "predict", "ensemble", "submit"]
AROUND = ["report", "review", "runs", "compare", "fetch", "bundle", "bench", "demo"]
AROUND += ["gallery", "ablate"]


def summary(stage: str) -> str:
    """First docstring line, read without importing: the list must appear at once."""
    source = Path(__file__).with_name(f"{stage}.py").read_text(encoding="utf-8")
    return (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0]


def main() -> None:
    if len(sys.argv) > 1 and sys.argv[1] in FLOW + AROUND:
        stage = sys.argv[1]
        del sys.argv[1]
        runpy.run_module(f"pipeline.{stage}", run_name="__main__", alter_sys=True)
        return
    for stage in FLOW + AROUND:
        print(f"  {stage:<10}{summary(stage)}")
    print(
        "\nrun one:  python -m pipeline.STAGE EXPERIMENT   (--help says what it reads and writes)"
    )
    if len(sys.argv) > 1 and sys.argv[1] not in ("-h", "--help"):
        print(f"error: no stage {sys.argv[1]!r}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
