//! The wire contract: our .proto against the descriptor in the Go module that kubelet is built with.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use end_to_end::repository;
use protox::prost_reflect::{DescriptorPool, EnumDescriptor, MessageDescriptor, ServiceDescriptor};

use crate::client;

/// Messages, fields, enumerations, services: nothing is missing, nothing is another.
#[test]
#[ignore = "needs the Go module's descriptor: cargo xtask conformance"]
fn our_messages_are_those_of_kubelet() -> Result<()> {
    let file = client("cri.descriptor");
    let bytes = std::fs::read(&file).with_context(|| file.display().to_string())?;
    let theirs = lines(&DescriptorPool::decode(bytes.as_slice())?);
    let folder = repository().join("crates/cri/proto");
    let compiled = protox::compile([folder.join("api.proto")], [folder])?;
    let ours = lines(&DescriptorPool::from_file_descriptor_set(compiled)?);

    ensure!(
        theirs.len() > 500,
        "only {} lines in the Go module's descriptor",
        theirs.len()
    );
    let missing: Vec<_> = theirs.difference(&ours).collect();
    let other: Vec<_> = ours.difference(&theirs).collect();
    ensure!(
        missing.is_empty() && other.is_empty(),
        "the Go module has, and we have not: {missing:#?}\nwe have, and the Go module has not: {other:#?}"
    );
    Ok(())
}

/// A line for each thing that is seen on the wire or in JSON.
fn lines(pool: &DescriptorPool) -> BTreeSet<String> {
    let mut lines = BTreeSet::new();
    pool.all_messages().for_each(|message| of_message(&message, &mut lines));
    pool.all_enums().for_each(|kind| of_enum(&kind, &mut lines));
    pool.services().for_each(|service| of_service(&service, &mut lines));
    lines
}

fn of_message(message: &MessageDescriptor, lines: &mut BTreeSet<String>) {
    lines.insert(format!("message {}", message.full_name()));
    for field in message.fields() {
        let oneof = field.containing_oneof().map(|oneof| oneof.name().to_owned());
        lines.insert(format!(
            "field {} = {}: {:?}, {:?}, {}, packed {}, presence {}, of {oneof:?}",
            field.full_name(),
            field.number(),
            field.cardinality(),
            field.kind(),
            field.json_name(),
            field.is_packed(),
            field.supports_presence(),
        ));
    }
    for range in message.reserved_ranges() {
        lines.insert(format!("reserved {} {range:?}", message.full_name()));
    }
}

fn of_enum(kind: &EnumDescriptor, lines: &mut BTreeSet<String>) {
    for value in kind.values() {
        lines.insert(format!(
            "value {} {} = {}",
            kind.full_name(),
            value.name(),
            value.number()
        ));
    }
}

fn of_service(service: &ServiceDescriptor, lines: &mut BTreeSet<String>) {
    for method in service.methods() {
        lines.insert(format!(
            "method {}: {} (stream {}) -> {} (stream {})",
            method.full_name(),
            method.input().full_name(),
            method.is_client_streaming(),
            method.output().full_name(),
            method.is_server_streaming(),
        ));
    }
}
