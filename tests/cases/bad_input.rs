//! What a person may get wrong: a clear error on standard error, an exit code that is not 0, nothing half-made left
//! (the audit at each test's end).

use std::net::TcpListener;

use anyhow::{Result, ensure};
use end_to_end::instance::condition;
use end_to_end::{Host, case};

fn expect(words: &str, wanted: &[&str]) -> Result<()> {
    for wanted in wanted {
        ensure!(
            words.to_lowercase().contains(&wanted.to_lowercase()),
            "{wanted:?} is not in:\n{words}"
        );
    }
    Ok(())
}

#[test]
fn manifests() {
    case(&[], |host: &Host| -> Result<()> {
        let node = host.node()?;
        let missing = node.refused(["run", "no-such.yaml"])?;
        expect(&missing, &["no-such.yaml", "No such file"])?;

        let broken = host.manifest(
            "broken.yaml",
            "apiVersion: v1\nkind: Pod\nmetadata:\n  name: [a\nspec: {}\n",
        )?;
        let error = node.refused(["run".as_ref(), broken.as_os_str()])?;
        expect(&error, &["broken.yaml"])?;
        let place = error.split("broken.yaml").nth(1).unwrap_or_default();
        let numbers = place
            .split(|c: char| !c.is_ascii_digit())
            .filter(|n| !n.is_empty())
            .count();
        ensure!(numbers >= 2, "no line and column in:\n{error}");

        // Everything at once: an unknown field, a wrong type, a bad name, no image.
        let wrong = host.manifest(
            "wrong.yaml",
            "apiVersion: v1\nkind: Pod\nmetadata:\n  name: Not_A_Name\nspec:\n  restartPolcy: Never\n  containers:\n  \
             - name: web\n    image: localhost/hove/busybox:1\n    ports:\n    - containerPort: 99999\n",
        )?;
        let error = node.refused(["run".as_ref(), wrong.as_os_str()])?;
        expect(&error, &["wrong.yaml", "restartPolcy"])?;

        let empty = host.manifest("empty.yaml", "")?;
        expect(&node.refused(["run".as_ref(), empty.as_os_str()])?, &["empty.yaml"])?;
        Ok(())
    });
}

#[test]
fn values_are_checked_all_at_once() {
    case(&[], |host: &Host| -> Result<()> {
        let node = host.node()?;
        let wrong = host.manifest(
            "wrong.yaml",
            "apiVersion: v1\nkind: Pod\nmetadata:\n  name: Not_A_Name\nspec:\n  restartPolicy: Sometimes\n  containers:\n  \
             - name: web\n    image: localhost/hove/busybox:1\n    ports:\n    - containerPort: 99999\n",
        )?;
        let error = node.refused(["run".as_ref(), wrong.as_os_str()])?;
        expect(
            &error,
            &[
                "metadata.name",
                "Not_A_Name",
                "restartPolicy",
                "Sometimes",
                "containerPort",
                "99999",
            ],
        )?;
        Ok(())
    });
}

#[test]
fn an_image_that_is_not_there() {
    case(&[], |host: &Host| -> Result<()> {
        let node = host.node()?;
        let pod = host.manifest(
            "pod.yaml",
            "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec:\n  containers:\n  \
             - {name: web, image: 'localhost/hove/nothing:1', imagePullPolicy: Never}\n",
        )?;
        let error = node.refused(["run".as_ref(), pod.as_os_str()])?;
        expect(&error, &["localhost/hove/nothing:1", "hove image import"])?;
        expect(&node.refused(["image", "import", "no-such.tar"])?, &["no-such.tar"])?;
        let garbage = host.manifest("garbage.tar", "this is no archive")?;
        expect(
            &node.refused(["image".as_ref(), "import".as_ref(), garbage.as_os_str()])?,
            &["garbage.tar"],
        )?;
        Ok(())
    });
}

#[test]
fn a_port_in_use_and_a_name_taken() {
    case(&["busybox"], |host: &Host| -> Result<()> {
        let node = host.node()?;
        node.import(&["busybox"])?;
        let manifest = |name: &str, port: u16| {
            host.manifest(
                &format!("{name}.yaml"),
                &format!(
                    "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 1\n  \
                     containers:\n  - name: c\n    image: localhost/hove/busybox:1\n    imagePullPolicy: Never\n    \
                     command: [sleep, '1000']\n    ports:\n    - {{containerPort: 80, hostPort: {port}}}\n"
                ),
            )
        };
        let listener = TcpListener::bind("0.0.0.0:8123")?;
        let web = manifest("web", 8123)?;
        let error = node.refused(["run".as_ref(), web.as_os_str()])?;
        expect(&error, &["8123", "in use"])?;
        node.wait_for_pod_gone("web")?;
        drop(listener);

        node.output(["run".as_ref(), "-d".as_ref(), web.as_os_str()])?;
        node.wait_for_pod("web", |pod| {
            condition(pod, "Ready").is_some_and(|c| c["status"] == "True")
        })?;
        let error = node.refused(["run".as_ref(), web.as_os_str()])?;
        expect(&error, &["web", "exists"])?;
        let other = manifest("other", 8123)?;
        let error = node.refused(["run".as_ref(), other.as_os_str()])?;
        expect(&error, &["8123", "web"])?;
        node.wait_for_pod_gone("other")?;

        expect(
            &node.refused(["exec", "nobody", "--", "true"])?,
            &["nobody", "not found"],
        )?;
        expect(&node.refused(["logs", "nobody"])?, &["nobody", "not found"])?;
        expect(&node.refused(["ns", "nobody"])?, &["nobody", "not found"])?;
        expect(
            &node.refused(["exec", "web", "--", "no-such-program"])?,
            &["no-such-program"],
        )?;
        node.output(["delete", "pod", "web"])?;
        Ok(())
    });
}
