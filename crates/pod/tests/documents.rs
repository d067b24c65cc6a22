//! From text to Pods: a table of documents and what must be said about them.

#![allow(clippy::unwrap_used)]

use pod::{Rule, load, parse};
use proptest::prelude::*;

const TWO_CONTAINERS: &str = r#"
apiVersion: v1
kind: Pod
metadata:
  name: two-containers
spec:
  restartPolicy: Never
  volumes:
  - name: shared-data
    emptyDir: {}
  containers:
  - name: nginx-container
    image: nginx
    volumeMounts:
    - name: shared-data
      mountPath: /usr/share/nginx/html
  - name: debian-container
    image: debian:12
    volumeMounts:
    - {name: shared-data, mountPath: /pod-data}
    command: ["/bin/sh"]
    args: ["-c", "echo Hello from the debian container > /pod-data/index.html"]
    resources:
      limits: {cpu: 2, memory: 64Mi}
"#;

#[test]
fn the_two_containers_pod_gets_the_api_servers_defaults() {
    let documents = load(TWO_CONTAINERS, "two.yaml").unwrap_or_else(|problems| panic!("{problems}"));
    let json = serde_json::to_value(&documents[0].pod).unwrap();
    let spec = &json["spec"];
    for (field, value) in [
        ("restartPolicy", serde_json::json!("Never")),
        ("dnsPolicy", "ClusterFirst".into()),
        ("schedulerName", "default-scheduler".into()),
        ("terminationGracePeriodSeconds", 30.into()),
        ("enableServiceLinks", true.into()),
        ("securityContext", serde_json::json!({})),
    ] {
        assert_eq!(spec[field], value, "{field}");
    }
    assert_eq!(spec["containers"][0]["imagePullPolicy"], "Always");
    assert_eq!(spec["containers"][1]["imagePullPolicy"], "IfNotPresent");
    assert_eq!(spec["containers"][0]["terminationMessagePath"], "/dev/termination-log");
    assert_eq!(
        spec["containers"][1]["resources"]["requests"],
        serde_json::json!({"cpu": "2", "memory": "64Mi"})
    );
    let mut again = documents[0].pod.clone();
    pod::default(&mut again);
    assert_eq!(again, documents[0].pod, "defaulting twice changes nothing");
}

#[test]
fn image_pull_policy_follows_the_tag() {
    for (image, policy) in [
        ("nginx", "Always"),
        ("nginx:latest", "Always"),
        ("nginx:1", "IfNotPresent"),
        ("localhost:5000/nginx", "Always"),
        ("localhost:5000/nginx:1", "IfNotPresent"),
        ("nginx@sha256:00", "IfNotPresent"),
        ("nginx:latest@sha256:00", "IfNotPresent"),
    ] {
        let text = format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: a}}, spec: {{containers: [{{name: c, image: '{image}'}}]}}}}"
        );
        let pod = load(&text, "a").unwrap().remove(0).pod;
        assert_eq!(
            pod.spec.unwrap().containers[0].image_pull_policy.as_deref(),
            Some(policy),
            "{image}"
        );
    }
}

/// A pod with `spec` as flow YAML, and every line that must be said about it.
fn said(spec: &str) -> Vec<String> {
    let text = format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: a}}\nspec: {spec}\n");
    match load(&text, "f") {
        Ok(_) => Vec::new(),
        Err(problems) => problems.list.iter().map(ToString::to_string).collect(),
    }
}

