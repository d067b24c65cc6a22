//! The kill loop: pods come and go on a real node, many at once, while the daemon, the pods' supervisors and their pauses are
//! killed. `cargo xtask soak` builds what it needs and runs it.
//!
//! A pod's life is decided by the seed and the pod's number ([`plan`]): what it is, who is killed of it and when. What must hold
//! is in [`pods`]: what was asked for runs, the same container before and after a death, each numbered line once, gone when it
//! was deleted. After each round of pods, and at the end, nothing of any pod may be left on the machine.

#![forbid(unsafe_code)]

mod node;
mod plan;
mod pods;

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Error, Result, bail};
use clap::Parser;
use end_to_end::host::on_a_host;
use end_to_end::{Host, binaries};
use inspect::audit::{Remainder, Snapshot};

use node::Node;
use plan::Plan;

/// Pods between two audits.
const ROUND: u64 = 500;

#[derive(Parser)]
struct Options {
    /// How many pods live
    #[arg(long, default_value_t = 10_000)]
    pods: u64,
    /// How many at a time
    #[arg(long, default_value_t = 8)]
    at_once: u16,
    /// What decides each pod's fate
    #[arg(long)]
    seed: u64,
    /// Stop after the round in which so many minutes are over
    #[arg(long)]
    minutes: Option<u64>,
}

fn main() -> Result<()> {
    let options = Options::parse();
    println!(
        "seed {}: {} pods, {} at once",
        options.seed, options.pods, options.at_once
    );
    let hove = binaries::hove().map_err(Error::msg)?;
    on_a_host(hove, |host| soak(host, &options)).with_context(|| format!("with --seed {}", options.seed))
}

fn soak(host: &Host, options: &Options) -> Result<()> {
    let instance = host.node()?;
    instance.import(&["busybox"])?;
    // The import was a node of its own, which must have ended before another has its directories.
    host.wait_for_nodes()?;
    let node = Node::start(instance)?;
    // What the first pod makes is the node's: bridge, rules, cgroups.
    pods::live(&node, Plan::of(options.seed, 0), 0, 0)?;
    let before = host.snapshot()?;

    let begin = Instant::now();
    let mut done = 0;
    while done < options.pods {
        let end = options.pods.min(done + ROUND);
        let words = |error: Error| error.context(format!("the daemon's last words:\n{}", node.last_words()));
        round(&node, options, done + 1..end + 1).map_err(words)?;
        done = end;
        audit(host, &before)
            .with_context(|| format!("after pod {done}"))
            .map_err(words)?;
        println!("{}", progress(&node, options, done, begin.elapsed()));
        if options
            .minutes
            .is_some_and(|minutes| begin.elapsed() > Duration::from_secs(60 * minutes))
        {
            println!("{done} pods are what the time was enough for");
            break;
        }
    }
    let instance = node.instance().clone();
    node.stop()?;
    // A daemon leaves bridge and rules to the next one: here one that ends by itself and leaves nothing.
    instance.output(["get", "pods"])?;
    Ok(())
}

/// Lets these pods live, several at once; the first violation ends it.
fn round(node: &Node, options: &Options, numbers: std::ops::Range<u64>) -> Result<()> {
    let next = AtomicU64::new(numbers.start);
    let failed: Mutex<Option<Error>> = Mutex::new(None);
    let has_failed = || failed.lock().is_ok_and(|failed| failed.is_some());
    std::thread::scope(|scope| {
        for worker in 0..options.at_once {
            let (next, failed) = (&next, &failed);
            scope.spawn(move || {
                while !has_failed() {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= numbers.end {
                        return;
                    }
                    let plan = Plan::of(options.seed, number);
                    if let Err(error) = pods::live(node, plan, number, worker) {
                        let error = error.context(format!("pod {number}, {plan:?}"));
                        let mut failed = failed.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                        failed.get_or_insert(error);
                    }
                }
            });
        }
    });
    match failed.into_inner() {
        Ok(None) => Ok(()),
        Ok(Some(error)) => Err(error),
        Err(_) => bail!("a worker panicked"),
    }
}

/// Nothing of the pods is left; the daemon is another one by now.
fn audit(host: &Host, before: &Snapshot) -> Result<()> {
    let is_daemon =
        |remainder: &Remainder| matches!(remainder, Remainder::Process { command, .. } if command.contains(" daemon "));
    host.check_against(before, is_daemon)
}

fn progress(node: &Node, options: &Options, done: u64, took: Duration) -> String {
    let killed = node.killed();
    format!(
        "{done} of {} pods, {:.1} a second; killed: {} daemons, {} supervisors, {} pauses; nothing is left of them",
        options.pods,
        done as f64 / took.as_secs_f64(),
        killed.nodes,
        killed.shims,
        killed.pauses
    )
}
