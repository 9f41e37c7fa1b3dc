//! A connection that sends in one write what HTTP/2 writes in pieces.
//!
//! On a TLS connection each flush is a record, a system call and a packet, and h2 flushes twice where
//! once would do. Its settings go out alone, although the client sends its preface without waiting for
//! them (RFC 9113 3.4), so that an acknowledgement follows. And a DATA frame of over 256 bytes, which h2
//! does not copy but writes as a second slice, goes out before the trailers; h2 always flushes again
//! after it, in the same poll (`Streams::poll_complete`). These two flushes are left to the next one.
//! State: the bytes that are held, owned by the connection.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::transport::server::Connected;

/// What is held at most: above the largest answer, of some KiB; more is written through.
const LIMIT: usize = 16 * 1024;

/// See the module.
#[derive(Debug)]
pub struct Gathered<T> {
    io: T,
    held: Vec<u8>,
    /// Whether another flush follows the next one.
    follows: bool,
}

impl<T> Gathered<T> {
    /// Gathers what is written to `io`.
    pub fn new(io: T) -> Self {
        Self { io, held: Vec::new(), follows: true }
    }
}

impl<T: Connected> Connected for Gathered<T> {
    type ConnectInfo = T::ConnectInfo;

    fn connect_info(&self) -> T::ConnectInfo {
        self.io.connect_info()
    }
}

impl<T: AsyncWrite + Unpin> Gathered<T> {
    /// Hands everything that is held on.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.held.is_empty() {
            let sent = ready!(Pin::new(&mut self.io).poll_write(cx, &self.held))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.held.drain(..sent);
        }
        Pin::new(&mut self.io).poll_flush(cx)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Gathered<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let length = bufs.iter().map(|buf| buf.len()).sum::<usize>();
        if self.held.len() + length > LIMIT {
            ready!(self.poll_send(cx))?;
        }
        if length > LIMIT {
            return Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        }
        for buf in bufs {
            self.held.extend_from_slice(buf);
        }
        if bufs.iter().filter(|buf| !buf.is_empty()).count() > 1 {
            self.follows = true;
        }
        Poll::Ready(Ok(length))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if std::mem::take(&mut self.follows) { Poll::Ready(Ok(())) } else { self.poll_send(cx) }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_send(cx))?;
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Gathered<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};

    use super::*;

    /// A connection that remembers each write.
    #[derive(Debug)]
    struct Written {
        io: DuplexStream,
        writes: Vec<usize>,
    }

    fn gathered() -> (Gathered<Written>, DuplexStream) {
        let (io, peer) = duplex(1 << 20);
        (Gathered::new(Written { io, writes: Vec::new() }), peer)
    }

    impl AsyncWrite for Written {
        fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
            self.writes.push(buf.len());
            Pin::new(&mut self.io).poll_write(cx, buf)
        }
        fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.io).poll_flush(cx)
        }
        fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.io).poll_shutdown(cx)
        }
    }

    impl AsyncRead for Written {
        fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.io).poll_read(cx, buf)
        }
    }

    async fn received(peer: &mut DuplexStream, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        peer.read_exact(&mut bytes).await.unwrap();
        bytes
    }

    async fn write_slices(io: &mut Gathered<Written>, slices: [&[u8]; 2]) {
        let written = poll_fn(|cx| Pin::new(&mut *io).poll_write_vectored(cx, &slices.map(IoSlice::new))).await;
        assert_eq!(written.unwrap(), slices.concat().len());
    }

    #[tokio::test]
    async fn the_settings_go_out_with_what_answers_the_preface() {
        let (mut io, mut peer) = gathered();
        io.write_all(b"settings ").await.unwrap();
        io.flush().await.unwrap();
        assert!(io.io.writes.is_empty(), "they wait");
        io.write_all(b"acknowledgement").await.unwrap();
        io.flush().await.unwrap();
        assert_eq!(received(&mut peer, 24).await, b"settings acknowledgement");
        assert_eq!(io.io.writes, [24]);
        io.write_all(b"pong").await.unwrap();
        io.flush().await.unwrap();
        assert_eq!(io.io.writes, [24, 4], "what h2 flushes once does not wait");
    }

    #[tokio::test]
    async fn a_data_frame_goes_out_with_the_trailers() {
        let (mut io, mut peer) = gathered();
        io.flush().await.unwrap();
        for _ in 0..2 {
            io.io.writes.clear();
            write_slices(&mut io, [b"headers ", b"certificate "]).await;
            io.flush().await.unwrap();
            assert!(io.io.writes.is_empty(), "it waits");
            io.write_all(b"trailers").await.unwrap();
            io.flush().await.unwrap();
            assert_eq!(received(&mut peer, 28).await, b"headers certificate trailers");
            assert_eq!(io.io.writes, [28]);
        }
    }

    #[tokio::test]
    async fn nothing_is_lost_when_it_ends_after_one_flush() {
        let (mut io, mut peer) = gathered();
        io.write_all(b"goodbye").await.unwrap();
        io.flush().await.unwrap();
        io.shutdown().await.unwrap();
        let mut rest = Vec::new();
        peer.read_to_end(&mut rest).await.unwrap();
        assert_eq!(rest, b"goodbye");
    }

    #[tokio::test]
    async fn more_than_the_limit_is_written_through_in_order() {
        let (mut io, mut peer) = gathered();
        io.write_all(b"a").await.unwrap();
        io.write_all(&vec![b'b'; LIMIT]).await.unwrap();
        io.write_all(&vec![b'c'; LIMIT + 1]).await.unwrap();
        assert!(io.held.len() <= LIMIT);
        poll_fn(|cx| io.poll_send(cx)).await.unwrap();
        let all = received(&mut peer, 2 * LIMIT + 2).await;
        assert_eq!(all[0], b'a');
        assert!(all[1..=LIMIT].iter().all(|byte| *byte == b'b') && all[LIMIT + 1..].iter().all(|byte| *byte == b'c'));
    }
}
