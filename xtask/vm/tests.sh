# A task of the guest: runs the test programs. Arguments of theirs, one a line, are in /disk/arguments.
# What they count on, and what would make them skip: said at once if it is not so.
needs() {
    what=$1
    shift
    "$@" || {
        echo "the guest is not what the tests are to see: $what"
        exit 1
    }
}
load_profile() {
    printf 'profile hove-guest { file, }\n' | apparmor_parser --add --skip-cache &&
        grep -q '^hove-guest ' /sys/kernel/security/apparmor/profiles &&
        printf 'profile hove-guest { file, }\n' | apparmor_parser --remove
}
needs "cgroup v2 alone" [ "$(grep -c cgroup /proc/mounts)" = 1 ]
needs "all of its controllers" grep -q 'cpuset cpu io memory hugetlb pids' /sys/fs/cgroup/cgroup.controllers
needs "AppArmor takes a profile" load_profile

code=0
set --
while read -r argument; do set -- "$@" "$argument"; done </disk/arguments
while read -r limit folder program; do
    echo "@hove runs $program"
    cd "$folder"
    timeout --kill-after=5 "$limit" "$program" "$@" || code=1
done </disk/programs
exit $code
