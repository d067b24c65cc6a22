//! `hove delete`.

use std::{path::Path, process::ExitCode};

use anyhow::{Result, bail};
use bytes::Bytes;
use http::Method;
use k8s_openapi::api::core::v1::Pod;
use serde_json::Value;

use super::manifest;
use crate::{
    args::{Delete, DeleteKind, DeletePod, HowToDelete},
    client::{Client, path, pod_path, segment},
    config::Settings,
    reach, terminal,
};

/// Where a pod is: namespace, name.
type Place = (String, String);

pub async fn delete(settings: Settings, args: Delete) -> Result<ExitCode> {
    match (args.kind, args.file) {
        (Some(DeleteKind::Pod(pods)), _) => {
            let client = reach::node(&settings).await?;
            let places = places(&client, &pods).await?;
            if places.is_empty() {
                terminal::note(format!("No resources found in {} namespace.", pods.how.namespace));
            }
            take_down(&client, places, &pods.how).await
        }
        (None, Some(file)) => {
            let places = places_of(&file, &args.how.namespace)?;
            take_down(&reach::node(&settings).await?, places, &args.how).await
        }
        // clap asks for one of them.
        (None, None) => bail!("name a pod, or a manifest by -f"),
    }
}

/// The pods that are meant.
async fn places(client: &Client, pods: &DeletePod) -> Result<Vec<Place>> {
    let namespace = &pods.how.namespace;
    if !pods.names.is_empty() {
        return Ok(pods
            .names
            .iter()
            .map(|name| (namespace.clone(), name.clone()))
            .collect());
    }
    let query: Vec<_> = pods
        .selector
        .iter()
        .map(|labels| ("labelSelector", labels.clone()))
        .collect();
    let base = format!("/api/v1/namespaces/{}/pods", segment(namespace));
    let list: Value = client.get(&path(&base, &query)).await?;
    let names = list["items"].as_array().into_iter().flatten();
    Ok(names
        .filter_map(|pod| Some((namespace.clone(), pod["metadata"]["name"].as_str()?.to_owned())))
        .collect())
}

/// The pods of a manifest.
fn places_of(file: &Path, namespace: &str) -> Result<Vec<Place>> {
    let place = |pod: Pod| {
        let Some(name) = pod.metadata.name else {
            bail!(
                "{}: a pod has no name of its own (generateName): take it down by the one that it got",
                manifest::name(file)
            );
        };
        Ok((pod.metadata.namespace.unwrap_or_else(|| namespace.to_owned()), name))
    };
    manifest::read(file)?.into_iter().map(place).collect()
}

/// Marks them all, so that their times run side by side, and waits for each.
async fn take_down(client: &Client, places: Vec<Place>, how: &HowToDelete) -> Result<ExitCode> {
    let grace = if how.now { Some(0) } else { how.grace_period };
    let mut failed = false;
    let mut marked = Vec::new();
    for (namespace, name) in places {
        match mark(client, &namespace, &name, grace).await {
            Ok(pod) => marked.push((namespace, name, pod)),
            Err(error) => {
                failed = true;
                terminal::error(&error.into());
            }
        }
    }
    for (namespace, name, pod) in marked {
        if !how.no_wait {
            wait_until_gone(client, &namespace, &pod).await?;
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
