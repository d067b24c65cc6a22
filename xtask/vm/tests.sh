# A task of the guest: runs the test programs. Arguments of theirs, one a line, are in /disk/arguments.
cd /disk
code=0
set --
while read -r argument; do set -- "$@" "$argument"; done <arguments
while read -r limit folder program; do
    echo "@hove runs $program"
    cd "$folder"
    timeout --kill-after=5 "$limit" "$program" "$@" || code=1
done </disk/programs
exit $code