#[test]
fn every_problem_is_named_at_once() {
    let rfc1123 = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an \
                   alphanumeric character (e.g. 'my-name', or '123-abc')";
    let table: &[(&str, &[&str])] = &[
        ("{containers: [{name: c, image: i}]}", &[]),
        (
            "{containers: [{name: c, image: i, resources: {requests: {cpu: 100m}}, ports: [{containerPort: 80}]}], nodeSelector: {}}",
            &[],
        ),
        ("{}", &["spec.containers: Required value"]),
        ("{containers: []}", &["spec.containers: Required value"]),
        ("{containers: null}", &["spec.containers: Required value"]),
        (
            "{restartPolicy: Sometimes, containers: [{image: ''}, {name: B_, image: i}]}",
            &[
                "spec.restartPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \"OnFailure\", \"Never\"",
                "spec.containers[0].name: Required value",
                "spec.containers[0].image: Required value",
                &format!("spec.containers[1].name: Invalid value: \"B_\": {rfc1123}"),
            ],
        ),
        (
            "{containers: [{name: c, image: i, prots: []}]}",
            &["spec.containers[0].prots: Unknown field: did you mean \"ports\"?"],
        ),
        (
            "{containers: [{name: c, image: i}], foo: 1}",
            &["spec.foo: Unknown field"],
        ),
        (
            "{containers: [{name: c, image: i, ports: [{containerPort: eighty, hostPort: 80.5}]}], hostNetwork: 'yes'}",
            &[
                "spec.containers[0].ports[0].containerPort: Invalid value: \"eighty\": must be an integer",
                "spec.containers[0].ports[0].hostPort: Invalid value: 80.5: must be an integer",
                "spec.hostNetwork: Invalid value: \"yes\": must be true or false",
            ],
        ),
        (
            "{containers: {name: c, image: i}}",
            &["spec.containers: Invalid value: an object: must be a list"],
        ),
        (
            "{containers: [{name: c, image: i, args: [1], env: [{name: A, value: true}]}]}",
            &[
                "spec.containers[0].args[0]: Invalid value: 1: must be a string: put it in quotes",
                "spec.containers[0].env[0].value: Invalid value: true: must be a string: put it in quotes",
            ],
        ),
        (
            "{containers: [{name: c, image: i, ports: [{containerPort: 70000, hostPort: 80}, {containerPort: 1, hostPort: 80}]}]}",
            &[
                "spec.containers[0].ports[0].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive",
                "spec.containers[0].ports[1].hostPort: Duplicate value: \"TCP//80\"",
            ],
        ),
        (
            "{containers: [{name: c, image: i, livenessProbe: {exec: {command: [a]}}}], affinity: {nodeAffinity: {}}}",
            &[
                "spec.affinity: Forbidden: not supported yet by Hove",
                "spec.containers[0].livenessProbe: Forbidden: not supported yet by Hove",
            ],
        ),
        (
            "{securityContext: {fsGroupChangePolicy: Never, appArmorProfile: {type: RuntimeDefault}}, containers: [{name: c, image: i, securityContext: {seLinuxOptions: {type: spc_t}, appArmorProfile: {type: Localhost, localhostProfile: p}}}]}",
            &[
                "spec.containers[0].securityContext.appArmorProfile: Forbidden: not supported yet by Hove",
                "spec.containers[0].securityContext.seLinuxOptions: Forbidden: not supported yet by Hove",
                "spec.securityContext.appArmorProfile: Forbidden: not supported yet by Hove",
                "spec.securityContext.fsGroupChangePolicy: Unsupported value: \"Never\": supported values: \"Always\", \"OnRootMismatch\"",
            ],
        ),
        (
            "{containers: [{name: c, image: i, volumeMounts: [{name: w, mountPath: /a}, {name: v, mountPath: /a}, {name: v, subPath: x}]}], volumes: [{name: v}, {name: v, emptyDir: {}, hostPath: {path: ../x}}]}",
            &[
                "spec.containers[0].volumeMounts[2].subPath: Forbidden: not supported yet by Hove",
                "spec.volumes[1].name: Duplicate value: \"v\"",
                "spec.volumes[1].hostPath: Forbidden: may not specify more than 1 volume type",
                "spec.volumes[1].hostPath.path: Invalid value: \"../x\": must be an absolute path",
                "spec.containers[0].volumeMounts[0].name: Not found: \"w\"",
                "spec.containers[0].volumeMounts[1].mountPath: Invalid value: \"/a\": must be unique",
                "spec.containers[0].volumeMounts[2].mountPath: Required value",
            ],
        ),
        (
            "{containers: [{name: c, image: i, resources: {limits: {cpu: 1x, memory: -1, nvidia.com/gpu: 1}, requests: {memory: 1}}}]}",
            &[
                "spec.containers[0].resources.limits[cpu]: Invalid value: \"1x\": unable to parse quantity's suffix",
                "spec.containers[0].resources.limits[memory]: Invalid value: \"-1\": must be greater than or equal to 0",
                "spec.containers[0].resources.limits[nvidia.com/gpu]: Forbidden: not supported yet by Hove: \"nvidia.com/gpu\"",
                "spec.containers[0].resources.requests[cpu]: Invalid value: \"1x\": unable to parse quantity's suffix",
                "spec.containers[0].resources.requests[nvidia.com/gpu]: Forbidden: not supported yet by Hove: \"nvidia.com/gpu\"",
            ],
        ),
        (
            "{containers: [{name: c, image: i, resources: {limits: {memory: 1Gi}, requests: {memory: 2Gi}}}]}",
            &[
                "spec.containers[0].resources.requests[memory]: Invalid value: \"2Gi\": must be less than or equal to memory limit",
            ],
        ),
        (
            "{containers: [{name: c, image: i}], initContainers: [{name: c, image: i, restartPolicy: Never}]}",
            &[
                "spec.initContainers[0].restartPolicy: Unsupported value: \"Never\": supported values: \"Always\"",
                "spec.containers[0].name: Duplicate value: \"c\"",
            ],
        ),
        (
            "{containers: [{name: c, image: i, env: [{name: 'A=B', value: x}, {name: K, valueFrom: {fieldRef: {fieldPath: spec.x}}}]}]}",
            &[
                "spec.containers[0].env[0].name: Invalid value: \"A=B\": a valid environment variable name must consist only of printable ASCII characters other than '='",
                "spec.containers[0].env[1].valueFrom.fieldRef.fieldPath: Unsupported value: \"spec.x\": supported values: \"metadata.name\", \"metadata.namespace\", \"metadata.uid\", \"spec.nodeName\", \"spec.serviceAccountName\", \"status.hostIP\", \"status.hostIPs\", \"status.podIP\", \"status.podIPs\"",
            ],
        ),
        (
            "{hostUsers: false, hostNetwork: true, hostPID: true, hostIPC: true, containers: [{name: c, image: i}]}",
            &[
                "spec.hostNetwork: Forbidden: when `hostUsers` is false",
                "spec.hostPID: Forbidden: when `hostUsers` is false",
                "spec.hostIPC: Forbidden: when `hostUsers` is false",
            ],
        ),
        (
            "{hostNetwork: true, containers: [{name: c, image: i, ports: [{containerPort: 80, hostPort: 81}]}]}",
            &[
                "spec.containers[0].ports[0].containerPort: Invalid value: 80: must match `hostPort` when `hostNetwork` is true",
            ],
        ),
    ];
    for (spec, wanted) in table {
        assert_eq!(said(spec), *wanted, "{spec}");
    }
}

