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
# As a node does it when it starts.
load_profile() {
    apparmor_parser --replace --skip-cache /disk/profile && grep -q '^hove-default ' /sys/kernel/security/apparmor/profiles
}
needs "cgroup v2 alone" [ "$(grep -c cgroup /proc/mounts)" = 1 ]
needs "all of its controllers" grep -q 'cpuset cpu io memory hugetlb pids' /sys/fs/cgroup/cgroup.controllers
needs "AppArmor takes a profile" load_profile

# What each process is at, and where in the kernel each of its threads waits.
processes() {
    for process in /proc/[0-9]*; do
        # Children of 2 are threads of the kernel.
        grep -qs '^PPid:[[:space:]]*[02]$' "$process/status" && continue
        echo "$(grep -s -E '^(Name|State|Pid|PPid):' "$process/status" | tr '\n' ' ') $(tr '\0' ' ' <"$process/cmdline")"
        for thread in "$process"/task/*; do
            sed "s/^/    ${thread##*/} /" "$thread/stack"
        done
    done 2>/dev/null
}

code=0
set --
while read -r argument; do set -- "$@" "$argument"; done </disk/arguments
while read -r limit folder program; do
    echo "@hove runs $program"
    cd "$folder"
    "$program" "$@" &
    if ! timeout "$limit" tail --pid=$! --sleep-interval=0.2 -f /dev/null; then
        echo "not over after $limit seconds:"
        processes
        kill -9 $!
    fi
    wait $! || code=1
done </disk/programs
exit $code
