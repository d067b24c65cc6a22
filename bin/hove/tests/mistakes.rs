//! What the command says when it can't do what was asked: one line about it, whatever the environment.

#![allow(clippy::unwrap_used)]

use std::process::Command;

/// Standard error of a `hove` that must fail.
fn complaint(arguments: &[&str]) -> String {
    let directory = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_hove"))
        .args(arguments)
        .env("RUST_BACKTRACE", "1")
        .env("HOVE_ROOT", directory.path().join("root"))
        .env("HOVE_STATE", directory.path().join("state"))
        .env("HOVE_LOG_DIR", directory.path().join("log"))
        .env("HOVE_SHIM", "/no/such/shim")
        .output()
        .unwrap();
    assert!(!output.status.success(), "{arguments:?}");
    assert!(output.stdout.is_empty(), "{arguments:?}");
    assert!(
        !directory.path().join("state").exists(),
        "{arguments:?} leaves a state directory"
    );
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn an_error_is_a_line_without_a_backtrace() {
    for (arguments, expected) in [
        (&["run", "/no/such.yaml"][..], "error: /no/such.yaml: No such file"),
        // A node that can't start tells the command why.
        (
            &["get", "pods"],
            "error: the node did not start: the pods' supervisor /no/such/shim: ",
        ),
        (&["daemon"], "error: the pods' supervisor /no/such/shim: "),
    ] {
        let text = complaint(arguments);
        assert!(text.starts_with(expected), "{arguments:?}: {text}");
        assert_eq!(text.lines().count(), 1, "{arguments:?}: {text}");
    }
}

#[test]
fn the_usage_is_what_can_be_typed() {
    let text = complaint(&["run"]);
    assert!(text.contains("Usage: hove run <FILE>\n"), "{text}");
    let text = complaint(&["get", "pods", "--zzzzzz"]);
    assert!(text.contains("Usage: hove get pods"), "{text}");
    assert!(!text.contains("<DIR>"), "{text}");
}
