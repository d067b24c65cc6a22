//! The owner of a sandbox: the only task that changes it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use cri::v1::{ContainerEventType, UpdatePodSandboxResourcesRequest};
use shim_api::shim::{self, Kind, ProcessState};
use tokio::sync::{mpsc, watch};
use tracing::{Instrument, debug, error, info, warn};

use super::handle::{MAILBOX, Reply};
use super::{Handle, Message, Phase, Step, View};
use crate::container::signal::SIGKILL;
use crate::container::{Attendance, Change, Container};
use crate::error::Result;
use crate::id::ContainerId;
use crate::layout::SandboxDir;
use crate::node::Node;
use crate::records::{Intent, Life, ProcessName, SandboxRecord};
use crate::shim::{Attempts, Events, Held, ShimClient, ShimProcess};

/// How often the undo of a failed creation is tried again before it is left to the next start's recovery, and the first
/// pause between two tries, which doubles.
const UNDO_RETRIES: u32 = 5;
const UNDO_PAUSE: Duration = Duration::from_secs(1);

/// A sandbox, as its owner has it.
pub(crate) struct Sandbox {
    pub(super) node: Arc<Node>,
    pub(super) dir: SandboxDir,
    pub(crate) state: View,
    pub(crate) process: Option<ShimProcess>,
    /// What must not be lost if the shim dies.
    pub(crate) held: Held,
    /// The shims that were started in a dead one's place.
    pub(crate) attempts: Attempts,
    pub(crate) mailbox: mpsc::Sender<Message>,
    messages: mpsc::Receiver<Message>,
    published: watch::Sender<Arc<View>>,
}

impl Sandbox {
    pub(crate) fn new(node: Arc<Node>, record: SandboxRecord, phase: Phase) -> Self {
        let dir = node.layout.sandbox(&record.id);
        let state = View::new(record, phase);
        let (mailbox, messages) = mpsc::channel(MAILBOX);
        let published = watch::Sender::new(Arc::new(state.clone()));
        Sandbox {
            node,
            dir,
            state,
            process: None,
            held: Held::default(),
            attempts: Attempts::default(),
            mailbox,
            messages,
            published,
        }
    }

    pub(crate) fn handle(&self) -> Handle {
        Handle::new(
            self.state.record.id.clone(),
            self.mailbox.clone(),
            self.published.subscribe(),
        )
    }

    /// Makes a new sandbox, in a task of its own: the caller's deadline does not abort it.
    pub(crate) fn spawn_creation(self) {
        let span = tracing::info_span!("sandbox", id = %self.state.record.id);
        tokio::spawn(async move { self.make_and_live().await }.instrument(span));
    }

    /// Goes on with a sandbox that was found after a restart.
    pub(crate) fn spawn(self) {
        let span = tracing::info_span!("sandbox", id = %self.state.record.id);
        tokio::spawn(async move { self.live().await }.instrument(span));
    }

    async fn make_and_live(mut self) {
        match self.make().await {
            Ok(()) => {
                self.set_phase(Phase::Ready);
                self.tell(ContainerEventType::ContainerCreatedEvent);
                self.tell(ContainerEventType::ContainerStartedEvent);
                info!(ips = ?self.state.record.ips, "sandbox is ready");
                self.live().await;
            }
            Err(error) => {
                info!(%error, "sandbox can't be made; undoing it");
                self.give_up(error.into()).await;
            }
        }
    }

    /// Undoes a failed creation. The name is free as soon as everything was attempted; what resisted is tried again.
    async fn give_up(mut self, error: cri::Error) {
        self.intend(Intent::Remove);
        let mut undone = self.undo_all().await;
        self.node.registry.remove_sandbox(&self.state.record.id);
        self.set_phase(Phase::Failed(error));
        let mut pause = UNDO_PAUSE;
        for _ in 0..UNDO_RETRIES {
            let Err(failures) = undone else { return };
            warn!(%failures, "a failed creation is not undone whole; trying again");
            tokio::select! {
                () = tokio::time::sleep(pause) => pause *= 2,
                () = self.node.closing.cancelled() => return,
            }
            undone = self.undo_all().await;
        }
        if let Err(failures) = undone {
            error!(%failures, "a failed creation can't be undone whole; the next start tries again");
        }
    }

    /// Answers messages until the sandbox is gone or the runtime closes.
    async fn live(mut self) {
        let closing = self.node.closing.clone();
        while !matches!(self.state.phase, Phase::Removed) {
            let message = tokio::select! {
                biased;
                () = closing.cancelled() => return,
                message = self.messages.recv() => message,
            };
            // The owner holds a sender itself, so the channel stays open.
            let Some(message) = message else { return };
            self.act(message).await;
        }
    }

