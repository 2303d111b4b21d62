# shellcheck shell=bash
# The image: read by deploy/package, which has made $deb, the Debian package. No registry is asked: its base is debootstrap's.
# The user has one number in all versions, so that files on the host stay its own.
user=971
. "$sources/deploy/container/base.sh"
need "command -v buildah" buildah
[ "$(id -u)" = 0 ] || die "the image is built as root"
base=$(debian_base systemd-standalone-sysusers "$(basename "$(readlink -f /usr/bin/python3)")" libvirt0 libudev1)

# A store of its own, which ends with the build; vfs works on every file system.
images() { buildah --root "$work/images" --runroot "$work/images-run" --storage-driver vfs "$@"; }
(
    container=$(images from scratch)
    rootfs=$(images mount "$container")
    cp -a "$base/." "$rootfs"
    cp "$deb" "$rootfs/hostdevd.deb"
    in_root "$rootfs" sh -euc '
        groupadd --system --gid "$0" hostdevd
        useradd --system --uid "$0" --gid hostdevd --home-dir / --shell /usr/sbin/nologin hostdevd
        apt-get -qq -y --no-install-recommends install /hostdevd.deb
        rm -rf /hostdevd.deb /var/lib/apt/lists/* /var/cache/apt/* /var/cache/debconf/* /var/log/* /usr/share/man /usr/share/locale
        install -d -o hostdevd -g hostdevd /run/hostdevd
        install -d -o hostdevd -g hostdevd -m 0700 /var/lib/hostdevd
    ' "$user" >"$work/container.log" 2>&1 || { tail -20 "$work/container.log" >&2; die "the package was not installed"; }
    : >"$rootfs/etc/resolv.conf"
    images umount "$container" >/dev/null
    images config --created-by deploy/package --user "$user:$user" --workingdir / --stop-signal SIGTERM \
        --entrypoint '["/usr/bin/hostdevd"]' --cmd serve --env PATH=/usr/bin:/bin \
        --label org.opencontainers.image.title=hostdevd --label "org.opencontainers.image.version=$version" \
        --label org.opencontainers.image.licenses=Apache-2.0 \
        --label "org.opencontainers.image.description=Hands a KVM/libvirt host's devices to virtual machines" \
        --label "org.opencontainers.image.revision=$(git -C "$root" rev-parse HEAD 2>/dev/null || echo unknown)" "$container"
    rm -f "$output/hostdevd-$version.oci.tar"
    images commit --quiet --disable-compression=false --format oci --timestamp "$SOURCE_DATE_EPOCH" "$container" \
        "oci-archive:$output/hostdevd-$version.oci.tar:hostdevd:$version" >/dev/null
) || die "the image was not built"
echo "$output/hostdevd-$version.oci.tar"
