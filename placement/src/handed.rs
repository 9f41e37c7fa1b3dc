//! Runs what connections hand over: each in a task of its own that ends with its owner.

use runtime::{BoxError, CancellationToken};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// Runs `read` for each thing handed over until stopped. One that panics ends this with its error.
pub async fn each<T, F>(
    mut handed: mpsc::Receiver<T>,
    stop: CancellationToken,
    read: impl Fn(T) -> F,
) -> Result<(), BoxError>
where
    F: Future<Output = ()> + Send + 'static,
{
    let mut readers = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            Some(done) = readers.join_next() => done?,
            Some(next) = handed.recv() => drop(readers.spawn(read(next))),
        }
    }
}
