//! The network of one node: who has what, and the order in which it is acquired and given back.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::DirEntry;
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::bridge::{self, Bridge, Claim, firewall_refused, has_ipv6};
use crate::conntrack;
use crate::error::Doing;
use crate::firewall::{Firewall, Published};
use crate::link::{Links, POD_LINK, mac_of, mac_text};
use crate::pool::Pool;
use crate::ports::{self, Held};
use crate::records::{AttachmentRecord, Records, make_directory};
use crate::{Attachment, Config, Error, PortMapping, Remainder, Result};

/// Longest sandbox id.
const ID_MAX: usize = 128;

/// The network of one node.
///
/// Calls for different sandboxes may come at the same time from many threads; calls for one sandbox come one after
/// another (its owner's duty). Links are made outside of any lock: the kernel has its own.
#[derive(Debug)]
pub struct Network {
    config: Config,
    records: Records,
    firewall: Firewall,
    table: Mutex<Table>,
    /// The bridge while it is up, and the right to change nf_tables. Locked before `table` where both are.
    bridge: Mutex<Uplink>,
}

/// Who has what. Addresses and ports are taken here first, in memory and on disk, then on the machine.
#[derive(Debug)]
struct Table {
    pool: Pool,
    attachments: BTreeMap<String, AttachmentRecord>,
    held: Held,
    /// Sandboxes whose ports are being given back: held still, published no more.
    withdrawing: BTreeSet<String>,
}

impl Table {
    /// Refuses ports that another sandbox than `id` has, or that are wanted twice.
    fn check_ports(&self, id: &str, wanted: &[PortMapping]) -> Result<()> {
        let others = self.attachments.iter().filter(|(other, _)| *other != id);
        let holders = others.map(|(_, record)| (record.holder.as_str(), record.ports.as_slice()));
        if let Some((mapping, holder)) = ports::find_clash(wanted, holders) {
            let (port, protocol) = (mapping.host_port, mapping.protocol);
            return Err(Error::PortPublished {
                port,
                protocol,
                holder: holder.to_owned(),
            });
        }
        ports::check_among_themselves(wanted)
    }
}

#[derive(Debug, Default)]
struct Uplink {
    claim: Option<Claim>,
    bridge: Option<Bridge>,
}

impl Network {
    /// Opens the network whose state is in `config.state_dir` and recovers it: attachments whose namespace is gone are
    /// released, host ports are bound again and nf_tables is rebuilt from the records.
    pub fn open(config: Config) -> Result<Network> {
        let records = Records::open(&config.state_dir)?;
        make_directory(&config.netns_dir)?;
        let firewall = Firewall::new(&config.bridge, config.subnet);
        let pool = Pool::new(config.subnet, records.last_address());
        let table = Table {
            pool,
            attachments: BTreeMap::new(),
            held: Held::default(),
            withdrawing: BTreeSet::new(),
        };
        let network = Network {
            config,
            records,
            firewall,
            table: Mutex::new(table),
            bridge: Mutex::new(Uplink::default()),
        };
        network.recover()?;
        Ok(network)
    }

    fn recover(&self) -> Result<()> {
        for (id, record) in self.records.attachments()? {
            let alive = sys::netns::open(&self.namespace_path(&id)).is_ok_and(|f| sys::netns::is_namespace(f.as_fd()));
            let mut table = self.table();
            if !alive || !table.pool.mark(record.address) {
                drop(table);
                tracing::info!(sandbox = id, address = %record.address, "attachment without a namespace released");
                if let Err(error) = self.records.remove(&id) {
                    tracing::warn!(sandbox = id, %error, "its record remains");
                }
                continue;
            }
            // The pod was there first, so its ports stay published even if somebody took one while no node ran.
            let mut sockets = Vec::new();
            for mapping in &record.ports {
                match ports::bind(mapping, false) {
                    Ok(socket) => sockets.push(socket),
                    Err(error) => tracing::warn!(sandbox = id, %error, "a published port could not be held again"),
                }
            }
            table.held.keep(&id, sockets);
            table.attachments.insert(id, record);
        }
        if self.table().attachments.is_empty() {
            // What a killed node left of a bridge that nobody uses, and the ports that its table still gives away.
            if let Err(error) = self.close_if_unused() {
                tracing::warn!(%error, "the bridge of before remains");
            }
            return Ok(());
        }
        self.uplink().map(drop)
    }

