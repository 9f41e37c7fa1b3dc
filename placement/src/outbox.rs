//! The sending side of one stream: a bounded queue of encoded orders and one final status.
//!
//! Nobody ever waits for a peer: a full queue ends the stream. Dropping the [`Outbox`] ends it too, and
//! stops the stream's reader. There is one queue for each of thousands of streams, and nearly all are
//! empty: it takes memory for what it holds, where tokio's channel sets a block of 32 aside.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::HeaderMap;
use hyper::body::Frame;
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tonic::body::Body;
use tonic::{Code, Status};

use crate::status::{Ending, status};

/// Ten rounds: a peer that reads at all never falls that far behind, since rounds wait for it.
const ORDERS: usize = 32;

/// Where a stream's orders go.
#[derive(Debug)]
pub struct Outbox {
    queue: Arc<Mutex<Queue>>,
    /// Dropped with the outbox: the reader's signal to stop.
    _open: oneshot::Sender<()>,
}

/// The stream is gone or does not read.
#[derive(Debug, PartialEq, Eq)]
pub struct NotQueued;

/// What waits to be sent.
#[derive(Debug, Default)]
struct Queue {
    orders: VecDeque<Bytes>,
    end: Option<Status>,
    /// The connection took the status or dropped the stream.
    is_over: bool,
    connection: Option<Waker>,
}

impl Outbox {
    /// A new outbox, the response body it feeds, and the reader's signal.
    pub fn new() -> (Self, Body, oneshot::Receiver<()>) {
        let queue: Arc<Mutex<Queue>> = Arc::default();
        let (open, closed) = oneshot::channel();
        (Self { queue: queue.clone(), _open: open }, Body::new(Orders(queue)), closed)
    }

    /// Queues an encoded order.
    pub fn send(&self, frame: Bytes) -> Result<(), NotQueued> {
        let mut queue = self.queue.lock();
        if queue.is_over || queue.orders.len() >= ORDERS {
            return Err(NotQueued);
        }
        queue.orders.push_back(frame);
        queue.wake();
        Ok(())
    }

    /// Ends the stream after what is queued.
    pub fn end(self, ending: &Ending) {
        self.queue.lock().end = Some(status(ending));
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        let mut queue = self.queue.lock();
        queue.end.get_or_insert_with(|| Status::new(Code::Unavailable, "stream ended"));
        queue.wake();
    }
}

impl Queue {
    fn wake(&mut self) {
        if let Some(connection) = self.connection.take() {
            connection.wake();
        }
    }

    fn next(&mut self, cx: &Context<'_>) -> Poll<Option<Frame<Bytes>>> {
        if self.is_over {
            return Poll::Ready(None);
        }
        if let Some(order) = self.orders.pop_front() {
            return Poll::Ready(Some(Frame::data(order)));
        }
        if let Some(status) = self.end.take() {
            self.is_over = true;
            return Poll::Ready(Some(Frame::trailers(trailers(&status))));
        }
        self.connection = Some(cx.waker().clone());
        Poll::Pending
    }
}

/// The response body: orders, then the status.
struct Orders(Arc<Mutex<Queue>>);

impl hyper::body::Body for Orders {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.lock().next(cx).map(|frame| frame.map(Ok))
    }
}

impl Drop for Orders {
    fn drop(&mut self) {
        let mut queue = self.0.lock();
        queue.is_over = true;
        queue.orders.clear();
    }
}

fn trailers(status: &Status) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    if let Err(unprintable) = status.add_header(&mut trailers) {
        tracing::warn!(error = %unprintable, "status cannot be sent");
    }
    trailers
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures::FutureExt as _;
    use http_body_util::BodyExt as _;
    use tokio::time::timeout;

    use super::*;

    /// What the connection would send now: an order, a status, or nothing yet.
    fn sent(body: &mut Body) -> Option<Result<Bytes, String>> {
        let frame = body.frame().now_or_never()?.unwrap().unwrap();
        Some(frame.into_data().map_err(|trailers| {
            let trailers = trailers.into_trailers().unwrap();
            format!("{:?} {:?}", trailers["grpc-status"], trailers.get("grpc-message"))
        }))
    }

    fn order(number: u8) -> Bytes {
        Bytes::copy_from_slice(&[number])
    }

    #[test]
    fn a_stream_gets_its_orders_in_turn_and_then_its_status() {
        let (outbox, mut body, _) = Outbox::new();
        assert_eq!(sent(&mut body), None);
        assert_eq!((outbox.send(order(1)), outbox.send(order(2))), (Ok(()), Ok(())));
        outbox.end(&Ending::HalfClosed);
        assert_eq!(sent(&mut body), Some(Ok(order(1))));
        assert_eq!(sent(&mut body), Some(Ok(order(2))));
        assert_eq!(sent(&mut body), Some(Err(r#""2" Some("EOF")"#.into())));
        assert!(body.frame().now_or_never().unwrap().is_none());
    }

    #[test]
    fn a_queue_takes_as_many_orders_as_it_may_hold_and_its_status_still_comes() {
        let (outbox, mut body, _) = Outbox::new();
        for number in 0..32 {
            assert_eq!(outbox.send(order(number)), Ok(()));
        }
        assert_eq!(outbox.send(order(32)), Err(NotQueued));
        assert_eq!(sent(&mut body), Some(Ok(order(0))));
        assert_eq!(outbox.send(order(32)), Ok(()));
        outbox.end(&Ending::Overflow);
        let last = (0..33).map_while(|_| sent(&mut body)).last();
        assert!(last.unwrap().unwrap_err().starts_with(r#""8""#));
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_waits_is_woken_by_an_order_and_by_the_end() {
        const LIMIT: Duration = Duration::from_secs(1);
        let (outbox, mut body, _) = Outbox::new();
        let (first, ()) = tokio::join!(timeout(LIMIT, body.frame()), async { outbox.send(order(1)).unwrap() });
        assert_eq!(first.unwrap().unwrap().unwrap().into_data().unwrap(), order(1));
        let (last, ()) = tokio::join!(timeout(LIMIT, body.frame()), async { drop(outbox) });
        assert!(last.unwrap().unwrap().unwrap().is_trailers());
    }

    #[test]
    fn an_outbox_that_is_dropped_ends_its_stream_and_its_reader() {
        let (outbox, mut body, closed) = Outbox::new();
        drop(outbox);
        assert_eq!(sent(&mut body), Some(Err(r#""14" Some("stream%20ended")"#.into())));
        assert!(closed.now_or_never().is_some());
    }

    #[test]
    fn nothing_is_queued_for_a_stream_that_is_gone() {
        let (outbox, body, _) = Outbox::new();
        drop(body);
        assert_eq!(outbox.send(order(1)), Err(NotQueued));
    }
}
