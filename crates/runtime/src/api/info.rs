//! The `info` of a verbose status: JSON, for people and for `hove ns`.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};

use crate::container::Container;
use crate::layout::{ContainerDir, SandboxDir};
use crate::sandbox::View;

pub(super) fn sandbox(dir: &SandboxDir, view: &View) -> BTreeMap<String, String> {
    let record = &view.record;
    wrap(json!({
        "pid": view.pause.map_or(0, |p| p.pid),
        "startTimeTicks": view.pause.map_or(0, |p| p.start_time_ticks),
        "shimPid": record.shim.map_or(0, |s| s.pid),
        "netnsPath": record.netns,
        "cgroupParent": record.cgroup_parent,
        "hostname": record.hostname,
        "image": record.image,
        "runtimeHandler": record.runtime_handler,
        "phase": format!("{:?}", record.step),
        "config": record.config,
        "runtimeSpec": spec(&dir.spec()),
    }))
}

pub(super) fn container(dir: &ContainerDir, container: &Container) -> BTreeMap<String, String> {
    let record = &container.record;
    wrap(json!({
        "pid": container.process.map_or(0, |p| p.pid),
        "startTimeTicks": container.process.map_or(0, |p| p.start_time_ticks),
        "sandboxID": record.sandbox_id,
        "snapshotKey": record.id,
        "stopSignal": record.stop_signal,
        "config": record.config,
        "runtimeSpec": spec(&dir.spec()),
    }))
}

/// A spec that can't be read is not worth failing for.
fn spec(path: &Path) -> Value {
    std::fs::read(path)
        .ok()
        .and_then(|text| serde_json::from_slice(&text).ok())
        .unwrap_or(Value::Null)
}

fn wrap(info: Value) -> BTreeMap<String, String> {
    BTreeMap::from([("info".to_owned(), info.to_string())])
}
