# A machine is restarted, without a word to anybody, while pods run; twice. One pod was run by a command that waits for it,
# which ends with the boot, and one was left to the node, which starts it again.
ids() { find "$HOVE_STATE/sandboxes" -mindepth 1 -maxdepth 1 2>/dev/null | sed 's|.*/||' | sort; }
page_says() { page 8080 | grep -qx "$1"; }
# Layers of images have numbers below snapshots/, and so have those of containers while there are some. How many, not which:
# a layer that had just come when the machine stopped is unpacked again.
snapshots() { find "$HOVE_ROOT/snapshots" -mindepth 1 -maxdepth 1 -name '[0-9]*' | wc -l; }
free() { ! hove get pods "$1" >/dev/null 2>&1; }
ended() { ! pgrep -f 'hove daemon' >/dev/null; }

pod web Always "mkdir /www; echo boot $boot >/www/index.html; exec httpd -f -p 80 -h /www" 8080
pod stays Always 'exec sleep 100000'

if [ $boot -eq 1 ]; then
    check "an image is imported" hove image import "$IMAGES/busybox.tar"
    snapshots >/disk/kept/layers
    check "a pod is left to the node" hove run --detach /disk/stays.yaml
else
    check "the pod that a command ran went with it" free web
    check "the pod that was left to the node runs again" within 60 is stays "1/1 Running"
    check "no sandbox of the old boot is left" [ -z "$(ids | comm -12 - /disk/kept/sandboxes)" ]
fi
# Its name, its port and an address are free.
hove run /disk/web.yaml >/disk/web.out 2>&1 &
check "a pod runs" within 90 is web "1/1 Running"
check "its page is there" within 60 page_says "boot $boot"
check "nothing was put aside as broken" [ -z "$(find /disk/kept -name '*.quarantined-*')" ]
hove get pods -o wide
ids >/disk/kept/sandboxes
if [ $boot -lt 3 ]; then
    sync
    # As a panic would do it: nobody is told, nothing is unmounted.
    echo b >/proc/sysrq-trigger
    sleep 60
fi

check "a pod is deleted" hove delete pod stays
check "the other, too" hove delete pod web
check "the node ends" within 90 ended
check "no sandbox is left" [ -z "$(ids)" ]
check "no attachment is left" [ -z "$(find "$HOVE_STATE/network/attachments" "$HOVE_STATE/netns" -mindepth 1 2>/dev/null)" ]
check "no container's layer is left" [ "$(snapshots)" = "$(cat /disk/kept/layers)" ]
check "no volume is left" [ -z "$(find "$HOVE_ROOT/pods" -mindepth 1 2>/dev/null)" ]
check "no cgroup is left" [ ! -e /sys/fs/cgroup/hove ]
check "no link is left" [ "$(ls /sys/class/net)" = lo ]
exit $code
