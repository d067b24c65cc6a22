//! Single-use tickets: what the path of a streaming URL ends in.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use cri::v1::PortForwardRequest;

use crate::session::Command;

/// How long a ticket can be shown after it was made.
pub const TICKET_LIFETIME: Duration = Duration::from_secs(60);
/// How many tickets may wait to be shown. A caller that makes more without using them is refused.
pub const TICKETS_MAX: usize = 1000;

/// The work that a ticket stands for.
#[derive(Debug, Clone, PartialEq)]
pub enum Work {
    /// A process's streams.
    Command(Command),
    /// Connections to a sandbox's loopback.
    PortForward(PortForwardRequest),
}

/// Why no ticket was made.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// [`TICKETS_MAX`] tickets wait to be used.
    #[error("{TICKETS_MAX} streaming requests wait to be connected to; try again in a minute")]
    Full,
    /// The kernel gave no random bytes.
    #[error("getrandom: {0}")]
    Random(getrandom::Error),
}

/// The tickets that wait. Time is the caller's, so that expiry is tested without waiting.
#[derive(Debug, Default)]
pub struct Tickets {
    waiting: HashMap<String, (Instant, Work)>,
}

impl Tickets {
    /// Makes a ticket for `work`: 128 random bits in hexadecimal.
    pub fn issue(&mut self, work: Work, now: Instant) -> Result<String, Error> {
        if self.waiting.len() >= TICKETS_MAX {
            self.waiting
                .retain(|_, (made, _)| now.duration_since(*made) < TICKET_LIFETIME);
        }
        if self.waiting.len() >= TICKETS_MAX {
            return Err(Error::Full);
        }
        let mut random = [0u8; 16];
        getrandom::fill(&mut random).map_err(Error::Random)?;
        let ticket = hex::encode(random);
        self.waiting.insert(ticket.clone(), (now, work));
        Ok(ticket)
    }

    /// Takes the work that `ticket` stands for; the ticket is void from then on.
    pub fn redeem(&mut self, ticket: &str, now: Instant) -> Option<Work> {
        let (made, work) = self.waiting.remove(ticket)?;
        (now.duration_since(made) < TICKET_LIFETIME).then_some(work)
    }
}

#[cfg(test)]
mod tests {
    use cri::v1::ExecRequest;

    use super::*;

    fn work() -> Work {
        Work::Command(Command::Exec(ExecRequest {
            container_id: "c".into(),
            ..Default::default()
        }))
    }

    #[test]
    fn a_ticket_works_once() {
        let mut tickets = Tickets::default();
        let now = Instant::now();
        let ticket = tickets.issue(work(), now).unwrap();
        assert_eq!(ticket.len(), 32);
        assert_eq!(tickets.redeem(&ticket, now), Some(work()));
        assert_eq!(tickets.redeem(&ticket, now), None);
    }

    #[test]
    fn a_ticket_expires() {
        let mut tickets = Tickets::default();
        let now = Instant::now();
        let ticket = tickets.issue(work(), now).unwrap();
        assert_eq!(tickets.redeem(&ticket, now + TICKET_LIFETIME), None);
    }

    #[test]
    fn tickets_are_limited_and_expired_ones_make_room() {
        let mut tickets = Tickets::default();
        let now = Instant::now();
        for _ in 0..TICKETS_MAX {
            tickets.issue(work(), now).unwrap();
        }
        assert_eq!(tickets.issue(work(), now), Err(Error::Full));
        assert!(tickets.issue(work(), now + TICKET_LIFETIME).is_ok());
    }
}
