# shellcheck shell=bash
# A minimal Debian of this machine's release, by debootstrap: read by deploy/container/build.sh and by the tests of packages.
# debian_base PACKAGE...: prints the directory of a root with these packages, which is not to be changed. It is made anew
# each week, for the distribution's updates; after prerequisites.sh.
debian_base() {
    need "PATH=\$PATH:/usr/sbin command -v debootstrap" debootstrap
    local suite bases name making
    suite=$(. /etc/os-release && echo "$VERSION_CODENAME")
    bases=$cache/packages
    name=$suite-$(date +%G%V)-$(echo "$*" | sha256sum | cut -c1-8)
    mkdir -p "$bases"
    (
        exec 9>"$bases/lock"
        flock 9
        if [ -d "$bases/$name" ]; then exit; fi
        [ "$(id -u)" = 0 ] || die "debootstrap needs root"
        echo "$program: debootstrap $suite into $bases/$name" >&2
        find "$bases" -maxdepth 1 -name "$suite-*-${name##*-}" -exec rm -rf {} +
        making=$bases/making
        rm -rf "$making"
        PATH=$PATH:/usr/sbin:/sbin debootstrap --variant=minbase "$suite" "$making" >"$bases/debootstrap.log" 2>&1 9>&- ||
            { tail -5 "$bases/debootstrap.log" >&2; die "debootstrap failed"; }
        with_updates "$making" "$suite"
        in_root "$making" sh -c 'apt-get -qq update && apt-get -qq -y upgrade && apt-get -qq -y --no-install-recommends install "$@"' \
            apt "$@" >>"$bases/debootstrap.log" 2>&1 9>&- || { tail -5 "$bases/debootstrap.log" >&2; die "apt-get failed"; }
        mv "$making" "$bases/$name"
    ) || return
    echo "$bases/$name"
}

# Updates and security fixes, from where debootstrap took the rest.
with_updates() {
    local sources=$1/etc/apt/sources.list suite=$2
    if ! grep -q '/debian/\? ' "$sources"; then return; fi
    sed -i -n "p; s/ $suite / $suite-updates /p; s/-updates /-security /; s|/debian/\? |/debian-security |p" "$sources"
}

# in_root DIR COMMAND...: with the network of this machine, and nothing started.
in_root() {
    local root=$1
    shift
    printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"
    chmod +x "$root/usr/sbin/policy-rc.d"
    cp -L /etc/resolv.conf "$root/etc/resolv.conf" 2>/dev/null || true
    unshare --mount --pid --fork --kill-child sh -c 'mount -t proc proc "$0/proc" && exec env DEBIAN_FRONTEND=noninteractive LC_ALL=C chroot "$0" "$@"' \
        "$root" "$@" </dev/null
    rm -f "$root/usr/sbin/policy-rc.d"
}
