//! `hove delete pod`.

use std::process::ExitCode;

use anyhow::Result;
use bytes::Bytes;
use http::Method;
use serde_json::Value;

use crate::{
    args::DeletePod,
    client::{Client, path, pod_path, segment},
    config::Settings,
    reach, terminal,
};

pub async fn pod(settings: Settings, args: DeletePod) -> Result<ExitCode> {
    let client = reach::node(&settings).await?;
    let grace = if args.now { Some(0) } else { args.grace_period };
    let mut failed = false;
    let mut marked = Vec::new();
    for name in &args.names {
        match mark(&client, &args.namespace, name, grace).await {
            Ok(pod) => marked.push((name, pod)),
            Err(error) => {
                failed = true;
                terminal::error(&error.into());
            }
        }
    }
    for (name, pod) in marked {
        if !args.no_wait {
            wait_until_gone(&client, &args.namespace, &pod).await?;
        }
        terminal::print(&format!("pod \"{name}\" deleted\n"))?;
    }
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Asks the node to take a pod down; answers the pod as it is then.
pub async fn mark(
    client: &Client,
    namespace: &str,
    name: &str,
    grace: Option<u32>,
) -> Result<Value, crate::client::Error> {
    let query: Vec<_> = grace
        .map(|seconds| ("gracePeriodSeconds", seconds.to_string()))
        .into_iter()
        .collect();
    client
        .json(Method::DELETE, &path(&pod_path(namespace, name), &query), None)
        .await
}

/// Waits until this pod is gone; another one of the same name doesn't count.
async fn wait_until_gone(client: &Client, namespace: &str, pod: &Value) -> Result<()> {
    let name = pod["metadata"]["name"].as_str().unwrap_or_default();
    let query = [
        ("watch", "true".to_owned()),
        ("fieldSelector", format!("metadata.name={name}")),
    ];
    let base = format!("/api/v1/namespaces/{}/pods", segment(namespace));
    // A watch without a version begins with what exists: if the pod is gone already, the first thing is no pod of its uid.
    let mut changes = client.lines(Method::GET, &path(&base, &query), Bytes::new()).await?;
    if !exists(client, namespace, pod).await? {
        return Ok(());
    }
    while let Some(change) = changes.json::<Value>().await? {
        let same = change["object"]["metadata"]["uid"] == pod["metadata"]["uid"];
        if (change["type"] == "DELETED" && same) || (change["type"] != "DELETED" && !same) {
            return Ok(());
        }
    }
    Ok(())
}

async fn exists(client: &Client, namespace: &str, pod: &Value) -> Result<bool> {
    let name = pod["metadata"]["name"].as_str().unwrap_or_default();
    match client.get::<Value>(&pod_path(namespace, name)).await {
        Ok(now) => Ok(now["metadata"]["uid"] == pod["metadata"]["uid"]),
        Err(crate::client::Error::Refused { reason, .. }) if reason == "NotFound" => Ok(false),
        Err(error) => Err(error.into()),
    }
}
