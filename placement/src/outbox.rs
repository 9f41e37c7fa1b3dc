//! The sending side of one stream: a bounded queue of encoded orders and one final status.
//!
//! Nobody ever waits for a peer: a full queue ends the stream. Dropping the [`Outbox`] also stops the
//! stream's reader.

use bytes::Bytes;
use futures::stream;
use http::HeaderMap;
use http_body_util::StreamBody;
use hyper::body::Frame;
use tokio::sync::{mpsc, oneshot};
use tonic::body::Body;
use tonic::{Code, Status};

use crate::status::{Ending, status};

/// Ten rounds: a peer that reads at all never falls that far behind, since rounds wait for it.
const ORDERS: usize = 32;

/// Where a stream's orders go.
#[derive(Debug)]
pub struct Outbox {
    frames: mpsc::Sender<Bytes>,
    end: oneshot::Sender<Status>,
    /// Dropped with the outbox: the reader's signal to stop.
    _open: oneshot::Sender<()>,
}

/// The stream is gone or does not read.
#[derive(Debug, PartialEq, Eq)]
pub struct NotQueued;

impl Outbox {
    /// A new outbox, the response body it feeds, and the reader's signal.
    pub fn new() -> (Self, Body, oneshot::Receiver<()>) {
        let (frames, queue) = mpsc::channel(ORDERS);
        let (end, ended) = oneshot::channel();
        let (open, closed) = oneshot::channel();
        (Self { frames, end, _open: open }, body(queue, ended), closed)
    }

    /// Queues an encoded order.
    pub fn send(&self, frame: Bytes) -> Result<(), NotQueued> {
        self.frames.try_send(frame).map_err(|_| NotQueued)
    }

    /// Ends the stream after what is queued.
    pub fn end(self, ending: &Ending) {
        // The peer may be gone already; then nobody needs the status.
        drop(self.end.send(status(ending)));
    }
}

enum Sending {
    Orders(mpsc::Receiver<Bytes>, oneshot::Receiver<Status>),
    Done,
}

fn body(queue: mpsc::Receiver<Bytes>, ended: oneshot::Receiver<Status>) -> Body {
    let frames = stream::unfold(Sending::Orders(queue, ended), |state| async {
        let Sending::Orders(mut queue, ended) = state else { return None };
        if let Some(frame) = queue.recv().await {
            return Some((Ok::<_, Status>(Frame::data(frame)), Sending::Orders(queue, ended)));
        }
        let status = ended.await.unwrap_or_else(|_| Status::new(Code::Unavailable, "stream ended"));
        Some((Ok(Frame::trailers(trailers(&status))), Sending::Done))
    });
    Body::new(StreamBody::new(frames))
}

fn trailers(status: &Status) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    if let Err(unprintable) = status.add_header(&mut trailers) {
        tracing::warn!(error = %unprintable, "status cannot be sent");
    }
    trailers
}
