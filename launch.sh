#!/bin/sh
# Finds a Python and hands everything over to webui/bootstrap.py. `./launch.sh --help` lists what it can do.
set -eu

# The folder this file really lies in, also when started through a symbolic link or from another folder.
self=$0
case $self in */*) ;; *) self=$(command -v -- "$self") ;; esac
while [ -L "$self" ]; do
    target=$(readlink "$self")
    case $target in
        /*) self=$target ;;
        *) self=$(dirname -- "$self")/$target ;;
    esac
done
root=$(CDPATH='' cd -- "$(dirname -- "$self")" && pwd -P)

# 0: fits; 3: has no venv or ensurepip (Debian and Ubuntu ship them apart); 4: older than 3.10; else: does not run.
judge() {
    "$1" -I -c '
import sys
if sys.version_info < (3, 10):
    sys.stdout.write("%d.%d" % sys.version_info[:2])
    sys.exit(4)
from importlib.util import find_spec
sys.exit(0 if find_spec("venv") and find_spec("ensurepip") else 3)' 2>/dev/null
}

use() {
    python=$1
    shift
    # -I keeps the environment and the folder of bootstrap.py out of the import path.
    exec "$python" -I "$root/webui/bootstrap.py" "$@"
}

if [ -n "${PYTHON:-}" ]; then
    code=0
    old=$(judge "$PYTHON") || code=$?
    case $code in
        0 | 3) use "$PYTHON" "$@" ;;
        4) echo "PYTHON=$PYTHON is Python $old. Galatea needs Python 3.10 or newer: unset PYTHON, or set it to a newer one." >&2 ;;
        *) echo "PYTHON=$PYTHON cannot be run. Unset PYTHON, or set it to a Python 3.10 or newer." >&2 ;;
    esac
    exit 1
fi

# A finished .venv answers fastest, and keeps its Python when a newer one appears on the system.
if judge "$root/.venv/bin/python" >/dev/null; then
    use "$root/.venv/bin/python" "$@"
fi

incomplete='' too_old=''
for name in python3.14 python3.13 python3.12 python3.11 python3.10 python3 python; do
    command -v "$name" >/dev/null 2>&1 || continue
    code=0
    old=$(judge "$name") || code=$?
    case $code in
        0) use "$name" "$@" ;;
        3) incomplete=${incomplete:-$name} ;;
        4) too_old="${too_old:+$too_old, }$name is $old" ;;
    esac
done
if [ -n "$incomplete" ]; then
    use "$incomplete" "$@" # says which package to install
fi

if [ -n "$too_old" ]; then
    echo "Galatea needs Python 3.10 or newer, and there are only older ones here ($too_old)." >&2
else
    echo "Galatea needs Python 3.10 or newer, and there is no Python here." >&2
fi
cat >&2 <<'HINT'
需要 Python 3.10 或更新的版本。
  Debian, Ubuntu:  sudo apt install python3 python3-venv   (an older release: its own newer package, e.g. python3.11 python3.11-venv)
  Fedora:          sudo dnf install python3
  macOS:           brew install python, or the installer from python.org
  elsewhere:       python.org/downloads
Then run ./launch.sh again. If it is installed in an unusual place: PYTHON=/path/to/python3 ./launch.sh
HINT
exit 1