    async fn act(&mut self, message: Message) {
        match message {
            Message::Stop(reply) => {
                let done = self.stop().await;
                answer(reply, done);
            }
            Message::Remove(reply) => {
                let done = self.remove().await;
                answer(reply, done);
            }
            Message::UpdateSandbox(request, reply) => {
                let done = self.update(*request);
                answer(reply, done);
            }
            Message::CreateContainer(config, reply) => {
                let done = self.create_container(*config).await;
                answer(reply, done);
            }
            Message::StartContainer(id, reply) => {
                let done = self.start_container(&id).await;
                answer(reply, done);
            }
            Message::SignalContainer { id, signal, all, reply } => {
                let done = self.signal_container(&id, signal, all).await;
                answer(reply, done);
            }
            Message::CloseStdin(id, reply) => {
                let done = self.close_stdin(&id).await;
                answer(reply, done);
            }
            Message::UpdateContainer(id, resources, reply) => {
                let done = self.update_container(&id, *resources).await;
                answer(reply, done);
            }
            Message::RemoveContainer(id, reply) => {
                let done = self.remove_container(&id).await;
                answer(reply, done);
            }
            Message::Happened(event) => self.happened(&event),
            Message::ShimGone => self.supervisor_ended().await,
            Message::ConnectionLost => self.connection_lost().await,
            Message::TakeOver => self.take_over().await,
        }
    }

    /// StopPodSandbox: nothing runs, nothing is held but names, records and what containers have written.
    pub(crate) async fn stop(&mut self) -> Result<()> {
        if self.state.record.intent == Intent::Stop && self.state.record.step == Step::Reserved {
            return Ok(());
        }
        self.intend(Intent::Stop);
        sys::failpoint!("sandbox.stop.recorded")?;
        let was_ready = matches!(self.state.phase, Phase::Ready);
        self.set_phase(Phase::NotReady);
        if was_ready {
            self.tell(ContainerEventType::ContainerStoppedEvent);
        }
        self.undo_to(Step::Reserved).await?;
        info!("sandbox has stopped");
        Ok(())
    }

    /// RemovePodSandbox: nothing of it remains.
    async fn remove(&mut self) -> Result<()> {
        self.intend(Intent::Remove);
        sys::failpoint!("sandbox.remove.recorded")?;
        self.set_phase(Phase::NotReady);
        self.undo_all().await?;
        self.node.registry.remove_sandbox(&self.state.record.id);
        self.set_phase(Phase::Removed);
        self.tell(ContainerEventType::ContainerDeletedEvent);
        info!("sandbox is removed");
        Ok(())
    }

    /// UpdatePodSandboxResources: what all of the pod's containers may use together has changed. Who says so has set the limits of
    /// the pod's cgroup, which is the caller's; here it is remembered, and told by the sandbox's verbose status.
    fn update(&mut self, request: UpdatePodSandboxResourcesRequest) -> Result<()> {
        self.must_be_ready("change its resources")?;
        let before = self.state.record.config.linux.clone();
        let linux = self.state.record.config.linux.get_or_insert_default();
        linux.overhead = request.overhead.or(linux.overhead.take());
        linux.resources = request.resources.or(linux.resources.take());
        if let Err(error) = self.save() {
            self.state.record.config.linux = before;
            return Err(error);
        }
        self.publish();
        Ok(())
    }

    /// Records that the sandbox is to be taken down. Where the record can't be written, it is taken down all the same: that
    /// may be what makes room on a full disk. Should the node die half-way, the caller, who got no answer, asks again.
    fn intend(&mut self, intent: Intent) {
        self.state.record.intent = intent;
        if let Err(error) = self.save() {
            warn!(%error, ?intent, "what is to become of the sandbox can't be recorded");
        }
    }

    /// Goes on with a shim: takes in what it has to tell from now on.
    pub(crate) async fn attend(&mut self, client: ShimClient, process: ShimProcess) -> Result<()> {
        let events = client.watch().await?;
        tokio::spawn(forward(events, self.mailbox.clone()));
        let (watched, mailbox) = (process.clone(), self.mailbox.clone());
        tokio::spawn(async move {
            watched.exited().await;
            let _ = mailbox.send(Message::ShimGone).await;
        });
        match &self.state.shim {
            // Who holds the dead one's connection talks with this one from now on.
            Some(former) => former.replace(&client),
            None => self.state.shim = Some(client),
        }
        self.process = Some(process);
        Ok(())
    }

    /// Takes a sandbox up again after a restart: its shim is asked what became of everything meanwhile.
    pub(crate) async fn resume(&mut self) -> Result<()> {
        let Some(found) = self.find_supervisor_or_try_again().await else {
            return Ok(());
        };
        let state = &found.state;
        self.take_in(state);
        self.unstart(state).await?;
        self.lose_unknown(state);
        self.abandon_execs(state);
        self.publish();
        self.is_supervised(found.is_another);
        Ok(())
    }

