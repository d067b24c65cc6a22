//! A client's bytes → SPDY's streams. Nothing panics or hangs; each stream has the bytes that a second reader of the same frames
//! finds for it, each is answered once, and so is each ping.
//!
//! The input's first byte says what follows: a connection's bytes, or, since bytes at random have no header block that can be
//! unpacked, a list of frames of which most are true ones.

#![no_main]

#[path = "shared/clockwork.rs"]
mod clockwork;
#[allow(dead_code)]
#[path = "../../crates/streaming/src/spdy/connection.rs"]
mod connection;
#[path = "../../crates/streaming/src/spdy/dictionary.rs"]
mod dictionary;
#[path = "../../crates/streaming/src/spdy/frame.rs"]
mod frame;
#[path = "../../crates/streaming/src/spdy/headers.rs"]
mod headers;

use std::collections::HashMap;

use connection::Connection;
use flate2::{Compress, Compression, FlushCompress};
use futures_util::future::join_all;
use libfuzzer_sys::arbitrary::{self, Arbitrary, Unstructured};
use libfuzzer_sys::fuzz_target;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const FIN: u8 = 1;

/// What a client sends.
#[derive(Debug, Arbitrary)]
enum Frame<'a> {
    Open {
        number: u8,
        is_last: bool,
        headers: Vec<(&'a str, &'a str)>,
    },
    Data {
        number: u8,
        is_last: bool,
        bytes: &'a [u8],
    },
    Reset(u8),
    Ping(u8),
    GoAway,
    Control {
        kind: u16,
        flags: u8,
        payload: &'a [u8],
    },
    Bytes(&'a [u8]),
}

/// What a connection comes to.
#[derive(Debug, Default, PartialEq, Eq)]
struct Outcome {
    /// Streams in the order in which they were opened, and what came on each.
    streams: Vec<(u32, Vec<u8>)>,
    pings: Vec<u32>,
}

fuzz_target!(|bytes: &[u8]| {
    let wire = match bytes.split_first() {
        None => return,
        Some((0, wire)) => wire.to_vec(),
        Some((_, rest)) => match Vec::<Frame>::arbitrary(&mut Unstructured::new(rest)) {
            Ok(frames) => encode(&frames),
            Err(_) => return,
        },
    };
    let expected = reference(&wire);
    let (streams, answers) = clockwork::run(serve(wire));
    assert_eq!(streams, expected.streams);
    let said = answered(&answers);
    let opened: Vec<u32> = expected.streams.iter().map(|(number, _)| *number).collect();
    assert_eq!(
        said.streams.iter().map(|(number, _)| *number).collect::<Vec<_>>(),
        opened
    );
    assert_eq!(said.pings, expected.pings);
});

/// The server's side: every stream is read to its end. Also what it said.
async fn serve(wire: Vec<u8>) -> (Vec<(u32, Vec<u8>)>, Vec<u8>) {
    let (client, socket) = tokio::io::duplex(4096);
    let (mut answers, mut questions) = tokio::io::split(client);
    let client = tokio::spawn(async move {
        let send = async {
            let _ = questions.write_all(&wire).await;
            let _ = questions.shutdown().await;
        };
        let mut said = Vec::new();
        let (_, read) = tokio::join!(send, answers.read_to_end(&mut said));
        read.expect("a duplex has no errors");
        said
    });
    let mut connection = Connection::start(socket);
    let mut readers = Vec::new();
    while let Some(stream) = connection.next().await {
        assert!(stream.headers.get("no such header\n").is_none());
        let number = stream.number;
        let (mut input, _) = stream.split();
        readers.push(tokio::spawn(async move {
            let mut bytes = Vec::new();
            input.read_to_end(&mut bytes).await.expect("a stream has no errors");
            (number, bytes)
        }));
    }
    let streams = join_all(readers)
        .await
        .into_iter()
        .map(|read| read.expect("it ends"))
        .collect();
    connection.finish().await;
    (streams, client.await.expect("it ends"))
}

fn encode(frames: &[Frame]) -> Vec<u8> {
    let mut wire = Vec::new();
    let mut packer = Compress::new(Compression::fast(), true);
    packer
        .set_dictionary(&dictionary::DICTIONARY)
        .expect("a new stream takes a dictionary");
    for frame in frames {
        match *frame {
            Frame::Open {
                number,
                is_last,
                ref headers,
            } => {
                let mut payload = u32::from(number).to_be_bytes().to_vec();
                payload.extend([0; 6]);
                payload.extend(pack(&mut packer, headers));
                wire.extend(control(SYN_STREAM, u8::from(is_last), &payload));
            }
            Frame::Data { number, is_last, bytes } => {
                wire.extend(frame_of(number.into(), u8::from(is_last), bytes));
            }
            Frame::Reset(number) => wire.extend(control(RST_STREAM, 0, &[0, 0, 0, number, 0, 0, 0, 1])),
            Frame::Ping(number) => wire.extend(control(PING, 0, &[0, 0, 0, number])),
            Frame::GoAway => wire.extend(control(GOAWAY, 0, &[0; 8])),
            Frame::Control { kind, flags, payload } => wire.extend(control(kind, flags, payload)),
            Frame::Bytes(bytes) => wire.extend(bytes),
        }
    }
    wire
}

