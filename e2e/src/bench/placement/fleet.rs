//! Many sidecars of one application, in this process.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustls::ClientConfig;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::sidecar::Sidecar;
use super::tally::{Sighting, Tally};
use super::wire::Size;

/// Sightings that wait to be counted: three of each sidecar of a large fleet.
const SIGHTINGS: usize = 1 << 14;

/// How sidecars arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrivals {
    /// Each connects when the server has greeted the one before.
    InTurn,
    /// All connect in the same moment.
    AllAtOnce,
}

/// The sidecars and what they saw.
pub struct Fleet {
    types: Vec<watch::Sender<Vec<String>>>,
    sightings: mpsc::Receiver<Sighting>,
    _sidecars: JoinSet<()>,
    /// What they saw.
    pub tally: Tally,
}

impl Fleet {
    /// Starts sidecars that host one type each.
    pub fn join(count: usize, arrivals: Arrivals, address: &str, tls: Option<&Arc<ClientConfig>>) -> Self {
        let turns = Arc::new(Semaphore::new(match arrivals {
            Arrivals::InTurn => 1,
            Arrivals::AllAtOnce => Semaphore::MAX_PERMITS,
        }));
        let (seen, sightings) = mpsc::channel(SIGHTINGS);
        let address: Arc<str> = address.into();
        let (mut types, mut sidecars) = (Vec::with_capacity(count), JoinSet::new());
        for number in 0..count {
            let (sender, receiver) = watch::channel(vec!["type".to_owned()]);
            types.push(sender);
            let sidecar = Sidecar {
                number,
                address: Arc::clone(&address),
                tls: tls.cloned(),
                types: receiver,
                turns: Arc::clone(&turns),
                sightings: seen.clone(),
            };
            sidecars.spawn(sidecar.run());
        }
        let tally = Tally::new(count, Size { types: 1, hosts: count });
        Self { types, sightings, _sidecars: sidecars, tally }
    }

    /// Has one sidecar host other types; all are to hold a table of `wanted`.
    pub fn change(&mut self, sidecar: usize, types: &[&str], wanted: Size) {
        self.tally.want(wanted);
        if let Some(sender) = self.types.get(sidecar) {
            sender.send_replace(types.iter().map(|&name| name.to_owned()).collect());
        }
    }

    /// Counts until all are unlocked with the wanted table.
    pub async fn settled(&mut self, limit: Duration) -> Result<Instant> {
        let deadline = tokio::time::Instant::now() + limit;
        loop {
            if let Some(at) = self.tally.all_unlocked_at {
                return Ok(at);
            }
            match tokio::time::timeout_at(deadline, self.sightings.recv()).await {
                Ok(sighting) => self.tally.take(sighting.context("all sidecars are gone")?),
                Err(_) => bail!("not settled after {limit:?}: {}", self.tally.progress()),
            }
        }
    }

    /// Goes on counting for a while.
    pub async fn stay(&mut self, time: Duration) {
        // The end of the time is what is waited for.
        let _ = timeout(time, async {
            while let Some(sighting) = self.sightings.recv().await {
                self.tally.take(sighting);
            }
        })
        .await;
    }
}
