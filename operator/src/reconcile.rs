//! What only the leader does: Services and the watchdog.
//!
//! Losing the lease stops the workers and nothing else; the API goes on.

pub mod services;
pub mod watchdog;
mod workload;

use runtime::CancellationToken;
use tokio::sync::watch;

/// Runs `work` whenever `leading` says so, and stops it by its token when it no longer does.
/// Returns once `stop` is cancelled and the work ended, or when work ends by itself.
pub async fn while_leading<F: Future<Output = ()>>(
    mut leading: watch::Receiver<bool>,
    stop: CancellationToken,
    work: impl Fn(CancellationToken) -> F,
) {
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = turned(&mut leading, true) => {}
        }
        let term = stop.child_token();
        let working = work(term.clone());
        tokio::pin!(working);
        tokio::select! {
            biased;
            () = &mut working => return stop.cancelled().await,
            () = turned(&mut leading, false) => {}
        }
        tracing::warn!("leader election lost, stopping what only the leader does");
        term.cancel();
        working.await;
    }
}

/// Waits until leadership is `value`. Without an election nothing ever changes it.
async fn turned(leading: &mut watch::Receiver<bool>, value: bool) {
    if leading.wait_for(|leads| *leads == value).await.is_err() {
        std::future::pending::<()>().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn work_runs_only_while_leading_and_begins_anew_with_each_term() {
        let (leading_tx, leading) = watch::channel(false);
        let (works_tx, mut works) = watch::channel(false);
        let stop = CancellationToken::new();
        let work = while_leading(leading, stop.clone(), |term| {
            works_tx.send_replace(true);
            let works_tx = works_tx.clone();
            async move {
                term.cancelled().await;
                works_tx.send_replace(false);
            }
        });
        let script = async {
            for _term in 1..=2 {
                leading_tx.send(true).unwrap();
                works.wait_for(|works| *works).await.unwrap();
                leading_tx.send(false).unwrap();
                works.wait_for(|works| !*works).await.unwrap();
            }
            stop.cancel();
        };
        tokio::join!(work, script);
        assert!(!*works_tx.borrow());
    }
}
