//! How a connection asks the state machine, and waits for its answer.

use jiff::Timestamp;
use protobuf::MessageField;
use protobuf::well_known_types::timestamp;
use tokio::sync::{mpsc, oneshot};

use crate::event::{Reply, Request};
use crate::failure::Failure;

/// The way to the state machine; a connection's handlers share it.
#[derive(Debug, Clone)]
pub struct Door(mpsc::Sender<Request>);

impl Door {
    /// A door whose requests arrive at the other end of `requests`.
    pub fn new(requests: mpsc::Sender<Request>) -> Door {
        Door(requests)
    }

    /// Asks, and waits. The request is made with the place where its answer goes.
    pub async fn ask<T>(&self, request: impl FnOnce(Reply<T>) -> Request) -> ttrpc::Result<T> {
        let (reply, answer) = oneshot::channel();
        self.0.send(request(reply)).await.map_err(|_| Failure::ShuttingDown)?;
        let answer = answer.await.map_err(|_| Failure::ShuttingDown)?;
        Ok(answer?)
    }
}

/// A time for the wire. Zero: none.
pub fn wire_time(ns: i64) -> MessageField<timestamp::Timestamp> {
    let Ok(at) = Timestamp::from_nanosecond(ns.into()) else {
        return MessageField::none();
    };
    if ns == 0 {
        return MessageField::none();
    }
    let mut wire = timestamp::Timestamp::new();
    wire.seconds = at.as_second();
    wire.nanos = at.subsec_nanosecond();
    Some(wire).into()
}
