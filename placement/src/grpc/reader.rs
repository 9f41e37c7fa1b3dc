//! Reads one stream: authorizes every message, tells the hub, notices the end.

use std::sync::Arc;
use std::time::Duration;

use proto::placement::v1::Host as WireHost;
use runtime::{BoxError, CancellationToken};
use tokio::sync::{mpsc, oneshot};
use tonic::Status;
use tonic::codec::Streaming;

use crate::core::{Caller, Generation, StreamId, authorize};
use crate::handed::each;
use crate::hub::{HubHandle, Input};
use crate::outbox::Outbox;
use crate::status::Ending;
use crate::wire;

/// Every generation introduces itself within a second or so (W19).
const FIRST_MESSAGE: Duration = Duration::from_secs(10);
/// Streams being handed from their connection to the task that reads them.
const HANDED: usize = 64;

/// One stream's reading side.
pub(super) struct Reader {
    pub hub: HubHandle,
    pub stream: StreamId,
    pub caller: Caller,
    pub ed25519: bool,
    pub messages: Streaming<WireHost>,
    pub closed: oneshot::Receiver<()>,
}

/// A stream that was admitted: its two sides. The reader is boxed because tasks are as large as what
/// they move about, twice.
pub(super) type Admitted = (Box<Reader>, Outbox);

/// Owns the readers of all streams.
pub struct ReadersTask {
    handed: mpsc::Receiver<Admitted>,
}

impl ReadersTask {
    pub(super) fn new() -> (Self, mpsc::Sender<Admitted>) {
        let (tx, handed) = mpsc::channel(HANDED);
        (Self { handed }, tx)
    }

    /// Runs until stopped; readers end with their streams.
    pub async fn run(self, stop: CancellationToken) -> Result<(), BoxError> {
        each(self.handed, stop, |(reader, outbox)| reader.run(outbox)).await
    }
}

impl Reader {
    async fn run(mut self: Box<Self>, outbox: Outbox) {
        // Boxed: a stream opens once and is then read for days.
        if Box::pin(self.open(outbox)).await {
            self.read().await;
        }
    }

    /// Tells the hub who it is; false if the stream ended before.
    async fn open(&mut self, outbox: Outbox) -> bool {
        let first = match self.first().await {
            Ok(first) => first,
            Err(ending) => {
                outbox.end(&ending);
                return false;
            }
        };
        let namespace: Arc<str> = first.namespace.as_str().into();
        tracing::info!(
            "Received status report connection from new namespace={} id={} host={}",
            first.namespace,
            first.id,
            first.name
        );
        let generation = Generation::detect(wire::operation(&first), first.api_level, self.ed25519);
        let (stream, host) = (self.stream, wire::host(&first));
        self.hub.send(Input::Opened { stream, namespace, host, generation, outbox }).await;
        true
    }

    /// Passes messages on until the stream ends.
    async fn read(&mut self) {
        let stream = self.stream;
        loop {
            let read = tokio::select! {
                biased;
                _ = &mut self.closed => return,
                read = self.messages.message() => read,
            };
            let (input, is_last) = match accepted(&self.caller, read) {
                Ok(message) => (Input::Received { stream, message: wire::message(message) }, false),
                Err(ending) => (Input::Closed { stream, ending }, true),
            };
            self.hub.send(input).await;
            if is_last {
                return;
            }
        }
    }

    async fn first(&mut self) -> Result<WireHost, Ending> {
        let read = tokio::time::timeout(FIRST_MESSAGE, self.messages.message()).await;
        accepted(&self.caller, read.map_err(|_elapsed| Ending::Silent)?)
    }
}

fn accepted(caller: &Caller, read: Result<Option<WireHost>, Status>) -> Result<WireHost, Ending> {
    let message = match read {
        Ok(Some(message)) => message,
        Ok(None) => return Err(Ending::HalfClosed),
        Err(status) => return Err(Ending::Transport(status.code(), status.message().to_owned())),
    };
    authorize(caller, &wire::claim(&message)).map_err(|refusal| {
        tracing::info!(%refusal, id = message.id, ns = message.namespace, "message refused");
        Ending::Refused(refusal)
    })?;
    Ok(message)
}
