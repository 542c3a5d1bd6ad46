#!/bin/sh
# Makes the virtual environment $1 with Python $2, empty; where Debian has split venv off, as root, with its package.
# With $3, --without-pip, it needs no such package, and takes half a second instead of six.
set -eu
venv=$1
python=$2

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' || {
    echo "$python is older than Python 3.10: make PYTHON=python3.12 ... names another" >&2
    exit 1
}
if [ -z "${3-}" ] && ! "$python" -c 'import ensurepip' 2>/dev/null; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        echo "Installing the Debian package python3-venv."
        apt-get -qq update && apt-get -qq -y install --no-install-recommends python3-venv >/dev/null
    else
        echo "Python's venv module is missing: apt-get install python3-venv" >&2
        exit 1
    fi
fi
[ -x "$venv/bin/python" ] || "$python" -m venv ${3-} "$venv"
