#!/bin/sh
# The guest's first program on its root: mounts what a machine has mounted, runs the task of the second disk, and turns
# the machine off. The task's output and exit code leave by the second serial port, the kernel's words by the first.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8
mount -t devtmpfs -o nosuid,mode=755 dev /dev
mount -t proc -o nosuid,nodev,noexec proc /proc
mount -t sysfs -o nosuid,nodev,noexec sysfs /sys
mount -t securityfs -o nosuid,nodev,noexec securityfs /sys/kernel/security
mount -t cgroup2 -o nosuid,nodev,noexec,nsdelegate,memory_recursiveprot cgroup2 /sys/fs/cgroup
mkdir -p /dev/pts /dev/shm /dev/mqueue
mount -t devpts -o gid=5,mode=620,ptmxmode=666 devpts /dev/pts
mount -t tmpfs -o nosuid,nodev tmpfs /dev/shm
mount -t mqueue mqueue /dev/mqueue
mount -t tmpfs -o nosuid,nodev,mode=755 tmpfs /run
mount --make-rshared /
for link in fd:/proc/self/fd stdin:/proc/self/fd/0 stdout:/proc/self/fd/1 stderr:/proc/self/fd/2; do
    ln -sf "${link#*:}" "/dev/${link%%:*}"
done
hostname guest
ip link set lo up
mount -t ext4 /dev/vdb /disk
# Where the host has them: programs know their own path and their package's.
for place in $(cat /disk/places); do
    mkdir -p "$place"
    mount --bind "/disk/files$place" "$place"
done

case $(cat /proc/cmdline) in
*hove.shell*)
    echo "a console of the guest; its end turns the machine off. The programs to try: /disk/programs"
    setsid --ctty --wait /bin/bash -l </dev/ttyS0 >/dev/ttyS0 2>&1
    ;;
*)
    # A byte is a byte; and what writes sees no terminal.
    stty -F /dev/ttyS1 raw -echo
    {
        /bin/sh /disk/task </dev/null
        echo "@hove over $?"
    } 2>&1 | cat >/dev/ttyS1
    ;;
esac
sync
umount /disk 2>/dev/null
mount -o remount,ro / 2>/dev/null
echo o >/proc/sysrq-trigger
# It takes a moment, and init must not end.
exec sleep 60
