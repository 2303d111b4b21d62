# shellcheck shell=bash
# Read by scripts that install what they need, and say so: `. deploy/prerequisites.sh`. $program is their name.

cache=${XDG_CACHE_HOME:-$HOME/.cache}/hostdevd

die() { echo "$program: $1" >&2; exit 1; }

# apt_install PACKAGE...: with sudo when not root.
apt_install() {
    command -v apt-get >/dev/null || die "missing (Debian's names): $*; install them with this distribution's tool"
    local as_root=()
    if [ "$(id -u)" != 0 ]; then
        command -v sudo >/dev/null || die "missing: $*; as root: apt-get install $*"
        as_root=(sudo)
    fi
    echo "$program: apt-get install $*" >&2
    export DEBIAN_FRONTEND=noninteractive
    "${as_root[@]}" apt-get -qq update >/dev/null || echo "$program: apt-get update failed; trying with the lists that are there" >&2
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "$@" \
        </dev/null >/dev/null || die "apt-get install $* failed"
}

# need TEST PACKAGE...: install the packages unless the test passes.
need() {
    local test=$1
    shift
    bash -c "$test" >/dev/null 2>&1 || apt_install "$@"
}

# need_uv: uv in the path, from an environment of its own where the machine has none.
need_uv() {
    # The machine's own certificates where it has them: uv's bundled ones know no company's proxy.
    if [ -e /etc/ssl/certs/ca-certificates.crt ]; then export UV_SYSTEM_CERTS=1 UV_NATIVE_TLS=1; fi
    need "python3 -c 'import venv, ensurepip'" python3 python3-venv
    if command -v uv >/dev/null; then return; fi
    if [ ! -x "$cache/uv/bin/uv" ]; then
        echo "$program: installing uv into $cache/uv" >&2
        python3 -m venv "$cache/uv"
        "$cache/uv/bin/python" -m pip install --quiet --disable-pip-version-check uv
    fi
    # Behind the rest: this environment has a Python of its own, which knows none of the packages.
    export PATH="$PATH:$cache/uv/bin"
}

# need_libvirt_headers: what libvirt's Python binding is built from.
need_libvirt_headers() {
    need "pkg-config --exists libvirt && command -v cc" libvirt-dev pkg-config gcc libc6-dev
    need "$1 -c 'import sysconfig, os, sys; sys.exit(not os.path.exists(sysconfig.get_path(\"include\") + \"/Python.h\"))'" \
        python3-dev
}