    /// The path that sandbox `id`'s net namespace is, or would be, bound to.
    pub fn namespace_path(&self, id: &str) -> PathBuf {
        self.config.netns_dir.join(id)
    }

    /// The path that sandbox `id`'s user namespace is, or would be, bound to.
    pub fn user_namespace_path(&self, id: &str) -> PathBuf {
        self.user_namespaces().join(id)
    }

    /// Beside the net namespaces; there only while a pod has one.
    fn user_namespaces(&self) -> PathBuf {
        self.config.netns_dir.with_file_name("userns")
    }

    /// Makes a user namespace with these maps for sandbox `id`, and its net namespace inside it: so that the pod's root
    /// may configure it, and mount its /sys. Then as [`Self::make_namespace`]. Idempotent.
    pub fn make_namespace_in(&self, id: &str, maps: &sys::userns::Maps) -> Result<PathBuf> {
        check_id(id)?;
        let (user, net) = (self.user_namespace_path(id), self.namespace_path(id));
        let doing = || format!("make the user and net namespaces of sandbox {id}");
        let is_net = |path: &PathBuf| sys::netns::open(path).is_ok_and(|file| sys::netns::is_namespace(file.as_fd()));
        if !(sys::userns::is_bound(&user) && is_net(&net)) {
            // Left by a crash half-way.
            for path in [&user, &net] {
                sys::netns::remove_bound(path).doing(doing)?;
            }
            make_directory(&self.user_namespaces())?;
            sys::userns::make_bound(maps, &user, Some(&net)).doing(doing)?;
        }
        let namespace = sys::netns::open(&net).doing(doing)?;
        sys::netns::within(namespace.as_fd(), set_up_namespace)
            .and_then(|inside| inside)
            .doing(doing)?;
        Ok(net)
    }

    /// Makes a net namespace for sandbox `id` with its loopback up, and returns its path. Idempotent.
    pub fn make_namespace(&self, id: &str) -> Result<PathBuf> {
        check_id(id)?;
        let path = self.namespace_path(id);
        if let Ok(file) = sys::netns::open(&path) {
            if sys::netns::is_namespace(file.as_fd()) {
                return Ok(path);
            }
            // Left by a crash between making the file and binding the namespace on it.
            sys::netns::remove_bound(&path).doing(|| format!("make the net namespace of sandbox {id}"))?;
        }
        sys::netns::make_bound(&path, set_up_namespace).doing(|| format!("make the net namespace of sandbox {id}"))?;
        sys::failpoint!("network.namespace.bound").doing(|| format!("make the net namespace of sandbox {id}"))?;
        Ok(path)
    }

    /// Connects sandbox `id`'s namespace to the bridge and publishes `ports`. Repeating it for an attached sandbox
    /// returns what is there. On failure everything it acquired is given back; the namespace stays.
    pub fn attach(&self, id: &str, ports: &[PortMapping]) -> Result<Attachment> {
        self.attach_as(id, &format!("sandbox {id}"), ports)
    }

    /// The same, with what to call the sandbox when another one wants its ports: `pod default/web`.
    pub fn attach_as(&self, id: &str, holder: &str, ports: &[PortMapping]) -> Result<Attachment> {
        check_id(id)?;
        ports.iter().try_for_each(ports::check)?;
        if let Some(attachment) = self.attachment(id) {
            return Ok(attachment);
        }
        let path = self.namespace_path(id);
        let namespace = sys::netns::open(&path)
            .ok()
            .filter(|file| sys::netns::is_namespace(file.as_fd()))
            .ok_or_else(|| Error::NoNamespace {
                id: id.to_owned(),
                path,
            })?;
        let record = self.reserve(id, holder, ports)?;
        let outcome = self.connect(id, &record, &namespace);
        if outcome.is_err() {
            self.disconnect(id, &record);
        }
        outcome.map(|()| self.describe(&record))
    }

    /// Whether a sandbox could publish `ports` now: the error that `attach` would give. Nothing is kept.
    pub fn check_ports(&self, ports: &[PortMapping]) -> Result<()> {
        ports.iter().try_for_each(ports::check)?;
        self.table().check_ports("", ports)?;
        for mapping in ports {
            let just_closed = self.table().held.closed_just_now(mapping);
            drop(ports::bind(mapping, just_closed)?);
        }
        self.table().held.note_closed(ports);
        Ok(())
    }

