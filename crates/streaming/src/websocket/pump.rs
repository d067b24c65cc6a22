//! A WebSocket's two halves, and the streams that are made of its channels.
//!
//! The writing half is one task behind a bounded queue, so that messages of several channels never mix and the outcome
//! comes after all output. The reading half hands bytes to the channels; a channel whose reader is slow stops it, which
//! is TCP's back-pressure towards the client. Pings tell when a client is gone that sends nothing.

use std::{
    collections::HashMap,
    future::Future,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use cri::streaming::{Input, Output, StreamIo, TerminalSize};
use futures_util::{
    SinkExt, StreamExt,
    stream::{self, SplitSink, SplitStream},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::{MissedTickBehavior, interval, timeout},
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Message, Utf8Bytes,
        protocol::{CloseFrame, frame::coding::CloseCode},
    },
};
use tokio_util::{
    io::StreamReader,
    sync::{CancellationToken, PollSender},
};

use super::dialect::{Dialect, ERROR, FRAME_MAX, Incoming, RESIZE, STDERR, STDIN, STDOUT, terminal_size};
use crate::{
    session::{CommandStreams, ForwardedPort, Report, Wanted},
    status::Outcome,
};

/// Messages that wait to be written to the client.
const OUTGOING_MAX: usize = 8;
/// Messages of one channel that wait to be read by the process.
const INCOMING_MAX: usize = 8;
/// Sizes that wait to be applied; more are dropped, since the last one counts and another follows.
const RESIZES_MAX: usize = 16;
/// How often a silent connection is tried.
const PING_INTERVAL: Duration = Duration::from_secs(20);
/// How long a client may take to read the last messages and to close. A connection that is closed with unread bytes
/// on our side is reset by the kernel, and the client would lose the outcome.
const LINGER: Duration = Duration::from_secs(5);

/// A connection whose channels are being set up.
pub struct Connection<S> {
    socket: WebSocketStream<S>,
    dialect: Dialect,
    outgoing: mpsc::Sender<Message>,
    queue: mpsc::Receiver<Message>,
    channels: HashMap<u8, mpsc::Sender<Bytes>>,
    resize: Option<mpsc::Sender<TerminalSize>>,
    greeting: Vec<Message>,
    next_channel: u8,
    gone: CancellationToken,
}

/// A connection at work.
pub struct Running {
    reader: JoinHandle<()>,
    writer: JoinHandle<()>,
}

impl<S: AsyncRead + AsyncWrite + Send + Unpin + 'static> Connection<S> {
    /// Takes over a socket after its handshake.
    pub fn new(socket: WebSocketStream<S>, dialect: Dialect) -> Self {
        let (outgoing, queue) = mpsc::channel(OUTGOING_MAX);
        Connection {
            socket,
            dialect,
            outgoing,
            queue,
            channels: HashMap::new(),
            resize: None,
            greeting: Vec::new(),
            next_channel: 0,
            gone: CancellationToken::new(),
        }
    }

    /// The streams of an exec or an attach.
    pub fn command(&mut self, wanted: Wanted) -> CommandStreams {
        let (resize, sizes) = mpsc::channel(RESIZES_MAX);
        self.resize = Some(resize);
        // Tells the client that the streams are there, before the process says anything.
        let lowest = if wanted.stdout {
            STDOUT
        } else if wanted.stderr {
            STDERR
        } else {
            ERROR
        };
        self.greeting.push(self.dialect.encode(lowest, &[]));
        let io = StreamIo {
            stdin: wanted.stdin.then(|| Box::new(self.input(STDIN, None)) as Input),
            stdout: wanted.stdout.then(|| Box::new(self.output(STDOUT)) as Output),
            stderr: wanted.stderr.then(|| Box::new(self.output(STDERR)) as Output),
            resize: sizes,
        };
        CommandStreams {
            io,
            report: Box::new(self.reporter(ERROR)),
            gone: self.gone.clone(),
        }
    }

    /// The next port of a port-forward: a data and an error channel, each opened by a message that names the port.
    pub fn forward(&mut self, port: u16) -> ForwardedPort {
        let data = self.next_channel;
        let error = data.saturating_add(1);
        self.next_channel = data.saturating_add(2);
        for channel in [data, error] {
            self.greeting.push(self.dialect.encode(channel, &port.to_le_bytes()));
        }
        // These protocols can't tell the client that only one direction has ended (version 5 can, from the client's side
        // alone), so the end of what the port sends ends both.
        let (ended, end) = oneshot::channel();
        let output = ChannelWriter {
            shutdown: Some(ended),
            ..self.output(data)
        };
        let stream = Box::new(tokio::io::join(self.input(data, Some(end)), output));
        ForwardedPort {
            port,
            stream,
            report: Box::new(self.reporter(error)),
        }
    }

    /// Starts both halves. From now on only the streams hold the queue: when the last is dropped, the writer closes.
    pub fn run(self) -> Running {
        let Connection {
            socket,
            dialect,
            outgoing: _,
            queue,
            channels,
            resize,
            greeting,
            next_channel: _,
            gone,
        } = self;
        let (sink, source) = socket.split();
        Running {
            reader: tokio::spawn(read(source, dialect, channels, resize, gone.clone())),
            writer: tokio::spawn(write(sink, greeting, queue, gone)),
        }
    }

    /// The client's bytes on `channel`, until it closes the channel, goes away, or `end` comes.
    fn input(
        &mut self,
        channel: u8,
        mut end: Option<oneshot::Receiver<()>>,
    ) -> impl AsyncRead + Send + Unpin + 'static {
        let (sender, mut receiver) = mpsc::channel(INCOMING_MAX);
        self.channels.insert(channel, sender);
        StreamReader::new(stream::poll_fn(move |context| {
            if let Poll::Ready(bytes) = receiver.poll_recv(context) {
                return Poll::Ready(bytes.map(io::Result::Ok));
            }
            let ended = end.as_mut().is_some_and(|end| Pin::new(end).poll(context).is_ready());
            if !ended {
                return Poll::Pending;
            }
            end = None;
            receiver.close();
            Poll::Ready(None)
        }))
    }

    fn output(&self, channel: u8) -> ChannelWriter {
        ChannelWriter {
            channel,
            dialect: self.dialect,
            queue: PollSender::new(self.outgoing.clone()),
            shutdown: None,
        }
    }

    fn reporter(&self, channel: u8) -> ErrorChannel {
        ErrorChannel {
            channel,
            dialect: self.dialect,
            queue: self.outgoing.clone(),
        }
    }
}

