#!/bin/busybox sh
# The guest's first program, in the initrd: loads the disks' drivers and turns to the root, which is as debootstrap made it.
export PATH=/bin
/bin/busybox --install -s /bin
for driver in /drivers/*; do insmod "$driver"; done
mount -t devtmpfs dev /dev
mount -t ext4 /dev/vda /root
cp /second /root/second
umount /dev
exec switch_root /root /second