    /// Takes an address and the ports, and writes down that sandbox `id` has them. An unfinished attachment that is
    /// already there (of a crash) is continued, with its address.
    fn reserve(&self, id: &str, holder: &str, ports: &[PortMapping]) -> Result<AttachmentRecord> {
        let mut table = self.table();
        table.check_ports(id, ports)?;
        let address = match table.attachments.get(id) {
            Some(unfinished) => unfinished.address,
            None => {
                let (subnet, count) = (self.config.subnet, table.pool.capacity());
                table.pool.take().ok_or(Error::Exhausted { subnet, count })?
            }
        };
        let record = AttachmentRecord {
            address,
            host_link: host_link(id),
            holder: holder.to_owned(),
            ports: ports.to_vec(),
            attached: false,
        };
        let saved = self
            .records
            .save_last_address(address)
            .and_then(|()| self.records.save(id, &record));
        if let Err(error) = saved {
            table.pool.give_back(address);
            table.attachments.remove(id);
            // It may be there, though it is not known to be durable.
            if let Err(failure) = self.records.remove(id) {
                tracing::warn!(sandbox = id, %failure, "the record of a failed attachment remains");
            }
            return Err(error);
        }
        table.attachments.insert(id.to_owned(), record.clone());
        Ok(record)
    }

    fn connect(&self, id: &str, record: &AttachmentRecord, namespace: &OwnedFd) -> Result<()> {
        let doing = || format!("connect sandbox {id}");
        sys::failpoint!("network.attach.reserved").doing(doing)?;
        let mut sockets = Vec::with_capacity(record.ports.len());
        for mapping in &record.ports {
            let just_closed = self.table().held.closed_just_now(mapping);
            sockets.push(ports::bind(mapping, just_closed)?);
        }
        self.table().held.keep(id, sockets);
        sys::failpoint!("network.attach.held").doing(doing)?;
        self.link(id, record, namespace)?;
        sys::failpoint!("network.attach.configured").doing(doing)?;
        self.publish(record)?;
        sys::failpoint!("network.attach.published").doing(doing)?;
        let mut table = self.table();
        let finished = AttachmentRecord {
            attached: true,
            ..record.clone()
        };
        self.records.save(id, &finished)?;
        table.attachments.insert(id.to_owned(), finished);
        drop(table);
        sys::failpoint!("network.attach.recorded").doing(doing)
    }

    /// Makes the veth pair and configures both ends.
    fn link(&self, id: &str, record: &AttachmentRecord, namespace: &OwnedFd) -> Result<()> {
        let doing = || format!("connect sandbox {id} to bridge {}", self.config.bridge);
        let (host, mac) = (record.host_link.as_str(), mac_of(record.address));
        let links = Links::open().doing(doing)?;
        let (mut bridge, mut mtu) = self.uplink()?;
        let mut made = links.create_veth(host, bridge, mtu, namespace.as_fd(), mac);
        match &made {
            // An attempt before this one was cut short. Deleting either end deletes both.
            Err(e) if e.errno == rustix::io::Errno::EXIST => {
                links.delete(host).doing(doing)?;
                made = links.create_veth(host, bridge, mtu, namespace.as_fd(), mac);
            }
            // Somebody took the bridge away: make it again, once.
            Err(e) if matches!(e.errno, rustix::io::Errno::NODEV | rustix::io::Errno::INVAL) => {
                self.bridge().bridge = None;
                (bridge, mtu) = self.uplink()?;
                made = links.create_veth(host, bridge, mtu, namespace.as_fd(), mac);
            }
            _ => {}
        }
        made.doing(doing)?;
        sys::failpoint!("network.attach.linked").doing(doing)?;
        let index = links.find(host).doing(doing)?.map_or(0, |link| link.index);
        links.set_up_port(host, index, mac, has_ipv6()).doing(doing)?;
        let (subnet, address) = (self.config.subnet, record.address);
        sys::netns::within(namespace.as_fd(), || {
            let links = Links::open()?;
            let index = links.find(POD_LINK)?.map_or(0, |link| link.index);
            links.set_up_pod(index, address, subnet.prefix(), subnet.gateway())
        })
        .and_then(|inside| inside)
        .doing(doing)
    }