#[test]
fn documents_are_told_apart() {
    let text = "---\napiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {containers: [{name: c, image: i}]}\n---\n---\napiVersion: v2\nkind: Service\n---\nhello\n";
    let problems = load(text, "many.yaml").unwrap_err();
    assert_eq!(
        problems.to_string(),
        "many.yaml (document 2): apiVersion: Unsupported value: \"v2\": supported values: \"v1\"\n\
         many.yaml (document 2): kind: Unsupported value: \"Service\": supported values: \"Pod\"\n\
         many.yaml (document 3): the document is not an object with `apiVersion: v1` and `kind: Pod`"
    );
    assert!(
        load("", "empty.yaml")
            .unwrap_err()
            .to_string()
            .starts_with("empty.yaml: the file has no document")
    );
}

#[test]
fn syntax_errors_have_line_and_column() {
    for (text, at) in [
        ("apiVersion: v1\nkind: [Pod\nmetadata: {}\n", 2..=4),
        ("apiVersion: v1\nkind: Pod\nkind: Pod\n", 3..=3),
        ("a: b: c\n", 1..=1),
        ("{\"apiVersion\": \"v1\", \"apiVersion\": \"v1\"}", 1..=1),
        ("{\"apiVersion\": \"v1\",\n \"kind\": }}", 2..=2),
    ] {
        let problem = parse(text, "bad.yaml").unwrap_err().list.remove(0);
        let (line, column) = problem
            .position
            .unwrap_or_else(|| panic!("{text:?}: {problem} has no position"));
        assert!(at.contains(&line) && column > 0, "{text:?}: {line}:{column} {problem}");
        assert!(matches!(problem.rule, Rule::Syntax(_)));
    }
    assert!(parse("a: 1\na: 2\n", "f").unwrap_err().to_string().contains('a'));
}

