#!/usr/bin/env bash
# Check the Dockerfile without a Docker engine: lint it, then have buildah execute it, every line, on a
# stand-in for NGC's image: this machine's /usr, read-only; an environment of .venv's Python for the
# image's site-packages; and in it, read-only, what .venv has of torch, CUDA and common packages. Needs
# root and Debian's buildah. What this cannot show is NGC's own set of packages.
set -euo pipefail
cd "$(dirname "$0")/.."
site="$(.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"
home="$(.venv/bin/python -c 'import sys; print(sys.base_prefix)')"
cache="$(.venv/bin/python -m pip cache dir)"
step() { printf '\n--- %s (%ss)\n' "$1" "$SECONDS"; }

step "lint"
.venv/bin/hadolint Dockerfile

if ! command -v buildah >/dev/null; then
  apt-get -qq update
  DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends buildah >/dev/null
fi

work="$(mktemp -d)"
store() { buildah --root "$work/store" --runroot "$work/run" "$@"; }
mounts=(-v /usr:/usr:ro -v "$home:$home:ro" -v "$site:/mnt/site:ro" -v "$cache:/mnt/pip")
tidy() {
  store rm --all >/dev/null 2>&1 || true
  umount --recursive "$work/store/overlay" 2>/dev/null || true
  rm -rf "$work"
}
trap tidy EXIT

step "stand-in for the base image"
image="$work/base/image"
mkdir -p "$image"/{etc,tmp,root,home,usr,proc,sys,dev,run,opt/brought,var/tmp,mnt/site,mnt/pip}
for name in bin sbin lib lib64; do ln -s "usr/$name" "$image/$name"; done
chmod 1777 "$image/tmp" "$image/var/tmp"
for name in passwd group shadow ssl pip.conf ld.so.cache ld.so.conf alternatives login.defs; do
  [ ! -e "/etc/$name" ] || cp -a "/etc/$name" "$image/etc/"
done
"$home/bin/python3" -m venv "$image/opt/python"
echo /opt/brought > "$(echo "$image"/opt/python/lib/python3.*/site-packages)/brought.pth"
for path in "$site"/*; do  # all that .venv has, but for what is ours and what NGC's image lacks
  case "$(basename "$path")" in
    megatron*|__editable__*|*.pth|pip|pip-*|transformers*|tyro*|jaxtyping*|jiwer*|whisper_normalizer*) ;;
    espeakng*|sentencex*|gigatoken*|awkward*|datatrove*|loguru*) ;;
    *) ln -s "/mnt/site/$(basename "$path")" "$image/opt/brought/" ;;
  esac
done
printf 'FROM scratch\nCOPY image /\nENV PATH=/opt/python/bin:/usr/sbin:/usr/bin PIP_CACHE_DIR=/mnt/pip PIP_CONSTRAINT=/etc/pip/constraint.txt\n' \
  > "$work/base/Dockerfile"
store bud --quiet --isolation chroot --tag localhost/stand-in "$work/base" >/dev/null

step "build"
build() { store bud --isolation chroot --network host "${mounts[@]}" --build-arg PIP_NO_CACHE_DIR= "$@" .; }
build --build-arg BASE=localhost/stand-in --tag localhost/megatron_speech 2>&1 | tee "$work/log"
grep -q '^torch .* untouched' "$work/log"
grep -q '^added .*megatron-core' "$work/log"

step "the image as a user has it"
container="$(store from localhost/megatron_speech)"
inside() { store run --isolation chroot "${mounts[@]}" "$container" -- /bin/sh -euc "$1"; }
# shellcheck disable=SC2016  # expanded inside
inside '[ "$(id -un)" = speech ] && touch runs-can-be-written && ! touch /opt/image/x 2>/dev/null'
inside 'cd / && python -c "import megatron_speech.text.vocab, megatron_speech.kernels.vq_lookup"'
inside "$(store inspect --format '{{range .OCIv1.Config.Cmd}}{{.}} {{end}}' "$container")"

step "a base image that does not fit is refused"
printf 'FROM localhost/stand-in\nRUN rm /opt/brought/torch-* && mkdir /opt/brought/torch-2.1.0.dist-info && printf "Name: torch\\nVersion: 2.1.0\\n" > /opt/brought/torch-2.1.0.dist-info/METADATA\n' \
  > "$work/base/Dockerfile"
store bud --quiet --isolation chroot "${mounts[@]}" --tag localhost/old "$work/base" >/dev/null
if build --build-arg BASE=localhost/old > "$work/log" 2>&1; then echo "it was not refused"; exit 1; fi
grep 'the base image has torch 2.1.0' "$work/log"
step "passed"