    fn publish(&self, record: &AttachmentRecord) -> Result<()> {
        if record.ports.is_empty() {
            return Ok(());
        }
        let _right = self.bridge();
        if self.firewall.publish(&published(record)).is_err() {
            // The table is not as it was left (a `nft flush ruleset`?): make it whole again.
            self.firewall.rebuild(&self.all_published()).map_err(firewall_refused)?;
        }
        conntrack::forget_in_background(&record.ports);
        Ok(())
    }

    /// The attachment of sandbox `id`, if it has one.
    pub fn attachment(&self, id: &str) -> Option<Attachment> {
        let table = self.table();
        table
            .attachments
            .get(id)
            .filter(|record| record.attached)
            .map(|record| self.describe(record))
    }

    fn describe(&self, record: &AttachmentRecord) -> Attachment {
        Attachment {
            ips: vec![IpAddr::V4(record.address)],
            mac: mac_text(mac_of(record.address)),
            interface: POD_LINK.to_owned(),
            gateway: IpAddr::V4(self.config.subnet.gateway()),
            ports: record.ports.clone(),
        }
    }

    /// Undoes an attachment that failed half-way. The pod's namespace stays, so its link must be deleted by hand: the one
    /// place that waits for it.
    fn disconnect(&self, id: &str, record: &AttachmentRecord) {
        if let Err(error) = Links::open().and_then(|links| links.delete(&record.host_link)) {
            tracing::warn!(sandbox = id, link = record.host_link, %error, "link of a failed attachment not deleted");
        }
        if let Err(error) = self.give_back(id) {
            tracing::warn!(sandbox = id, %error, "failed attachment not fully undone");
        }
    }

    /// Gives back all that sandbox `id` has: ports, address, link, namespace. Idempotent; attempts everything and reports the
    /// first failure. At its return the address and the ports can be used again; the kernel collects the
    /// links with the namespace, later.
    pub fn release(&self, id: &str) -> Result<()> {
        check_id(id)?;
        let removed = sys::netns::remove_bound(&self.namespace_path(id))
            .and_then(|()| sys::failpoint!("network.release.unbound"))
            .doing(|| format!("remove the net namespace of sandbox {id}"));
        let user = sys::netns::remove_bound(&self.user_namespace_path(id))
            .doing(|| format!("remove the user namespace of sandbox {id}"));
        // Gone with the last of them.
        let _ = std::fs::remove_dir(self.user_namespaces());
        let given_back = self.give_back(id);
        removed.and(user).and(given_back)
    }

    /// Ports first, then the record, then the address: what is free in memory is free on the machine.
    fn give_back(&self, id: &str) -> Result<()> {
        let Some(record) = self.table().attachments.get(id).cloned() else {
            // A record that is on disk and not in memory can't be: `open` reads them all.
            return Ok(());
        };
        let doing = || format!("give back what sandbox {id} has");
        let withdrawn = self
            .withdraw(id, &record)
            .and_then(|()| sys::failpoint!("network.release.withdrawn").doing(doing));
        let mut table = self.table();
        table.held.let_go(id, &record.ports);
        table.withdrawing.remove(id);
        let forgotten = self.records.remove(id);
        if forgotten.is_ok() {
            table.attachments.remove(id);
            table.pool.give_back(record.address);
        }
        drop(table);
        let reached = sys::failpoint!("network.release.forgotten").doing(doing);
        withdrawn.and(forgotten).and(reached)
    }

    fn withdraw(&self, id: &str, record: &AttachmentRecord) -> Result<()> {
        if record.ports.is_empty() {
            return Ok(());
        }
        let _right = self.bridge();
        self.table().withdrawing.insert(id.to_owned());
        if self.firewall.withdraw(&published(record)).is_err() {
            // Not all were there: an attachment that never got so far, or a table that somebody changed.
            self.firewall.rebuild(&self.all_published()).map_err(firewall_refused)?;
        }
        Ok(())
    }

    /// What is still held, for whoever cleans up after a crash.
    pub fn remaining(&self) -> Vec<Remainder> {
        let mut remaining: Vec<_> = self
            .table()
            .attachments
            .keys()
            .cloned()
            .map(Remainder::Attachment)
            .collect();
        if let Ok(entries) = std::fs::read_dir(&self.config.netns_dir) {
            let names = entries
                .flatten()
                .filter_map(|entry: DirEntry| entry.file_name().into_string().ok());
            remaining.extend(names.map(Remainder::Namespace));
        }
        remaining.sort();
        remaining
    }

