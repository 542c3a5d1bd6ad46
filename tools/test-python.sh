#!/bin/sh
# Runs tests ($2 and more, default: all) on Python $1, which is a version (3.12) or a program, in a virtual environment of
# its own. A free-threaded Python gets another one than that of the same version with the GIL.
set -eu
python=$(tools/find-python.sh "$1" || command -v "$1") || {
    echo "python $1: not on this machine" >&2
    exit 1
}
shift
version=$("$python" -c 'import sys, sysconfig
print("%d.%d" % sys.version_info[:2] + ("t" if sysconfig.get_config_var("Py_GIL_DISABLED") else ""))')
make -s ".venv-$version/ready" VENV=".venv-$version" PYTHON="$python"
exec ".venv-$version/bin/python" -m pytest -q -n 2 --dist loadfile "$@"
