//! A SPDY connection: one task that reads frames and hands them to streams, one that writes what streams queued.
//!
//! A stream whose reader is slow stops the reading task, which is TCP's back-pressure towards the client. Pings tell when
//! a client is gone that sends nothing.

use std::{
    collections::{HashMap, HashSet},
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use futures_util::stream;
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf, split},
    sync::mpsc,
    task::JoinHandle,
    time::{MissedTickBehavior, interval, timeout},
};
use tokio_util::{
    io::StreamReader,
    sync::{CancellationToken, PollSender},
};

use super::{
    frame::{self, Incoming},
    headers::{Headers, Packer, Unpacker},
};

/// Streams that wait to be looked at.
const UNSEEN_MAX: usize = 16;
/// Streams that may be open at once.
const STREAMS_MAX: usize = 2048;
/// Frames of one stream that wait to be read by its process.
const INCOMING_MAX: usize = 8;
/// Frames that wait to be written to the client.
const OUTGOING_MAX: usize = 8;
/// The most bytes of output in one frame.
const DATA_MAX: usize = 16 * 1024;
/// How often a silent connection is tried.
const PING_INTERVAL: Duration = Duration::from_secs(20);
/// How long a client may take to read the last frames and to close.
const LINGER: Duration = Duration::from_secs(5);

/// What streams queue for the client.
enum Outgoing {
    Reply(u32),
    Data(u32, Bytes),
    End(u32),
    Pong(u32),
    /// Everything before it is written, then the connection ends.
    Close,
}

/// A connection at work.
pub struct Connection {
    opened: mpsc::Receiver<Stream>,
    queue: mpsc::Sender<Outgoing>,
    reader: JoinHandle<()>,
    writer: JoinHandle<()>,
    gone: CancellationToken,
}

impl Connection {
    /// Takes over a socket after its upgrade.
    pub fn start<S: AsyncRead + AsyncWrite + Send + Unpin + 'static>(socket: S) -> Connection {
        let (source, sink) = split(socket);
        let (queue, queued) = mpsc::channel(OUTGOING_MAX);
        let (open, opened) = mpsc::channel(UNSEEN_MAX);
        let gone = CancellationToken::new();
        Connection {
            opened,
            reader: tokio::spawn(read(source, open, queue.clone(), gone.clone())),
            writer: tokio::spawn(write(sink, queued, gone.clone())),
            queue,
            gone,
        }
    }

    /// The next stream that the client opens; `None` when it opens no more.
    pub async fn next(&mut self) -> Option<Stream> {
        self.opened.recv().await
    }

    /// Cancelled when the client is gone.
    pub fn gone(&self) -> CancellationToken {
        self.gone.clone()
    }

    /// Waits until the client has got everything, or has had time enough.
    pub async fn finish(self) {
        let Connection {
            opened,
            queue,
            mut reader,
            mut writer,
            gone: _,
        } = self;
        drop(opened);
        let abort = (reader.abort_handle(), writer.abort_handle());
        let both = async {
            let _ = queue.send(Outgoing::Close).await;
            let _ = (&mut writer).await;
            let _ = (&mut reader).await;
        };
        if timeout(LINGER, both).await.is_err() {
            abort.0.abort();
            abort.1.abort();
        }
    }
}

/// A stream that the client opened.
pub struct Stream {
    /// Its number: odd, and larger than those before it.
    pub number: u32,
    /// What the client says it is for.
    pub headers: Headers,
    input: mpsc::Receiver<Bytes>,
    queue: mpsc::Sender<Outgoing>,
}

impl Stream {
    /// The client's bytes, until it ends or resets the stream or goes away; and where bytes for it go.
    pub fn split(self) -> (impl AsyncRead + Send + Unpin + 'static, Writer) {
        let mut input = self.input;
        let reader = StreamReader::new(stream::poll_fn(move |context| {
            input.poll_recv(context).map(|bytes| bytes.map(io::Result::Ok))
        }));
        let writer = Writer {
            stream: self.number,
            queue: PollSender::new(self.queue),
        };
        (reader, writer)
    }
}

/// A stream towards the client. Its end is told by `shutdown`.
pub struct Writer {
    stream: u32,
    queue: PollSender<Outgoing>,
}

impl Writer {
    /// Another one of the same stream.
    pub fn another(&self) -> Writer {
        Writer {
            stream: self.stream,
            queue: self.queue.clone(),
        }
    }

    fn poll_queue(&mut self, context: &mut Context<'_>, message: impl FnOnce(u32) -> Outgoing) -> Poll<io::Result<()>> {
        let gone = || io::Error::new(io::ErrorKind::BrokenPipe, "the client is gone");
        ready!(self.queue.poll_reserve(context)).map_err(|_| gone())?;
        let message = message(self.stream);
        Poll::Ready(self.queue.send_item(message).map_err(|_| gone()))
    }
}

