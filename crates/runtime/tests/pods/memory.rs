//! What a pod costs beyond its own processes: Private_* (smaps_rollup) of its shim and its pause, made by the runtime as
//! kubelet would ask for it (RuntimeDefault seccomp, a log), one container running, one exec past.
//!
//! `HOVE_BIN_DIR=…/release cargo test -p runtime --test pods memory -- --nocapture` is the figure that counts: of the
//! release build, and of many pods (a single one is charged for the program's pages, which all share). `cargo xtask test`
//! runs it so; without the variable it is the development build that is measured, against a limit of its own.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use cri::v1::security_profile::ProfileType;
use cri::v1::*;

use crate::host::{Host, on_a_host, shell};

/// The most that a pod may cost, in kB.
const LIMIT_KB: u64 = 250;

/// The same for a development build, whose code needs relocations and stack that a release build does not.
const LIMIT_DEVELOPMENT_KB: u64 = 500;

#[test]
fn what_a_pod_costs() {
    on_a_host(|mut host| async move {
        let mut measured = (8, LIMIT_DEVELOPMENT_KB);
        if let Some(release) = std::env::var_os("HOVE_BIN_DIR") {
            host.config.shim = Path::new(&release).join("hove-shim");
            host = host.restart().await;
            measured = (50, LIMIT_KB);
        }
        let (pods, limit) = measured;
        let mut sandboxes = Vec::new();
        for n in 0..pods {
            sandboxes.push(pod(&host, n).await);
        }
        let (mut shims, mut pauses) = (Usage::default(), Usage::default());
        for sandbox in &sandboxes {
            shims.add(host.sandbox_pid(sandbox, "shimPid").await);
            pauses.add(host.sandbox_pid(sandbox, "pid").await);
        }
        let per_pod = (shims.private_kb() + pauses.private_kb()) / pods;
        println!(
            "{pods} pods, kB per pod: {per_pod} private ({})",
            host.config.shim.display()
        );
        println!("  shim  {}", shims.shown(pods));
        println!("  pause {}", pauses.shown(pods));
        assert!(per_pod <= limit, "{per_pod} kB per pod are more than {limit}");
        for sandbox in sandboxes {
            host.remove(&sandbox).await.unwrap();
        }
    });
}

async fn pod(host: &Host, n: u64) -> String {
    let sandbox = host.run(host.pod(&format!("cost-{n}"))).await.unwrap();
    let mut config = shell("main", "echo hello; exec sleep 1000");
    let security = config.linux.as_mut().unwrap().security_context.as_mut().unwrap();
    security.seccomp = Some(SecurityProfile {
        profile_type: ProfileType::RuntimeDefault.into(),
        ..Default::default()
    });
    let id = host.create(&sandbox, config).await.unwrap();
    host.start(&id).await.unwrap();
    let said = host.exec(&id, &["echo", "from exec"]).await.unwrap();
    assert_eq!(said.stdout, b"from exec\n");
    sandbox
}

#[derive(Default)]
struct Usage(BTreeMap<String, u64>);

impl Usage {
    fn add(&mut self, pid: i32) {
        for line in fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))
            .unwrap()
            .lines()
            .skip(1)
        {
            let mut words = line.split_whitespace();
            let (name, kb) = (words.next().unwrap(), words.next().unwrap().parse::<u64>().unwrap());
            *self.0.entry(name.trim_end_matches(':').to_string()).or_default() += kb;
        }
    }

    fn private_kb(&self) -> u64 {
        ["Private_Clean", "Private_Dirty", "Private_Hugetlb"]
            .iter()
            .filter_map(|name| self.0.get(*name))
            .sum()
    }

    fn shown(&self, pods: u64) -> String {
        let each = |name: &str| format!("{name} {}", self.0.get(name).unwrap_or(&0) / pods);
        ["Private_Clean", "Private_Dirty", "Pss", "Rss"].map(each).join(", ")
    }
}
