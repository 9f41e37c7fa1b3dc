//! Who belongs into the next table: joins, reports, ends and holds, kept as the difference to the
//! table fixed last.

use std::sync::Arc;

use super::command::{Command, EndReason};
use super::dissemination::{Change, Dissemination};
use super::host::{Entry, Generation, Host};
use super::moment::Moment;
use super::stream::{Stage, Stream, StreamId};

impl Dissemination {
    pub(super) fn open(&mut self, now: Moment, id: StreamId, who: (Host, Generation), out: &mut Vec<Command>) {
        let (host, generation) = (who.0.normalised(), who.1);
        let name = host.name.clone();
        for older in self.same_host(&host, generation) {
            self.forget(older);
            out.push(Command::End { stream: older, reason: EndReason::Superseded });
        }
        self.holds.remove(&name);
        self.note_return(id, &name);
        self.streams.insert(id, Stream::new(host, generation));
        self.queued.insert(id);
        self.by_name.entry(name.clone()).or_default().push(id);
        self.recheck(now, &name);
    }

    /// Streams of the same sidecar that a newer one replaces. Test clients may share names.
    pub(super) fn same_host(&self, host: &Host, generation: Generation) -> Vec<StreamId> {
        let older = self.by_name.get(&host.name).into_iter().flatten();
        older
            .filter(|id| generation.is_sidecar() && self.streams[id].generation.is_sidecar())
            .filter(|id| self.streams[id].host.id == host.id)
            .copied()
            .collect()
    }

    pub(super) fn report(&mut self, now: Moment, id: StreamId, mut entities: Vec<Arc<str>>) {
        entities.sort_unstable();
        entities.dedup();
        let Some(stream) = self.streams.get_mut(&id) else { return };
        if stream.host.entities == entities {
            return;
        }
        stream.host.entities = entities;
        let name = stream.host.name.clone();
        let admitted = stream.stage == Stage::Admitted;
        self.recheck(now, &name);
        self.bypass |= admitted && self.changes.contains_key(&name);
    }

    /// The host's own end was seen.
    pub(super) fn close(&mut self, now: Moment, id: StreamId) {
        let Some(stream) = self.forget(id) else { return };
        let joining = stream.stage == Stage::Queued && !stream.host.entities.is_empty();
        // Upstream still runs the round that a queued stream asked for; its clients wait for it.
        self.forced |= joining && !self.settings.coalesce_window.is_zero();
        self.recheck(now, &stream.host.name);
    }

    pub(super) fn forget(&mut self, id: StreamId) -> Option<Stream> {
        let stream = self.streams.remove(&id)?;
        self.queued.remove(&id);
        self.stale.remove(&id);
        self.owed_unlocks.remove(&id);
        self.takers.remove(&id);
        self.round.forget(id, stream.generation);
        self.round.v116.remove(&id);
        if let Some(ids) = self.by_name.get_mut(&stream.host.name) {
            ids.retain(|other| *other != id);
            if ids.is_empty() {
                self.by_name.remove(&stream.host.name);
            }
        }
        Some(stream)
    }

    pub(super) fn expire_holds(&mut self, now: Moment) {
        let expired: Vec<_> = self.holds.iter().filter(|(_, h)| h.until <= now).map(|(n, _)| n.clone()).collect();
        for name in expired {
            self.holds.remove(&name);
            self.recheck(now, &name);
        }
    }

    /// What the table should say of a host, with or without streams that wait to be admitted.
    pub(super) fn desired(&self, name: &Arc<str>, with_queued: bool) -> Option<Entry> {
        let ids = self.by_name.get(name).into_iter().flatten().rev();
        let mut streams = ids.map(|id| &self.streams[id]).filter(|s| with_queued || s.stage == Stage::Admitted);
        streams.find_map(|s| s.host.entry()).or_else(|| self.holds.get(name).map(|h| h.entry.clone()))
    }

    /// No host may gain actors while another one may still run them by an older table. Takers count, or the
    /// drains of one round after the other would add up in 1.16.
    pub(super) fn may_grow(&self) -> bool {
        self.holds.is_empty() && self.takers.is_empty()
    }

    /// Compares a host with its place in the last table and notes the difference.
    pub(super) fn recheck(&mut self, now: Moment, name: &Arc<str>) {
        let desired = self.desired(name, true);
        let fixed = self.fixed.hosts.get(name).map(AsRef::as_ref);
        let grows = desired.as_ref().is_some_and(|d| d.gains_over(fixed));
        let departs = fixed.is_some_and(|f| f.gains_over(desired.as_ref()));
        if !grows && !departs {
            self.changes.remove(name);
            return;
        }
        let known = self.changes.get(name).copied();
        if known.is_none_or(|c| c.left.is_none() && departs) {
            self.adaptive.changed(now);
        }
        let since = known.map_or(now, |c| c.since);
        let left = departs.then(|| known.and_then(|c| c.left).unwrap_or(now));
        self.changes.insert(name.clone(), Change { since, left, grows });
    }
}
