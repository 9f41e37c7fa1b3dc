//! One plain HTTP/1.1 request on a connection of its own: enough to ask a process how it is.

use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use anyhow::{Context, Result};

/// The longest that one request may take to connect, and then to be answered.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The most that is read of an answer.
const ANSWER_LIMIT: u64 = 16 << 20;

/// An answer with its status and body.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Status code.
    pub status: u16,
    /// Body as text.
    pub body: String,
}

/// A request beyond a plain GET.
#[derive(Debug, Clone, Default)]
pub struct Request<'a> {
    /// Method; empty means GET.
    pub method: &'a str,
    /// Path with query.
    pub path: &'a str,
    /// Headers beside `Host`, `Connection` and `Content-Length`.
    pub headers: &'a [(&'a str, &'a str)],
    /// Body.
    pub body: &'a str,
}

/// Asks for a path.
pub fn get(host: &str, port: u16, path: &str) -> Result<Answer> {
    send(host, port, &Request { path, ..Request::default() })
}

/// Sends a request.
pub fn send(host: &str, port: u16, request: &Request<'_>) -> Result<Answer> {
    let address = (host, port)
        .to_socket_addrs()
        .with_context(|| format!("resolve {host}"))?
        .next()
        .with_context(|| format!("{host} has no address"))?;
    let mut stream =
        TcpStream::connect_timeout(&address, TIMEOUT).with_context(|| format!("connect to {host}:{port}"))?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    let method = if request.method.is_empty() { "GET" } else { request.method };
    let mut text = format!(
        "{method} {} HTTP/1.0\r\nHost: {host}:{port}\r\nConnection: close\r\nContent-Length: {}\r\n",
        request.path,
        request.body.len()
    );
    for (name, value) in request.headers {
        text.extend([name, ": ", value, "\r\n"]);
    }
    text.push_str("\r\n");
    text.push_str(request.body);
    stream.write_all(text.as_bytes()).with_context(|| format!("send to {host}:{port}"))?;
    let mut answer = Vec::new();
    stream.take(ANSWER_LIMIT).read_to_end(&mut answer).with_context(|| format!("read from {host}:{port}"))?;
    parse(&String::from_utf8_lossy(&answer)).with_context(|| format!("{host}:{port} does not speak HTTP"))
}

/// HTTP/1.0 is asked for, so that the body is what follows the headers until the end.
fn parse(text: &str) -> Option<Answer> {
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some(Answer { status, body: body.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_and_body_are_read() {
        let answer = parse("HTTP/1.0 404 Not Found\r\nA: b\r\n\r\nno\r\n\r\nsuch").unwrap();
        assert_eq!((answer.status, answer.body.as_str()), (404, "no\r\n\r\nsuch"));
    }

    #[test]
    fn something_else_is_not_taken_for_http() {
        assert!(parse("-ERR unknown command\r\n").is_none());
    }
}