#[test]
fn what_the_parser_finds_is_said_in_plain_words() {
    let many = format!("apiVersion: v1\nkind: Pod\nx: [{}]\n", "1,".repeat(300_000));
    for (text, expected) in [
        (
            "apiVersion: v1\nkind: Pod\nmetadata: {name: a, name: b}\n",
            "name occurs twice",
        ),
        ("apiVersion: v1\nkind: Pod\nmetadata: &a {name: *a}\n", "alias"),
        (many.as_str(), "too large for a Pod"),
    ] {
        let said = parse(text, "pod.yaml").unwrap_err().to_string();
        assert!(said.contains(expected), "{said}");
    }
}

#[test]
fn yaml_is_read_as_kubernetes_reads_it() {
    let text = "apiVersion: v1\nkind: Pod\nmetadata: {name: a, labels: {n: '1'}}\nspec:\n  securityContext: {fsGroup: 0644}\n  hostPID: yes\n  containers: [{name: c, image: i}]\n";
    let pod = load(text, "f")
        .unwrap_or_else(|problems| panic!("{problems}"))
        .remove(0)
        .pod;
    let spec = pod.spec.unwrap();
    assert_eq!(
        spec.security_context.unwrap().fs_group,
        Some(0o644),
        "a leading zero is octal"
    );
    assert_eq!(spec.host_pid, Some(true));
    // JSON with an escape that YAML does not have.
    let json = r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a","annotations":{"x":"\ud83d\ude00"}},"spec":{"containers":[{"name":"c","image":"i"}]}}"#;
    assert_eq!(
        load(json, "f").unwrap()[0].pod.metadata.annotations.as_ref().unwrap()["x"],
        "😀"
    );
}

#[test]
fn a_pod_that_is_exported_can_be_applied_again() {
    let mut pod = load(TWO_CONTAINERS, "f").unwrap().remove(0).pod;
    pod.metadata.uid = Some("x".into());
    pod.metadata.creation_timestamp = Some("2026-01-01T00:00:00Z".parse::<jiff::Timestamp>().unwrap().into());
    pod.status = Some(Default::default());
    let json = serde_json::to_string(&pod).unwrap();
    assert_eq!(
        load(&json, "f").unwrap_or_else(|problems| panic!("{problems}"))[0].pod,
        pod
    );
}

