# shellcheck shell=bash
# The Debian package: read by deploy/package, which has made $work, $sources, and the wheels in $work/wheels.
# The path of the package goes into $work/deb.
need "command -v dh && command -v dpkg-buildpackage" debhelper dpkg-dev build-essential
need_libvirt_headers /usr/bin/python3
need "/usr/bin/python3 -c 'import venv, ensurepip'" python3-venv

cp -r "$sources/deploy/debian" "$sources/debian"
(
    cd "$sources"
    . /etc/os-release
    if [ -n "${DEBEMAIL:-}" ]; then
        sed -i "s/^Maintainer: .*/Maintainer: ${DEBFULLNAME:-hostdevd maintainers} <$DEBEMAIL>/" debian/control
    fi
    # Of two packages of one version the later distribution's is the newer one.
    revision=$version-1~${ID/debian/deb}${VERSION_ID:-0}
    cat >debian/changelog <<END
hostdevd ($revision) stable; urgency=medium

  * Built by deploy/package; the changes are in CHANGELOG.md.

 -- $(sed -n 's/^Maintainer: //p' debian/control)  $(date -uR -d "@$SOURCE_DATE_EPOCH")
END
    for kind in service sysusers tmpfiles; do cp "deploy/systemd/hostdevd.$kind" "debian/hostdevd.$kind"; done
    for unit in deploy/systemd/hostdevd-*; do
        if [ -e "$unit" ]; then cp "$unit" "debian/hostdevd.$(basename "$unit")"; fi
    done
    export WHEELS=$work/wheels VERSION=$version DEB_BUILD_OPTIONS="noautodbgsym nocheck"
    dpkg-buildpackage --build=binary --no-sign --no-check-builddeps >"$work/build.log" 2>&1 ||
        { tail -40 "$work/build.log" >&2; die "the Debian package was not built"; }
    echo "$work/hostdevd_${revision}_$(dpkg --print-architecture).deb" >"$work/deb"
)
