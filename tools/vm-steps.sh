#!/bin/sh
# Boots Debian with systemd in namespaces of its own, and types the commands of docs/vm.md there. As root on Debian, with mmdebstrap.
# The new machine shares the network and the clock of this one, and has processes, mounts and a control group of its own.
set -eu
cd "$(dirname "$0")/.."
python=${1:-python3}
work=${JOBS_VM_CACHE:-/var/tmp/jobs-vm}
mkdir -p "$work"
if ! command -v mmdebstrap >/dev/null; then
    apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq -y install --no-install-recommends mmdebstrap >/dev/null
fi
[ -e "$work/base.tar" ] || mmdebstrap --quiet --variant=minbase \
    --include=systemd,systemd-sysv,dbus,ca-certificates bookworm "$work/base.tar"
root=$(mktemp -d "$work/root.XXXXXX")
groups=$(findmnt -n -o TARGET -t cgroup2 | head -n 1)
group="$groups/jobs-vm-$$"
machine=""
finish() {
    [ -z "$machine" ] || kill -9 "$machine" 2>/dev/null || true
    sleep 1 # until the processes have left the control groups
    find "$group" -depth -type d -exec rmdir {} + 2>/dev/null || true
    rm -rf "$root"
}
trap finish EXIT
tar -xf "$work/base.tar" -C "$root" --exclude='./dev/*'
# The certificate authorities and the settings of pip of this machine, for a network that has its own.
cp -L /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/"
cp -L /etc/resolv.conf "$root/etc/resolv.conf"
[ ! -e /etc/pip.conf ] || cp /etc/pip.conf "$root/etc/pip.conf"
"$python" -m pip wheel -q --no-deps -w "$root/opt/wheels" ./core 2>/dev/null

cat >"$work/boot.sh" <<'BOOT'
set -e
cd "$1"
mount --bind . .
cd "$1"
mount -t proc proc proc
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs -o mode=755 tmpfs dev
for device in null zero full random urandom tty; do
    touch "dev/$device"
    mount --bind "/dev/$device" "dev/$device"
done
mkdir -p dev/shm dev/pts run/lock old
ln -s /proc/self/fd dev/fd
pivot_root . old
umount -l old
exec env -i container=other PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd systemd.unit=multi-user.target
BOOT
mkdir "$group"
sh -c 'echo $$ >"$1/cgroup.procs"; exec unshare --cgroup --mount --pid --ipc --uts --fork --propagation private sh "$3" "$2"' \
    boot "$group" "$root" "$work/boot.sh" >"$work/boot.log" 2>&1 &
outside=$!
for _ in $(seq 120); do
    machine=$(cat "/proc/$outside/task/$outside/children" 2>/dev/null | tr -d ' ')
    [ -n "$machine" ] && [ -e "/proc/$machine/root"/run/systemd/system ] && break
    sleep 0.5
done
inside() { nsenter -t "$machine" --all env -i HOME=/root PIP_FIND_LINKS=/opt/wheels PATH=/usr/sbin:/usr/bin:/sbin:/bin "$@"; }
state=""
for _ in $(seq 120); do
    state=$(inside systemctl is-system-running 2>/dev/null || true)
    [ "$state" = running ] && break
    sleep 0.5
done
[ "$state" = running ] || { echo "vm: systemd is not running but '$state', see $work/boot.log" >&2; exit 1; }
echo "vm: Debian $(cat "$root/etc/debian_version") with systemd is running"
"$python" tools/vm_script.py "$root" examples/first_steps
inside sh -eu /typed
echo "vm: every command of docs/vm.md did what the page says"
