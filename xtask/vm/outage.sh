# What both outages' scripts begin with: the node's directories, kept from boot to boot, and words for what is looked at.
export HOVE_ROOT=/disk/kept/root HOVE_STATE=/disk/kept/state HOVE_LOG_DIR=/disk/kept/logs HOVE_LOG=info
boot=$(($(cat /disk/kept/boots 2>/dev/null || echo 0) + 1))
mkdir -p "$HOVE_ROOT" "$HOVE_STATE" "$HOVE_LOG_DIR"
echo $boot >/disk/kept/boots
code=0

# check WHAT COMMAND…: the command must succeed.
check() {
    what=$1
    shift
    if said=$("$@" 2>&1); then
        echo "ok $what"
    else
        code=1
        echo "FAILED $what: $*: $said"
    fi
}

# within SECONDS COMMAND…: the command must succeed in time. (Nothing tells when it will.)
within() {
    last=$(($(date +%s) + $1))
    shift
    until "$@"; do
        [ "$(date +%s)" -lt "$last" ] || return 1
        sleep 0.2
    done
}

# A pod's state, as a person sees it: the second and third words of its line.
state_of() { hove get pods "$1" 2>/dev/null | awk 'NR == 2 { print $2, $3 }'; }
is() { [ "$(state_of "$1")" = "$2" ]; }
page() { busybox wget -q -O - "http://127.0.0.1:$1/"; }

# pod NAME POLICY COMMAND [PORT [IMAGE]]: a manifest for it.
pod() {
    ports=
    [ -z "$4" ] || ports="ports: [{containerPort: 80, hostPort: $4}],"
    cat >"/disk/$1.yaml" <<END
apiVersion: v1
kind: Pod
metadata: {name: $1}
spec:
  restartPolicy: $2
  terminationGracePeriodSeconds: 1
  containers:
  - {name: c, image: 'localhost/hove/${5:-busybox:1}', imagePullPolicy: Never, $ports command: [sh, -c, "$3"]}
END
}

