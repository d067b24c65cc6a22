# The power is cut again and again while images are imported and pods start; each next boot looks at the store first.
# Every image that is listed is whole: a container of it finds the same files as one of a store that lost no power.

# What is in a container of image $2, by its files' names and contents; `hove run` ends as the pod does.
sums() {
    pod "sum-$2" Never 'find /bin /sbin /lib /usr -xdev -type f -print0 2>/dev/null | sort -z | xargs -0 md5sum' '' "$2:$(tag "$2")"
    HOVE_ROOT=$1 HOVE_STATE=$3 hove run "/disk/sum-$2.yaml" 2>/disk/sum.err | grep -o '[0-9a-f]\{32\}  /.*' | sort
}
listed() { hove image ls | awk 'NR > 1 { print $1 }' | sed -n 's|^localhost/hove/\([a-z]*\):.*|\1|p'; }
tag() { case $1 in debian) echo 12 ;; *) echo 1 ;; esac; }
whole() {
    sums "$HOVE_ROOT" "$1" "$HOVE_STATE" >/disk/now-"$1"
    [ -s /disk/now-"$1" ] && cmp /disk/pristine-"$1" /disk/now-"$1" || { cat /disk/sum.err; diff /disk/pristine-"$1" /disk/now-"$1" | head -5; return 1; }
}
# Blobs are named after what is in them.
blobs_match() { find "$HOVE_ROOT/images" -type f -regex '.*/sha256/[0-9a-f]*' | while read -r blob; do
    [ "$(sha256sum <"$blob" | cut -d' ' -f1)" = "${blob##*/}" ] || echo "$blob"
done | { ! grep .; }; }
ended() { ! pgrep -f 'hove daemon' >/dev/null; }
images="busybox debian"

if [ ! -e /disk/pristine-debian ]; then
    # A store of its own, in memory, that nothing happens to.
    mkdir -p /run/pristine /run/pristine-state
    mount -t tmpfs tmpfs /run/pristine
    for image in $images; do
        HOVE_ROOT=/run/pristine HOVE_STATE=/run/pristine-state hove image import "$IMAGES/$image.tar"
        sums /run/pristine "$image" /run/pristine-state >/disk/pristine-"$image".new
    done
    for image in $images; do mv /disk/pristine-"$image".new /disk/pristine-"$image"; done
    check "there is something to compare with" [ -s /disk/pristine-busybox ] 
    sync
    within 60 ended
fi

if [ $boot -gt 1 ]; then
    echo "# images that are listed after the cut: $(listed | tr '\n' ' ')"
    for image in $(listed); do check "$image is whole" whole "$image"; done
    check "every blob is what its name says" blobs_match
    check "no record of what outlives a boot is broken" [ -z "$(find "$HOVE_ROOT" -name '*.quarantined-*')" ]
    for image in $images; do
        check "$image can be imported" hove image import "$IMAGES/$image.tar"
        check "$image is whole then" whole "$image"
    done
    for image in $images; do check "$image can be removed" hove image rm "localhost/hove/$image:$(tag $image)"; done
    check "the node ends" within 90 ended
    check "no layer is left" [ -z "$(find "$HOVE_ROOT/snapshots" -mindepth 1 -maxdepth 1 -name '[0-9]*')" ]
    check "no blob is left" [ -z "$(find "$HOVE_ROOT/images" -type f -regex '.*/sha256/[0-9a-f]*')" ]
fi

echo "@hove works"
# The last time nobody cuts it: once around, and the machine ends as it should.
for round in 1 2 3 4 5 6 7 8 9 10; do
    for image in $images; do hove image import "$IMAGES/$image.tar" >/dev/null; done
    pod work Never 'echo works'
    hove run /disk/work.yaml | grep -q works || { echo "FAILED a pod runs"; code=1; }
    for image in $images; do hove image rm "localhost/hove/$image:$(tag $image)" >/dev/null; done
    [ "$boot" -le "$CUTS" ] || break
done
exit $code
