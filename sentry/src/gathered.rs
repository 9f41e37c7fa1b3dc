//! A connection that sends when it is told to, not whenever HTTP/2 flushes.
//!
//! On a TLS connection each flush is a record, a system call and a packet, and h2 flushes its settings, its
//! acknowledgement of the client's, a certificate and the trailers one by one. What they come to is sent
//! at the end of the turn that wrote them, in one write.
//! State: the connection and the bytes that are held, shared by HTTP/2 and the task that it runs in.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What is held at most: above the largest answer, of some KiB. More waits until it is sent.
const LIMIT: usize = 16 * 1024;

/// See the module.
#[derive(Debug)]
pub struct Gathered<T>(Arc<Mutex<Held<T>>>);

#[derive(Debug)]
struct Held<T> {
    io: T,
    bytes: Vec<u8>,
    /// The peer sends nothing any more: of HTTP/2 nobody is left to be told of the end.
    ended: bool,
}

impl<T> Gathered<T> {
    /// Gathers what is written to `io`.
    pub fn new(io: T) -> Self {
        Self(Arc::new(Mutex::new(Held { io, bytes: Vec::new(), ended: false })))
    }
}

impl<T> Clone for Gathered<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T: AsyncWrite + Unpin> Gathered<T> {
    /// Sends everything that is held.
    pub fn poll_send(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.lock().poll_send(cx)
    }
}

impl<T: AsyncWrite + Unpin> Held<T> {
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.bytes.is_empty() {
            let sent = ready!(Pin::new(&mut self.io).poll_write(cx, &self.bytes))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.bytes.drain(..sent);
        }
        Pin::new(&mut self.io).poll_flush(cx)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Gathered<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut held = self.0.lock();
        if held.bytes.len() >= LIMIT {
            ready!(held.poll_send(cx))?;
        }
        for buf in bufs {
            held.bytes.extend_from_slice(buf);
        }
        Poll::Ready(Ok(bufs.iter().map(|buf| buf.len()).sum()))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut held = self.0.lock();
        if held.ended {
            return Poll::Ready(Ok(()));
        }
        ready!(held.poll_send(cx))?;
        Pin::new(&mut held.io).poll_shutdown(cx)
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Gathered<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut held = self.0.lock();
        let before = buf.remaining();
        ready!(Pin::new(&mut held.io).poll_read(cx, buf))?;
        held.ended = before > 0 && buf.remaining() == before;
        Poll::Ready(Ok(()))
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

    fn gathered(buffer: usize) -> (Gathered<Written>, DuplexStream) {
        let (io, peer) = duplex(buffer);
        (Gathered::new(Written { io, writes: Vec::new() }), peer)
    }

    impl Gathered<Written> {
        fn writes(&self) -> Vec<usize> {
            self.0.lock().io.writes.clone()
        }

        async fn send(&self) {
            poll_fn(|cx| self.poll_send(cx)).await.unwrap();
        }
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
            self.writes.push(0);
            Pin::new(&mut self.io).poll_shutdown(cx)
        }
    }

    impl AsyncRead for Written {
        fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.io).poll_read(cx, buf)
        }
    }

    #[tokio::test]
    async fn what_a_turn_wrote_goes_out_in_one_write() {
        let (mut io, mut peer) = gathered(1024);
        io.write_all(b"settings ").await.unwrap();
        io.flush().await.unwrap();
        let slices = [b"headers ".as_slice(), b"certificate "].map(IoSlice::new);
        assert_eq!(io.write_vectored(&slices).await.unwrap(), 20);
        io.flush().await.unwrap();
        io.write_all(b"trailers").await.unwrap();
        io.flush().await.unwrap();
        assert!(io.writes().is_empty(), "it is not told to send");
        io.send().await;
        assert_eq!(io.writes(), [37]);
        let mut received = [0; 37];
        peer.read_exact(&mut received).await.unwrap();
        assert_eq!(&received, b"settings headers certificate trailers");
        io.send().await;
        assert_eq!(io.writes(), [37], "and nothing twice");
    }

    #[tokio::test]
    async fn the_last_words_go_out_before_the_end() {
        let (mut io, mut peer) = gathered(1024);
        io.write_all(b"goodbye").await.unwrap();
        io.shutdown().await.unwrap();
        let mut rest = Vec::new();
        peer.read_to_end(&mut rest).await.unwrap();
        assert_eq!(rest, b"goodbye");
    }

    #[tokio::test]
    async fn who_left_is_told_nothing() {
        let (mut io, peer) = gathered(1024);
        drop(peer);
        assert_eq!(io.read(&mut [0; 8]).await.unwrap(), 0);
        io.write_all(b"goodbye").await.unwrap();
        io.shutdown().await.unwrap();
        assert!(io.writes().is_empty());
    }

    #[tokio::test]
    async fn writing_waits_for_a_peer_that_reads_nothing() {
        let (mut io, mut peer) = gathered(8);
        io.write_all(&vec![b'a'; LIMIT]).await.unwrap();
        let write = poll_fn(|cx| Poll::Ready(Pin::new(&mut io).poll_write(cx, b"b").is_pending()));
        assert!(write.await, "the connection takes 8 bytes");
        let mut all = vec![0; LIMIT + 1];
        let ((), read) = tokio::join!(
            async { io.write_all(b"b").await.map(|()| io).unwrap().send().await },
            peer.read_exact(&mut all)
        );
        read.unwrap();
        assert!(all[..LIMIT].iter().all(|byte| *byte == b'a') && all[LIMIT] == b'b', "in order");
    }
}
