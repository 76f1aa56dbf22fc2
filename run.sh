#!/usr/bin/env bash
# The reference pipeline: from train.csv and pictures to a submission.
#
#   ./run.sh                      the demo competition, end to end
#   ./run.sh EXPERIMENT           any experiment (pipeline/configs/experiments/*.yaml, or a path)
#   ./run.sh EXPERIMENT STAGE     from that stage on
#   ./run.sh EXPERIMENT [STAGE] --set train.lr=1e-4 --name NAME    with changes, as a run of its own
#   ./run.sh test [-m quick]      the tests, or those that take two minutes in all
#
# DATA_DIR (default data/) holds one folder per competition. Running again resumes.
set -euo pipefail
[[ ${1:-} =~ \.ya?ml$ ]] && set -- "$(realpath -m "$1")" "${@:2}"
cd "$(dirname "$0")"
if [[ ${1:-} == -h || ${1:-} == --help ]]; then
  sed -n '2,/^set/s/^# \?//p' run.sh
  exit
fi

experiment=${1:-demo}
from=${2:-prepare}
stages=(prepare folds train predict ensemble submit)

# A virtual environment, made once for these requirements.
# Its path is absolute: Python keeps it as sys.executable, which other folders start too.
venv=$(realpath -m "${VENV:-.venv}")
stamp=$venv/$(sha256sum requirements.txt | cut -c1-16).installed
if [[ ! -e $stamp ]] || ! "$venv/bin/python" -c "import typer" &>/dev/null; then
  version="import sys; print(sys.version_info[:2]); sys.exit(sys.version_info < (3, 11))"
  there=$("$venv/bin/python" -c "import pip; $version" 2>/dev/null) || there=none
  if [[ $there == none || -n ${PYTHON:-} ]]; then
    python=${PYTHON:-python3}
    if ! wanted=$("$python" -c "$version"); then
      echo "error: $python is not Python 3.11 or newer; name one: PYTHON=python3.12 ./run.sh" >&2
      exit 2
    fi
    if [[ -e $venv/pyvenv.cfg && $there != "$wanted" ]]; then
      rm -rf "$venv"/{bin,include,lib,lib64} # of another Python: `venv` would leave them
    fi
    "$python" -m venv "$venv"
  fi
  echo "setup     installing requirements.txt into $venv (minutes, once)"
  rm -f "$venv"/*.installed
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check -r requirements.txt
  touch "$stamp"
fi
PATH=$venv/bin:$PATH

if [[ $experiment == test ]]; then
  # the whole suite, or the quick part, in two processes, each with a thread of its own
  if [[ $# == 1 || "${*:2}" == "-m quick" ]]; then
    export OMP_NUM_THREADS=1
    set -- "$@" -n 2 --dist loadfile
  fi
  exec python -m pytest "${@:2}"
fi

# --set KEY=VALUE ... --name NAME are for the first stage, which makes an experiment of them
[[ $from == --* ]] && from=prepare || set -- "$experiment" "${@:3}"
changes=("${@:2}")
if [[ $# -gt 1 && ${*: -2:1} != --name ]]; then
  echo "error: after the stage: --set KEY=VALUE ... --name NAME" >&2
  exit 2
fi

if [[ " ${stages[*]} " != *" $from "* ]]; then
  echo "error: no stage '$from'; the stages are: ${stages[*]}" >&2
  exit 2
fi

if [[ $experiment == demo ]]; then
  python -m pipeline.demo # draws data/demo in seconds
elif [[ $from == prepare ]]; then
  python -m pipeline.fetch --experiment "$experiment" # only what is on Kaggle and not here
fi

name=$(basename "${experiment%.yml}" .yaml)
[[ $# == 1 ]] || name=${*: -1}
for stage in "${stages[@]}"; do
  [[ $stage == "$from" ]] && from=all
  [[ $from == all ]] || continue
  # the first four are asked for an experiment, the last for the name of its blend
  [[ $stage == submit ]] && experiment=$name
  python -m "pipeline.$stage" "$experiment" "${changes[@]}"
  [[ $# == 1 ]] || experiment=$name
  changes=()
done

page=${RUNS_DIR:-runs}/$name/report.html
if [[ -e $page ]]; then
  echo "look      $page"
fi