#[test]
fn only_images_change_in_a_pod_that_exists() {
    let old = load(TWO_CONTAINERS, "f").unwrap().remove(0).pod;
    let mut new = old.clone();
    new.spec.as_mut().unwrap().containers[0].image = Some("nginx:2".into());
    assert_eq!(pod::validate_update(&old, &new), []);
    new.spec.as_mut().unwrap().restart_policy = Some("Always".into());
    let problems = pod::validate_update(&old, &new);
    assert!(
        problems[0].to_string().contains("changed: restartPolicy"),
        "{problems:?}"
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..Default::default() })]

    #[test]
    fn arbitrary_text_never_panics(text in "\\PC*") {
        let _ = load(&text, "f");
    }

    #[test]
    fn yaml_like_text_never_panics(text in "[a-z0-9:\\-{}\\[\\],\"'&*!|>#%@ \n\t~<]{0,200}") {
        let _ = load(&text, "f");
    }

    /// A good document with one value of another type somewhere.
    #[test]
    fn a_damaged_document_never_panics_and_never_passes_a_wrong_type(at in 0usize..60, with in prop_oneof![Just("null"), Just("[]"), Just("{}"), Just("1"), Just("-1.5"), Just("\"x\""), Just("true"), Just("1e400"), Just("99999999999999999999")]) {
        let mut lines: Vec<String> = TWO_CONTAINERS.lines().map(str::to_owned).collect();
        let n = at % lines.len();
        if let Some((key, _)) = lines[n].clone().split_once(':') {
            lines[n] = format!("{key}: {with}");
        }
        let _ = load(&lines.join("\n"), "f");
    }
}

/// AppArmor's annotation is the old form of a field that is refused.
#[test]
fn an_annotation_that_asks_for_a_profile_is_refused() {
    let with = |value: &str| {
        let text = format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: a, annotations: {{container.apparmor.security.beta.kubernetes.io/c: {value}}}}}\nspec: {{containers: [{{name: c, image: i}}]}}\n"
        );
        load(&text, "a.yaml").map(drop).map_err(|problems| problems.to_string())
    };
    assert_eq!(with("unconfined"), Ok(()));
    let problem = with("localhost/web").unwrap_err();
    assert!(
        problem.contains("metadata.annotations[container.apparmor.security.beta.kubernetes.io/c]: Forbidden: not supported yet by Hove: \"localhost/web\""),
        "{problem}"
    );
}

/// Documents that are made to hurt: each is refused, within the limits that the crate names, and says why.
mod hostile {
    use std::time::{Duration, Instant};

    use pod::{DEPTH_LIMIT, DOCUMENTS_LIMIT, TEXT_LIMIT, VALUES_LIMIT, load};

    /// How long any of them may take: an unoptimised build, on a machine that builds meanwhile.
    const PATIENCE: Duration = Duration::from_secs(30);
    /// How much is said of any of them, in bytes.
    const WORDS: usize = 64 << 10;

    fn refused(text: &str) -> String {
        let begin = Instant::now();
        let said = load(text, "f.yaml").unwrap_err().to_string();
        assert!(
            begin.elapsed() < PATIENCE,
            "{:?} for {}…",
            begin.elapsed(),
            &said[..said.len().min(200)]
        );
        assert!(said.len() < WORDS, "{} bytes are said", said.len());
        said
    }