    /// What the shim knows, all at once.
    pub(crate) fn take_in(&mut self, state: &shim::StateResponse) {
        if let Some(pause) = state.pause.as_ref() {
            self.pause_is(pause);
        }
        for process in &state.containers {
            self.observe(process);
        }
    }

    /// Containers whose start was recorded and went no further: the node died before it had asked the shim for it, or
    /// between the two requests that make a start. They can be started still.
    pub(crate) async fn unstart(&mut self, state: &shim::StateResponse) -> Result<()> {
        let begun: Vec<ContainerId> = self
            .state
            .containers
            .values()
            .filter(|c| c.record.life == Life::Running { started_at_ns: 0 })
            .map(|c| c.record.id.clone())
            .collect();
        for id in begun {
            let known = state.containers.iter().find(|p| p.container_id == id.as_str());
            match known.map(|p| p.state.enum_value_or_default()) {
                None => {}
                Some(ProcessState::PROCESS_STATE_CREATED) => self.discard_task(&id).await?,
                Some(_) => continue,
            }
            self.change_container(&id, |c| c.record.life = Life::Created);
        }
        Ok(())
    }

    /// Ends a task that was created and not started.
    async fn discard_task(&self, id: &ContainerId) -> Result<()> {
        let Some(shim) = self.state.shim.clone() else {
            return Ok(());
        };
        shim.kill(id.as_str(), "", SIGKILL, true).await?;
        shim.wait(id.as_str(), "").await?;
        Ok(shim.delete(id.as_str(), "").await?)
    }

    /// Execs of the node that was here before: those who listened to them are gone with it.
    fn abandon_execs(&self, state: &shim::StateResponse) {
        let Some(shim) = &self.state.shim else { return };
        let known = state
            .execs
            .iter()
            .map(|p| (ContainerId::from(p.container_id.as_str()), p.exec_id.clone()));
        let mut execs: BTreeSet<(ContainerId, String)> = known.collect();
        for id in self.state.containers.keys() {
            let on_disk = crate::recovery::names(&self.dir.container(id).execs());
            execs.extend(on_disk.into_iter().map(|exec| (id.clone(), exec)));
        }
        for (id, exec) in execs {
            let dir = self.dir.container(&id).exec(&exec);
            tokio::spawn(crate::exec::abandon(shim.clone(), id, exec, dir));
        }
    }

    /// Containers that were started, and that the shim knows nothing of: their end went by unseen.
    pub(crate) fn lose_unknown(&mut self, state: &shim::StateResponse) {
        let lost: Vec<ContainerId> = self
            .state
            .containers
            .values()
            .filter(|c| c.is_running() && !state.containers.iter().any(|p| p.container_id == c.record.id.as_str()))
            .map(|c| c.record.id.clone())
            .collect();
        for id in lost {
            self.change_container(&id, |c| {
                c.end_unseen(
                    crate::clock::now_ns(),
                    "the container's end was not seen: its supervisor had no record of it, or the node was restarted meanwhile",
                );
            });
            self.node
                .events
                .tell(ContainerEventType::ContainerStoppedEvent, id.as_str(), &self.state);
        }
    }

    fn happened(&mut self, event: &shim::Event) {
        let process = event.process.get_or_default();
        match event.kind.enum_value_or_default() {
            Kind::KIND_NOTICE => {
                warn!(container = %process.container_id, "{}", process.message);
                self.tell_a_person(&process.container_id, &event.reason, process.message.clone());
            }
            Kind::KIND_OOM => info!(container = %process.container_id, "out of memory"),
            Kind::KIND_PRESENT | Kind::KIND_CREATED | Kind::KIND_STARTED | Kind::KIND_EXITED => {
                if process.container_id.is_empty() {
                    self.pause_is(process);
                } else if process.exec_id.is_empty() {
                    self.observe(process);
                }
            }
            Kind::KIND_SYNCED | Kind::KIND_UNSPECIFIED => {}
        }
    }

    /// Pause runs, or the sandbox has ended with it. One that has died and is replaced is not told of as having ended.
    fn pause_is(&mut self, process: &shim::Process) {
        match process.state.enum_value_or_default() {
            ProcessState::PROCESS_STATE_RUNNING => {
                self.hold(process);
                let pid = i32::try_from(process.pid).unwrap_or(0);
                self.state.pause = Some(ProcessName {
                    pid,
                    start_time_ticks: process.start_time_ticks,
                });
                self.publish();
            }
            ProcessState::PROCESS_STATE_EXITED => {
                self.state.pause = None;
                self.not_ready("pause has ended, and the sandbox with it");
                self.publish();
            }
            _ => {}
        }
    }