impl AsyncWrite for Writer {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let part = &bytes[..bytes.len().min(DATA_MAX)];
        ready!(self.poll_queue(context, |stream| Outgoing::Data(stream, Bytes::copy_from_slice(part))))?;
        Poll::Ready(Ok(part.len()))
    }

    /// The queue keeps the order, and [`Connection::finish`] waits until it is empty.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_queue(context, Outgoing::End)
    }
}

/// Hands frames to their streams until the client goes away or breaks the protocol.
async fn read<S: AsyncRead>(
    mut source: ReadHalf<S>,
    open: mpsc::Sender<Stream>,
    queue: mpsc::Sender<Outgoing>,
    gone: CancellationToken,
) {
    let mut streams = Streams {
        open: Some(open),
        inputs: HashMap::new(),
        last: 0,
        unpacker: Unpacker::new(),
        queue,
    };
    let result = async {
        while let Some(incoming) = frame::read(&mut source).await? {
            // Whoever waits for a stream's reader must still notice that the writing half has failed.
            match gone.run_until_cancelled(streams.take(incoming)).await {
                Some(taken) => taken?,
                None => break,
            }
        }
        io::Result::Ok(())
    }
    .await;
    if let Err(error) = result {
        tracing::debug!(%error, "a streaming client's connection");
    }
    gone.cancel();
}

/// The client's open streams.
struct Streams {
    /// `None` once the client opens no more.
    open: Option<mpsc::Sender<Stream>>,
    inputs: HashMap<u32, mpsc::Sender<Bytes>>,
    /// The number of the newest.
    last: u32,
    unpacker: Unpacker,
    queue: mpsc::Sender<Outgoing>,
}

impl Streams {
    async fn take(&mut self, incoming: Incoming) -> io::Result<()> {
        match incoming {
            Incoming::Open(number, headers, is_last) => self.open(number, &headers, is_last).await?,
            Incoming::Data(number, bytes, is_last) => {
                // Bytes for a stream that nobody reads are dropped.
                let wanted = match self.inputs.get(&number) {
                    Some(input) if !bytes.is_empty() => input.send(bytes).await.is_ok(),
                    _ => true,
                };
                if is_last || !wanted {
                    self.inputs.remove(&number);
                }
            }
            Incoming::Reset(number) => drop(self.inputs.remove(&number)),
            // Even numbers are ours: the answer to a ping of our own.
            Incoming::Ping(number) if number % 2 == 0 => {}
            Incoming::Ping(number) => drop(self.queue.send(Outgoing::Pong(number)).await),
            Incoming::GoAway => self.open = None,
            Incoming::Other => {}
        }
        Ok(())
    }

    async fn open(&mut self, number: u32, headers: &[u8], is_last: bool) -> io::Result<()> {
        let broken = |why| Err(io::Error::new(io::ErrorKind::InvalidData, why));
        let Some(headers) = self.unpacker.unpack(headers) else {
            return broken("a stream's headers can't be unpacked");
        };
        if self.inputs.len() >= STREAMS_MAX {
            return broken("too many streams are open");
        }
        let Some(open) = &self.open else {
            return broken("a stream after the last one");
        };
        if number.is_multiple_of(2) || number <= self.last {
            return broken("a stream's number is not odd, or not larger than those before it");
        }
        self.last = number;
        let (sender, input) = mpsc::channel(INCOMING_MAX);
        if !is_last {
            self.inputs.insert(number, sender);
        }
        let _ = self.queue.send(Outgoing::Reply(number)).await;
        let stream = Stream {
            number,
            headers,
            input,
            queue: self.queue.clone(),
        };
        // Nobody looks any more when the work has ended.
        let _ = open.send(stream).await;
        Ok(())
    }
}

/// Writes what is queued, until the connection is to be closed or breaks.
async fn write<S: AsyncWrite>(mut sink: WriteHalf<S>, mut queue: mpsc::Receiver<Outgoing>, gone: CancellationToken) {
    let mut ping = interval(PING_INTERVAL);
    ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ping.reset();
    let mut packer = Packer::new();
    let mut last = 0;
    let mut ended = HashSet::new();
    let result = async {
        loop {
            let bytes = tokio::select! {
                message = queue.recv() => match message {
                    Some(Outgoing::Reply(stream)) => {
                        last = stream;
                        frame::reply(stream, &packer.pack_empty()?)
                    }
                    Some(Outgoing::Data(stream, _)) if ended.contains(&stream) => continue,
                    Some(Outgoing::Data(stream, bytes)) => frame::data(stream, &bytes),
                    Some(Outgoing::End(stream)) if !ended.insert(stream) => continue,
                    Some(Outgoing::End(stream)) => frame::end(stream),
                    Some(Outgoing::Pong(number)) => frame::ping(number),
                    Some(Outgoing::Close) | None => {
                        sink.write_all(&frame::go_away(last)).await?;
                        return sink.shutdown().await;
                    }
                },
                _ = ping.tick() => frame::ping(2),
            };
            sink.write_all(&bytes).await?;
            // Inside a WebSocket, what is written waits for this.
            sink.flush().await?;
        }
    }
    .await;
    if result.is_err() {
        gone.cancel();
    }
}