    fn pod(spec: &str) -> String {
        format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: p}}\nspec: {spec}\n")
    }

    #[test]
    fn aliases_of_aliases() {
        let mut text = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for level in 1..12 {
            let list = vec![format!("*a{}", level - 1); 10].join(", ");
            text.push_str(&format!("a{level}: &a{level} [{list}]\n"));
        }
        assert!(refused(&text).contains("too large for a Pod"), "{}", refused(&text));
    }

    #[test]
    fn many_aliases_of_one_long_text() {
        let long = "x".repeat(4 << 20);
        let anchors: String = (0..5_000).map(|n| format!("- &s{n} y\n")).collect();
        let text = format!("- &long {long}\n{anchors}{}", "- *long\n".repeat(40_000));
        assert!(refused(&text).contains("too large for a Pod"));
    }

    #[test]
    fn an_alias_of_itself() {
        refused("a: &a [*a]\n");
        refused("&a {b: *a}\n");
        refused(&pod("&s {containers: [*s]}"));
    }

    #[test]
    fn depth() {
        for (open, close) in [("[", "]"), ("{a: ", "}"), ("- ", ""), ("{\"a\":", "}"), ("? ", "")] {
            for depth in [DEPTH_LIMIT + 1, 1_000, 200_000] {
                let text = format!("{}{}", open.repeat(depth), close.repeat(depth));
                refused(&text);
                refused(&pod(&format!("{}{}", open.repeat(depth), close.repeat(depth))));
            }
        }
        let json = format!("{{\"a\": {}{}}}", "[".repeat(100_000), "]".repeat(100_000));
        refused(&json);
    }

    #[test]
    fn size_and_number() {
        assert!(refused(&"#".repeat(TEXT_LIMIT + 1)).contains("bytes"));
        assert!(refused(&"--- a\n".repeat(DOCUMENTS_LIMIT + 1)).contains(&format!("{DOCUMENTS_LIMIT} documents")));
        assert!(refused(&"- a\n".repeat(VALUES_LIMIT + 1)).contains(&format!("{VALUES_LIMIT} values")));
        let json = format!("{{\"a\": [{}0]}}", "0,".repeat(VALUES_LIMIT));
        assert!(refused(&json).contains(&format!("{VALUES_LIMIT} values")));
        refused(&"---\n".repeat(TEXT_LIMIT / 4));
    }

    /// As many problems as values: the first ones are told.
    #[test]
    fn everything_is_wrong() {
        let elements = "{x: 1}, ".repeat(VALUES_LIMIT / 4);
        for list in ["containers", "initContainers", "volumes", "hostAliases"] {
            assert!(
                refused(&pod(&format!("{{{list}: [{elements}]}}"))).contains("more is wrong than these 64 problems")
            );
        }
        let fields: String = (0..VALUES_LIMIT / 4).map(|n| format!("f{n}: 1, ")).collect();
        assert!(refused(&pod(&format!("{{{fields}}}"))).contains("more is wrong"));
        let document = format!(
            "---\n{}",
            pod("{containers: [{name: A_B, imgae: x}], volumes: [{}, {}, {}]}")
        );
        assert!(refused(&document.repeat(DOCUMENTS_LIMIT)).contains("more is wrong"));
    }

    #[test]
    fn long_names_and_values_are_shown_in_part() {
        let long = "x".repeat(1 << 20);
        for text in [
            pod(&format!("{{{long}: 1}}")),
            pod(&format!(
                "{{containers: [{{name: {long}, image: {long}, command: {long}}}]}}"
            )),
            pod(&format!("{{restartPolicy: {long}}}")),
            format!("apiVersion: {long}\nkind: {long}\n"),
            format!(
                "apiVersion: v1\nkind: Pod\nmetadata: {{name: p, labels: {{{long}: {long}}}, annotations: {{? {long} : x}}}}\n"
            ),
        ] {
            let said = refused(&text);
            assert!(said.len() < 8 << 10, "{} bytes are said: {}…", said.len(), &said[..400]);
        }
        let said = refused(&pod("{\"\\e[31mred\": 1}"));
        assert!(!said.contains('\u{1b}'), "{said:?}");
    }

    #[test]
    fn keys_twice_and_numbers_out_of_range() {
        assert!(refused("{\"kind\": \"Pod\", \"kind\": \"Pod\"}").contains("twice"));
        assert!(refused("kind: Pod\nkind: Pod\n").contains("twice"));
        for number in [
            "99999999999999999999999",
            "1e400",
            "-1e400",
            ".nan",
            ".inf",
            "0x1FFFFFFFFFFFFFFFF",
            "2147483648",
        ] {
            let said = refused(&pod(&format!(
                "{{containers: [{{name: c, image: i, ports: [{{containerPort: {number}}}]}}]}}"
            )));
            assert!(
                said.contains("containerPort") || said.contains("not valid YAML"),
                "{said}"
            );
        }
    }
}
