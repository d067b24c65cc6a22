//! The shim's process: its socket, its one thread, its end.

use std::os::fd::{OwnedFd, RawFd};
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::time::Duration;

use containerd_shim_protos::sandbox_async::create_sandbox;
use containerd_shim_protos::shim_async::create_events;
use rustix::process::DumpableBehavior;
use shim_api::shim_ttrpc::create_pod;
use tokio::sync::mpsc;
use ttrpc::asynchronous::Server;
use ttrpc::asynchronous::transport::Listener;

use crate::adopt::Held;
use crate::door::Door;
use crate::event::REQUESTS_MAX;
use crate::failure::{self, Failure, Result};
use crate::foreign::Foreign;
use crate::foreign::events::EventsService;
use crate::pod::{Config, Pod};
use crate::pod_service::PodService;
use crate::ready::registered;
use crate::sandbox_service::SandboxService;
use crate::task_service::create_task_services;
use crate::{diary, handover, reap};

/// How many descriptors' readiness the kernel tells at once; more come with the next call. Their buffer is there for ever,
/// and for tokio's own choice of 1,024 it takes 12 kB.
const EVENTS_PER_TICK: usize = 64;

/// How long the last answers may take to be read before the process ends.
const FAREWELL_LIMIT: Duration = Duration::from_secs(1);

/// How a shim begins: with an inherited descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// With nothing: the descriptor is the listening unix socket to serve on.
    Anew(RawFd),
    /// With the pod of one that has died: over the descriptor's connection the runtime hands over what it has.
    Adopting(RawFd),
}

/// Supervises a pod, asked by whoever connects to its socket, until it is told to shut down. The process must have one
/// thread, and no children that are not the pod's.
pub fn run(config: Config, start: Start) -> Result<()> {
    let (socket, held) = match start {
        Start::Anew(socket) => (sys::inherited::take(socket)?, None),
        Start::Adopting(connection) => {
            let (socket, held) = handover::receive(sys::inherited::take(connection)?)?;
            (socket, Some(held))
        }
    };
    let socket = UnixListener::from(socket);
    let signals = prepare_process()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .max_io_events_per_tick(EVENTS_PER_TICK)
        .build()
        .map_err(|e| failure::system("epoll_create1()", &e))?;
    let local = tokio::task::LocalSet::new();
    let done = local.block_on(&runtime, Box::pin(serve(config, socket, signals, held)));
    // Pumps that could not write the last of a log are not waited for: the disk is full.
    runtime.shutdown_background();
    done
}

/// What the process must be before it starts others.
fn prepare_process() -> Result<OwnedFd> {
    sys::pidfd::adopt_orphans()?;
    sys::memory::disable_huge_pages()?;
    // A child that has entered a container's PID namespace, and is not its program yet, must not be traced from there.
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .map_err(|e| sys::Error::new("prctl(PR_SET_DUMPABLE, 0)", e))?;
    reap::take_signals()
}

async fn serve(config: Config, socket: UnixListener, signals: OwnedFd, held: Option<Held>) -> Result<()> {
    let (events, reported) = mpsc::unbounded_channel();
    let (requests, asked) = mpsc::channel(REQUESTS_MAX);
    let signals = registered(signals)?;
    let reaper = tokio::task::spawn_local(reap::run(signals, events.clone()));

    sys::failpoint!("shim.started")?;
    let id = config.id.clone();
    let mut foreign = Foreign::of_sandbox(&config.id, &config.dir)?;
    if let (Some(foreign), true) = (&mut foreign, held.is_some())
        && let Err(e) = foreign.reconnect().await
    {
        diary::note(format_args!("the handler's shim has ended: {e}"));
    }
    let published = EventsService(events.clone());
    let mut pod = Pod::new(config, foreign, events);
    if let Some(held) = held {
        // Before the first question is answered.
        pod.adopt(held)?;
        pod.adopt_foreign();
    }
    let mut server = listen(socket, &Door::new(requests), published)?;
    server.start().await.map_err(|e| Failure::Invalid(e.to_string()))?;
    diary::note(format_args!(
        "sandbox {}: hove-shim {} serves",
        id,
        env!("CARGO_PKG_VERSION")
    ));

    pod.run(reported, asked).await;

    reaper.abort();
    if tokio::time::timeout(FAREWELL_LIMIT, server.shutdown()).await.is_err() {
        diary::note(format_args!("a connection did not read its last answer"));
    }
    Ok(())
}

fn listen(socket: UnixListener, door: &Door, published: EventsService) -> Result<Server> {
    socket
        .set_nonblocking(true)
        .map_err(|e| failure::system("fcntl(socket, O_NONBLOCK)", &e))?;
    let socket = tokio::net::UnixListener::from_std(socket).map_err(|e| failure::system("epoll_ctl(socket)", &e))?;
    let server = services(door).register_service(create_events(Arc::new(published)));
    Ok(server.add_listener(Listener::from(socket)))
}

fn services(door: &Door) -> Server {
    Server::new()
        .register_service(create_sandbox(Arc::new(SandboxService(door.clone()))))
        .register_service(create_task_services(door))
        .register_service(create_pod(Arc::new(PodService(door.clone()))))
}

/// The services without a pod behind them: what they pass on, nobody answers. For the fuzz target of what comes over the socket.
#[cfg(fuzzing)]
pub fn orphaned_services() -> Server {
    let (requests, _) = mpsc::channel(REQUESTS_MAX);
    services(&Door::new(requests))
}