    fn observe(&mut self, process: &shim::Process) {
        let id = ContainerId::from(process.container_id.as_str());
        if process.state == ProcessState::PROCESS_STATE_RUNNING.into() && self.state.containers.contains_key(&id) {
            self.hold(process);
        }
        let mut change = None;
        let recorded = self.change_container(&id, |c| change = c.observe(process));
        let kind = match change {
            Some(Change::Started) => ContainerEventType::ContainerStartedEvent,
            Some(Change::Exited) => {
                self.held.release(&id);
                // Of an end that is not recorded here the shim is the only one who knows.
                if recorded {
                    self.forget_task(&id);
                }
                ContainerEventType::ContainerStoppedEvent
            }
            None => return,
        };
        debug!(container = %id, ?kind, exit_code = process.exit_code, "container has changed");
        self.node.events.tell(kind, id.as_str(), &self.state);
    }

    /// Lets the shim drop a container's task whose end is recorded here.
    fn forget_task(&self, id: &ContainerId) {
        let Some(shim) = self.state.shim.clone() else { return };
        let id = id.clone();
        tokio::spawn(async move {
            match shim.delete(id.as_str(), "").await {
                Err(e) if !e.is_not_found() && !e.is_gone() => {
                    warn!(container = %id, error = %e, "the task remains in the shim")
                }
                _ => {}
            }
        });
    }

    /// There is no shim. What it supervised goes on living, but nobody sees it end.
    pub(crate) fn leave_unattended(&mut self, attendance: Attendance) {
        for container in self.state.containers.values_mut() {
            if container.is_running() {
                Arc::make_mut(container).attendance = attendance;
            }
        }
        self.publish();
    }

    /// There is no shim, and there will be none.
    pub(crate) fn shim_gone(&mut self) {
        if self.state.shim.take().is_none() && self.process.is_none() && !matches!(self.state.phase, Phase::Ready) {
            return;
        }
        self.process = None;
        self.state.pause = None;
        self.leave_unattended(Attendance::Lost);
        self.not_ready("the pod's supervisor has ended");
    }

    fn not_ready(&mut self, why: &str) {
        if matches!(self.state.phase, Phase::Ready) {
            warn!(why, "sandbox is not ready any more");
            self.state.phase = Phase::NotReady;
            self.publish();
            self.tell(ContainerEventType::ContainerStoppedEvent);
        }
    }

    /// Changes a container, records and publishes it if it is there; whether the record is as the container is. One that
    /// can't be written is logged: what has happened has happened, and the shim has its own record of it.
    pub(crate) fn change_container(&mut self, id: &ContainerId, change: impl FnOnce(&mut Container)) -> bool {
        let Some(container) = self.state.containers.get_mut(id) else {
            return true;
        };
        let container = Arc::make_mut(container);
        let before = container.record.life.clone();
        change(container);
        let recorded = container.record.life == before || {
            let saved = record::save(&self.dir.container(id).record(), &container.record);
            match saved.and_then(|()| Ok(sys::failpoint!("container.exit.recorded")?)) {
                Ok(()) => true,
                Err(error) => {
                    error!(container = %id, %error, "the container's state can't be recorded");
                    false
                }
            }
        };
        self.publish();
        recorded
    }

    pub(crate) fn save(&self) -> Result<()> {
        Ok(record::save(&self.dir.record(), &self.state.record)?)
    }

    pub(super) fn set_phase(&mut self, phase: Phase) {
        self.state.phase = phase;
        self.publish();
    }

    /// Shows everyone the state as it is now.
    pub(crate) fn publish(&self) {
        self.published.send_replace(Arc::new(self.state.clone()));
    }

    /// Tells the subscribers about the sandbox itself.
    fn tell(&self, kind: ContainerEventType) {
        self.node.events.tell(kind, self.state.record.id.as_str(), &self.state);
    }

    /// Where its supervisor is.
    pub(crate) fn supervisors_cgroup(&self) -> String {
        self.node.config.supervisors_cgroup(&self.state.record)
    }

    pub(crate) fn node(&self) -> &Arc<Node> {
        &self.node
    }

    pub(crate) fn dir(&self) -> &SandboxDir {
        &self.dir
    }
}

/// A caller that has gone does not want the answer.
fn answer<T>(reply: Reply<T>, done: Result<T>) {
    let _ = reply.send(done.map_err(Into::into));
}

/// Brings what the shim tells into the owner's mailbox, in order, until the connection ends, or the shim cuts off who does not
/// keep up.
async fn forward(mut events: Events, mailbox: mpsc::Sender<Message>) {
    while let Ok(Some(event)) = events.recv().await {
        if mailbox.send(Message::Happened(Box::new(event))).await.is_err() {
            return;
        }
    }
    // An owner that has gone needs no connection.
    let _ = mailbox.send(Message::ConnectionLost).await;
}
