#!/bin/sh
# Runs a command where one packet in twenty is lost: in a network of its own, on its loopback. Linux, root, iptables.
#     tools/lossy.sh .venv/bin/python -m tests.torture redis --jobs 20000
#     LOSS=0.2 tools/lossy.sh .venv/bin/python -m pytest tests/faults/test_redis.py
set -eu
if [ "${1:-}" != --inside ]; then
    command -v iptables >/dev/null || { echo "iptables is not installed" >&2; exit 1; }
    exec unshare --net "$0" --inside "$@"
fi
shift
ip link set lo up
iptables -A INPUT -i lo -m statistic --mode random --probability "${LOSS:-0.05}" -j DROP
exec "$@"
