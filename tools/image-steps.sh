#!/bin/sh
# Builds the image of deploy/image and runs it: read-only, as its own user, with its health check, a job, and a stop. As root on
# Debian, with buildah, which needs no daemon. Where debian:bookworm-slim cannot be pulled, mmdebstrap makes a stand-in for it.
set -eu
cd "$(dirname "$0")/.."
work=${JOBS_IMAGE_CACHE:-/var/tmp/jobs-image}
mkdir -p "$work"
missing=""
for program in buildah mmdebstrap unshare; do
    command -v "$program" >/dev/null || missing="$missing $program"
done
if [ -n "$missing" ]; then
    # shellcheck disable=SC2086 # a list of words is meant
    apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq -y install --no-install-recommends $missing >/dev/null
fi
export STORAGE_DRIVER=vfs BUILDAH_ISOLATION=chroot
buildah() { command buildah --root "$work/store" --runroot "$work/run" "$@"; }

base=debian:bookworm-slim
if buildah pull -q "docker.io/library/$base" >/dev/null 2>&1; then
    echo "image: built on $base"
elif buildah inspect --type image "localhost/$base" >/dev/null 2>&1; then
    echo "image: built on the stand-in for $base that an earlier run made"
else
    echo "image: $base cannot be pulled; making a stand-in with mmdebstrap"
    [ -e "$work/base.tar" ] || mmdebstrap --quiet --variant=minbase --include=ca-certificates bookworm "$work/base.tar"
    made=$(buildah from scratch)
    buildah add -q "$made" "$work/base.tar" >/dev/null
    buildah commit -q --rm "$made" "localhost/$base" >/dev/null
fi

# The certificate authorities of this machine, for a network that has its own.
authorities=/etc/ssl/certs/ca-certificates.crt
buildah build --layers --format docker --pull-never -q -f deploy/image/Dockerfile --ignorefile deploy/image/Dockerfile.dockerignore \
    --volume "$authorities:$authorities:ro" -t localhost/jobs:dev . >"$work/id"
echo "image: built: $(cat "$work/id")"

container=$(buildah from --pull-never localhost/jobs:dev)
root=$(buildah mount "$container")
trap 'buildah rm "$container" >/dev/null' EXIT
buildah inspect --type image localhost/jobs:dev >"$work/config.json"
unshare --mount --pid --ipc --uts --fork python3 tools/run_image.py "$root" "$work/config.json" examples/first_steps
