# shellcheck shell=bash disable=SC2154 # a part of vm.sh
# The image of a Debian, and the machine that boots it.

# What the image has beside the essential packages: what a server has. openssl and ca-certificates are what the package
# recommends, logrotate what it suggests; curl is in the documents.
image_packages=systemd-sysv,linux-image-cloud-amd64,adduser,ca-certificates,curl,dbus,iproute2,kmod,logrotate,openssl,udev

# The mirror that this machine's package manager is set up with.
mirror() {
    # shellcheck disable=SC2016 # the name is apt's
    apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Component: main' | grep -m 1 -E '/debian/?$'
}

# The root that mmdebstrap makes stays for the next time.
fetch_root() { # RELEASE
    local tar=$work/$1.tar
    [ ! -e "$tar" ] || return 0
    logged "$work/$1.mmdebstrap.log" "mmdebstrap could not make a root" \
        timeout $((900 * patience)) mmdebstrap --format=tar --variant=minbase --include="$image_packages" "$1" "$tar.part" \
        "deb $(mirror) $1 main"
    mv "$tar.part" "$tar"
}

image_root=''
remove_image_root() { [ -z "$image_root" ] || rm -rf --one-file-system "$image_root"; }
at_end+=(remove_image_root)

make_image() { # RELEASE
    fetch_root "$1"
    image_root=$(realpath "$work")/$1.root
    rm -rf --one-file-system "$image_root"
    mkdir -p "$image_root"
    tar -C "$image_root" -xf "$work/$1.tar" --exclude './dev/*'
    set_up
    cp "$image_root"/boot/vmlinuz-* "$work/$1.vmlinuz"
    cp "$image_root"/boot/initrd.img-* "$work/$1.initrd"
    rm -f "$work/$1.img"
    truncate -s 3G "$work/$1.img"
    logged "$work/$1.mke2fs.log" "the file system cannot be made" mke2fs -q -t ext4 -d "$image_root" "$work/$1.img"
    remove_image_root
    image_root=''
}

# A machine without a network, whose name is the one on the README's page, and which runs guest.sh as soon as it is up.
set_up() {
    local etc=$image_root/etc trial=$image_root/root/trial
    # Where the page's command looks for the package: below the directory in which it is played.
    mkdir -p "$trial/target/debian" "$trial/newer/target/debian"
    # shellcheck disable=SC2016 # the names are dpkg's
    cp "$deb" "$trial/target/debian/$(dpkg-deb --show --showformat '${Package}_${Version}_${Architecture}' "$deb").deb"
    cp "$newer" "$trial/newer/target/debian/msrprelay_newer.deb"
    cp "$before" "$trial/before.deb"
    echo "$patience" > "$trial/patience"
    install -m 755 scripts/vm/guest.sh "$image_root/root/guest.sh"
    install -m 644 scripts/vm/ktls.pl "$image_root/root/ktls.pl"
    echo relay > "$etc/hostname"
    printf '127.0.0.1 localhost relay.example.com relay\n::1 localhost\n' > "$etc/hosts"
    echo 'nameserver 127.0.0.1' > "$etc/resolv.conf"
    echo '/dev/vda / ext4 defaults 0 1' > "$etc/fstab"
    : > "$etc/machine-id"
    mkdir -p "$etc/systemd/system/multi-user.target.wants"
    cat > "$etc/systemd/system/trial.service" << 'UNIT'
[Unit]
Description=The trial of the relay's package
After=multi-user.target
[Service]
ExecStart=/root/guest.sh
StandardInput=null
StandardOutput=file:/dev/ttyS1
StandardError=inherit
TimeoutStopSec=2s
UNIT
    ln -s ../trial.service "$etc/systemd/system/multi-user.target.wants/trial.service"
}

tell_of_the_end() { # RELEASE
    local file
    for file in "$work/$1.qemu.log" "$work/$1.console" "$work/$1.log"; do
        echo "-- the end of $file"
        tail -n 20 "$file"
    done
}

play_in_machine() { # RELEASE
    local log=$work/$1.log console=$work/$1.console machine follower failed seconds_max=$((seconds_per_release * patience))
    : > "$log"
    # Without no_timer_check the kernel panics in one boot of four: the emulated timer is late.
    start "$work/$1.qemu.log" timeout "$seconds_max" qemu-system-x86_64 -machine q35 -accel tcg,thread=multi -cpu max -smp 2 -m 1536 \
        -display none -nic none -monitor none -drive "file=$work/$1.img,format=raw,if=virtio,cache=unsafe" \
        -kernel "$work/$1.vmlinuz" -initrd "$work/$1.initrd" -append 'root=/dev/vda console=ttyS0 no_timer_check panic=-1' \
        -serial "file:$console" -serial "file:$log"
    machine=$pid
    # The checks, as they come; in the background, so that the script can be ended meanwhile.
    tail -n +1 -f --pid="$machine" "$log" > >(sed -u -n -E 's/\r$//; /^(ok|FAILED|note|==|\|) /p') &
    follower=$!
    ended "$machine" || { tell_of_the_end "$1" >&2; fail "the machine was ended after $seconds_max s; on a machine that others use, too: --patience"; }
    # It reads on until it has seen that the machine is gone.
    wait "$follower"
    rm -f "$work/$1.img"
    grep -q '^The end' "$log" || { tell_of_the_end "$1" >&2; fail "the machine ended before the trial did"; }
    failed=$(grep -c '^FAILED ' "$log" || true)
    echo "$(grep -c '^ok ' "$log") checks are ok, $failed failed"
    [ "$failed" = 0 ] || fail "see $log"
}
