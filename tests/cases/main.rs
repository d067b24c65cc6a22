//! What a pod.yaml must come to. See the library for what a test is run on.

#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used)]

mod bad_input;
mod caller;
mod cri_socket;
mod examples;
mod full_disk;
mod hostile;
mod kills;
mod lifetime;
mod output;
mod users;
mod while_it_runs;
mod words;