    /// Removes the bridge and the nf_tables table if no attachment is left; returns whether none is.
    pub fn close_if_unused(&self) -> Result<bool> {
        // Both locks: nobody attaches meanwhile.
        let mut uplink = self.bridge();
        let table = self.table();
        if !table.attachments.is_empty() {
            return Ok(false);
        }
        if uplink.claim.is_none() {
            match Claim::take(&self.config.bridge) {
                Ok(claim) => uplink.claim = Some(claim),
                // Another node's: not ours to remove.
                Err(Error::BridgeTaken { .. }) => return Ok(true),
                Err(error) => return Err(error),
            }
        }
        uplink.bridge = None;
        let removed = bridge::remove(&self.config, &self.firewall);
        uplink.claim = None;
        drop(table);
        removed.map(|()| true)
    }

    /// Index and MTU of the bridge, which is made if it isn't there.
    fn uplink(&self) -> Result<(u32, u32)> {
        let mut uplink = self.bridge();
        if let Some(bridge) = &uplink.bridge {
            return Ok((bridge.index, bridge.mtu));
        }
        if uplink.claim.is_none() {
            uplink.claim = Some(Claim::take(&self.config.bridge)?);
        }
        let bridge = match bridge::set_up(&self.config, &self.firewall, &self.all_published()) {
            Ok(bridge) => bridge,
            Err(error) => {
                if self.connected().is_empty() {
                    uplink.claim = None;
                }
                return Err(error);
            }
        };
        if bridge.is_new {
            self.reconnect(bridge.index)?;
        }
        let answer = (bridge.index, bridge.mtu);
        uplink.bridge = Some(bridge);
        Ok(answer)
    }

    /// Somebody deleted the bridge under running pods: connects them to the new one. Attempts all.
    fn reconnect(&self, bridge: u32) -> Result<()> {
        let doing = || format!("reconnect the pods to bridge {}", self.config.bridge);
        let links = Links::open().doing(doing)?;
        let mut outcome = Ok(());
        for record in self.connected() {
            let mac = mac_of(record.address);
            let reconnected = links.reconnect_port(&record.host_link, bridge, mac, has_ipv6());
            outcome = outcome.and(reconnected.doing(doing));
        }
        outcome
    }

    fn connected(&self) -> Vec<AttachmentRecord> {
        self.table()
            .attachments
            .values()
            .filter(|record| record.attached)
            .cloned()
            .collect()
    }

    /// All ports that should be published now.
    fn all_published(&self) -> Vec<Published> {
        let table = self.table();
        let wanted = table
            .attachments
            .iter()
            .filter(|(id, _)| !table.withdrawing.contains(*id));
        wanted.flat_map(|(_, record)| published(record)).collect()
    }

    // A panic while a lock is held leaves the table as far as it got, and the records say the same: going on is right.
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn bridge(&self) -> MutexGuard<'_, Uplink> {
        self.bridge.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a new net namespace needs, done by a thread inside it.
fn set_up_namespace() -> sys::Result<()> {
    if has_ipv6() {
        // Links that this namespace gets from now on have no link-local address: they carry IPv4 only.
        let _ = std::fs::write("/proc/sys/net/ipv6/conf/default/addr_gen_mode", "1");
    }
    Links::open()?.loopback_up()
}

fn published(record: &AttachmentRecord) -> Vec<Published> {
    record
        .ports
        .iter()
        .map(|mapping| Published {
            mapping: *mapping,
            pod: record.address,
        })
        .collect()
}

/// The host's end of a sandbox's veth: `hv` and the start of its id, by which a person finds it; a hash where the id is
/// not a random one. 15 bytes is what a link's name may have.
fn host_link(id: &str) -> String {
    if id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit()) {
        return format!("hv{}", &id[..13]);
    }
    // FNV-1a: the name must be the same in every release.
    let hash = id.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    format!("hv{:013x}", hash & 0xf_ffff_ffff_ffff)
}

/// An id becomes a file's name.
fn check_id(id: &str) -> Result<()> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if id.is_empty() || id.len() > ID_MAX || id.starts_with('.') || !id.chars().all(allowed) {
        return Err(Error::BadId { id: id.to_owned() });
    }
    Ok(())
}
