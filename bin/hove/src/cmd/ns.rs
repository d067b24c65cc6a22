//! `hove ns`: a pod's namespaces, as a tree, a picture or JSON.

use std::process::ExitCode;

use anyhow::{Context, Result};
use inspect::{svg, tree, view::View};

use crate::{args::Ns, client::segment, config::Settings, node_api, reach, terminal};

pub async fn ns(settings: Settings, args: Ns) -> Result<ExitCode> {
    let client = reach::node(&settings).await?;
    let (namespace, pod) = (segment(&args.namespace), segment(&args.pod));
    let view: View = client
        .get(&format!(
            "{}/namespaces/{namespace}/pods/{pod}/namespaces",
            node_api::BASE
        ))
        .await?;
    if let Some(file) = &args.svg {
        std::fs::write(file, svg::svg(&view)).with_context(|| file.display().to_string())?;
    }
    match args.output {
        Some(_) => terminal::print(&format!("{}\n", serde_json::to_string_pretty(&view)?))?,
        None => terminal::print(&tree::tree(&view, terminal::stdout_colours()))?,
    }
    Ok(ExitCode::SUCCESS)
}
