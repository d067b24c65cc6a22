//! `hove get pods`.

use std::process::ExitCode;

use anyhow::{Result, bail};
use bytes::Bytes;
use http::Method;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use super::table::Columns;
use crate::{
    args::{GetPods, PodFormat},
    client::{Client, path, pod_path, segment},
    config::Settings,
    reach, terminal,
    view::Summary,
};

pub async fn pods(settings: Settings, args: GetPods) -> Result<ExitCode> {
    let client = reach::node(&settings).await?;
    let (items, version) = match &args.name {
        Some(name) => {
            if args.scope.all_namespaces {
                bail!("a pod can't be looked up by name across all namespaces; leave out -A");
            }
            let pod: Value = client.get(&pod_path(&args.scope.namespace, name)).await?;
            let version = pod["metadata"]["resourceVersion"].clone();
            (vec![pod], version)
        }
        None => {
            let mut list: Value = client.get(&list_path(&args, Vec::new())).await?;
            let items = list["items"].as_array_mut().map(std::mem::take).unwrap_or_default();
            (items, list["metadata"]["resourceVersion"].clone())
        }
    };
    let mut printer = Printer::new(&args);
    printer.first(&items)?;
    if args.watch {
        watch(&client, &args, &mut printer, version).await?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn watch(client: &Client, args: &GetPods, printer: &mut Printer, version: Value) -> Result<()> {
    let version = version.as_str().unwrap_or("0").to_owned();
    let query = vec![("watch", "true".to_owned()), ("resourceVersion", version)];
    let mut changes = client.lines(Method::GET, &list_path(args, query), Bytes::new()).await?;
    while let Some(change) = changes.json::<Value>().await? {
        if change["type"] == "ERROR" {
            bail!(
                "the watch ended: {}",
                change["object"]["message"].as_str().unwrap_or_default()
            );
        }
        printer.more(&change["object"])?;
    }
    bail!("the node has ended")
}

fn list_path(args: &GetPods, mut query: Vec<(&str, String)>) -> String {
    let base = match args.scope.all_namespaces {
        true => "/api/v1/pods".to_owned(),
        false => format!("/api/v1/namespaces/{}/pods", segment(&args.scope.namespace)),
    };
    if let Some(labels) = &args.selector {
        query.push(("labelSelector", labels.clone()));
    }
    if let Some(name) = &args.name {
        query.push(("fieldSelector", format!("metadata.name={name}")));
    }
    path(&base, &query)
}

struct Printer {
    format: Option<PodFormat>,
    one: bool,
    namespaced: bool,
    place: String,
    columns: Columns,
}

impl Printer {
    fn new(args: &GetPods) -> Printer {
        let namespaced = args.scope.all_namespaces;
        let mut headers = vec!["NAME", "READY", "STATUS", "RESTARTS", "AGE"];
        if namespaced {
            headers.insert(0, "NAMESPACE");
        }
        if args.output == Some(PodFormat::Wide) {
            headers.push("IP");
        }
        let place = if namespaced {
            String::new()
        } else {
            format!(" in {} namespace", args.scope.namespace)
        };
        let columns = Columns::new(headers);
        Printer {
            format: args.output,
            one: args.name.is_some(),
            namespaced,
            place,
            columns,
        }
    }

    fn first(&mut self, items: &[Value]) -> Result<()> {
        let text = match self.format {
            None | Some(PodFormat::Wide) if items.is_empty() => {
                terminal::note(format!("No resources found{}.", self.place));
                return Ok(());
            }
            None | Some(PodFormat::Wide) => {
                let rows = items.iter().map(|item| self.row(item)).collect::<Result<Vec<_>>>()?;
                self.columns.with_headers(&rows)
            }
            Some(format) => match items {
                [one] if self.one => document(one, format)?,
                _ if format == PodFormat::Name => {
                    items.iter().map(|item| document(item, format)).collect::<Result<_>>()?
                }
                items => document(&json!({"apiVersion": "v1", "kind": "List", "items": items}), format)?,
            },
        };
        terminal::print(&text)?;
        Ok(())
    }

    fn more(&mut self, item: &Value) -> Result<()> {
        let text = match self.format {
            None | Some(PodFormat::Wide) => {
                let row = self.row(item)?;
                self.columns.rows(&[row])
            }
            Some(PodFormat::Yaml) => format!("---\n{}", document(item, PodFormat::Yaml)?),
            Some(format) => document(item, format)?,
        };
        terminal::print(&text)?;
        Ok(())
    }

    fn row(&self, item: &Value) -> Result<Vec<String>> {
        let pod: Pod = serde_json::from_value(item.clone())?;
        let Summary {
            namespace,
            name,
            ready,
            status,
            restarts,
            age,
            ip,
        } = Summary::of(&pod, Timestamp::now());
        let mut row = vec![name, ready, status, restarts, age];
        if self.namespaced {
            row.insert(0, namespace);
        }
        if self.format == Some(PodFormat::Wide) {
            row.push(ip);
        }
        Ok(row)
    }
}

fn document(item: &Value, format: PodFormat) -> Result<String> {
    Ok(match format {
        PodFormat::Json => format!("{}\n", serde_json::to_string_pretty(item)?),
        PodFormat::Yaml => serde_saphyr::to_string(item)?,
        PodFormat::Name | PodFormat::Wide => format!("pod/{}\n", item["metadata"]["name"].as_str().unwrap_or_default()),
    })
}
