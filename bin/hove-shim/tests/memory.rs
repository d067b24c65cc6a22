//! What a pod costs: Private_* of its shim and its pause (smaps_rollup), one container running, one exec past.
//!
//! `HOVE_PODS=50 cargo test --release -p hove-shim --test memory -- --nocapture` is the figure that counts: of many pods
//! (a single one is charged for the program's pages, which all share), of the release build.

#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeMap;
use std::fs;

use support::{Pod, sh};

/// For a release build, in kB per pod: the limit is 250; what was reached is not to be lost again.
const LIMIT_KB: u64 = 220;

#[tokio::test]
async fn private_memory_of_pods() {
    let pods: usize = std::env::var("HOVE_PODS").map_or(8, |n| n.parse().unwrap());
    let mut running = Vec::new();
    for _ in 0..pods {
        let pod = Pod::start(false).await;
        pod.run("a", sh("echo hello; exec sleep 1000")).await;
        pod.exec("a", "e", "echo from exec", "").await;
        running.push(pod);
    }
    let (mut shims, mut pauses) = (Usage::default(), Usage::default());
    for pod in &running {
        shims.add(pod.shim.id());
        pauses.add(pod.state().await.pause.pid);
    }
    let per_pod = (shims.private_kb() + pauses.private_kb()) / pods as u64;
    println!("{pods} pods, kB per pod: {per_pod} private");
    println!("  shim  {}", shims.shown(pods));
    println!("  pause {}", pauses.shown(pods));
    if !cfg!(debug_assertions) && pods >= 8 {
        assert!(per_pod <= LIMIT_KB, "{per_pod} kB per pod are more than {LIMIT_KB}");
    }
    for pod in running {
        assert_eq!(pod.shut_down().await, 0);
    }
}

#[derive(Default)]
struct Usage(BTreeMap<String, u64>);

impl Usage {
    fn add(&mut self, pid: u32) {
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

    fn shown(&self, pods: usize) -> String {
        let each = |name: &str| format!("{name} {}", self.0.get(name).unwrap_or(&0) / pods as u64);
        ["Private_Clean", "Private_Dirty", "Pss", "Rss"].map(each).join(", ")
    }
}