impl Running {
    /// Waits until the client has got everything, or has had time enough.
    pub async fn finish(self) {
        let Running { mut reader, mut writer } = self;
        let abort = (reader.abort_handle(), writer.abort_handle());
        let both = async {
            let _ = (&mut writer).await;
            let _ = (&mut reader).await;
        };
        if timeout(LINGER, both).await.is_err() {
            abort.0.abort();
            abort.1.abort();
        }
    }
}

/// Hands messages to their channels until the client closes or breaks the protocol.
async fn read<S: AsyncRead + AsyncWrite + Unpin>(
    mut source: SplitStream<WebSocketStream<S>>,
    dialect: Dialect,
    mut channels: HashMap<u8, mpsc::Sender<Bytes>>,
    resize: Option<mpsc::Sender<TerminalSize>>,
    gone: CancellationToken,
) {
    while let Some(Ok(message)) = source.next().await {
        match dialect.decode(message) {
            Ok(Some(Incoming::Data(RESIZE, payload))) if resize.is_some() => {
                if let (Some(resize), Some(size)) = (&resize, terminal_size(&payload)) {
                    let _ = resize.try_send(size);
                }
            }
            Ok(Some(Incoming::Data(channel, payload))) => {
                // An empty message is no end of file, and bytes for a channel that nobody reads are dropped.
                if let (Some(stream), false) = (channels.get(&channel), payload.is_empty()) {
                    let delivered = tokio::select! {
                        delivered = stream.send(payload) => delivered.is_ok(),
                        () = gone.cancelled() => false,
                    };
                    if !delivered {
                        channels.remove(&channel);
                    }
                }
            }
            Ok(Some(Incoming::Close(channel))) => drop(channels.remove(&channel)),
            Ok(None) => {}
            Err(why) => {
                tracing::debug!(why, "a streaming client broke the protocol");
                break;
            }
        }
    }
    gone.cancel();
}

/// Writes what the channels queued; closes when nobody can queue more.
async fn write<S: AsyncRead + AsyncWrite + Unpin>(
    mut sink: SplitSink<WebSocketStream<S>, Message>,
    greeting: Vec<Message>,
    mut queue: mpsc::Receiver<Message>,
    gone: CancellationToken,
) {
    let mut ping = interval(PING_INTERVAL);
    ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ping.reset();
    let result = async {
        for message in greeting {
            sink.send(message).await?;
        }
        loop {
            tokio::select! {
                message = queue.recv() => match message {
                    Some(message) => sink.send(message).await?,
                    None => break sink.send(Message::Close(Some(normal_end()))).await,
                },
                _ = ping.tick() => sink.send(Message::Ping(Bytes::new())).await?,
            }
        }
    }
    .await;
    if result.is_err() {
        gone.cancel();
    }
}

/// A close without a code would be an error to Kubernetes' own client.
fn normal_end() -> CloseFrame {
    CloseFrame {
        code: CloseCode::Normal,
        reason: Utf8Bytes::default(),
    }
}

/// A channel towards the client.
struct ChannelWriter {
    channel: u8,
    dialect: Dialect,
    queue: PollSender<Message>,
    /// Told when this direction ends.
    shutdown: Option<oneshot::Sender<()>>,
}

impl AsyncWrite for ChannelWriter {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let gone = || io::Error::new(io::ErrorKind::BrokenPipe, "the client is gone");
        ready!(self.queue.poll_reserve(context)).map_err(|_| gone())?;
        let part = &bytes[..bytes.len().min(FRAME_MAX)];
        let message = self.dialect.encode(self.channel, part);
        self.queue.send_item(message).map_err(|_| gone())?;
        Poll::Ready(Ok(part.len()))
    }

    /// The queue keeps the order, and [`Running::finish`] waits until it is empty.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        drop(self.shutdown.take());
        Poll::Ready(Ok(()))
    }
}

/// The channel for the outcome.
struct ErrorChannel {
    channel: u8,
    dialect: Dialect,
    queue: mpsc::Sender<Message>,
}

#[async_trait]
impl Report for ErrorChannel {
    async fn report(self: Box<Self>, outcome: Outcome) {
        let text = if self.dialect.has_status() {
            Some(outcome.to_json())
        } else {
            outcome.to_text()
        };
        if let Some(text) = text {
            let _ = self
                .queue
                .send(self.dialect.encode(self.channel, text.as_bytes()))
                .await;
        }
    }
}
