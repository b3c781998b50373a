# shellcheck shell=bash disable=SC2154,SC2034 # a part of package.sh
# A root with the package in it, to try it there and to remove it from.

# The root.
debian=''

remove_root() {
    # The processes of the namespace end with this one.
    if [ -n "$debian" ]; then
        umount "$debian/proc" "$debian/sys" 2> /dev/null || true
        rm -rf --one-file-system "$debian"
    fi
}

make_root() {
    at_end+=(remove_root)
    ip link set lo up
    debian=$(mktemp -d "${TMPDIR:-/tmp}/msrprelay-root.XXXXXX")
    chmod 755 "$debian"
    if [ -n "$given_root" ]; then
        cp -a "$given_root/." "$debian/"
    else
        tar -C "$debian" -xf "$work/root.tar" --exclude './dev/*'
    fi
    mkdir -p "$debian/dev" "$debian/proc" "$debian/sys"
    local device
    for device in 'null 3' 'zero 5' 'random 8' 'urandom 9'; do
        [ -e "$debian/dev/${device% *}" ] || mknod -m 666 "$debian/dev/${device% *}" c 1 "${device#* }"
    done
    mount -t proc proc "$debian/proc"
    # The engine reads the list of CPUs there.
    mount -t sysfs -o ro sysfs "$debian/sys"
    [ -e "$debian/etc/hosts" ] || printf '127.0.0.1 localhost\n::1 localhost\n' > "$debian/etc/hosts"
    # The installation must not start anything, and here nothing could.
    printf '#!/bin/sh\nexit 101\n' > "$debian/usr/sbin/policy-rc.d"
    chmod 755 "$debian/usr/sbin/policy-rc.d"
    echo "a Debian $(cat "$debian/etc/debian_version") with $(inside dpkg-query -f '.' -W | wc -c) packages"
}

inside() {
    chroot "$debian" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root DEBIAN_FRONTEND=noninteractive "$@"
}

as_relay() {
    inside setpriv --reuid=msrprelay --regid=msrprelay --clear-groups --no-new-privs --bounding-set=-all "$@"
}

apt_install() { # FILE
    cp "$1" "$debian/root/msrprelay.deb"
    quietly "it cannot be installed" inside apt-get -q -y install /root/msrprelay.deb
    grep -E '^(The following NEW|The following packages will|Unpacking|Setting up)' "$work/step.log" || true
}

put_in() {
    apt_install "$deb"
    inside id msrprelay
    inside stat -c '%U:%G %a %n' /etc/msrprelay /etc/msrprelay/config.yaml /var/lib/msrprelay /usr/bin/msrprelay
    [ "$(inside stat -c '%U:%G %a' /etc/msrprelay/config.yaml)" = 'root:msrprelay 640' ] || fail "the config can be read by others"
    inside msrprelay --version
    inside msrp --version
    # minbase leaves out what is in /usr/share/man and doc: the package's own list counts.
    local file listed
    # At once: a reader that ends the pipe early would make dpkg fail.
    listed=$(inside dpkg --listfiles msrprelay)
    for file in /usr/share/man/man8/msrprelay.8.gz /usr/share/man/man1/msrp-send.1.gz \
        /usr/share/bash-completion/completions/msrprelay /usr/share/zsh/vendor-completions/_msrp \
        /usr/share/fish/vendor_completions.d/msrp.fish /lib/systemd/system/msrprelay.service \
        /usr/share/man/man5/msrprelay.yaml.5.gz /usr/share/doc/msrprelay/docs/operate/logging.md /etc/logrotate.d/msrprelay \
        /usr/share/msrprelay/grafana-dashboard.json /usr/share/msrprelay/alerts.yaml; do
        grep -qE "^(/usr)?$file\$" <<< "$listed" || fail "$file is not in the package"
    done
    # shellcheck disable=SC2016 # the name is dpkg's
    [ "$(inside dpkg-query --showformat '${Conffiles}\n' --show msrprelay | grep -c config.yaml)" = 1 ] || fail "the config is no conffile"
    [ "$(dpkg-deb --ctrl-tarfile "$deb" | tar -xOf - ./md5sums | wc -l)" -gt 40 ] || fail "there are no checksums"
    local changed
    changed=$(inside dpkg --verify msrprelay | grep -vE ' (c )?/usr/share/(doc|man)/' || true)
    [ -z "$changed" ] || fail "the checksums are not those of the files: $changed"
}

remove() {
    quietly "it cannot be removed" inside apt-get -q -y remove msrprelay
    [ -e "$debian/etc/msrprelay/config.yaml" ] || fail "the config went with the package"
    [ ! -e "$debian/usr/bin/msrprelay" ] || fail "the program is still there"
    echo "removed; config and accounts stay"
    rm -rf "$debian/etc/msrprelay/tls"
    quietly "it cannot be purged" inside apt-get -q -y purge msrprelay
    local left
    left=$(find "$debian/etc" "$debian/usr" "$debian/var/lib" "$debian/var/log" "$debian/lib" -iname '*msrp*' ! -path '*/dpkg/*' 2> /dev/null || true)
    [ -z "$left" ] || fail "left behind: $left"
    inside id msrprelay > /dev/null || fail "the user is gone, and with it the name of what it owned"
    echo "purged; the user stays, as Debian's users do"
}
