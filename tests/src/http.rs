//! As much of HTTP/1.1 as a test needs: GET, over TCP or a unix socket, with a body of known length, in chunks, or to the end.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// What a server answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// Status code.
    pub status: u16,
    /// The body.
    pub body: String,
}

/// One connection's answer, its body still to be read.
pub struct Answer<S> {
    reader: BufReader<S>,
    /// Status code.
    pub status: u16,
    length: Option<usize>,
    chunked: bool,
}

/// `GET` over TCP, from the calling thread's net namespace.
pub fn get(address: SocketAddr, path: &str, limit: Duration) -> Result<Response> {
    let stream = TcpStream::connect_timeout(&address, limit)?;
    stream.set_read_timeout(Some(limit))?;
    request(stream, "GET", &address.to_string(), path, "")?.response()
}

/// The same, again and again until `accept` likes the answer: a server that was just started listens when it is ready, and tells nobody.
pub fn get_until(
    address: SocketAddr,
    path: &str,
    limit: Duration,
    accept: impl Fn(&Response) -> bool,
) -> Result<Response> {
    let deadline = Instant::now() + limit;
    loop {
        let outcome = get(address, path, Duration::from_secs(2));
        match outcome {
            Ok(response) if accept(&response) => return Ok(response),
            _ if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(10)),
            Ok(response) => bail!("http://{address}{path} answered {response:?} to the end"),
            Err(error) => return Err(error.context(format!("http://{address}{path} within {limit:?}"))),
        }
    }
}

/// `GET` over a unix socket.
pub fn get_unix(socket: &Path, path: &str, limit: Duration) -> Result<Answer<UnixStream>> {
    let stream = UnixStream::connect(socket).with_context(|| format!("connect to {}", socket.display()))?;
    stream.set_read_timeout(Some(limit))?;
    request(stream, "GET", "localhost", path, "")
}

/// `POST` over a unix socket.
pub fn post_unix(socket: &Path, path: &str, body: &str, limit: Duration) -> Result<Answer<UnixStream>> {
    let stream = UnixStream::connect(socket).with_context(|| format!("connect to {}", socket.display()))?;
    stream.set_read_timeout(Some(limit))?;
    request(stream, "POST", "localhost", path, body)
}

/// `DELETE` over a unix socket.
pub fn delete_unix(socket: &Path, path: &str, limit: Duration) -> Result<Answer<UnixStream>> {
    let stream = UnixStream::connect(socket).with_context(|| format!("connect to {}", socket.display()))?;
    stream.set_read_timeout(Some(limit))?;
    request(stream, "DELETE", "localhost", path, "")
}

fn request<S: Read + Write>(mut stream: S, method: &str, host: &str, path: &str, body: &str) -> Result<Answer<S>> {
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: {host}\r\nAccept: */*\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )?;
    stream.flush()?;
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let status = line
        .split(' ')
        .nth(1)
        .and_then(|code| code.parse().ok())
        .with_context(|| format!("not HTTP: {line:?}"))?;
    let (mut length, mut chunked) = (None, false);
    loop {
        line.clear();
        if reader.read_line(&mut line)? == 0 || line.trim().is_empty() {
            break;
        }
        let lower = line.to_ascii_lowercase();
        if let Some(value) = lower.strip_prefix("content-length:") {
            length = Some(value.trim().parse()?);
        }
        chunked |= lower.starts_with("transfer-encoding:") && lower.contains("chunked");
    }
    Ok(Answer {
        reader,
        status,
        length,
        chunked,
    })
}

impl<S: Read> Answer<S> {
    /// Reads the whole body.
    pub fn response(mut self) -> Result<Response> {
        let mut body = Vec::new();
        match (self.chunked, self.length) {
            (true, _) => {
                while let Some(chunk) = self.chunk()? {
                    body.extend(chunk);
                }
            }
            (false, Some(length)) => {
                body.resize(length, 0);
                self.reader.read_exact(&mut body)?;
            }
            (false, None) => {
                self.reader.read_to_end(&mut body)?;
            }
        }
        Ok(Response {
            status: self.status,
            body: String::from_utf8_lossy(&body).into_owned(),
        })
    }

    /// The next line of a body that comes in chunks; `None` at its end.
    pub fn next_line(&mut self, buffer: &mut Vec<u8>) -> Result<Option<String>> {
        loop {
            if let Some(end) = buffer.iter().position(|byte| *byte == b'\n') {
                let line = buffer.drain(..=end).collect::<Vec<_>>();
                return Ok(Some(String::from_utf8_lossy(&line).trim().to_owned()));
            }
            match self.chunk()? {
                Some(chunk) => buffer.extend(chunk),
                None => return Ok(None),
            }
        }
    }

    fn chunk(&mut self) -> Result<Option<Vec<u8>>> {
        let mut line = String::new();
        if self.reader.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        let size = line.trim().split(';').next().unwrap_or_default();
        let size = usize::from_str_radix(size, 16).with_context(|| format!("chunk size {line:?}"))?;
        let mut chunk = vec![0; size];
        self.reader.read_exact(&mut chunk)?;
        line.clear();
        self.reader.read_line(&mut line)?;
        Ok((size > 0).then_some(chunk))
    }
}