fn pack(packer: &mut Compress, headers: &[(&str, &str)]) -> Vec<u8> {
    let mut block = number_of(headers.len()).to_vec();
    for text in headers.iter().flat_map(|(name, value)| [name, value]) {
        block.extend(number_of(text.len()));
        block.extend(text.as_bytes());
    }
    let mut packed = Vec::with_capacity(2 * block.len() + 64);
    packer
        .compress_vec(&block, &mut packed, FlushCompress::Sync)
        .expect("there is room");
    packed
}

fn number_of(length: usize) -> [u8; 4] {
    u32::try_from(length).expect("inputs are small").to_be_bytes()
}

fn control(kind: u16, flags: u8, payload: &[u8]) -> Vec<u8> {
    frame_of(0x8003_0000 | u32::from(kind), flags, payload)
}

fn frame_of(word: u32, flags: u8, payload: &[u8]) -> Vec<u8> {
    let [_, high, middle, low] = number_of(payload.len());
    [&word.to_be_bytes()[..], &[flags, high, middle, low], payload].concat()
}

/// Frames one after the other: their first word, their flags, their payload; until one is not whole.
fn frames(mut wire: &[u8]) -> impl Iterator<Item = (u32, u8, &[u8])> {
    std::iter::from_fn(move || {
        let (head, rest) = wire.split_first_chunk::<8>()?;
        let [a, b, c, d, flags, high, middle, low] = *head;
        let length = u32::from_be_bytes([0, high, middle, low]) as usize;
        let (payload, after) = rest.split_at_checked(length)?;
        wire = after;
        Some((u32::from_be_bytes([a, b, c, d]), flags, payload))
    })
}

fn first_number(payload: &[u8]) -> Option<u32> {
    payload.first_chunk().map(|bytes| u32::from_be_bytes(*bytes))
}

/// What the frames of `wire` mean, read all at once. It ends where the connection must.
fn reference(wire: &[u8]) -> Outcome {
    let mut outcome = Outcome::default();
    let mut open: HashMap<u32, usize> = HashMap::new();
    let mut unpacker = headers::Unpacker::new();
    let (mut highest, mut no_more) = (0, false);
    for (word, flags, payload) in frames(wire) {
        let is_last = flags & FIN != 0;
        if word >> 31 == 0 {
            if let Some(&stream) = open.get(&word) {
                outcome.streams[stream].1.extend(payload);
            }
            if is_last {
                open.remove(&word);
            }
            continue;
        }
        let kind = word as u16;
        let number = first_number(payload).map(|number| if kind == PING { number } else { number & 0x7fff_ffff });
        let (true, number) = (word >> 16 == 0x8003, number) else {
            break;
        };
        match (kind, number) {
            (SYN_STREAM, Some(number)) => {
                let Some(block) = payload.get(10..) else { break };
                let is_next = number % 2 == 1 && number > highest;
                if unpacker.unpack(block).is_none() || no_more || !is_next {
                    break;
                }
                highest = number;
                if !is_last {
                    open.insert(number, outcome.streams.len());
                }
                outcome.streams.push((number, Vec::new()));
            }
            (RST_STREAM, Some(number)) => drop(open.remove(&number)),
            (PING, Some(number)) if number % 2 == 1 => outcome.pings.push(number),
            (SYN_STREAM | RST_STREAM | PING, None) => break,
            (GOAWAY, _) => no_more = true,
            _ => {}
        }
    }
    outcome
}

/// What the server said: streams that it answered, and pings.
fn answered(wire: &[u8]) -> Outcome {
    let mut outcome = Outcome::default();
    let mut last = None;
    for (word, _, payload) in frames(wire) {
        assert_eq!(word >> 16, 0x8003, "the server sends no data here");
        match (word as u16, first_number(payload)) {
            (SYN_REPLY, Some(number)) => outcome.streams.push((number, Vec::new())),
            (PING, Some(number)) if number % 2 == 1 => outcome.pings.push(number),
            // Its own.
            (PING, Some(_)) => {}
            (GOAWAY, Some(number)) => last = Some(number),
            other => panic!("the server said {other:?}"),
        }
    }
    assert_eq!(
        last,
        Some(outcome.streams.last().map_or(0, |(number, _)| *number)),
        "the last word is which stream was the last"
    );
    outcome
}
